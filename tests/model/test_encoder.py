"""The packed encoder is accurate, bit-identical regardless of batch composition, and compiled in advance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.backends.base import BackendError
from model.backends.jax_backend import JaxBackend
from model.dtypes import BackendName, Dtype
from model.encoder import (
    ALL_OUTPUTS,
    EncoderInput,
    Encoding,
    NonFiniteOutputError,
    Output,
    PackedEncoder,
    TokenSequence,
)
from model.packing import BatchPlan, Row
from model.selftest import COSINE_BOUNDS, FLOAT32_TOLERANCE, SelfTest, compile_and_verify, cosines
from tests.support.encoders import (
    BACKENDS,
    BACKENDS_AND_DTYPES,
    MEDIUM,
    equal_bits,
    medium_weights,
    needs_int8,
    sequence,
)

Array = npt.NDArray[Any]
Weights = dict[str, npt.NDArray[np.float32]]
MakeWeights = Callable[..., Weights]
Oracle = Callable[..., tuple[Array, Array]]

MAX_BATCH_TOKENS = 64
# A subset of the row lengths, to compile less.
ROW_LENGTHS = (24, 48, 64)
# One token more than a row, a prime, rows without a remainder, and all positions.
LONG_TOKENS = (65, 101, 128, 300)
POOLED: frozenset[Output] = frozenset(("pooled_output",))


@pytest.fixture(scope="module")
def compilations() -> list[int]:
    """A list that grows by one whenever XLA compiles a program in this process."""
    events: list[int] = []
    JaxBackend.on_compilation(lambda: events.append(1))
    return events


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The medium network's weights."""
    return medium_weights()


@pytest.fixture(scope="module")
def reference(oracle: Oracle, weights: Weights) -> Callable[[TokenSequence], tuple[Array, Array]]:
    """The oracle, which computes each sequence once."""
    computed: dict[bytes, tuple[Array, Array]] = {}

    def outputs(tokens: TokenSequence) -> tuple[Array, Array]:
        if tokens.key not in computed:
            sequence_output, pooled_output = oracle(weights, *tokens)
            computed[tokens.key] = sequence_output.astype(np.float32), pooled_output.astype(np.float32)
        return computed[tokens.key]

    return outputs


@pytest.fixture(scope="module")
def backbone_outputs(weights: Weights) -> list[tuple[TokenSequence, tuple[Array, Array]]]:
    """Sequences, and the outputs of the Keras backbone with the same weights for each alone."""
    backbone = FNetBackbone.from_architecture(MEDIUM)
    backbone.assign_weights(weights)
    random = np.random.default_rng(2)
    return [(tokens, backbone.encode_one(*tokens)) for tokens in (sequence(random, length) for length in (1, 17, 70))]


@pytest.fixture(scope="module", params=BACKENDS_AND_DTYPES)
def verified(
    request: pytest.FixtureRequest,
    weights: Weights,
    reference: Callable[[TokenSequence], tuple[Array, Array]],
    compilations: list[int],
) -> tuple[PackedEncoder, SelfTest]:
    """A verified encoder of each backend and dtype, and the result of its self-test."""
    backend, dtype = request.param
    encoder = PackedEncoder(MEDIUM, weights, dtype=dtype, backend=backend, max_batch_tokens=MAX_BATCH_TOKENS)
    encoder.retain_row_lengths(ROW_LENGTHS)
    return encoder, compile_and_verify(encoder, reference)


@pytest.fixture
def encoder(verified: tuple[PackedEncoder, SelfTest]) -> PackedEncoder:
    """The verified encoder of each backend and dtype."""
    return verified[0]


def compiled(
    architecture: Architecture,
    weights: Weights,
    *,
    backend: BackendName = "jax",
    dtype: Dtype = "float32",
    max_batch_tokens: int = 16,
) -> PackedEncoder:
    """Return an encoder that is compiled, but not verified."""
    encoder = PackedEncoder(architecture, weights, backend=backend, dtype=dtype, max_batch_tokens=max_batch_tokens)
    encoder.compile()
    return encoder


