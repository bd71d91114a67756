"""The self-test: encoders are compared with the reference and with themselves; row lengths that fail are dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.backends.base import Backend, RowInput
from model.backends.openvino_backend import OpenVinoBackend
from model.dtypes import BackendName, Dtype
from model.encoder import Encoding, PackedEncoder, TokenSequence
from model.packing import chunks
from model.presets.hub import load_preset
from model.presets.weights import read_weights
from model.reference import encode_one
from model.selftest import (
    FLOAT32_TOLERANCE,
    Reference,
    SelfTest,
    SelfTestError,
    compile_and_verify,
    cosines,
    is_accurate,
)
from tests.support.encoders import BACKENDS_AND_DTYPES, equal_bits, sequence

Float32s = npt.NDArray[np.float32]
Weights = dict[str, Float32s]
MakeWeights = Callable[..., Weights]

# The tiny network has 24 positions. Rows hold fewer tokens, so that long sequences run in chunks.
LENGTHS = (8, 16)
MAX_BATCH_TOKENS = 16
OTHER_BITS = "not bit-identical to the longest row"
INACCURATE = "differs from the reference"
WRONG = r"the row of 16 tokens differs from the reference \(largest error "


class FaultyBackend(OpenVinoBackend):
    """A backend that scales the first feature of the results of a program.

    Attributes:
        embed_factors: Factor for embeddings, by row length.
        feed_forward_factors: Factor for a layer's output, by row length.
        pool_factors: Factor for pooled outputs, by row length.
    """

    embed_factors: ClassVar[dict[int, float]] = {}
    feed_forward_factors: ClassVar[dict[int, float]] = {}
    pool_factors: ClassVar[dict[int, float]] = {}

    def embed(self, *ids: Any) -> Float32s:
        """Scale embeddings."""
        return _scaled(super().embed(*ids), self.embed_factors)

    def feed_forward(self, layer: int, x: Float32s) -> Float32s:
        """Scale a layer's output."""
        return _scaled(super().feed_forward(layer, x), self.feed_forward_factors)

    def pool(self, x: Float32s) -> Float32s:
        """Scale pooled outputs."""
        return _scaled(super().pool(x), self.pool_factors)


