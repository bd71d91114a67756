"""The packed encoder: what the plain network gives, the same to the bit in any company, and nothing compiled late."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.encoder import Encoding, NonFiniteOutputError, PackedEncoder, Tokens
from model.jax_programs import on_compilation
from model.packing import Spacing, in_segments
from model.plain import encode_one
from model.programs import Dtype, EngineName
from model.selftest import SelfTest, prepare

Array = npt.NDArray[Any]
Weights = dict[str, npt.NDArray[np.float32]]
MakeWeights = Callable[..., Weights]
Oracle = Callable[..., tuple[Array, Array]]

# Large enough that the matrix products take the routines, and the blocks, of a real network.
MEDIUM = Architecture(
    vocabulary_size=100, num_layers=2, hidden_dim=384, intermediate_dim=256, max_sequence_length=64, num_segments=4
)

ENGINES: tuple[EngineName, ...] = ("jax", "openvino")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def sequence(random: np.random.Generator, length: int, architecture: Architecture = MEDIUM) -> Tokens:
    """Return a random sequence."""
    return Tokens(
        random.integers(0, architecture.vocabulary_size, length).astype(np.int32),
        random.integers(0, architecture.num_segments, length).astype(np.int32),
    )


def same_bits(one: Encoding, other: Encoding) -> bool:
    """Whether two encodings are equal to the last bit, in every output."""
    return (
        np.array_equal(one.pooled_output, other.pooled_output)
        and np.array_equal(one.sequence_output, other.sequence_output)
        and np.array_equal(one.mean_output, other.mean_output)
    )


def least_cosine(one: Array, other: Array) -> float:
    """Return the least cosine of two arrays' rows."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(-1) / norms).min())


@pytest.fixture(scope="module")
def compilations() -> list[int]:
    """Grow by one whenever XLA compiles a program in this process."""
    seen: list[int] = []
    on_compilation(lambda: seen.append(1))
    return seen


@pytest.fixture(scope="module")
def weights(make_weights: MakeWeights) -> Weights:
    """The medium network's weights, small enough for 384 features."""
    return {
        name: array if name.endswith(("gamma", "beta")) else array * np.float32(0.3)
        for name, array in make_weights(MEDIUM).items()
    }


@pytest.fixture(scope="module")
def backbone(weights: Weights) -> FNetBackbone:
    """The readable reference with the same weights."""
    network = FNetBackbone(**dataclasses.asdict(MEDIUM))
    network.assign_weights(weights)
    return network


@pytest.fixture(scope="module", params=[(engine, dtype) for engine in ENGINES for dtype in DTYPES], ids=" ".join)
def prepared(
    request: pytest.FixtureRequest, backbone: FNetBackbone, weights: Weights, compilations: list[int]
) -> tuple[PackedEncoder, SelfTest]:
    """An encoder of each engine and dtype, tested as before serving, and the report of that test."""
    engine, dtype = request.param
    encoder = PackedEncoder(MEDIUM, weights, dtype=dtype, engine=engine, most_tokens=128)
    return encoder, prepare(encoder, lambda tokens: backbone.encode_one(*tokens))


@pytest.fixture
def encoder(prepared: tuple[PackedEncoder, SelfTest]) -> PackedEncoder:
    """The prepared encoder, of each engine and dtype in turn."""
    return prepared[0]


def compiled(
    architecture: Architecture, weights: Weights, engine: EngineName = "jax", most_tokens: int = 16
) -> PackedEncoder:
    """Return an encoder ready to run, without its self-test."""
    encoder = PackedEncoder(architecture, weights, engine=engine, most_tokens=most_tokens)
    encoder.compile(Spacing(8))
    return encoder


def cut(weights: Weights) -> Weights:
    """Keep the first 16 positions."""
    return weights | {"position_embedding/embeddings": weights["position_embedding/embeddings"][:16]}


# --- Exactness ---