def plan_of(sizes: Iterable[int]) -> BatchPlan:
    """Return the plan of one row, with sequences in the given order."""
    sizes = tuple(sizes)
    return BatchPlan((Row(tuple(range(len(sizes))), sizes),))


def run(
    encoder: PackedEncoder,
    sequences: list[TokenSequence],
    length: int | None = None,
    outputs: frozenset[Output] = ALL_OUTPUTS,
) -> list[Encoding]:
    """Run sequences in one row, in the given order, in programs of one row length or of all."""
    inputs = [EncoderInput(tokens, outputs) for tokens in sequences]
    return encoder.run(plan_of(len(tokens.token_ids) for tokens in sequences), inputs, (length,) if length else None)


def assert_accurate(encoding: Encoding, true: tuple[Array, Array], dtype: Dtype) -> None:
    """Assert that outputs are within the bounds of a dtype, except for those that hold for a share of the tokens."""
    if dtype == "float32":
        np.testing.assert_allclose(encoding.sequence_output, true[0], rtol=0, atol=FLOAT32_TOLERANCE)
        np.testing.assert_allclose(encoding.pooled_output, true[1], rtol=0, atol=FLOAT32_TOLERANCE)
        return
    bounds = COSINE_BOUNDS[dtype]
    assert cosines(encoding.sequence_output, true[0]).min() >= bounds.token
    assert cosines(encoding.pooled_output[None], true[1][None])[0] >= bounds.pooled


# --- Accuracy ---


def test_outputs_equal_the_reference(
    encoder: PackedEncoder, reference: Callable[[TokenSequence], tuple[Array, Array]]
) -> None:
    """Sequences of many lengths in one call, the longest in several chunks, are within each dtype's bounds."""
    random = np.random.default_rng(1)
    sequences = [sequence(random, length) for length in (1, 2, 5, 17, 63, 64, *LONG_TOKENS)]
    encodings = encoder.encode(sequences)
    for tokens, encoding in zip(sequences, encodings, strict=True):
        assert_accurate(encoding, reference(tokens), encoder.dtype)
    if encoder.dtype != "float32":
        tokens_cosines = np.concatenate(
            [
                cosines(encoding.sequence_output, reference(tokens)[0])
                for tokens, encoding in zip(sequences, encodings, strict=True)
            ]
        )
        bounds = COSINE_BOUNDS[encoder.dtype]
        assert np.quantile(tokens_cosines, bounds.quantile) >= bounds.tokens


def test_outputs_equal_those_of_the_backbone(
    encoder: PackedEncoder, backbone_outputs: list[tuple[TokenSequence, tuple[Array, Array]]]
) -> None:
    """`FNetBackbone` called on each sequence alone, unpadded, gives the same within each dtype's bounds."""
    encodings = encoder.encode([tokens for tokens, _ in backbone_outputs])
    for encoding, (_, true) in zip(encodings, backbone_outputs, strict=True):
        assert_accurate(encoding, true, encoder.dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_dim": 1},
        {"hidden_dim": 2},
        {"hidden_dim": 7, "intermediate_dim": 1},
        {"num_layers": 0},
        {"num_segments": 1, "max_sequence_length": 1},
    ],
    ids=str,
)
def test_smallest_sizes_equal_the_oracle(
    tiny: Architecture, make_weights: MakeWeights, oracle: Oracle, changes: dict[str, int], backend: BackendName
) -> None:
    """Odd hidden sizes, one segment, one position and no layers are supported."""
    architecture = dataclasses.replace(tiny, **changes)
    weights = make_weights(architecture)
    encoder = compiled(architecture, weights, backend=backend, max_batch_tokens=8)
    random = np.random.default_rng(5)
    lengths = [min(length, architecture.max_sequence_length) for length in (1, 7, 2, 19)]
    sequences = [sequence(random, length, architecture) for length in lengths]
    for tokens, encoding in zip(sequences, encoder.encode(sequences), strict=True):
        assert_accurate(encoding, oracle(weights, *tokens), "float32")


