"""The packed encoder: FNet over rows of many sequences, nothing padded, every program compiled before it is needed.

It computes what `FNetBackbone` computes (`model.backbone` is the reference, `model.selftest` holds one to the other),
with the programs of one engine (`model.programs`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.architecture import Architecture
from model.checkpoints import Weights
from model.fourier import Float32s, Int32s, carrier, row_bases
from model.packing import OpenBatch, Row, Spacing, distribute, in_segments, lay, row_lengths, segments_of
from model.programs import Dtype, EngineName, Places, Programs, RowArrays, Transform, dtype_of_operands

# A product with a single row is another routine than one with several.
_FEWEST_POOLED = 2


def _ignore(_done: int, _of: int) -> None:
    pass


class NonFiniteOutputError(ArithmeticError):
    """A row's output holds NaN or infinity."""


class Tokens(NamedTuple):
    """One sequence.

    Attributes:
        token_ids: `[n]` int32, each in `[0, vocabulary_size)`.
        segment_ids: `[n]` int32, each in `[0, num_segments)`.
    """

    token_ids: Int32s
    segment_ids: Int32s

    @property
    def key(self) -> bytes:
        """What equal sequences have in common, and no others."""
        # Both have the same length, so that the two halves cannot be confused.
        return self.token_ids.tobytes() + self.segment_ids.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """What the network gives for one sequence.

    Attributes:
        pooled_output: `[h]` float32.
    """

    pooled_output: Float32s
    _tokens: Float32s
    _published: Places

    @property
    def sequence_output(self) -> Float32s:
        """`[n, h]` float32, not to be written to; put in the published order at each access where it is in another."""
        return self._tokens[:, self._published]

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs."""
        return self.pooled_output.nbytes + self._tokens.nbytes

    def detached(self) -> Encoding:
        """Return a copy that does not keep the memory of its whole row."""
        pooled, tokens = self.pooled_output.copy(), self._tokens.copy()
        for kept in (pooled, tokens):
            # Others will be given it, too.
            kept.setflags(write=False)
        return Encoding(pooled, tokens, self._published)

    @property
    def mean_output(self) -> Float32s:
        """`[h]` float32, the mean of `sequence_output` over its tokens."""
        mean: Float32s = self._tokens.mean(axis=0)[self._published]
        return mean


class PackedEncoder:
    """An FNet laid out for an engine, and the rows that it runs. Use it from one thread at a time.

    Args:
        architecture: The network.
        weights: Its variables, by the names of `Architecture.variable_shapes`.
        dtype: Dtype of the matrix products' operands; with hidden sizes below 64 they are float32 always.
        engine: The library that runs it: JAX, or OpenVINO where it is installed.
        most_tokens: Tokens to aim for in the longest row.

    Attributes:
        architecture: As given.
        dtype: As given.
        engine: As given.
        rows: Row lengths in use, ascending.
        spacing: Where in a row sequences may start.
        segments: The segments, ascending, that rows of a length are cut in where their sequences allow it; those that
            `cut` found to give the same bits.

    Raises:
        ModuleNotFoundError: The engine's library is not installed.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        *,
        dtype: Dtype = "float32",
        engine: EngineName = "jax",
        most_tokens: int = 512,
    ) -> None:
        self.architecture = architecture
        self.dtype = dtype
        self.engine = engine
        self.rows = row_lengths(architecture.max_sequence_length, most_tokens)
        self.spacing = self._closest = Spacing()
        self.segments: dict[int, tuple[int, ...]] = {}
        self._operands = dtype_of_operands(architecture.hidden_dim, dtype)
        self._programs = _lay_out(engine, architecture, weights, self._operands)

    @property
    def rows_at_once(self) -> int:
        """How many rows one run takes, one on each device."""
        return self._programs.rows_at_once

    @property
    def devices(self) -> list[str]:
        """Names of the devices that it runs on."""
        return self._programs.devices

    @property
    def transform(self) -> Transform:
        """How the hidden axis is transformed; along the row it is matrix products always."""
        return self._programs.transform

    def compile(self, spacing: Spacing | None = None, progress: Callable[[int, int], None] = _ignore) -> None:
        """Make every row length ready to run.

        Args:
            spacing: Where sequences may start; it may be widened later. Anywhere by default.
            progress: Told how many row lengths are done, and of how many.
        """
        self.spacing = self._closest = spacing or Spacing()
        self.segments = {}
        progress(0, len(self.rows))
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            waiting = [
                pool.submit(self._programs.compile, length, self._most_members(length), self.segments_to_try(length))
                for length in self.rows
            ]
            for done, compiled in enumerate(as_completed(waiting), start=1):
                compiled.result()
                progress(done, len(self.rows))

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop every row length but `rows`; the longest has to stay."""
        for length in set(self.rows) - set(rows):
            self._programs.forget(length)
        self.rows = tuple(sorted(rows))
        self.segments = {length: self.segments[length] for length in self.rows if length in self.segments}

    def cut(self, length: int, segment: int, sequences: Sequence[Tokens]) -> bool:
        """Cut rows of a length in segments from now on, if a layer then gives the same bits as for the whole row.

        Args:
            length: One of `rows`.
            segment: One of `segments_of` it.
            sequences: What to try it with, in one row.

        Returns:
            Whether it does.

        Raises:
            ValueError: The sequences do not fit segments of the row.
        """
        sizes = [len(tokens.token_ids) for tokens in sequences]
        row = in_segments(length, tuple(range(len(sizes))), sizes, (segment,), self.spacing)
        if row is None:
            raise ValueError(f"{sizes} do not fit segments of {segment} tokens in a row of {length}")
        whole, parts = (self._arrays(row, sequences, length, size) for size in (length, segment))
        alike = self._programs.mixes_alike(length, whole, parts)
        if alike:
            self.segments[length] = tuple(sorted({*self.segments.get(length, ()), segment}))
        return alike

    def segments_to_try(self, length: int) -> tuple[int, ...]:
        """Return the segments, ascending, that rows of a length may be cut in if `cut` finds so."""
        return segments_of(length) if self._programs.segmented else ()

    def encode(self, sequences: Sequence[Tokens]) -> list[Encoding]:
        """Encode any number of sequences, in as many rows as they need.

        Raises:
            ValueError: A sequence is longer than the longest row.
            NonFiniteOutputError: An output is not finite.
        """
        results: dict[int, Encoding] = {}
        rows = distribute([len(s.token_ids) for s in sequences], self.rows, self.spacing)
        # Rows that run together have one length.
        rows.sort(key=lambda row: -row.length)
        for first in range(0, len(rows), self.rows_at_once):
            together = rows[first : first + self.rows_at_once]
            length = together[0].length
            for row, found in zip(together, self._run(together, sequences, length), strict=True):
                results |= dict(zip(row.members, found, strict=True))
        return [results[i] for i in range(len(sequences))]

    def open_batch(self) -> OpenBatch:
        """Return the room of one run, to be filled."""
        return OpenBatch(self.rows_at_once, self.rows[-1], self.spacing)

    def run_batch(self, sequences: Sequence[Tokens]) -> tuple[list[Encoding], int]:
        """Encode sequences that were placed in one `open_batch`, in that order; others may need a run more.

        Returns:
            Their encodings, and the tokens of the rows that they ran in.

        Raises:
            ValueError: A sequence is longer than the longest row.
            NonFiniteOutputError: An output is not finite.
        """
        results: list[Encoding] = []
        room = 0
        while len(results) < len(sequences):
            waiting = sequences[len(results) :]
            batch = self.open_batch()
            taken = next((i for i, s in enumerate(waiting) if not batch.place(len(s.token_ids))), len(waiting))
            if not taken:
                raise ValueError(f"{len(waiting[0].token_ids)} tokens do not fit a row of at most {self.rows[-1]}")
            rows = batch.rows(self.rows)
            room += sum(row.length for row in rows)
            found: dict[int, Encoding] = {}
            for row, encodings in zip(rows, self._run(rows, waiting, rows[0].length), strict=True):
                found |= dict(zip(row.members, encodings, strict=True))
            results += [found[i] for i in range(taken)]
        return results, room

    def lay(self, sequences: Sequence[Tokens], length: int | None = None) -> Row:
        """Lay sequences in one row, the shortest that holds them or the one of the given length.

        Raises:
            ValueError: They do not fit.
        """
        return lay([len(s.token_ids) for s in sequences], self.rows if length is None else (length,), self.spacing)

    def run(self, row: Row, sequences: Sequence[Tokens]) -> list[Encoding]:
        """Encode the members of one row.

        Raises:
            NonFiniteOutputError: An output is not finite.
        """
        return self._run([row], sequences, row.length)[0]

    def run_everywhere(self, row: Row, sequences: Sequence[Tokens]) -> list[list[Encoding]]:
        """Encode the members of one row on every device at once, and return what each found.

        Raises:
            NonFiniteOutputError: An output is not finite.
        """
        return self._run([row] * self.rows_at_once, sequences, row.length)

    def _run(self, rows: Sequence[Row], sequences: Sequence[Tokens], length: int) -> list[list[Encoding]]:
        rows = [self._laid(row, sequences, length) for row in rows]
        # Rows that run together are cut alike; shorter segments make up longer ones.
        segment = max(row.segment for row in rows)
        arrays = [self._arrays(row, [sequences[member] for member in row.members], length, segment) for row in rows]
        published = self._programs.published
        results = []
        for row, (tokens, pooled) in zip(rows, self._programs.run(length, arrays), strict=True):
            if not (np.isfinite(tokens).all() and np.isfinite(pooled).all()):
                raise NonFiniteOutputError("the network's output is not finite")
            results.append(
                [
                    Encoding(pooled[place], tokens[start : start + len(sequences[member].token_ids)], published)
                    for place, (start, member) in enumerate(zip(row.starts, row.members, strict=True))
                ]
            )
        return results

    def _laid(self, row: Row, sequences: Sequence[Tokens], length: int) -> Row:
        """Return the row as one of `length`, which may be longer, in segments where they hold its sequences."""
        whole = Row(length, row.members, row.starts, length)
        segments = self.segments.get(length)
        if not segments:
            return whole
        sizes = [len(sequences[member].token_ids) for member in row.members]
        return in_segments(length, row.members, sizes, segments, self.spacing) or whole

    def _arrays(self, row: Row, members: Sequence[Tokens], length: int, segment: int) -> RowArrays:
        token_ids, segment_ids, positions, carriers = np.zeros((4, length), np.int32)
        others, leads = np.zeros((2, length, 1), np.float32)
        firsts = np.zeros(self._most_members(length), np.int32)
        firsts[: len(row.starts)] = row.starts
        for start, tokens in zip(row.starts, members, strict=True):
            size = len(tokens.token_ids)
            place = slice(start, start + size)
            token_ids[place], segment_ids[place] = tokens
            positions[place] = np.arange(size)
            carriers[place] = start + carrier(size)
            others[place] = 1
            others[start + carrier(size)] = 0
            leads[start] = size
        basis = max(length, self._programs.shortest_basis)
        lengths = [len(tokens.token_ids) for tokens in members]
        narrow, carried = self._operands == "bfloat16", self._programs.carries
        bases = row_bases(
            basis, segment if segment < length else basis, row.starts, lengths, narrow=narrow, carried=carried
        )
        return RowArrays(token_ids, segment_ids, positions, carriers, others, leads, bases, firsts)

    def _most_members(self, length: int) -> int:
        return max(_FEWEST_POOLED, -(-length // self._closest.alignment))


def _lay_out(engine: EngineName, architecture: Architecture, weights: Weights, dtype: Dtype) -> Programs:
    """Lay a network out for an engine, whose library is imported only now."""
    if engine == "openvino":
        from model.openvino_programs import OpenVinoPrograms  # noqa: PLC0415 - an extra

        return OpenVinoPrograms(architecture, weights, dtype)
    from model.jax_programs import JaxPrograms  # noqa: PLC0415 - a second, for who uses it

    return JaxPrograms(architecture, weights, dtype)
