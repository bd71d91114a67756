"""The test that an encoder passes on the very machine that serves, before it serves.

Two promises are held to account. *True*: a probe gives what the plain backbone gives for it alone. *Invariant*: it
gives the same to the last bit alone and in company, at any place, in every row length. Which routines a matrix library
picks, and so how sums round, depends on processor, library and size; nothing about it is assumed, all is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model.encoder import Encoding, PackedEncoder, Tokens
from model.fourier import Float32s
from model.packing import OpenRow, Spacing, in_segments

# The plain backbone: a sequence alone, unpadded, to its sequence output [n, h] and pooled output [h].
Reference = Callable[[Tokens], tuple[Float32s, Float32s]]

# Spacings to try, tightest first. Matrix tiles sum pairs of tokens, 32 at a time; other routines sum 8 or more.
SPACINGS = (Spacing(2, 32), Spacing(8), Spacing(8, 32), Spacing(16), Spacing(32))

# Largest error on unit-scale float32 outputs.
FLOAT32_TOLERANCE = 1e-4
# Least cosine in bfloat16, of all but a few in a hundred of a long sequence's tokens; and of those few, on which
# rounding errors of many layers may fall together. A wrong program gives cosines near 0.
BFLOAT16_COSINE = 0.999
_FEW = 0.01
_STRAY_COSINE = 0.99

_SHORT = 5
_FILLER = 7
_SEED = 20210509


class SelfTestError(RuntimeError):
    """The longest row does not compute what the plain backbone does: there is nothing to serve with."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was measured.

    Attributes:
        rows: Row lengths that passed, ascending.
        dropped: Row lengths that failed, each with the reason.
        spacing: Where sequences may start.
        batch_invariant: Whether results are the same to the bit in any company.
        largest_error: Largest difference of an output to the plain backbone's, relative to its scale where above 1.
        tokens_per_second: Speed of a full run.
    """

    rows: tuple[int, ...]
    dropped: dict[int, str]
    spacing: Spacing
    batch_invariant: bool
    largest_error: float
    tokens_per_second: float


def prepare(
    encoder: PackedEncoder,
    reference: Reference,
    *,
    batch_invariant: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> SelfTest:
    """Compile an encoder's programs, test them, and keep those that pass.

    Args:
        encoder: The encoder, not yet compiled.
        reference: The plain backbone with the same weights.
        batch_invariant: Whether equal bits are wanted; without, sequences are packed without gaps.
        progress: Told how many row lengths are compiled, and of how many.

    Raises:
        SelfTestError: The longest row does not compute what `reference` does.
    """
    if not batch_invariant:
        encoder.compile(Spacing(), progress)
        return _judge(encoder, reference, expected=None)
    encoder.compile(SPACINGS[0], progress)
    for encoder.spacing in SPACINGS:
        expected = _agreed_bits(encoder)
        if expected is not None:
            return _judge(encoder, reference, expected)
    # Wider gaps gained nothing.
    encoder.spacing = SPACINGS[0]
    return _judge(encoder, reference, expected=None)


def _agreed_bits(encoder: PackedEncoder) -> list[Encoding] | None:
    """Return each probe's encoding in the longest row, or nothing if it depends on company, place or device."""
    probes = _probes(encoder)
    last, longest = len(probes) - 1, encoder.rows[-1]
    found: dict[int, Encoding] = {}

    def agree(company: Sequence[Tokens]) -> bool:
        placed = ((_index(probes, probe), encoding) for probe, encoding in _runs(encoder, company, longest))
        return all(
            _same_bits(encoding, found.setdefault(place, encoding)) for place, encoding in placed if place is not None
        )

    # At every place that it can lie at: the shortest, and the longest where there is more than one.
    short, long = (_copies(encoder, probes[place], longest) for place in (0, last))
    shared = len(long) > 1
    if not all(map(agree, [[probes[last]], short, *([long] if shared else [])])):
        return None
    # Both ways through the probes: each lies in other company, at another place.
    for order in (range(last), range(last - 1, -1, -1), [last] if shared else []):
        waiting = list(order)
        while waiting:
            company = _company(encoder, [probes[place] for place in waiting], longest)
            if not agree(company):
                return None
            waiting = [place for place in waiting if _index(company, probes[place]) is None]
    return [found[place] for place in range(len(probes))]


def _judge(encoder: PackedEncoder, reference: Reference, expected: list[Encoding] | None) -> SelfTest:
    """Hold every row length to the reference and, where given, to the bits of the longest row."""
    probes = _probes(encoder)
    # Where all rows give the bits of the longest one, the truth of two probes there is that of all of them everywhere.
    compared = range(len(probes)) if expected is None else (0, len(probes) - 1)
    truths = {place: reference(probes[place]) for place in compared}
    dropped: dict[int, str] = {}
    worst = 0.0
    for number, length in enumerate(encoder.rows, start=1):
        own = probes[number]
        if expected is not None and own is probes[-1]:  # its bits, alone and in company, are what was agreed on
            ran = list(zip(probes, expected, strict=True))
        else:
            company = _company(encoder, [probes[0], own], length)
            ran = _runs(encoder, company, length)
            if _index(company, own) is None:  # it had no room left
                ran += _runs(encoder, [own], length)
            if length == encoder.rows[0]:
                ran += _runs(encoder, [probes[0]], length)
        for probe, encoding in ran:
            place = _index(probes, probe)
            if place in truths:
                worst = max(worst, _error(encoding, truths[place]))
                if not _is_true(encoding, truths[place], encoder.dtype):
                    dropped[length] = "differs from the plain backbone"
            if expected is not None and place is not None and not _same_bits(encoding, expected[place]):
                dropped.setdefault(length, "differs in its last bits from the longest row")
    longest = encoder.rows[-1]
    if longest in dropped:
        raise SelfTestError(f"the row of {longest} tokens {dropped[longest]} (largest error {worst:.2g})")
    encoder.keep_rows([length for length in encoder.rows if length not in dropped])
    _cut(encoder)
    return SelfTest(encoder.rows, dropped, encoder.spacing, expected is not None, worst, _speed(encoder, probes[-1]))