@pytest.mark.parametrize(
    ("backend", "hidden", "narrow"), [("jax", 63, False), ("openvino", 63, False), ("openvino", 64, True)]
)
def test_networks_below_64_features_multiply_in_float32(backend: BackendName, hidden: int, narrow: bool) -> None:  # noqa: FBT001 - a parameter
    """Below 64 features the results of bfloat16 are those of float32, bit for bit."""
    architecture = dataclasses.replace(MEDIUM, hidden_dim=hidden, intermediate_dim=64)
    weights = medium_weights(architecture)
    tokens = sequence(np.random.default_rng(3), 8)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    wide, other = (
        compiled(architecture, weights, backend=backend, dtype=dtype, max_batch_tokens=8).encode([tokens])[0]
        for dtype in dtypes
    )
    assert equal_bits(wide, other) is not narrow
    assert cosines(other.sequence_output, wide.sequence_output).min() > 0.999


@pytest.mark.parametrize(
    "backend_and_dtype", [param for param in BACKENDS_AND_DTYPES if param.values[0][1] != "float32"]
)
def test_all_but_the_products_is_float32(weights: Weights, backend_and_dtype: tuple[BackendName, Dtype]) -> None:
    """With products of zero, narrow dtypes are exact, since the residual stream is float32."""
    backend, dtype = backend_and_dtype
    zeros = {name: np.zeros_like(array) for name, array in weights.items() if name.endswith("output_dense/kernel")}
    tokens = sequence(np.random.default_rng(4), 20)
    dtypes: tuple[Dtype, ...] = ("float32", dtype)
    wide, narrow = (
        compiled(MEDIUM, weights | zeros, backend=backend, dtype=one, max_batch_tokens=8).encode([tokens])[0]
        for one in dtypes
    )
    for name in ALL_OUTPUTS:
        np.testing.assert_allclose(narrow.arrays[name], wide.arrays[name], rtol=0, atol=1e-5)


# --- Bits ---


def test_bits_are_equal_alone_and_in_any_batch(encoder: PackedEncoder) -> None:
    """A sequence has the same bits alone and in any batch, also if it runs in several chunks."""
    random = np.random.default_rng(2)
    for length in (*range(1, 65, 3), 101):
        tokens = sequence(random, length)
        (alone,) = encoder.encode([tokens])
        batch = [sequence(random, other) for other in random.integers(1, 40, 6)]
        index = int(random.integers(0, 7))
        batch.insert(index, tokens)
        assert equal_bits(encoder.encode(batch)[index], alone), length


def test_bits_are_equal_at_every_offset_of_a_row(encoder: PackedEncoder) -> None:
    """Sequences may start at any token, without alignment."""
    random = np.random.default_rng(3)
    tokens = sequence(random, 13)
    (expected,) = encoder.encode([tokens])
    longest = encoder.row_lengths[-1]
    for offset in range(1, longest - 12):
        before, after = sequence(random, offset), sequence(random, longest - 13 - offset or 1)
        batch = [before, tokens, after][: 3 if offset < longest - 13 else 2]
        assert equal_bits(run(encoder, batch)[1], expected), offset


def test_bits_are_equal_in_every_row_length(encoder: PackedEncoder) -> None:
    """A short sequence and one of several chunks have equal bits in all row lengths."""
    random = np.random.default_rng(4)
    for tokens in (sequence(random, 5), sequence(random, 61)):
        (expected,) = run(encoder, [tokens], encoder.row_lengths[-1])
        for length in encoder.row_lengths:
            assert equal_bits(run(encoder, [tokens], length)[0], expected), length


def test_bits_of_duplicates_are_equal(encoder: PackedEncoder) -> None:
    """Copies of a sequence have equal bits within a call and in the next call."""
    tokens = sequence(np.random.default_rng(4), 20)
    encodings = encoder.encode([tokens] * 4) + encoder.encode([tokens])
    assert all(equal_bits(encoding, encodings[0]) for encoding in encodings)


