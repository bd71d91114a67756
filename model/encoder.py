"""The packed encoder: FNet over rows of many sequences, nothing padded, every program compiled before it is needed.

It computes what `FNetBackbone` computes (`model.backbone` is the reference, `model.selftest` compares them), with the
programs of one backend (`model.backends`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from model.architecture import Architecture
from model.arrays import Float32s, Int32s
from model.backends import backend_type
from model.backends.base import BackendError, RowInput
from model.dtypes import SUPPORTED_DTYPES, BackendName, Dtype
from model.packing import BatchBuilder, BatchPlan, Row, pack_all, row_lengths
from model.presets.weights import Weights

Output = Literal["sequence_output", "pooled_output", "mean_output"]
ALL_OUTPUTS: frozenset[Output] = frozenset(("sequence_output", "pooled_output", "mean_output"))


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
        """A key that equal sequences share, and no others."""
        # Both have the same length, so that the two halves cannot be confused.
        return self.token_ids.tobytes() + self.segment_ids.tobytes()


class EncoderInput(NamedTuple):
    """A sequence, and which outputs of it are computed.

    Attributes:
        tokens: The sequence.
        outputs: At least one output.
    """

    tokens: Tokens
    outputs: frozenset[Output]


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """The outputs of one sequence that were requested; each is an array of its own, read-only.

    Attributes:
        arrays: By name: `sequence_output` `[n, h]`, `pooled_output` and `mean_output` `[h]`, float32.
    """

    arrays: Mapping[Output, Float32s]

    @property
    def sequence_output(self) -> Float32s:
        """`[n, h]` float32. Raises KeyError where it was not requested, as the others do."""
        return self.arrays["sequence_output"]

    @property
    def pooled_output(self) -> Float32s:
        """`[h]` float32."""
        return self.arrays["pooled_output"]

    @property
    def mean_output(self) -> Float32s:
        """`[h]` float32, the mean of the sequence output over its tokens."""
        return self.arrays["mean_output"]

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs."""
        return sum(array.nbytes for array in self.arrays.values())