class BatchDependentBackend(OpenVinoBackend):
    """A backend whose results depend slightly on the number of sequences in a row."""

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Scale a row by the number of its sequences."""
        states = super().encode_rows(rows, lengths)
        return [state * np.float32(1 + 1e-6 * len(row.row.sizes)) for row, state in zip(rows, states, strict=True)]


class OffsetDependentBackend(OpenVinoBackend):
    """A backend whose last bits depend on the offset in a row, as with an unequal division among threads."""

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Scale the second half of the longest row."""
        states = super().encode_rows(rows, lengths)
        for state in states:
            if lengths[-1] == LENGTHS[-1]:
                state[LENGTHS[-1] // 2 :] *= np.float32(1 + 2**-22)
        return states


class WrongAtLatePositionsBackend(OpenVinoBackend):
    """A backend whose shorter row is wrong from the fifth token of a sequence on."""

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Overwrite late positions."""
        states = super().encode_rows(rows, lengths)
        for row, state in zip(rows, states, strict=True):
            if lengths[-1] == LENGTHS[0]:
                state[row.positions >= 4] = 1
        return states


class WrongInChunksBackend(OpenVinoBackend):
    """A backend whose rows of several chunks are wrong from the second chunk on."""

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Overwrite tokens after the first chunk."""
        states = super().encode_rows(rows, lengths)
        for row, state in zip(rows, states, strict=True):
            state[chunks(row.row.tokens, lengths)[0].tokens :] *= 1.5
        return states


class TwoDeviceBackend(OpenVinoBackend):
    """A backend with two devices that scales the results of the second by a factor."""

    rows_per_run = 2
    factor: ClassVar[float] = 1.0

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Scale the results of the second device."""
        first, *others = super().encode_rows(rows, lengths)
        return [first, *(states * np.float32(self.factor) for states in others)]


def _scaled(x: Float32s, factors: dict[int, float]) -> Float32s:
    # One feature, since the next normalization removes a factor of all features.
    x[:, 0] *= np.float32(factors.get(len(x), 1))
    return x


@pytest.fixture(scope="module")
def reference(tiny: Architecture, make_weights: MakeWeights) -> Reference:
    """The NumPy reference of the tiny network."""
    weights = make_weights(tiny)
    return lambda tokens: encode_one(tiny, weights, *tokens)


@pytest.fixture
def make_encoder(
    tiny: Architecture, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., PackedEncoder]:
    """Return an encoder of the tiny network with a backend class and its attributes."""

    def make(
        backend: type[Backend] = OpenVinoBackend, *, max_batch_tokens: int = MAX_BATCH_TOKENS, **attributes: Any
    ) -> PackedEncoder:
        kind = type(backend.__name__, (backend,), attributes)
        monkeypatch.setattr("model.encoder.backend_type", lambda _name: kind)
        return PackedEncoder(tiny, make_weights(tiny), backend="openvino", max_batch_tokens=max_batch_tokens)

    return make


@pytest.fixture(params=[True, False], ids=["invariant", "not_invariant"])
def batch_invariant(request: pytest.FixtureRequest) -> bool:
    """Whether bits are compared."""
    return bool(request.param)


# --- Valid encoders ---


def test_healthy_encoder_passes(make_encoder: Callable[..., PackedEncoder], reference: Reference) -> None:
    """All row lengths remain, and the result has error, fingerprint and throughput."""
    encoder = make_encoder()
    result = compile_and_verify(encoder, reference)
    assert result.row_lengths == encoder.row_lengths == LENGTHS
    assert result.disabled == {}
    assert result.batch_invariant
    assert 0 < result.largest_error < FLOAT32_TOLERANCE
    assert result.tokens_per_second > 0
    assert len(bytes.fromhex(result.numerics)) == 32


def test_bits_are_not_compared_without_batch_invariance(
    make_encoder: Callable[..., PackedEncoder], reference: Reference
) -> None:
    """Accuracy is verified, and the result is not batch-invariant."""
    result = compile_and_verify(make_encoder(), reference, batch_invariant=False)
    assert (result.row_lengths, result.disabled, result.batch_invariant) == (LENGTHS, {}, False)
    assert 0 < result.largest_error < FLOAT32_TOLERANCE


def test_progress_counts_compiled_row_lengths(make_encoder: Callable[..., PackedEncoder], reference: Reference) -> None:
    """Progress counts from zero to all row lengths."""
    progress: list[tuple[int, int]] = []
    compile_and_verify(make_encoder(), reference, progress=lambda done, of: progress.append((done, of)))
    assert progress == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    "changes", [{"num_layers": 0}, {"max_sequence_length": 1}, {"hidden_dim": 1, "num_segments": 1}], ids=str
)
def test_smallest_networks_pass(tiny: Architecture, make_weights: MakeWeights, changes: dict[str, int]) -> None:
    """Networks without layers, with one position or one feature pass."""
    architecture = dataclasses.replace(tiny, **changes)
    weights = make_weights(architecture)
    encoder = PackedEncoder(architecture, weights, backend="openvino", max_batch_tokens=MAX_BATCH_TOKENS)
    result = compile_and_verify(encoder, lambda tokens: encode_one(architecture, weights, *tokens))
    assert result.row_lengths[-1] == LENGTHS[-1]


@pytest.mark.parametrize("backend_and_dtype", BACKENDS_AND_DTYPES)
def test_bundled_preset_passes(backend_and_dtype: tuple[BackendName, Dtype]) -> None:
    """A trained network, whose tokens are more similar than those of random weights, passes in every dtype."""
    backend, dtype = backend_and_dtype
    preset = load_preset("fnet_mini_en")
    weights = read_weights(preset.directory, preset.architecture)
    encoder = PackedEncoder(preset.architecture, weights, dtype=dtype, backend=backend, max_batch_tokens=64)
    result = compile_and_verify(encoder, lambda tokens: encode_one(preset.architecture, weights, *tokens))
    assert result.row_lengths[-1] == 64
    assert set(result.disabled.values()) <= {OTHER_BITS}
    assert result.batch_invariant


# --- The longest row is wrong ---


@pytest.mark.parametrize(
    "wrong",
    [lambda length: True, lambda length: length == 24, lambda length: length < 24],  # noqa: ARG005
    ids=["all", "longest", "short"],
)
def test_encoder_that_differs_from_the_reference_is_rejected(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    wrong: Callable[[int], bool],
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Short sequences and sequences of several chunks are compared."""

    def other(tokens: TokenSequence) -> tuple[Float32s, Float32s]:
        sequence_output, pooled_output = reference(tokens)
        length = len(tokens.token_ids)
        return (sequence_output[::-1], -pooled_output) if wrong(length) else (sequence_output, pooled_output)

    with pytest.raises(SelfTestError, match=WRONG):
        compile_and_verify(make_encoder(), other, batch_invariant=batch_invariant)


@pytest.mark.parametrize("output", [0, 1], ids=["sequence", "pooled"])
def test_every_value_is_compared(make_encoder: Callable[..., PackedEncoder], reference: Reference, output: int) -> None:
    """An error of 0.01 in one value of one output rejects the encoder."""

    def other(tokens: TokenSequence) -> tuple[Float32s, Float32s]:
        outputs = reference(tokens)
        outputs[output].reshape(-1)[-1] += 0.01
        return outputs

    with pytest.raises(SelfTestError, match=r"largest error 0\.0"):
        compile_and_verify(make_encoder(), other)


@pytest.mark.parametrize("program", ["embed", "feed_forward", "pool"])
def test_wrong_longest_row_rejects_the_encoder(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    program: str,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The longest row is required, since shorter ones do not hold all batches."""
    encoder = make_encoder(FaultyBackend, **{f"{program}_factors": {LENGTHS[-1]: 1.5}})
    with pytest.raises(SelfTestError, match=WRONG):
        compile_and_verify(encoder, reference, batch_invariant=batch_invariant)


def test_wrong_second_chunk_rejects_the_encoder(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A sequence longer than the longest row is compared with the reference."""
    with pytest.raises(SelfTestError, match=WRONG):
        compile_and_verify(make_encoder(WrongInChunksBackend), reference, batch_invariant=batch_invariant)


# --- A shorter row is wrong ---


@pytest.mark.parametrize("program", ["embed", "feed_forward", "pool"])
def test_row_length_that_is_wrong_is_dropped(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    program: str,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The other row lengths return accurate results."""
    encoder = make_encoder(FaultyBackend, **{f"{program}_factors": {LENGTHS[0]: 1.5}})
    result = compile_and_verify(encoder, reference, batch_invariant=batch_invariant)
    assert result.disabled == {LENGTHS[0]: OTHER_BITS if batch_invariant else INACCURATE}
    assert result.row_lengths == encoder.row_lengths == LENGTHS[1:]
    assert result.batch_invariant == batch_invariant
    random = np.random.default_rng(1)
    for size in (1, 7, 17, 24):
        tokens = sequence(random, size, encoder.architecture)
        assert is_accurate(encoder.encode([tokens])[0], reference(tokens), "float32")


@pytest.mark.parametrize("program", ["embed", "feed_forward", "pool"])
def test_row_length_with_other_bits_is_dropped(
    make_encoder: Callable[..., PackedEncoder], reference: Reference, program: str
) -> None:
    """A row length that is accurate, but not bit-identical, is dropped only if batch invariance is requested."""
    factors = {f"{program}_factors": {LENGTHS[0]: 1 + 1e-6}}
    result = compile_and_verify(make_encoder(FaultyBackend, **factors), reference)
    assert result.disabled == {LENGTHS[0]: OTHER_BITS}
    assert result.batch_invariant
    result = compile_and_verify(make_encoder(FaultyBackend, **factors), reference, batch_invariant=False)
    assert result.disabled == {}


def test_row_length_that_is_wrong_for_longer_sequences_is_dropped(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Each row length is tested with a sequence that fills most of it."""
    encoder = make_encoder(WrongAtLatePositionsBackend)
    result = compile_and_verify(encoder, reference, batch_invariant=batch_invariant)
    assert result.row_lengths == LENGTHS[1:]


# --- Results that depend on the batch ---


@pytest.mark.parametrize("backend", [BatchDependentBackend, OffsetDependentBackend])
def test_dependence_on_the_batch_is_reported(
    make_encoder: Callable[..., PackedEncoder], reference: Reference, backend: type[Backend]
) -> None:
    """The encoder keeps all row lengths, and the result is not batch-invariant."""
    result = compile_and_verify(make_encoder(backend), reference)
    assert not result.batch_invariant
    assert result.disabled == {}
    assert result.row_lengths == LENGTHS


def test_every_device_is_compared(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A second device with other bits is not batch-invariant."""

    def result(factor: float) -> SelfTest:
        return compile_and_verify(
            make_encoder(TwoDeviceBackend, factor=factor), reference, batch_invariant=batch_invariant
        )

    assert result(1.0).batch_invariant == batch_invariant
    assert not result(1 + 1e-6).batch_invariant


@pytest.mark.parametrize("max_batch_tokens", [8, 16])
def test_wrong_second_device_rejects_the_encoder(
    make_encoder: Callable[..., PackedEncoder],
    reference: Reference,
    max_batch_tokens: int,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A device with wrong results rejects the encoder, whether or not bits are compared."""
    encoder = make_encoder(TwoDeviceBackend, factor=-1, max_batch_tokens=max_batch_tokens)
    with pytest.raises(SelfTestError, match="differs from the reference"):
        compile_and_verify(encoder, reference, batch_invariant=batch_invariant)


# --- Outputs that are not finite ---


@pytest.mark.parametrize("name", ["pooled_dense/kernel", "layers/0/output_dense/kernel"])
def test_weights_that_are_not_finite_are_rejected(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference, name: str
) -> None:
    """A network with non-finite outputs is rejected."""
    weights = make_weights(tiny)
    weights[name] = np.full_like(weights[name], np.nan)
    encoder = PackedEncoder(tiny, weights, backend="openvino", max_batch_tokens=MAX_BATCH_TOKENS)
    with pytest.raises(ArithmeticError, match="not finite"):
        compile_and_verify(encoder, reference)


# --- Numerics fingerprint ---


def test_fingerprint_is_equal_for_equal_encoders(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference
) -> None:
    """The maximum of batch tokens does not change the fingerprint."""
    fingerprints = set()
    for max_batch_tokens in (16, 16, 64):
        encoder = PackedEncoder(tiny, make_weights(tiny), backend="openvino", max_batch_tokens=max_batch_tokens)
        fingerprints.add(compile_and_verify(encoder, reference).numerics)
    assert len(fingerprints) == 1


def test_fingerprint_differs_where_bits_differ(tiny: Architecture, make_weights: MakeWeights) -> None:
    """Another dtype or other weights change the fingerprint, also in the last position embedding."""
    architecture = dataclasses.replace(tiny, hidden_dim=64, intermediate_dim=64)
    weights = make_weights(architecture)
    late = weights["position_embedding/embeddings"].copy()
    late[-1, -1] += 0.01

    def fingerprint(weights: Weights, dtype: Dtype) -> str:
        encoder = PackedEncoder(architecture, weights, dtype=dtype, backend="openvino", max_batch_tokens=8)
        return compile_and_verify(encoder, lambda tokens: encode_one(architecture, weights, *tokens)).numerics

    fingerprints = {
        fingerprint(weights, "float32"),
        fingerprint(weights, "bfloat16"),
        fingerprint(make_weights(architecture, 1), "float32"),
        fingerprint(weights | {"position_embedding/embeddings": late}, "float32"),
    }
    assert len(fingerprints) == 4


def test_fingerprint_is_that_of_the_retained_row_lengths(
    make_encoder: Callable[..., PackedEncoder], reference: Reference
) -> None:
    """A dropped row length does not change the fingerprint."""
    expected = compile_and_verify(make_encoder(), reference).numerics
    result = compile_and_verify(make_encoder(FaultyBackend, feed_forward_factors={8: 1.5}), reference)
    assert result.disabled
    assert result.numerics == expected


# --- Bounds ---


def encoding_at(cosine: float, tokens: int = 100, changed: int = 100) -> tuple[Encoding, tuple[Float32s, Float32s]]:
    """Return an encoding and a reference, in which `changed` tokens have the cosine."""
    true = np.zeros((tokens, 2), np.float32)
    true[:, 0] = 1
    a = true.copy()
    a[:changed] = cosine, np.sqrt(1 - cosine**2)
    pooled = np.array([1, 0], np.float32)
    return Encoding({"sequence_output": a, "pooled_output": pooled}), (true, pooled)


@pytest.mark.parametrize(
    ("dtype", "cosine", "changed", "accurate"),
    [
        ("bfloat16", 0.9991, 100, True),
        ("bfloat16", 0.9989, 2, False),
        ("bfloat16", 0.9989, 1, True),
        ("bfloat16", 0.9949, 1, False),
        ("int8", 0.9989, 51, False),
        ("int8", 0.9989, 50, True),
        ("int8", 0.9851, 50, True),
        ("int8", 0.9849, 1, False),
    ],
)
def test_cosine_bounds_of_tokens(dtype: Dtype, cosine: float, changed: int, accurate: bool) -> None:  # noqa: FBT001 - a parameter
    """Nearly all tokens reach the higher bound, and all reach the lower one."""
    assert is_accurate(*encoding_at(cosine, changed=changed), dtype) is accurate


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.9999), ("int8", 0.995)])
def test_cosine_bounds_of_pooled_outputs(dtype: Dtype, bound: float) -> None:
    """The pooled output has its own bound."""
    encoding, (tokens, _) = encoding_at(1)
    for cosine, accurate in ((bound + 5e-5, True), (bound - 5e-5, False)):
        pooled = np.array([cosine, np.sqrt(1 - cosine**2)], np.float32)
        assert is_accurate(encoding, (tokens, pooled), dtype) is accurate


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_values_that_are_not_finite_are_inaccurate(dtype: Dtype) -> None:
    """NaN is never within the bounds."""
    encoding, (tokens, pooled) = encoding_at(1)
    assert is_accurate(encoding, (tokens, pooled), dtype)
    assert not is_accurate(encoding, (tokens, pooled * np.float32(np.nan)), dtype)
    assert not is_accurate(encoding, (tokens * np.float32(np.nan), pooled), dtype)


def test_cosines_are_those_of_rows() -> None:
    """`cosines` returns one value per pair of rows."""
    a, b = np.array([[1, 0], [1, 1], [0, 2]], np.float32), np.array([[2, 0], [1, 0], [0, -1]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [1, 0.5**0.5, -1], rtol=1e-6)


def test_equal_bits_distinguishes_the_sign_of_zero() -> None:
    """The comparison of the tests is bitwise."""
    one, other = (Encoding({"pooled_output": np.array([value], np.float32)}) for value in (0.0, -0.0))
    assert equal_bits(one, one)
    assert not equal_bits(one, other)