def test_bits_do_not_depend_on_the_outputs_that_others_request(encoder: PackedEncoder) -> None:
    """An output has equal bits alone, with other outputs, and next to sequences that request others."""
    random = np.random.default_rng(5)
    choices: list[frozenset[Output]] = [
        POOLED,
        frozenset(("mean_output",)),
        frozenset(("sequence_output", "mean_output")),
        ALL_OUTPUTS,
        POOLED | {"mean_output"},
    ]
    sequences = [sequence(random, length) for length in (3, 9, 9, 12, 20)]
    expected = run(encoder, sequences)
    for shift in range(len(choices)):
        requested = choices[shift:] + choices[:shift]
        inputs = [EncoderInput(tokens, outputs) for tokens, outputs in zip(sequences, requested, strict=True)]
        encodings = encoder.run(plan_of((3, 9, 9, 12, 20)), inputs)
        for encoding, outputs, complete in zip(encodings, requested, expected, strict=True):
            assert encoding.arrays.keys() == outputs
            assert all(encoding.arrays[name].tobytes() == complete.arrays[name].tobytes() for name in outputs)


def test_row_is_filled_with_sequences_of_one_token(encoder: PackedEncoder) -> None:
    """A row holds one sequence per token, each with the bits that it has alone."""
    random = np.random.default_rng(9)
    sequences = [sequence(random, 1) for _ in range(encoder.row_lengths[-1])]
    builder = encoder.batch_builder()
    assert all(builder.add(1) for _ in sequences)
    assert builder.full
    inputs = [EncoderInput(tokens, ALL_OUTPUTS) for tokens in sequences]
    for tokens, encoding in zip(sequences, encoder.run(builder.build(), inputs), strict=True):
        assert equal_bits(encoding, encoder.encode([tokens])[0])


@pytest.mark.parametrize("backend_and_dtype", BACKENDS_AND_DTYPES)
def test_bits_are_equal_for_other_maximum_batch_tokens(
    weights: Weights, backend_and_dtype: tuple[BackendName, Dtype]
) -> None:
    """Short sequences, and long ones in chunks of 64 or 128 tokens, have equal bits."""
    backend, dtype = backend_and_dtype
    random = np.random.default_rng(6)
    sequences = [sequence(random, length) for length in (7, 50, *LONG_TOKENS)]
    results = []
    for max_batch_tokens in (64, 128):
        encoder = PackedEncoder(MEDIUM, weights, backend=backend, dtype=dtype, max_batch_tokens=max_batch_tokens)
        encoder.retain_row_lengths(encoder.row_lengths[-1:])
        encoder.compile()
        results.append(encoder.encode(sequences))
    assert all(equal_bits(one, other) for one, other in zip(*results, strict=True))


# --- Outputs ---


def test_outputs_are_float32_of_each_sequences_own_length(encoder: PackedEncoder) -> None:
    """Outputs contain no padding, and are float32 in every dtype."""
    random = np.random.default_rng(6)
    lengths = (3, 64, 101)
    for length, encoding in zip(lengths, encoder.encode([sequence(random, n) for n in lengths]), strict=True):
        assert encoding.arrays.keys() == ALL_OUTPUTS
        assert encoding.sequence_output.shape == (length, MEDIUM.hidden_dim)
        assert encoding.pooled_output.shape == encoding.mean_output.shape == (MEDIUM.hidden_dim,)
        assert {array.dtype for array in encoding.arrays.values()} == {np.dtype(np.float32)}
        assert encoding.nbytes == 4 * MEDIUM.hidden_dim * (length + 2)


def test_mean_is_that_of_the_sequence_output(encoder: PackedEncoder) -> None:
    """Only a sequence's own tokens are averaged."""
    random = np.random.default_rng(7)
    for encoding in encoder.encode([sequence(random, length) for length in (1, 9, 40, 101)]):
        mean = encoding.sequence_output.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(encoding.mean_output, mean, atol=1e-5)


@pytest.mark.parametrize("outputs", [POOLED, frozenset(("mean_output",)), frozenset(("sequence_output",)), ALL_OUTPUTS])
def test_only_requested_outputs_are_computed(encoder: PackedEncoder, outputs: frozenset[Output]) -> None:
    """An output that was not requested is a KeyError."""
    random = np.random.default_rng(8)
    for encoding in encoder.encode([sequence(random, length) for length in (4, 4, 30, 101)], outputs):
        assert encoding.arrays.keys() == outputs
        for name in ALL_OUTPUTS - outputs:
            with pytest.raises(KeyError):
                getattr(encoding, name)


