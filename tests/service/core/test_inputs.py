"""Inputs are validated and converted; errors contain the location of each problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.encoder import TokenSequence
from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET, load_preset
from model.presets.preset import Padding, Preset, read_preset
from model.tokenizer import FNetTokenizer
from service.core.errors import InvalidInputError, TooManySequencesError
from service.core.inputs import Text, check_count, from_ids, from_texts
from tests.support.bundled import VOCABULARY

POSITIONS = 64
SEGMENTS = 3
LONG = " ".join(["word"] * 100)


@pytest.fixture(scope="module")
def preset(tiny_preset: Path) -> Preset:
    """A preset with 64 positions, three segments and no padding."""
    return read_preset(tiny_preset)


@pytest.fixture(scope="module")
def tokenizer() -> FNetTokenizer:
    """The tokenizer of the bundled preset."""
    assert (BUNDLED_DIRECTORY / DEFAULT_PRESET).is_dir()
    return FNetTokenizer.from_preset(load_preset(DEFAULT_PRESET))


def problems_of(call: Callable[[], object]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return the locations and messages of the problems that `call` raises."""
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value.problems[0]) in caught.value.detail
    return [(problem.loc, problem.msg) for problem in caught.value.problems]


def lists(sequences: Sequence[TokenSequence]) -> list[tuple[list[int], list[int]]]:
    """Return int32 sequences as plain lists."""
    assert all(array.dtype == "int32" for tokens in sequences for array in tokens)
    return [(tokens.token_ids.tolist(), tokens.segment_ids.tolist()) for tokens in sequences]


# === Counts ===


@pytest.mark.parametrize("count", [1, 2, 8])
def test_maximum_number_of_sequences_is_accepted(count: int) -> None:
    """The limit is inclusive."""
    check_count(count, 8, "texts")


def test_empty_request_is_rejected() -> None:
    """An empty list is invalid."""
    assert problems_of(lambda: check_count(0, 8, "texts")) == [(("texts",), "contains no sequence; send at least one")]


def test_too_many_sequences_raise_a_separate_error() -> None:
    """The error states both numbers and the field."""
    with pytest.raises(TooManySequencesError) as caught:
        check_count(9, 8, "token_ids")
    assert caught.value.detail == "9 sequences exceed the maximum of 8 per request; split the request"
    assert [problem.loc for problem in caught.value.problems] == [("token_ids",)]


# === Ids ===


def test_ids_are_converted_to_arrays(preset: Preset) -> None:
    """Sequences keep their order and length; segments default to zeros."""
    ids = [[0, VOCABULARY - 1], [5], list(range(POSITIONS))]
    assert lists(from_ids(ids, None, preset, truncate=False)) == [(sequence, [0] * len(sequence)) for sequence in ids]


def test_segments_are_converted_with_their_ids(preset: Preset) -> None:
    """The smallest and the largest segment are valid."""
    sequences = from_ids([[1, 2], [3]], [[0, SEGMENTS - 1], [1]], preset, truncate=False)
    assert lists(sequences) == [([1, 2], [0, SEGMENTS - 1]), ([3], [1])]


@pytest.mark.parametrize("invalid", [-1, VOCABULARY, 2**31, -(2**63), 10**30])
def test_id_outside_the_vocabulary_is_located(preset: Preset, invalid: int) -> None:
    """The problem contains the location, the id and the valid range."""
    assert problems_of(lambda: from_ids([[1], [1, 2, invalid]], None, preset, truncate=False)) == [
        (("token_ids", 1, 2), f"token id {invalid} is outside [0, {VOCABULARY})")
    ]


@pytest.mark.parametrize("invalid", [-1, SEGMENTS, 10**30])
def test_segment_outside_the_range_is_located(preset: Preset, invalid: int) -> None:
    """The problem contains the location, the segment and the valid range."""
    assert problems_of(lambda: from_ids([[1], [1, 2]], [[0], [0, invalid]], preset, truncate=False)) == [
        (("segment_ids", 1, 1), f"segment id {invalid} is outside [0, {SEGMENTS})")
    ]