def _cut(encoder: PackedEncoder) -> None:
    """Have rows cut in segments wherever that changes no bit."""
    for length in encoder.rows:
        for segment in encoder.segments_to_try(length):
            encoder.cut(length, segment, _filling(encoder, length, segment))


def _runs(encoder: PackedEncoder, sequences: Sequence[Tokens], length: int) -> list[tuple[Tokens, Encoding]]:
    """Run sequences together in one row, and return each with what every device makes of it."""
    found = encoder.run_everywhere(encoder.lay(sequences, length), sequences)
    return [pair for encodings in found for pair in zip(sequences, encodings, strict=True)]


def _speed(encoder: PackedEncoder, sequence: Tokens) -> float:
    """Return the tokens a second of a run that holds as many copies of a sequence as there is room for."""
    batch = _copies(encoder, sequence, encoder.rows[-1]) * encoder.rows_at_once
    began = time.perf_counter()
    encoder.run_batch(batch)
    return len(batch) * len(sequence.token_ids) / (time.perf_counter() - began)


def _probes(encoder: PackedEncoder) -> list[Tokens]:
    """Return a short sequence, then one for every row length that takes most of it."""
    random = np.random.default_rng(_SEED)
    most = encoder.architecture.max_sequence_length
    lengths = [min(_SHORT, most), *(min(length * 5 // 8, most) for length in encoder.rows[:-1]), most]
    return [_sequence(encoder, random, length) for length in lengths]


def _copies(encoder: PackedEncoder, probe: Tokens, length: int) -> list[Tokens]:
    """Return as many copies of a probe as a row has places for."""
    room = OpenRow(length, encoder.spacing)
    copies = []
    while room.place(len(probe.token_ids)) is not None:
        copies.append(probe)
    return copies


def _company(encoder: PackedEncoder, members: Sequence[Tokens], length: int) -> list[Tokens]:
    """Return fillers and as many of `members` behind them as the row has room for; at least the first of them."""
    random = np.random.default_rng(length)
    most = min(_FILLER, encoder.architecture.max_sequence_length)
    chosen: list[Tokens] = []
    for member in members:
        trial = [*chosen, _sequence(encoder, random, int(random.integers(1, most + 1))), member]
        try:
            encoder.lay(trial, length)
        except ValueError:
            continue
        chosen = trial
    return chosen or [members[0]]


def _filling(encoder: PackedEncoder, length: int, segment: int) -> list[Tokens]:
    """Return sequences that fill the segments of a row, long ones and short."""
    random = np.random.default_rng([length, segment])
    number = length // segment
    chosen: list[int] = []
    for size in [segment, *[segment * 5 // 8] * number, *[segment // 4] * number, *[_FILLER] * number, *[1] * number]:
        trial = [*chosen, min(size, encoder.architecture.max_sequence_length)]
        if in_segments(length, range(len(trial)), trial, (segment,), encoder.spacing):
            chosen = trial
    return [_sequence(encoder, random, size) for size in chosen]


def _sequence(encoder: PackedEncoder, random: np.random.Generator, length: int) -> Tokens:
    return Tokens(
        random.integers(0, encoder.architecture.vocabulary_size, length).astype(np.int32),
        random.integers(0, encoder.architecture.num_segments, length).astype(np.int32),
    )


def _index(probes: Sequence[Tokens], probe: Tokens) -> int | None:
    return next((place for place, candidate in enumerate(probes) if candidate is probe), None)


def _same_bits(one: Encoding, other: Encoding) -> bool:
    # Bits: -0.0 equals 0.0 and is another number to whoever compares answers.
    return (
        one.pooled_output.tobytes() == other.pooled_output.tobytes()
        and one.sequence_output.tobytes() == other.sequence_output.tobytes()
    )


def _error(encoding: Encoding, truth: tuple[Float32s, Float32s]) -> float:
    """Return the largest difference, relative to the outputs' scale where that is above 1."""
    pairs = zip((encoding.sequence_output, encoding.pooled_output), truth, strict=True)
    return max(float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max())) for ours, theirs in pairs)


def _is_true(encoding: Encoding, truth: tuple[Float32s, Float32s], dtype: str) -> bool:
    if dtype == "float32":
        return _error(encoding, truth) <= FLOAT32_TOLERANCE
    tokens = _cosines(encoding.sequence_output, truth[0])
    pooled = _cosines(encoding.pooled_output[None], truth[1][None])
    stray = (tokens < BFLOAT16_COSINE).mean()
    return bool(pooled[0] >= BFLOAT16_COSINE and stray <= _FEW and tokens.min() >= _STRAY_COSINE)


def _cosines(ours: Float32s, theirs: Float32s) -> Float32s:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: Float32s = (ours * theirs).sum(axis=1) / norms
    return cosines
