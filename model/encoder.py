"""The packed encoder: FNet over rows of many sequences, without padding, with programs compiled in advance.

Its outputs equal those of `FNetBackbone`; the self-test (`model.selftest`) compares it with the NumPy reference. It
runs the programs of one backend (`model.backends`).
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
    """An output holds NaN or infinity."""


class TokenSequence(NamedTuple):
    """One sequence.

    Attributes:
        token_ids: `[n]` int32, each in `[0, vocabulary_size)`.
        segment_ids: `[n]` int32, each in `[0, num_segments)`.
    """

    token_ids: Int32s
    segment_ids: Int32s

    @property
    def key(self) -> bytes:
        """A key that is equal for equal sequences only."""
        # Both halves have equal length, so the concatenation is unambiguous.
        return self.token_ids.tobytes() + self.segment_ids.tobytes()


class EncoderInput(NamedTuple):
    """A sequence and its requested outputs.

    Attributes:
        tokens: The sequence.
        outputs: The requested outputs, at least one.
    """

    tokens: TokenSequence
    outputs: frozenset[Output]


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """The requested outputs of one sequence, as separate read-only arrays.

    Attributes:
        arrays: Keyed by name: `sequence_output` `[n, h]`, `pooled_output` and `mean_output` `[h]`, float32.
    """

    arrays: Mapping[Output, Float32s]

    @property
    def sequence_output(self) -> Float32s:
        """`[n, h]` float32. Raises KeyError if it was not requested, as the other properties do."""
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
    """An FNet encoder in one backend, with a set of row lengths. Use it from one thread at a time.

    Args:
        architecture: The network.
        weights: Its variables, keyed by the names of `Architecture.variable_shapes`.
        dtype: Dtype of the operands of the feed-forward products, if hidden and intermediate size are at least 64;
            everything else is float32.
        backend: The backend.
        max_batch_tokens: Upper bound of the longest row, in tokens. A longer sequence runs in several chunks.

    Attributes:
        architecture: The network.
        dtype: The dtype argument.
        backend: The backend argument.

    Raises:
        ModuleNotFoundError: The library of the backend is not installed.
        BackendError: The backend does not support the dtype or this machine.
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
            raise BackendError(f"{backend} does not support {dtype}; use one of {', '.join(SUPPORTED_DTYPES[backend])}")
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
        """Number of rows per run, one per device."""
        return self._backend.rows_per_run

    @property
    def devices(self) -> list[str]:
        """Names of the devices."""
        return self._backend.devices

    def compile(self, progress: Callable[[int, int], None] = _ignore) -> None:
        """Compile the programs of all row lengths.

        Args:
            progress: Called with the number of compiled row lengths, and the total.
        """
        progress(0, len(self.row_lengths))
        self._backend.compile(progress)

    def retain_row_lengths(self, lengths: Iterable[int]) -> None:
        """Release all row lengths except `lengths`, which include the longest."""
        for length in set(self.row_lengths) - set(lengths):
            self._backend.release(length)

    def batch_builder(self) -> BatchBuilder:
        """Return an empty builder for one batch."""
        return BatchBuilder(self.rows_per_run, self.row_lengths[-1])

    def encode(self, sequences: Sequence[TokenSequence], outputs: frozenset[Output] = ALL_OUTPUTS) -> list[Encoding]:
        """Encode any number of sequences in one or several runs.

        Raises:
            ValueError: A sequence is empty or longer than the maximum sequence length.
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
            plan: The rows of the batch.
            inputs: One per sequence of the plan, in the order of addition.
            lengths: Row lengths to choose from, ascending; all by default.

        Raises:
            ValueError: A sequence is empty or longer than the maximum sequence length.
            NonFiniteOutputError: A row's output is not finite.
        """
        longest = self.architecture.max_sequence_length
        for size in (size for row in plan.rows for size in row.sizes):
            if not 1 <= size <= longest:
                raise ValueError(f"a sequence has {size} tokens, expected 1 to {longest}")
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
        """Return the requested outputs of each sequence of a row with states `[tokens, h]`."""
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
            # Copies, so that a result does not keep the memory of its row alive.
            if "sequence_output" in outputs:
                arrays["sequence_output"] = tokens.copy()
            if "pooled_output" in outputs:
                arrays["pooled_output"] = next(next_pooled).copy()
            if "mean_output" in outputs:
                arrays["mean_output"] = tokens.mean(axis=0)
                _require_finite(arrays["mean_output"])
            for array in arrays.values():
                # Several requests may share the array.
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