def test_it_computes_what_the_readable_reference_computes(encoder: PackedEncoder, backbone: FNetBackbone) -> None:
    """Many lengths in company: float32 to 1e-4, bfloat16 to a cosine of 0.999 for every token."""
    random = np.random.default_rng(1)
    sequences = [sequence(random, length) for length in (1, 2, 5, 17, 63, 64)]
    for tokens, found in zip(sequences, encoder.encode(sequences), strict=True):
        true_sequence, true_pooled = backbone.encode_one(*tokens)
        if encoder.dtype == "float32":
            np.testing.assert_allclose(found.sequence_output, true_sequence, atol=1e-4)
            np.testing.assert_allclose(found.pooled_output, true_pooled, atol=1e-4)
        else:
            assert least_cosine(found.sequence_output, true_sequence) > 0.999
            assert least_cosine(found.pooled_output, true_pooled) > 0.999


@pytest.mark.parametrize(("hidden", "narrow"), [(7, False), (63, False), (64, True), (97, True)])
def test_small_networks_multiply_in_float32(make_weights: MakeWeights, hidden: int, narrow: bool) -> None:  # noqa: FBT001 - a parameter
    """Below 64 features bfloat16 is float32 to the bit; from there on every token keeps a cosine of 0.999 to it."""
    architecture = dataclasses.replace(MEDIUM, hidden_dim=hidden)
    weights = make_weights(architecture)
    tokens = sequence(np.random.default_rng(3), 22)
    wide, asked = (PackedEncoder(architecture, weights, dtype=dtype, most_tokens=64) for dtype in DTYPES)
    for encoder in (wide, asked):
        encoder.keep_rows([64])
        encoder.compile(Spacing(8))
    (true,), (found,) = wide.encode([tokens]), asked.encode([tokens])
    assert np.array_equal(found.sequence_output, true.sequence_output) is not narrow
    assert np.array_equal(found.pooled_output, true.pooled_output) is not narrow
    assert least_cosine(found.sequence_output, true.sequence_output) > 0.999


