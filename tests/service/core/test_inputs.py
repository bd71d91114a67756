"""What a client sent becomes sequences that the network can take, or an error that names the place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.encoder import Tokens
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
    """64 positions, three segments, texts not padded."""
    return read_preset(tiny_preset)


@pytest.fixture(scope="module")
def tokenizer() -> FNetTokenizer:
    """The bundled preset's tokenizer."""
    assert (BUNDLED_DIRECTORY / DEFAULT_PRESET).is_dir()
    return FNetTokenizer.from_preset(load_preset(DEFAULT_PRESET))


def refusal(call: Callable[[], object]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return each place and message that `call` refuses its input with."""
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value.problems[0]) in caught.value.detail
    return [(problem.loc, problem.msg) for problem in caught.value.problems]


def lists(sequences: Sequence[Tokens]) -> list[tuple[list[int], list[int]]]:
    """Return sequences as plain lists, which have to have come as int32."""
    assert all(array.dtype == "int32" for tokens in sequences for array in tokens)
    return [(tokens.token_ids.tolist(), tokens.segment_ids.tolist()) for tokens in sequences]


# === Counts ===


@pytest.mark.parametrize("count", [1, 2, 8])
def test_as_many_sequences_as_allowed_are_taken(count: int) -> None:
    """The limit itself is within the limit."""
    check_count(count, 8, "texts")


def test_no_sequence_is_refused() -> None:
    """An empty list asks for nothing."""
    assert refusal(lambda: check_count(0, 8, "texts")) == [(("texts",), "holds no sequence, expected at least one")]


def test_too_many_sequences_are_refused_by_their_own_error() -> None:
    """The numbers are told, and the field."""
    with pytest.raises(TooManySequencesError) as caught:
        check_count(9, 8, "token_ids")
    assert caught.value.detail == "9 sequences in one request, at most 8 are taken"
    assert [problem.loc for problem in caught.value.problems] == [("token_ids",)]


# === Ids ===


def test_ids_become_arrays(preset: Preset) -> None:
    """Sequences keep their order and length, and segments are zeros where none are given."""
    ids = [[0, VOCABULARY - 1], [5], list(range(POSITIONS))]
    assert lists(from_ids(ids, None, preset, truncate=False)) == [(each, [0] * len(each)) for each in ids]


def test_segments_go_with_their_ids(preset: Preset) -> None:
    """Both ends of the range are in it."""
    given = from_ids([[1, 2], [3]], [[0, SEGMENTS - 1], [1]], preset, truncate=False)
    assert lists(given) == [([1, 2], [0, SEGMENTS - 1]), ([3], [1])]


@pytest.mark.parametrize("wrong", [-1, VOCABULARY, 2**31, -(2**63), 10**30])
def test_an_id_outside_the_vocabulary_is_named(preset: Preset, wrong: int) -> None:
    """The answer says which id of which sequence, and what would be right."""
    assert refusal(lambda: from_ids([[1], [1, 2, wrong]], None, preset, truncate=False)) == [
        (("token_ids", 1, 2), f"token id {wrong} is outside [0, {VOCABULARY})")
    ]


@pytest.mark.parametrize("wrong", [-1, SEGMENTS, 10**30])
def test_a_segment_outside_its_range_is_named(preset: Preset, wrong: int) -> None:
    """Segments have their own range and their own place."""
    assert refusal(lambda: from_ids([[1], [1, 2]], [[0], [0, wrong]], preset, truncate=False)) == [
        (("segment_ids", 1, 1), f"segment id {wrong} is outside [0, {SEGMENTS})")
    ]


def test_an_empty_sequence_is_refused(preset: Preset) -> None:
    """FNet has no output for nothing."""
    assert refusal(lambda: from_ids([[1], []], None, preset, truncate=False)) == [
        (("token_ids", 1), "is empty, expected at least one token id")
    ]


def test_a_long_sequence_is_refused_unless_it_may_be_cut(preset: Preset) -> None:
    """One more than there are positions is too long; cut, the first tokens and their segments stay."""
    ids, segments = list(range(POSITIONS + 1)), [1] * (POSITIONS + 1)
    assert refusal(lambda: from_ids([ids], [segments], preset, truncate=False)) == [
        (("token_ids", 0), f"has {POSITIONS + 1} tokens, at most {POSITIONS} are taken")
    ]
    cut = from_ids([ids], [segments], preset, truncate=True)
    assert lists(cut) == [(ids[:POSITIONS], segments[:POSITIONS])]


def test_segments_need_as_many_lists(preset: Preset) -> None:
    """The mismatch is told before anything is compared."""
    assert refusal(lambda: from_ids([[1], [2]], [[0]], preset, truncate=False)) == [
        (("segment_ids",), "holds 1 lists, expected 2 as in token_ids")
    ]


def test_segments_need_as_many_ids(preset: Preset) -> None:
    """Ragged lists have to be ragged alike."""
    assert refusal(lambda: from_ids([[1], [2, 3]], [[0], [0]], preset, truncate=False)) == [
        (("segment_ids", 1), "has 1 ids, expected 2 as in token_ids")
    ]


def test_everything_wrong_is_told_at_once(preset: Preset) -> None:
    """A client need not find its mistakes one by one."""
    wrong = refusal(lambda: from_ids([[-1], [], [1, 2], [VOCABULARY, 3]], None, preset, truncate=False))
    assert [loc for loc, _ in wrong] == [("token_ids", 0, 0), ("token_ids", 1), ("token_ids", 3, 0)]


def test_a_bare_list_is_named_as_the_client_wrote_it(preset: Preset) -> None:
    """The caller says how a sequence's place is called."""
    wrong = refusal(lambda: from_ids([[-1]], None, preset, truncate=False, locate=lambda field, _index: (field,)))
    assert [loc for loc, _ in wrong] == [("token_ids", 0)]


# === Texts ===


def test_texts_and_pairs_become_sequences(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """Special tokens stand around, and the second text of a pair is segment 1."""
    plain, pair = from_texts([Text("a dog"), Text("a", "b")], tokenizer, preset, truncate=False, padding=None)
    a, b = tokenizer.tokenize("a"), tokenizer.tokenize("b")
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert plain.token_ids.tolist() == [cls, *tokenizer.tokenize("a dog"), sep]
    assert not plain.segment_ids.any()
    assert pair.token_ids.tolist() == [cls, *a, sep, *b, sep]
    assert pair.segment_ids.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_an_empty_text_is_a_text(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """Its special tokens are its tokens."""
    (tokens,) = from_texts([Text("")], tokenizer, preset, truncate=False, padding=None)
    assert tokens.token_ids.tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]


def test_a_long_text_is_refused_unless_it_may_be_cut(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The message says how long it is and what can be done; cut, the last token is still `[SEP]`."""
    ((loc, message),) = refusal(
        lambda: from_texts([Text("ok"), Text(LONG)], tokenizer, preset, truncate=False, padding=None)
    )
    assert loc == ("texts", 1)
    assert message.endswith(f"tokens, at most {POSITIONS} are taken")
    (tokens,) = from_texts([Text(LONG)], tokenizer, preset, truncate=True, padding=None)
    assert len(tokens.token_ids) == POSITIONS
    assert tokens.token_ids[-1] == tokenizer.sep_token_id


def test_of_a_pair_the_longest_is_cut_first(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The short text of a long pair stays whole."""
    (tokens,) = from_texts([Text("a small dog", LONG)], tokenizer, preset, truncate=True, padding=None)
    short = tokenizer.tokenize("a small dog")
    assert len(tokens.token_ids) == POSITIONS
    assert tokens.token_ids[1 : len(short) + 1].tolist() == short


@pytest.mark.parametrize(
    ("asked", "preset_padding", "length"),
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
def test_padding_is_as_asked_for_else_as_the_preset_says(
    preset: Preset, tokenizer: FNetTokenizer, asked: Padding | None, preset_padding: Padding, length: int
) -> None:
    """`<pad>` of segment 0 up to the length; what is longer already stays as it is."""
    padded = replace(preset, padding=preset_padding)
    (tokens,) = from_texts([Text("a")], tokenizer, padded, truncate=False, padding=asked)
    text = [tokenizer.cls_token_id, *tokenizer.tokenize("a"), tokenizer.sep_token_id]
    assert len(text) == 3
    assert lists([tokens]) == [(text + [tokenizer.pad_token_id] * (length - 3), [0] * length)]


def test_cutting_goes_to_the_length_of_the_padding(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """Padded and cut, every text has one length."""
    texts = [Text("a"), Text(LONG), Text(LONG, "b"), Text("a", "b")]
    sequences = from_texts(texts, tokenizer, preset, truncate=True, padding=10)
    assert {len(tokens.token_ids) for tokens in sequences} == {10}


def test_padding_beyond_the_positions_is_refused(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The place is the field itself."""
    assert refusal(lambda: from_texts([Text("a")], tokenizer, preset, truncate=False, padding=POSITIONS + 1)) == [
        (("padding",), f"is {POSITIONS + 1}, at most {POSITIONS} tokens are taken")
    ]


@pytest.mark.parametrize(("text", "length"), [(Text("a"), 1), (Text("a", "b"), 2), (Text("a", "b"), 1)])
def test_cutting_never_cuts_special_tokens(preset: Preset, tokenizer: FNetTokenizer, text: Text, length: int) -> None:
    """A length without room for them is refused."""
    ((loc, message),) = refusal(lambda: from_texts([text], tokenizer, preset, truncate=True, padding=length))
    assert loc == ("texts", 0)
    assert message.endswith(f"special tokens, at most {length} tokens are taken")


def test_a_pair_needs_two_segments(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """A preset of one segment takes single texts only."""
    one = replace(preset, architecture=replace(preset.architecture, num_segments=1))
    assert len(from_texts([Text("a")], tokenizer, one, truncate=False, padding=None)) == 1
    assert refusal(lambda: from_texts([Text("a"), Text("a", "b")], tokenizer, one, truncate=False, padding=None)) == [
        (("texts", 1), f"is a pair, but the preset {preset.name} has one segment only")
    ]


def test_a_preset_without_tokenizer_takes_ids_only(preset: Preset) -> None:
    """The client is told what to send instead."""
    assert refusal(lambda: from_texts([Text("a")], None, preset, truncate=False, padding=None)) == [
        (("texts",), f"the preset {preset.name} has no tokenizer: send token_ids")
    ]


def test_a_bare_text_is_named_as_the_client_wrote_it(preset: Preset, tokenizer: FNetTokenizer) -> None:
    """The caller says how a text's place is called."""
    wrong = refusal(
        lambda: from_texts(
            [Text(LONG)], tokenizer, preset, truncate=False, padding=None, locate=lambda _index: ("texts",)
        )
    )
    assert [loc for loc, _ in wrong] == [("texts",)]