def test_outputs_own_their_memory_and_are_read_only(encoder: PackedEncoder) -> None:
    """A result does not share the memory of its row, and is read-only for requests that share it."""
    random = np.random.default_rng(9)
    for encoding in encoder.encode([sequence(random, length) for length in (5, 5, 64, 101)]):
        for array in encoding.arrays.values():
            assert array.base is None
            assert array.flags.owndata
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


def test_results_are_in_the_order_of_the_sequences(encoder: PackedEncoder) -> None:
    """The order is preserved across several runs, and without sequences."""
    random = np.random.default_rng(8)
    sequences = [sequence(random, int(length)) for length in random.integers(1, 80, 40)]
    assert sum(len(tokens.token_ids) for tokens in sequences) > 2 * encoder.row_lengths[-1]
    for tokens, encoding in zip(sequences, encoder.encode(sequences), strict=True):
        assert equal_bits(encoding, encoder.encode([tokens])[0])
    assert encoder.encode([]) == []


def test_run_returns_results_in_the_order_of_adding(encoder: PackedEncoder) -> None:
    """Results of a built batch are in the order of addition; rejected sequences need another run."""
    random = np.random.default_rng(14)
    sequences = [sequence(random, int(length)) for length in random.integers(1, 65, 30)]
    builder = encoder.batch_builder()
    added = [tokens for tokens in sequences if builder.add(len(tokens.token_ids))]
    assert 1 < len(added) < len(sequences)
    encodings = encoder.run(builder.build(), [EncoderInput(tokens, ALL_OUTPUTS) for tokens in added])
    for tokens, encoding in zip(added, encodings, strict=True):
        assert equal_bits(encoding, encoder.encode([tokens])[0])


def test_equal_sequences_share_a_key() -> None:
    """Sequences that differ in ids, segments or length have different keys."""
    ids = np.arange(4, dtype=np.int32)
    zeros = np.zeros(4, np.int32)
    keys = [
        TokenSequence(ids, zeros).key,
        TokenSequence(ids, ids).key,
        TokenSequence(zeros, ids).key,
        TokenSequence(ids[:2], ids[2:]).key,
    ]
    assert len(set(keys)) == len(keys)
    assert TokenSequence(ids.copy(), zeros.copy()).key == keys[0]


# --- Row lengths and devices ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_retained_row_lengths_run(
    tiny: Architecture, make_weights: MakeWeights, oracle: Oracle, backend: BackendName
) -> None:
    """Sequences of a released row length run in the next longer one."""
    weights = make_weights(tiny)
    encoder = compiled(tiny, weights, backend=backend)
    assert list(encoder.row_lengths) == [8, 16]
    encoder.retain_row_lengths([16])
    assert list(encoder.row_lengths) == [16]
    random = np.random.default_rng(12)
    sequences = [sequence(random, length, tiny) for length in (5, 12, 24)]
    for tokens in sequences:
        assert_accurate(encoder.encode([tokens])[0], oracle(weights, *tokens), "float32")


def test_devices_are_named(encoder: PackedEncoder) -> None:
    """A device name contains platform, number and kind."""
    assert len(encoder.devices) == encoder.rows_per_run == 1
    assert encoder.devices[0].startswith("cpu:0 ")


def test_dtype_that_the_backend_does_not_run_is_rejected(weights: Weights) -> None:
    """The error lists the supported dtypes."""
    with pytest.raises(BackendError, match="jax does not support int8; use one of float32, bfloat16"):
        PackedEncoder(MEDIUM, weights, dtype="int8", backend="jax")


# --- 8-bit integers ---


@pytest.mark.parametrize("sizes", [{"hidden_dim": 72}, {"intermediate_dim": 200}], ids=str)
def test_int8_needs_multiples_of_32(sizes: dict[str, int]) -> None:
    """The error contains both sizes and the supported dtypes."""
    architecture = dataclasses.replace(MEDIUM, **sizes)
    with pytest.raises(BackendError) as caught:
        PackedEncoder(architecture, medium_weights(architecture), dtype="int8", backend="openvino")
    message = str(caught.value)
    assert "multiples of 32" in message
    assert f"{architecture.hidden_dim} and {architecture.intermediate_dim}" in message
    assert message.endswith("use FNET_DTYPE=float32 or bfloat16")