def test_where_the_fft_depends_on_company_products_take_its_place(
    weights: Weights, backbone: FNetBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a machine serves the same network, to the same precision and as exact."""
    monkeypatch.setattr("model.jax_programs.fft_is_invariant", lambda _hidden: False)
    encoder = PackedEncoder(MEDIUM, weights, most_tokens=64)
    report = prepare(encoder, lambda tokens: backbone.encode_one(*tokens))
    assert report.batch_invariant
    tokens = sequence(np.random.default_rng(8), 33)
    ((true_sequence, true_pooled), (found,)) = backbone.encode_one(*tokens), encoder.encode([tokens])
    np.testing.assert_allclose(found.sequence_output, true_sequence, atol=1e-4)
    np.testing.assert_allclose(found.pooled_output, true_pooled, atol=1e-4)


def test_alone_and_in_company_are_equal_to_the_bit(prepared: tuple[PackedEncoder, SelfTest]) -> None:
    """A sequence of any length gets the same bits alone and at any place among any others."""
    encoder, report = prepared
    assert report.batch_invariant
    random = np.random.default_rng(2)
    for length in range(1, 65):
        tokens = sequence(random, length)
        (alone,) = encoder.encode([tokens])
        for _ in range(3):
            company = [sequence(random, other) for other in random.integers(1, 40, 6)]
            place = int(random.integers(0, 7))
            company.insert(place, tokens)
            assert same_bits(encoder.encode(company)[place], alone), length


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_cut_in_segments_give_the_same_bits(make_weights: MakeWeights, dtype: Dtype) -> None:
    """A sequence is the same to the bit alone, in segments of 64, 128 and 256 tokens, and in a row that is whole."""
    architecture = dataclasses.replace(MEDIUM, max_sequence_length=300)
    weights = make_weights(architecture)
    encoder = PackedEncoder(architecture, weights, dtype=dtype, most_tokens=512)
    encoder.keep_rows([64, 512])
    report = prepare(encoder, lambda tokens: encode_one(architecture, weights, *tokens))
    assert report.batch_invariant
    assert encoder.segments == {512: (64, 128, 256)}
    random = np.random.default_rng(6)
    tokens = sequence(random, 13)
    (alone,) = encoder.encode([tokens])
    for segment, others in ((64, [64, *[20] * 9]), (128, [100] * 3), (256, [200, 40]), (512, [300, 100])):
        lengths = [13, *others]
        row = in_segments(512, range(len(lengths)), lengths, encoder.segments[512], encoder.spacing)
        assert (row.segment if row else 512) == segment
        company = [tokens, *(sequence(random, length) for length in others)]
        assert same_bits(encoder.run(encoder.lay(company, 512), company)[0], alone)
        for other, found in zip(company, encoder.encode(company), strict=True):
            assert same_bits(found, encoder.encode([other])[0])


def test_every_row_length_gives_the_same_bits(prepared: tuple[PackedEncoder, SelfTest]) -> None:
    """The row that a sequence happens to lie in does not show in its result."""
    encoder, report = prepared
    random = np.random.default_rng(3)
    tokens = sequence(random, 13)
    (expected,) = encoder.run(encoder.lay([tokens], report.rows[-1]), [tokens])
    for length in report.rows:
        (found,) = encoder.run(encoder.lay([tokens], length), [tokens])
        assert same_bits(found, expected), length


def test_the_same_sequence_twice_gives_the_same_bits(encoder: PackedEncoder) -> None:
    """Duplicates in one call are equal to each other and to the next call's."""
    tokens = sequence(np.random.default_rng(4), 20)
    first, second = encoder.encode([tokens, tokens])
    assert same_bits(first, second)
    assert same_bits(encoder.encode([tokens])[0], first)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_dim": 1},
        {"hidden_dim": 2},
        {"hidden_dim": 3},
        {"hidden_dim": 7, "intermediate_dim": 1},
        {"num_layers": 0},
        {"num_segments": 1, "max_sequence_length": 1},
    ],
    ids=str,
)
def test_sizes_at_the_edge_are_computed_right(
    tiny: Architecture, make_weights: MakeWeights, oracle: Oracle, changes: dict[str, int], engine: EngineName
) -> None:
    """Odd hidden sizes, one segment, one position and no layers equal the oracle in float64."""
    architecture = dataclasses.replace(tiny, **{"max_sequence_length": 16, **changes})
    weights = make_weights(architecture)
    encoder = compiled(architecture, weights, engine)
    random = np.random.default_rng(5)
    lengths = [min(length, architecture.max_sequence_length) for length in (1, 7, 2, 16)]
    sequences = [sequence(random, length, architecture) for length in lengths]
    for tokens, found in zip(sequences, encoder.encode(sequences), strict=True):
        true_sequence, true_pooled = oracle(weights, *tokens)
        np.testing.assert_allclose(found.sequence_output, true_sequence, atol=1e-4)
        np.testing.assert_allclose(found.pooled_output, true_pooled, atol=1e-4)


# --- Outputs ---


def test_outputs_are_float32_of_each_sequences_own_length(encoder: PackedEncoder) -> None:
    """No padding comes back, and no narrower dtype."""
    random = np.random.default_rng(6)
    for length, found in zip((3, 64), encoder.encode([sequence(random, 3), sequence(random, 64)]), strict=True):
        assert found.sequence_output.shape == (length, 384)
        assert found.pooled_output.shape == found.mean_output.shape == (384,)
        outputs = (found.sequence_output, found.pooled_output, found.mean_output)
        assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


def test_the_mean_is_that_of_the_sequence(encoder: PackedEncoder) -> None:
    """The mean output is the mean of the sequence output over its own tokens."""
    random = np.random.default_rng(7)
    for found in encoder.encode([sequence(random, length) for length in (1, 9, 40)]):
        np.testing.assert_allclose(found.mean_output, found.sequence_output.astype(np.float64).mean(axis=0), atol=1e-5)