def test_empty_sequence_is_rejected(preset: Preset) -> None:
    """A sequence has at least one token."""
    assert problems_of(lambda: from_ids([[1], []], None, preset, truncate=False)) == [
        (("token_ids", 1), "is empty; send at least one token id")
    ]


def test_long_sequence_is_rejected_or_truncated(preset: Preset) -> None:
    """Truncation keeps the first tokens and their segments."""
    ids, segments = list(range(POSITIONS + 1)), [1] * (POSITIONS + 1)
    assert problems_of(lambda: from_ids([ids], [segments], preset, truncate=False)) == [
        (("token_ids", 0), f'{POSITIONS + 1} tokens exceed the maximum of {POSITIONS}; set "truncate": true')
    ]
    truncated = from_ids([ids], [segments], preset, truncate=True)
    assert lists(truncated) == [(ids[:POSITIONS], segments[:POSITIONS])]


def test_segment_ids_need_one_list_per_sequence(preset: Preset) -> None:
    """The error states both numbers of lists."""
    assert problems_of(lambda: from_ids([[1], [2]], [[0]], preset, truncate=False)) == [
        (("segment_ids",), "has 1 lists; expected 2, as in token_ids")
    ]


def test_segment_ids_need_one_id_per_token(preset: Preset) -> None:
    """The error states the location and both lengths."""
    assert problems_of(lambda: from_ids([[1], [2, 3]], [[0], [0]], preset, truncate=False)) == [
        (("segment_ids", 1), "has 1 ids; expected 2, as in token_ids")
    ]


def test_all_problems_are_reported_at_once(preset: Preset) -> None:
    """A client sees all invalid sequences in one response."""
    problems = problems_of(lambda: from_ids([[-1], [], [1, 2], [VOCABULARY, 3]], None, preset, truncate=False))
    assert [loc for loc, _ in problems] == [("token_ids", 0, 0), ("token_ids", 1), ("token_ids", 3, 0)]


def test_location_of_a_bare_list_has_no_index(preset: Preset) -> None:
    """The caller defines the location of a sequence."""
    problems = problems_of(
        lambda: from_ids([[-1]], None, preset, truncate=False, locate=lambda field, _index: (field,))
    )
    assert [loc for loc, _ in problems] == [("token_ids", 0)]


# === Texts ===