@needs_int8
@pytest.mark.parametrize(("hidden", "intermediate"), [(64, 96), (128, 192), (256, 128)])
def test_int8_runs_with_each_group_size(oracle: Oracle, hidden: int, intermediate: int) -> None:
    """Groups of 32, 64 and 128 features are accurate."""
    architecture = dataclasses.replace(MEDIUM, hidden_dim=hidden, intermediate_dim=intermediate)
    weights = medium_weights(architecture)
    encoder = compiled(architecture, weights, dtype="int8", backend="openvino")
    tokens = sequence(np.random.default_rng(1), 40)
    true = tuple(array.astype(np.float32) for array in oracle(weights, *tokens))
    assert_accurate(encoder.encode([tokens])[0], (true[0], true[1]), "int8")


@needs_int8
def test_int8_is_accurate_with_features_of_different_magnitude(oracle: Oracle) -> None:
    """Outlier features among the inputs of both products, as in trained networks, stay within the bounds."""
    weights = medium_weights()
    random = np.random.default_rng(1)
    for layer in range(MEDIUM.num_layers):
        factors = np.exp(random.normal(scale=0.5, size=MEDIUM.hidden_dim)).astype(np.float32)
        weights[f"layers/{layer}/mixing_layer_norm/gamma"] *= factors
        weights[f"layers/{layer}/intermediate_dense/kernel"] /= factors[:, None]
        factors = np.exp(random.normal(size=MEDIUM.intermediate_dim)).astype(np.float32)
        weights[f"layers/{layer}/intermediate_dense/kernel"] *= factors
        weights[f"layers/{layer}/output_dense/kernel"] /= factors[:, None]
    encoder = compiled(MEDIUM, weights, dtype="int8", backend="openvino")
    tokens = sequence(random, 100)
    true = tuple(array.astype(np.float32) for array in oracle(weights, *tokens))
    encoding = encoder.encode([tokens])[0]
    assert_accurate(encoding, (true[0], true[1]), "int8")
    assert np.median(cosines(encoding.sequence_output, true[0])) >= COSINE_BOUNDS["int8"].tokens


def test_int8_is_rejected_where_products_are_not_quantized(monkeypatch: pytest.MonkeyPatch, weights: Weights) -> None:
    """An encoder is rejected if OpenVINO computes in floating point, as on CPUs without 8-bit units."""
    monkeypatch.setattr("model.backends.openvino_backend._group_size", lambda _architecture: 0)
    with pytest.raises(BackendError, match="int8 is not available on this processor"):
        PackedEncoder(MEDIUM, weights, dtype="int8", backend="openvino")


@pytest.mark.parametrize("changes", [{"num_layers": 0}, {"hidden_dim": 32}], ids=str)
def test_int8_networks_without_products_to_quantize_are_float32(changes: dict[str, int]) -> None:
    """Networks without layers or with fewer than 64 features run in float32."""
    architecture = dataclasses.replace(MEDIUM, **changes)
    weights = medium_weights(architecture)
    tokens = sequence(np.random.default_rng(1), 12)
    dtypes: tuple[Dtype, ...] = ("float32", "int8")
    wide, other = (
        compiled(architecture, weights, dtype=dtype, backend="openvino").encode([tokens])[0] for dtype in dtypes
    )
    assert equal_bits(wide, other)


# --- Compilation ---


def test_nothing_is_compiled_after_compile(encoder: PackedEncoder, compilations: list[int]) -> None:
    """No mix of lengths and outputs compiles a program, also for sequences of several chunks."""
    assert compilations, "compiling is counted"
    before = len(compilations)
    random = np.random.default_rng(11)
    for count in (1, 2, 5, 9, 60):
        encoder.encode([sequence(random, int(length)) for length in random.integers(1, 65, count)])
    for length in (*range(1, 65, 4), *LONG_TOKENS):
        encoder.encode([sequence(random, length)], POOLED)
    assert len(compilations) == before