class PackedEncoder:
    """An FNet in one backend, and the row lengths that it runs. Use it from one thread at a time.

    Args:
        architecture: The network.
        weights: Its variables, by the names of `Architecture.variable_shapes`.
        dtype: Operands of the feed-forward products, where hidden and intermediate size are at least 64; all else is
            float32.
        backend: The library that runs it.
        max_batch_tokens: Tokens of the longest row. A longer sequence runs in several chunks.

    Attributes:
        architecture: As given.
        dtype: As given.
        backend: As given.

    Raises:
        ModuleNotFoundError: The backend's library is not installed.
        BackendError: The backend does not run the dtype, or not on this machine.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        *,
        dtype: Dtype = "float32",
        backend: BackendName = "jax",
        max_batch_tokens: int = 512,
    ) -> None:
        if dtype not in SUPPORTED_DTYPES[backend]:
            raise BackendError(f"{backend} does not run {dtype}; it runs {', '.join(SUPPORTED_DTYPES[backend])}")
        self.architecture = architecture
        self.dtype = dtype
        self.backend = backend
        self._backend = backend_type(backend)(architecture, weights, dtype, row_lengths(max_batch_tokens))

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """Row lengths in use, ascending."""
        return self._backend.lengths

    @property
    def rows_per_run(self) -> int:
        """Number of rows that one run takes, one on each device."""
        return self._backend.rows_per_run

    @property
    def devices(self) -> list[str]:
        """Names of the devices that it runs on."""
        return self._backend.devices

    def compile(self, progress: Callable[[int, int], None] = _ignore) -> None:
        """Prepare every row length.

        Args:
            progress: Called with the number of row lengths that are ready, and of all.
        """
        progress(0, len(self.row_lengths))
        self._backend.compile(progress)

    def retain_row_lengths(self, lengths: Iterable[int]) -> None:
        """Drop every row length but `lengths`; the longest has to stay."""
        for length in set(self.row_lengths) - set(lengths):
            self._backend.release(length)

    def batch_builder(self) -> BatchBuilder:
        """Return an empty builder for the batch of one run."""
        return BatchBuilder(self.rows_per_run, self.row_lengths[-1])

    def encode(self, sequences: Sequence[Tokens], outputs: frozenset[Output] = ALL_OUTPUTS) -> list[Encoding]:
        """Encode any number of sequences, in as many runs as they need.

        Raises:
            ValueError: A sequence is empty or longer than the network's positions.
            NonFiniteOutputError: An output is not finite.
        """
        results: dict[int, Encoding] = {}
        sizes = [len(tokens.token_ids) for tokens in sequences]
        for plan, members in pack_all(sizes, self.rows_per_run, self.row_lengths[-1]):
            inputs = [EncoderInput(sequences[member], outputs) for member in members]
            results |= zip(members, self.run(plan, inputs), strict=True)
        return [results[index] for index in range(len(sequences))]

    def run(
        self, plan: BatchPlan, inputs: Sequence[EncoderInput], lengths: Sequence[int] | None = None
    ) -> list[Encoding]:
        """Run one batch.

        Args:
            plan: Which rows the inputs form.
            inputs: One for each sequence of the plan, in the order in which they were added to it.
            lengths: Row lengths to choose from, ascending; all in use by default.

        Raises:
            ValueError: A sequence is empty or longer than the network's positions.
            NonFiniteOutputError: A row's output is not finite.
        """
        longest = self.architecture.max_sequence_length
        for size in (size for row in plan.rows for size in row.sizes):
            if not 1 <= size <= longest:
                raise ValueError(f"a sequence has {size} tokens; between 1 and {longest} are needed")
        rows = [_row_input(row, inputs) for row in plan.rows]
        lengths = lengths or self.row_lengths
        results: dict[int, Encoding] = {}
        for row, states in zip(plan.rows, self._backend.encode_rows(rows, lengths), strict=True):
            _require_finite(states)
            results |= zip(row.members, self._outputs(row, inputs, states, lengths), strict=True)
        return [results[index] for index in range(len(inputs))]

    def _outputs(
        self, row: Row, inputs: Sequence[EncoderInput], states: Float32s, lengths: Sequence[int]
    ) -> list[Encoding]:
        """Reduce the states of a row, `[tokens, h]`, to the outputs that its members request."""
        requested = [inputs[member].outputs for member in row.members]
        starts = row.starts
        first = [start for start, outputs in zip(starts, requested, strict=True) if "pooled_output" in outputs]
        pooled = self._backend.pool_rows(states[first], lengths) if first else states[:0]
        _require_finite(pooled)
        next_pooled = iter(pooled)
        encodings = []
        for start, size, outputs in zip(starts, row.sizes, requested, strict=True):
            tokens = states[start : start + size]
            arrays: dict[Output, Float32s] = {}
            # Copies, so that no result keeps the memory of its whole row.
            if "sequence_output" in outputs:
                arrays["sequence_output"] = tokens.copy()
            if "pooled_output" in outputs:
                arrays["pooled_output"] = next(next_pooled).copy()
            if "mean_output" in outputs:
                arrays["mean_output"] = tokens.mean(axis=0)
                _require_finite(arrays["mean_output"])
            for array in arrays.values():
                # Several requests may share it.
                array.setflags(write=False)
            encodings.append(Encoding(arrays))
        return encodings


def _require_finite(array: Float32s) -> None:
    if not np.isfinite(array).all():
        raise NonFiniteOutputError("the network's output is not finite")


def _row_input(row: Row, inputs: Sequence[EncoderInput]) -> RowInput:
    members = [inputs[member].tokens for member in row.members]
    return RowInput(
        np.concatenate([tokens.token_ids for tokens in members]),
        np.concatenate([tokens.segment_ids for tokens in members]),
        np.concatenate([np.arange(size, dtype=np.int32) for size in row.sizes]),
        row,
    )