def test_texts_and_pairs_are_tokenized(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """Special tokens are added, and the second text of a pair has segment 1."""
    plain, pair = from_texts([Text("a dog"), Text("a", "b")], tokenizer, preset, truncate=False, padding=None)
    a, b = tokenizer.tokenize("a"), tokenizer.tokenize("b")
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert plain.token_ids.tolist() == [cls, *tokenizer.tokenize("a dog"), sep]
    assert not plain.segment_ids.any()
    assert pair.token_ids.tolist() == [cls, *a, sep, *b, sep]
    assert pair.segment_ids.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_empty_text_is_valid(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The sequence consists of the special tokens."""
    (tokens,) = from_texts([Text("")], tokenizer, preset, truncate=False, padding=None)
    assert tokens.token_ids.tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]


def test_long_text_is_rejected_or_truncated(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The message states the limit and the remedy. Truncation keeps the final `[SEP]`."""
    ((loc, message),) = problems_of(
        lambda: from_texts([Text("ok"), Text(LONG)], tokenizer, preset, truncate=False, padding=None)
    )
    assert loc == ("texts", 1)
    assert message.endswith(f'tokens exceed the maximum of {POSITIONS}; set "truncate": true')
    (tokens,) = from_texts([Text(LONG)], tokenizer, preset, truncate=True, padding=None)
    assert len(tokens.token_ids) == POSITIONS
    assert tokens.token_ids[-1] == tokenizer.sep_token_id


def test_truncation_shortens_the_longer_text_first(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The shorter text of a pair stays complete."""
    (tokens,) = from_texts([Text("a small dog", LONG)], tokenizer, preset, truncate=True, padding=None)
    short = tokenizer.tokenize("a small dog")
    assert len(tokens.token_ids) == POSITIONS
    assert tokens.token_ids[1 : len(short) + 1].tolist() == short


@pytest.mark.parametrize(
    ("requested", "preset_padding", "length"),
    [
        ("none", "max_length", 3),
        ("max_length", "none", POSITIONS),
        (10, "none", 10),
        (2, "none", 3),
        (1, "none", 3),
        (None, "none", 3),
        (None, "max_length", POSITIONS),
        (None, 10, 10),
    ],
)
def test_padding_of_the_request_overrides_the_preset(
    preset: Preset, tokenizer: FNetTokenizer, requested: Padding | None, preset_padding: Padding, length: int
) -> None:
    """Padding adds `<pad>` with segment 0; longer sequences stay unchanged."""
    padded = replace(preset, padding=preset_padding)
    (tokens,) = from_texts([Text("a")], tokenizer, padded, truncate=False, padding=requested)
    text = [tokenizer.cls_token_id, *tokenizer.tokenize("a"), tokenizer.sep_token_id]
    assert len(text) == 3
    assert lists([tokens]) == [(text + [tokenizer.pad_token_id] * (length - 3), [0] * length)]


def test_truncation_uses_the_padded_length(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """With padding and truncation, all sequences have one length."""
    texts = [Text("a"), Text(LONG), Text(LONG, "b"), Text("a", "b")]
    sequences = from_texts(texts, tokenizer, preset, truncate=True, padding=10)
    assert {len(tokens.token_ids) for tokens in sequences} == {10}


def test_padding_beyond_the_maximum_is_rejected(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The location is the field."""
    assert problems_of(lambda: from_texts([Text("a")], tokenizer, preset, truncate=False, padding=POSITIONS + 1)) == [
        (("padding",), f"{POSITIONS + 1} tokens exceed the maximum of {POSITIONS}")
    ]


@pytest.mark.parametrize(("text", "length"), [(Text("a"), 1), (Text("a", "b"), 2), (Text("a", "b"), 1)])
def test_truncation_keeps_special_tokens(preset: Preset, tokenizer: FNetTokenizer, text: Text, length: int) -> None:
    """A padded length below the number of special tokens is invalid."""
    ((loc, message),) = problems_of(lambda: from_texts([text], tokenizer, preset, truncate=True, padding=length))
    assert loc == ("texts", 0)
    assert message.endswith(f"special tokens exceed the padded length of {length}; increase padding")


def test_pair_needs_two_segments(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """A preset with one segment accepts single texts only."""
    one = replace(preset, architecture=replace(preset.architecture, num_segments=1))
    assert len(from_texts([Text("a")], tokenizer, one, truncate=False, padding=None)) == 1
    assert problems_of(
        lambda: from_texts([Text("a"), Text("a", "b")], tokenizer, one, truncate=False, padding=None)
    ) == [(("texts", 1), f"is a pair, but the preset {preset.name} supports one segment only; send single texts")]


def test_texts_are_rejected_without_a_tokenizer(preset: Preset) -> None:
    """The message states what to send instead."""
    assert problems_of(lambda: from_texts([Text("a")], None, preset, truncate=False, padding=None)) == [
        (("texts",), f"the preset {preset.name} has no tokenizer; send token_ids")
    ]


def test_location_of_a_bare_text_has_no_index(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The caller defines the location of a text."""
    problems = problems_of(
        lambda: from_texts(
            [Text(LONG)], tokenizer, preset, truncate=False, padding=None, locate=lambda _index: ("texts",)
        )
    )
    assert [loc for loc, _ in problems] == [("texts",)]