def test_compilations_do_not_grow_with_depth(
    tiny: Architecture, make_weights: MakeWeights, compilations: list[int]
) -> None:
    """All layers share a program, so a row length has three programs."""
    for layers in (1, 9):
        architecture = dataclasses.replace(tiny, num_layers=layers)
        encoder = PackedEncoder(architecture, make_weights(architecture), max_batch_tokens=8)
        before = len(compilations)
        encoder.compile()
        assert len(compilations) - before == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_counts_row_lengths(tiny: Architecture, make_weights: MakeWeights, backend: BackendName) -> None:
    """Progress counts from zero to all row lengths."""
    encoder = PackedEncoder(tiny, make_weights(tiny), backend=backend, max_batch_tokens=16)
    progress: list[tuple[int, int]] = []
    encoder.compile(lambda done, of: progress.append((done, of)))
    assert progress == [(0, 2), (1, 2), (2, 2)]


# --- Outputs that are not finite ---


@pytest.mark.parametrize(
    ("backend", "name", "value"),
    [
        ("openvino", "embedding_projection/bias", np.inf),
        ("openvino", "layers/1/output_dense/kernel", np.nan),
        ("openvino", "layers/0/mixing_layer_norm/gamma", 3e38),
        ("openvino", "pooled_dense/bias", np.nan),
        ("openvino", "pooled_dense/kernel", np.nan),
        ("jax", "layers/0/mixing_layer_norm/gamma", 3e38),
        ("jax", "pooled_dense/kernel", np.nan),
    ],
)
def test_output_that_is_not_finite_is_an_error(
    tiny: Architecture, make_weights: MakeWeights, name: str, value: float, backend: BackendName
) -> None:
    """NaN or infinity, in the sequence output or in the pooled output alone, is never returned."""
    weights = make_weights(tiny)
    weights[name] = np.full_like(weights[name], value)
    encoder = compiled(tiny, weights, backend=backend, max_batch_tokens=8)
    with pytest.raises(NonFiniteOutputError):
        encoder.encode([sequence(np.random.default_rng(13), 5, tiny)])


def test_mean_that_overflows_is_an_error(tiny: Architecture, make_weights: MakeWeights) -> None:
    """The mean of finite tokens may overflow."""
    weights = make_weights(tiny)
    weights["layers/1/output_layer_norm/beta"][:] = 3e38
    encoder = compiled(tiny, weights, backend="openvino", max_batch_tokens=8)
    tokens = sequence(np.random.default_rng(13), 5, tiny)
    assert np.isfinite(encoder.encode([tokens], frozenset(("sequence_output",)))[0].sequence_output).all()
    with pytest.raises(NonFiniteOutputError), np.errstate(over="ignore"):
        encoder.encode([tokens], frozenset(("mean_output",)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_encoder_recovers_from_output_that_is_not_finite(
    tiny: Architecture, make_weights: MakeWeights, oracle: Oracle, backend: BackendName
) -> None:
    """An embedding that is not finite fails only the runs that look it up, and changes nothing for later ones."""
    weights = make_weights(tiny)
    weights["token_embedding/embeddings"][7] = np.inf
    encoder = compiled(tiny, weights, backend=backend, max_batch_tokens=8)
    failing = TokenSequence(np.array([4, 7, 5], np.int32), np.zeros(3, np.int32))
    healthy = TokenSequence(np.array([4, 8, 5], np.int32), np.zeros(3, np.int32))
    for _ in range(2):
        with pytest.raises(NonFiniteOutputError):
            encoder.encode([healthy, failing])
        assert_accurate(encoder.encode([healthy])[0], oracle(weights, *healthy), "float32")


# --- Sequences that cannot be encoded ---


@pytest.mark.parametrize("length", [0, 301])
def test_sequence_without_tokens_or_positions_is_rejected(encoder: PackedEncoder, length: int) -> None:
    """A sequence is neither empty nor longer than the position table."""
    random = np.random.default_rng(10)
    with pytest.raises(ValueError, match=f"a sequence has {length} tokens, expected 1 to 300"):
        encoder.encode([sequence(random, 5), sequence(random, length)])
