"""Before it serves, an encoder is held to the plain network and to itself; what fails is not served with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.checkpoints import read_weights
from model.encoder import NonFiniteOutputError, PackedEncoder, Tokens
from model.jax_programs import JaxPrograms
from model.packing import Spacing
from model.plain import encode_one
from model.presets import load_preset
from model.programs import Dtype, RowArrays
from model.selftest import FLOAT32_TOLERANCE, SPACINGS, Reference, SelfTest, SelfTestError, prepare

Array = npt.NDArray[Any]
MakeWeights = Callable[..., dict[str, npt.NDArray[np.float32]]]

# The tiny network has 24 positions and aims for 64 tokens.
ROWS = (16, 32, 48, 64)
# What a row of 512 tokens may be cut in.
SEGMENTS = (64, 128, 256)


class Programs(JaxPrograms):
    """The programs under test. They do not depend on weights, so each is compiled once for all tests."""

    made: ClassVar[dict[tuple[int, int, int, str], Any]] = {}

    def compile(self, length: int, members: int, segments: Sequence[int]) -> None:
        """Compile, or take what is compiled."""
        key = (self._architecture.hidden_dim, length, members, str(self._dtype))
        if key not in self.made:
            super().compile(length, members, segments)
            self.made[key] = self._compiled[length]
        self._compiled[length] = self.made[key]


class Lying(Programs):
    """Programs of which some row lengths are off by a factor, as if a library computed them wrongly."""

    lies: ClassVar[dict[int, float]] = {}

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Array, Array]]:
        """Run, and lie."""
        factor = np.float32(self.lies.get(length, 1.0))
        return [(tokens * factor, pooled * factor) for tokens, pooled in super().run(length, rows)]


class Sociable(Programs):
    """Programs whose rows depend a little on how many sequences share them, as unaligned sums do."""

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Array, Array]]:
        """Run, and add a little for everyone who is there."""
        factor = np.float32(1 + 1e-6 * np.count_nonzero(rows[0].firsts))
        return [(tokens, pooled * factor) for tokens, pooled in super().run(length, rows)]


class Sloping(Programs):
    """Programs whose rounding differs in the second half of a row, as where two threads share it unequally."""

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Array, Array]]:
        """Run, and change the last bits of what lies late."""
        factor = np.where(np.arange(length) < length // 2, 1, 1 + 2**-23).astype(np.float32)[:, None]
        return [(tokens * factor, pooled) for tokens, pooled in super().run(length, rows)]


class Twofold:
    """Two devices, of which the second is off by a factor."""

    rows_at_once = 2
    factor: ClassVar[float] = 1.0

    def __init__(self, *arguments: Any) -> None:
        self._one = Programs(*arguments)
        self.shortest_basis, self.carries = self._one.shortest_basis, self._one.carries
        self.segmented = self._one.segmented
        self.published, self.transform = self._one.published, self._one.transform
        self.devices = self._one.devices * 2

    def compile(self, length: int, members: int, segments: Sequence[int]) -> None:
        """Compile for both."""
        self._one.compile(length, members, segments)

    def forget(self, length: int) -> None:
        """Forget for both."""
        self._one.forget(length)

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Array, Array]]:
        """Run the first row on the first device, the second on the second."""
        found = [self._one.run(length, [row])[0] for row in rows]
        return [found[0], *((tokens * self.factor, pooled * self.factor) for tokens, pooled in found[1:])]

    def mixes_alike(self, length: int, one: RowArrays, other: RowArrays) -> bool:
        """Compare on the first."""
        return self._one.mixes_alike(length, one, other)


class WrongBehind(Programs):
    """Programs whose rows of a middle length are right for short sequences alone."""

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Array, Array]]:
        """Run, and spoil what lies at a late place of its sequence."""
        late = (rows[0].positions > 8)[:, None] & (length == ROWS[1])
        return [(np.where(late, np.float32(1), tokens), pooled) for tokens, pooled in super().run(length, rows)]


class Unlike(Programs):
    """Programs whose segments of one size round otherwise than the whole row does."""

    def mixes_alike(self, length: int, one: RowArrays, other: RowArrays) -> bool:
        """Deny it of segments of 128 tokens."""
        return other.bases.shape[-1] != SEGMENTS[1] and super().mixes_alike(length, one, other)


class Encoder(PackedEncoder):
    """An encoder with programs of a given kind."""

    def __init__(self, *arguments: Any, programs: type[Programs | Twofold] = Programs, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Small as it is, in the dtype that was asked for.
        self._operands = self.dtype
        self._programs = programs(self.architecture, arguments[1], self._operands)


def lying(lies: dict[int, float]) -> type[Programs]:
    """Return programs that lie about some row lengths."""
    return type("LyingHere", (Lying,), {"lies": lies})


@pytest.fixture(scope="module")
def reference(tiny: Architecture, make_weights: MakeWeights, oracle: Callable[..., tuple[Array, Array]]) -> Reference:
    """The oracle in the place of the plain backbone."""
    weights = make_weights(tiny)

    def encode(tokens: Tokens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        sequence, pooled = oracle(weights, *tokens)
        return sequence.astype(np.float32), pooled.astype(np.float32)

    return encode


OTHER_BITS = "differs in its last bits from the longest row"


def sound(tiny: Architecture, make_weights: MakeWeights, dtype: Dtype = "float32") -> PackedEncoder:
    """Return an encoder with nothing wrong."""
    return Encoder(tiny, make_weights(tiny), dtype=dtype, most_tokens=64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_encoder_passes(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference, dtype: Dtype
) -> None:
    """Every row length that gives equal bits on this processor is kept; the report says at which spacing."""
    encoder = sound(tiny, make_weights, dtype)
    report = prepare(encoder, reference)
    assert report.rows == encoder.rows
    assert report.rows[-1] == ROWS[-1]
    assert {*report.rows, *report.dropped} == {*ROWS}
    assert set(report.dropped.values()) <= {OTHER_BITS}
    assert report.batch_invariant
    assert report.spacing == encoder.spacing
    assert report.spacing in SPACINGS
    assert report.tokens_per_second > 0
    assert 0 < report.largest_error < (FLOAT32_TOLERANCE if dtype == "float32" else 0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_cut_in_segments_that_change_no_bit(
    tiny: Architecture, make_weights: MakeWeights, oracle: Callable[..., tuple[Array, Array]], dtype: Dtype
) -> None:
    """Every segment whose products give the whole row's bits is used, and no other; that spoils nothing else."""
    architecture = dataclasses.replace(tiny, hidden_dim=96)
    # Small enough for so many features.
    weights = {
        name: array if name.endswith(("gamma", "beta")) else array * np.float32(0.3)
        for name, array in make_weights(architecture).items()
    }
    encoder = Encoder(architecture, weights, dtype=dtype, most_tokens=512, programs=Unlike)
    encoder.keep_rows([64, 512])
    report = prepare(encoder, lambda tokens: tuple(a.astype(np.float32) for a in oracle(weights, *tokens)))  # type: ignore[arg-type, return-value]
    assert report.batch_invariant
    assert encoder.segments == {512: (SEGMENTS[0], SEGMENTS[2])}