def test_a_detached_encoding_cannot_be_written_to(encoder: PackedEncoder) -> None:
    """It is kept and given to others."""
    (found,) = encoder.encode([sequence(np.random.default_rng(9), 5)])
    kept = found.detached()
    assert same_bits(kept, found)
    for output in (kept.pooled_output, kept._tokens):
        with pytest.raises(ValueError, match="read-only"):
            output[:] = 0


def test_results_are_in_the_order_of_the_sequences(encoder: PackedEncoder) -> None:
    """However sequences are spread over rows, each result is at its sequence's place, more than a row's or none."""
    random = np.random.default_rng(8)
    sequences = [sequence(random, int(length)) for length in random.integers(1, 65, 40)]
    assert sum(len(tokens.token_ids) for tokens in sequences) > 2 * encoder.rows[-1]
    for tokens, found in zip(sequences, encoder.encode(sequences), strict=True):
        assert same_bits(found, encoder.encode([tokens])[0])
    assert encoder.encode([]) == []


def test_a_row_can_be_full_of_the_shortest_sequences(encoder: PackedEncoder) -> None:
    """As many sequences as a row has starts run in it at once."""
    random = np.random.default_rng(9)
    sequences = [sequence(random, 1) for _ in range(encoder.rows[-1] // encoder.spacing.alignment)]
    row = encoder.lay(sequences)
    assert row.length == encoder.rows[-1]
    for tokens, found in zip(sequences, encoder.run(row, sequences), strict=True):
        assert same_bits(found, encoder.encode([tokens])[0])


def test_a_batch_runs_what_was_placed_in_it(encoder: PackedEncoder) -> None:
    """In the order of placing, with everybody's own bits; what does not fit takes another run."""
    random = np.random.default_rng(14)
    sequences = [sequence(random, int(length)) for length in random.integers(1, 65, 30)]
    batch = encoder.open_batch()
    placed = [tokens for tokens in sequences if batch.place(len(tokens.token_ids))]
    found, room = encoder.run_batch(placed)
    assert room == encoder.rows[-1]
    for tokens, encoding in zip(placed, found, strict=True):
        assert same_bits(encoding, encoder.encode([tokens])[0])
    many, room = encoder.run_batch(sequences)
    assert room > encoder.rows[-1]
    for tokens, encoding in zip(sequences, many, strict=True):
        assert same_bits(encoding, encoder.encode([tokens])[0])
    with pytest.raises(ValueError, match="do not fit"):
        encoder.run_batch([sequence(random, encoder.rows[-1] + 1)])


def test_what_does_not_fit_is_refused(encoder: PackedEncoder) -> None:
    """A sequence longer than the longest row, or a row too short, is an error and not a cut."""
    tokens = sequence(np.random.default_rng(10), encoder.rows[-1] + 1)
    with pytest.raises(ValueError, match="do not fit"):
        encoder.encode([tokens])
    with pytest.raises(ValueError, match="do not fit"):
        encoder.lay([sequence(np.random.default_rng(10), 17)], 16)


def test_devices_are_named(encoder: PackedEncoder) -> None:
    """Every device that runs it has its platform, number and kind."""
    assert encoder.devices
    assert all(len(name.split(":")) >= 2 for name in encoder.devices)


# --- Compilation ---


def test_nothing_compiles_while_serving(encoder: PackedEncoder, compilations: list[int]) -> None:
    """Once prepared, no mix of lengths and no output makes XLA compile anything."""
    assert compilations, "preparing compiles, and is counted"
    before = len(compilations)
    random = np.random.default_rng(11)
    for count in (*range(1, 20), 60):
        for found in encoder.encode([sequence(random, int(length)) for length in random.integers(1, 65, count)]):
            assert found.sequence_output.size
            assert found.mean_output.size
            assert found.pooled_output.size
    for length in range(1, 65):
        encoder.encode([sequence(random, length)])
    assert len(compilations) == before


def test_compiling_does_not_grow_with_depth(
    tiny: Architecture, make_weights: MakeWeights, compilations: list[int]
) -> None:
    """All layers share one program: a row length is three programs at most, for nine layers as for one."""
    for layers in (1, 9):
        architecture = dataclasses.replace(tiny, num_layers=layers, max_sequence_length=16)
        encoder = PackedEncoder(architecture, make_weights(architecture), most_tokens=16)
        before = len(compilations)
        encoder.compile()
        assert 0 < len(compilations) - before <= 3


def test_progress_is_told_by_row_lengths(tiny: Architecture, make_weights: MakeWeights) -> None:
    """Whoever waits learns how many row lengths are done, from none to all."""
    encoder = PackedEncoder(tiny, make_weights(tiny), most_tokens=32)
    told: list[tuple[int, int]] = []
    encoder.compile(Spacing(8), lambda done, of: told.append((done, of)))
    assert encoder.rows == (16, 32)
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_dropped_rows_are_not_used(tiny: Architecture, make_weights: MakeWeights, oracle: Oracle) -> None:
    """With a row length dropped, its sequences lie in the next longer one."""
    weights = make_weights(tiny)
    encoder = compiled(tiny, weights, most_tokens=32)
    encoder.keep_rows([32])
    tokens = sequence(np.random.default_rng(12), 5, tiny)
    assert encoder.lay([tokens]).length == 32
    np.testing.assert_allclose(encoder.encode([tokens])[0].pooled_output, oracle(weights, *tokens)[1], atol=1e-4)


# --- Outputs that are not finite ---


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embedding_projection/bias", np.inf),
        ("layers/1/output_dense/kernel", np.nan),
        ("layers/0/mixing_layer_norm/gamma", np.float32(3e38)),
        ("pooled_dense/bias", np.nan),
        ("pooled_dense/kernel", np.nan),
    ],
)
def test_an_output_that_is_not_finite_is_an_error(
    tiny: Architecture, make_weights: MakeWeights, name: str, value: float, engine: EngineName
) -> None:
    """NaN or infinity, in the sequence or in the pooled output alone, is never returned as a result."""
    weights = make_weights(tiny)
    weights[name] = np.full_like(weights[name], value)
    encoder = compiled(dataclasses.replace(tiny, max_sequence_length=16), cut(weights), engine)
    with pytest.raises(NonFiniteOutputError):
        encoder.encode([sequence(np.random.default_rng(13), 5, tiny)])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_embedding_that_no_one_uses_may_be_anything(
    tiny: Architecture, make_weights: MakeWeights, oracle: Oracle, engine: EngineName
) -> None:
    """A row of the vocabulary that is not finite harms only who sends its id."""
    weights = cut(make_weights(tiny))
    weights["token_embedding/embeddings"][7] = np.nan
    encoder = compiled(dataclasses.replace(tiny, max_sequence_length=16), weights, engine)
    healthy = Tokens(np.array([4, 8, 5], np.int32), np.zeros(3, np.int32))
    np.testing.assert_allclose(encoder.encode([healthy])[0].pooled_output, oracle(weights, *healthy)[1], atol=1e-4)
    with pytest.raises(NonFiniteOutputError):
        encoder.encode([Tokens(np.array([4, 7, 5], np.int32), np.zeros(3, np.int32))])


def test_an_encoder_recovers_from_such_an_error(tiny: Architecture, make_weights: MakeWeights, oracle: Oracle) -> None:
    """The sequences after a failed one are encoded as if nothing had happened."""
    weights = cut(make_weights(tiny))
    weights["token_embedding/embeddings"][7] = np.inf
    encoder = compiled(dataclasses.replace(tiny, max_sequence_length=16), weights)
    failing: Sequence[Tokens] = [Tokens(np.array([7], np.int32), np.zeros(1, np.int32))]
    healthy = Tokens(np.array([4, 8, 5], np.int32), np.zeros(3, np.int32))
    for _ in range(2):
        with pytest.raises(NonFiniteOutputError):
            encoder.encode(failing)
        found = encoder.encode([healthy])[0]
        np.testing.assert_allclose(found.sequence_output, oracle(weights, *healthy)[0], atol=1e-4)