def test_rows_of_several_lengths_run_together_in_segments(
    tiny: Architecture, make_weights: MakeWeights, oracle: Callable[..., tuple[Array, Array]]
) -> None:
    """Two devices with a full row and a short one: the short one runs as a full one, and no bit changes."""
    weights = make_weights(tiny)
    encoder = Encoder(tiny, weights, most_tokens=512, programs=Twofold)
    encoder.keep_rows([96, 512])
    encoder.compile(Spacing(8))
    random = np.random.default_rng(1)
    sequences = [
        Tokens(random.integers(0, tiny.vocabulary_size, 16).astype(np.int32), np.zeros(16, np.int32)) for _ in range(37)
    ]
    # Whether it changes bits is another test's.
    encoder.segments = {512: (64,)}
    for tokens, found in zip(sequences, encoder.encode(sequences), strict=True):
        true_sequence, true_pooled = oracle(weights, *tokens)
        np.testing.assert_allclose(found.sequence_output, true_sequence, atol=1e-4)
        np.testing.assert_allclose(found.pooled_output, true_pooled, atol=1e-4)


def test_progress_is_passed_on(tiny: Architecture, make_weights: MakeWeights, reference: Reference) -> None:
    """Whoever waits is told how many row lengths are compiled."""
    told: list[tuple[int, int]] = []
    prepare(sound(tiny, make_weights), reference, progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 4) for done in range(5)]


def test_without_invariance_there_are_no_gaps(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference
) -> None:
    """Who does not ask for equal bits gets the tightest packing, as true as ever."""
    encoder = sound(tiny, make_weights)
    report = prepare(encoder, reference, batch_invariant=False)
    assert (report.spacing, encoder.spacing, report.batch_invariant) == (Spacing(), Spacing(), False)
    assert report.rows == ROWS
    random = np.random.default_rng(0)
    sequences = [Tokens(random.integers(0, 40, n).astype(np.int32), np.zeros(n, np.int32)) for n in (3, 1, 24, 5, 7)]
    assert encoder.lay(sequences).starts == (0, 3, 4, 28, 33)
    for tokens, found in zip(sequences, encoder.encode(sequences), strict=True):
        np.testing.assert_allclose(found.pooled_output, reference(tokens)[1], atol=1e-4)


@pytest.mark.parametrize("batch_invariant", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "wrong",
    [lambda length: True, lambda length: length == 24, lambda length: length < 24],  # noqa: ARG005
    ids=["all", "longest", "short"],
)
def test_an_encoder_that_is_wrong_throughout_is_refused(
    tiny: Architecture,
    make_weights: MakeWeights,
    reference: Reference,
    wrong: Callable[[int], bool],
    dtype: Dtype,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Where the plain network says otherwise of long or of short sequences, there is nothing to serve with."""

    def other(tokens: Tokens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        sequence, pooled = reference(tokens)
        return (sequence[::-1], -pooled) if wrong(len(tokens.token_ids)) else (sequence, pooled)

    with pytest.raises(SelfTestError, match="the row of 64 tokens differs from the plain backbone"):
        prepare(sound(tiny, make_weights, dtype), other, batch_invariant=batch_invariant)


@pytest.mark.parametrize("output", [0, 1], ids=["sequence", "pooled"])
def test_one_wrong_number_is_enough(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference, output: int
) -> None:
    """Each value of both outputs is compared, not an average."""

    def other(tokens: Tokens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        outputs = reference(tokens)
        outputs[output].reshape(-1)[-1] += 0.01
        return outputs

    with pytest.raises(SelfTestError, match="largest error 0"):
        prepare(sound(tiny, make_weights), other)


@pytest.mark.parametrize("batch_invariant", [True, False])
@pytest.mark.parametrize("length", ROWS[:-1])
def test_a_row_length_that_lies_is_dropped(
    tiny: Architecture,
    make_weights: MakeWeights,
    reference: Reference,
    length: int,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A row length that computes something else is dropped with the reason, and the others serve."""
    encoder = Encoder(tiny, make_weights(tiny), most_tokens=64, programs=lying({length: 1.5}))
    report = prepare(encoder, reference, batch_invariant=batch_invariant)
    assert report.dropped.pop(length) == "differs from the plain backbone"
    # A processor may give other bits in further rows.
    assert set(report.dropped.values()) <= ({OTHER_BITS} if batch_invariant else set())
    assert report.rows == encoder.rows == tuple(row for row in ROWS if row != length and row not in report.dropped)
    assert report.largest_error > FLOAT32_TOLERANCE
    random = np.random.default_rng(1)
    for size in (1, 10, 17, 24):
        tokens = Tokens(random.integers(0, 40, size).astype(np.int32), np.zeros(size, np.int32))
        np.testing.assert_allclose(encoder.encode([tokens])[0].pooled_output, reference(tokens)[1], atol=1e-4)


def test_a_row_length_with_other_last_bits_is_dropped(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference
) -> None:
    """A row length that is true but not equal to the bit is dropped where equal bits are promised."""
    lies = {32: 1 + 1e-6}
    encoder = Encoder(tiny, make_weights(tiny), most_tokens=64, programs=lying(lies))
    report = prepare(encoder, reference)
    assert report.dropped[32] == OTHER_BITS
    assert report.batch_invariant
    tolerant = prepare(
        Encoder(tiny, make_weights(tiny), most_tokens=64, programs=lying(lies)), reference, batch_invariant=False
    )
    assert tolerant.dropped == {}


@pytest.mark.parametrize("batch_invariant", [True, False])
def test_a_row_that_is_wrong_for_longer_sequences_is_dropped(
    tiny: Architecture,
    make_weights: MakeWeights,
    reference: Reference,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Each row length is tried with a sequence that takes most of it, whether or not bits are compared."""
    encoder = Encoder(tiny, make_weights(tiny), most_tokens=64, programs=WrongBehind)
    report = prepare(encoder, reference, batch_invariant=batch_invariant)
    assert ROWS[1] in report.dropped
    assert ROWS[1] not in encoder.rows


@pytest.mark.parametrize("batch_invariant", [True, False])
def test_every_device_is_tested(
    tiny: Architecture,
    make_weights: MakeWeights,
    reference: Reference,
    batch_invariant: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A device that computes something else is found, and so is one with other last bits."""

    def report(factor: float) -> SelfTest:
        programs = type("TwofoldHere", (Twofold,), {"factor": np.float32(factor)})
        encoder = Encoder(tiny, make_weights(tiny), most_tokens=64, programs=programs)
        return prepare(encoder, reference, batch_invariant=batch_invariant)

    assert report(1.0).batch_invariant == batch_invariant
    assert not report(1 + 1e-6).batch_invariant
    with pytest.raises(SelfTestError, match="the row of 64 tokens differs from the plain backbone"):
        report(-1.0)


def test_the_longest_row_cannot_be_dropped(tiny: Architecture, make_weights: MakeWeights, reference: Reference) -> None:
    """A lie in the longest row, which has to hold any sequence, refuses the encoder."""
    encoder = Encoder(tiny, make_weights(tiny), most_tokens=64, programs=lying({64: 1.5}))
    with pytest.raises(SelfTestError, match="the row of 64 tokens"):
        prepare(encoder, reference)


def test_dependence_on_company_is_found_and_said(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference
) -> None:
    """Where bits depend on company at every spacing, nothing is promised, and the gaps are the smallest again."""
    encoder = Encoder(tiny, make_weights(tiny), most_tokens=64, programs=Sociable)
    report = prepare(encoder, reference)
    assert not report.batch_invariant
    assert report.spacing == encoder.spacing == SPACINGS[0]
    assert report.rows == ROWS


@pytest.mark.parametrize("most_tokens", [64, 128])
def test_dependence_on_the_place_is_found_and_said(
    tiny: Architecture, make_weights: MakeWeights, reference: Reference, most_tokens: int
) -> None:
    """Also of the short ones in a short row, which only alone begin it."""
    encoder = Encoder(tiny, make_weights(tiny), programs=Sloping, most_tokens=most_tokens)
    assert not prepare(encoder, reference).batch_invariant


def test_weights_that_overflow_are_refused(tiny: Architecture, make_weights: MakeWeights, reference: Reference) -> None:
    """A network whose outputs are not finite does not get as far as serving."""
    weights = make_weights(tiny)
    weights["pooled_dense/kernel"] = np.full_like(weights["pooled_dense/kernel"], np.nan)
    with pytest.raises(NonFiniteOutputError):
        prepare(Encoder(tiny, weights, most_tokens=64), reference)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bundled_preset_passes(dtype: Dtype) -> None:
    """A trained network, whose tokens have far more in common than random weights give them, is true in both dtypes."""
    preset = load_preset("fnet_mini_en")
    weights = read_weights(preset.directory, preset.architecture)
    encoder = PackedEncoder(preset.architecture, weights, dtype=dtype)
    report = prepare(encoder, lambda tokens: encode_one(preset.architecture, weights, *tokens))
    assert report.rows[-1] == 512
    assert report.batch_invariant
