"""Text to token ids and back, with the special tokens that FNet was trained with."""

from __future__ import annotations

import dataclasses
import io
import random
import string
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from model.errors import PresetError
from model.presets.preset import DEFAULT_PRESET, VOCABULARY_FILE, Preset, load_preset
from model.tokenizer import FNetTokenizer, Piece, Tokens, Truncation
from tests.support.bundled import VOCABULARY

TEXT = "The quick brown fox jumps over the lazy dog, again and again."
PAIR = "Another sentence."


@pytest.fixture(scope="module")
def preset() -> Preset:
    """The bundled preset."""
    return load_preset(DEFAULT_PRESET)


@pytest.fixture(scope="module")
def proto(preset: Preset) -> bytes:
    """The bundled vocabulary."""
    return (preset.directory / VOCABULARY_FILE).read_bytes()


@pytest.fixture(scope="module")
def tokenizer(preset: Preset) -> FNetTokenizer:
    """The bundled preset's tokenizer, which deals tokens in turn."""
    return FNetTokenizer.from_preset(preset)


@pytest.fixture(scope="module")
def waterfall(proto: bytes) -> FNetTokenizer:
    """The same vocabulary, cutting the second text first."""
    return FNetTokenizer(proto, "waterfall")


def trained(specials: Sequence[str]) -> bytes:
    """Train a tiny vocabulary with some special tokens."""
    words = random.Random(0)
    sentences = [" ".join("".join(words.choices(string.ascii_lowercase, k=4)) for _ in range(8)) for _ in range(100)]
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=proto,
        vocab_size=60,
        user_defined_symbols=list(specials),
        minloglevel=2,
    )
    return proto.getvalue()


def dealt(room: int, first: int, second: int) -> int:
    """Deal tokens of two texts in turn, the first text's first, and count the first text's."""
    turns = zip_longest(["a"] * first, ["b"] * second)
    cards = [card for turn in turns for card in turn if card is not None]
    return cards[:room].count("a")


def test_special_tokens_have_fnets_ids(tokenizer: FNetTokenizer) -> None:
    """The vocabulary begins as the published one does."""
    assert [tokenizer.id_to_token(i) for i in range(7)] == ["<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]"]
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id)
    assert ids == (3, 4, 5, 6)


def test_ids_and_pieces_are_inverse(tokenizer: FNetTokenizer) -> None:
    """Every id has its own piece, and what is no piece has the id of `<unk>`."""
    assert all(tokenizer.token_to_id(tokenizer.id_to_token(i)) == i for i in range(tokenizer.vocabulary_size()))
    assert tokenizer.token_to_id("no such piece") == 0


def test_one_text_is_framed(tokenizer: FNetTokenizer) -> None:
    """One text is `[CLS] a [SEP]`, all of segment 0."""
    ids = tokenizer.tokenize(TEXT)
    assert tokenizer.encode(TEXT) == Tokens([4, *ids, 5], [0] * (len(ids) + 2))


def test_a_pair_has_two_segments(tokenizer: FNetTokenizer) -> None:
    """A pair is `[CLS] a [SEP] b [SEP]`, segment 1 after the first `[SEP]`."""
    first, second = tokenizer.tokenize(TEXT), tokenizer.tokenize(PAIR)
    assert tokenizer.encode(TEXT, PAIR) == Tokens(
        [4, *first, 5, *second, 5], [0] * (len(first) + 2) + [1] * (len(second) + 1)
    )


def test_empty_texts_are_texts(tokenizer: FNetTokenizer) -> None:
    """Nothing between the special tokens is a valid sequence, and an empty pair is not a missing one."""
    assert tokenizer.encode("") == Tokens([4, 5], [0, 0])
    assert tokenizer.encode("", "") == Tokens([4, 5, 5], [0, 0, 1])
    assert tokenizer.encode("   \n\t") == Tokens([4, 5], [0, 0])


def test_special_tokens_in_a_text_are_only_text(tokenizer: FNetTokenizer) -> None:
    """A client cannot write `[SEP]` or `<pad>` into a text."""
    for token in ("[CLS]", "[SEP]", "<pad>", "[MASK]", "<s>", "</s>"):
        assert not {1, 2, 3, 4, 5, 6} & set(tokenizer.tokenize(f"{token} one {token} two{token}"))


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f600\U0001f469\u200d\U0001f467",
        "日本語のテキスト",
        "e\u0301 \u0308",
        "\0",
        "a\0b",
        "\u202e\ufeff",
        "\U0001d518",
    ],
    ids=ascii,
)
def test_any_unicode_has_ids(tokenizer: FNetTokenizer, text: str) -> None:
    """Scripts that the vocabulary never saw become `<unk>`, not errors."""
    ids = tokenizer.tokenize(text)
    assert all(0 <= i < tokenizer.vocabulary_size() for i in ids)
    assert tokenizer.encode(text).token_ids == [4, *ids, 5]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_gives_valid_ids(tokenizer: FNetTokenizer, text: str) -> None:
    """Whatever is sent, ids are within the vocabulary and never those of special tokens."""
    assert all(i == 0 or 7 <= i < tokenizer.vocabulary_size() for i in tokenizer.tokenize(text))


def test_a_megabyte_is_no_trouble(tokenizer: FNetTokenizer) -> None:
    """A very long text is tokenised whole, and cut to what is asked for."""
    text = "word " * 200_000
    assert len(tokenizer.encode(text).token_ids) == 200_002
    assert tokenizer.encode_truncated(text, text, 512) == tokenizer.encode_truncated("word " * 600, "word " * 600, 512)


def test_lower_case_english_survives_the_round_trip(tokenizer: FNetTokenizer) -> None:
    """The ids of a text stand for the text; special tokens stand for nothing."""
    text = "the quick brown fox jumps over the lazy dog, again and again."
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text
    assert tokenizer.detokenize(tokenizer.encode(text).token_ids) == text
    assert tokenizer.detokenize([]) == ""


# --- Truncation ---


def test_one_text_is_cut_at_its_end(tokenizer: FNetTokenizer) -> None:
    """The beginning of a text is kept, and `[SEP]` ends it at every length."""
    ids = tokenizer.tokenize(TEXT)
    for length in range(2, len(ids) + 5):
        kept = ids[: length - 2]
        assert tokenizer.encode_truncated(TEXT, None, length) == Tokens([4, *kept, 5], [0] * (len(kept) + 2))


@pytest.mark.parametrize("truncate", ["round_robin", "waterfall"])
def test_what_fits_is_not_cut(proto: bytes, truncate: Truncation) -> None:
    """At a length that suffices, truncation changes nothing."""
    tokenizer = FNetTokenizer(proto, truncate)
    for pair in (None, PAIR):
        whole = tokenizer.encode(TEXT, pair)
        assert tokenizer.encode_truncated(TEXT, pair, len(whole.token_ids)) == whole
        assert tokenizer.encode_truncated(TEXT, pair, 512) == whole


@given(first=st.integers(0, 20), second=st.integers(0, 20), room=st.integers(0, 45))
def test_round_robin_deals_tokens_in_turn(tokenizer: FNetTokenizer, first: int, second: int, room: int) -> None:
    """A pair is cut as if its tokens were dealt in turn until the room is used up."""
    word, other = tokenizer.tokenize("dog")[0], tokenizer.tokenize("fox")[0]
    found = tokenizer.encode_truncated(" dog" * first, " fox" * second, room + 3).token_ids
    kept = dealt(room, first, second)
    assert found.count(word) == kept
    assert found.count(other) == min(room, first + second) - kept


@given(first=st.integers(0, 20), second=st.integers(0, 20), room=st.integers(0, 45))
def test_waterfall_serves_the_first_text_first(waterfall: FNetTokenizer, first: int, second: int, room: int) -> None:
    """The first text gets all the room that it needs, the second what is left."""
    word, other = waterfall.tokenize("dog")[0], waterfall.tokenize("fox")[0]
    found = waterfall.encode_truncated(" dog" * first, " fox" * second, room + 3).token_ids
    assert found.count(word) == min(first, room)
    assert found.count(other) == min(second, room - min(first, room))


@pytest.mark.parametrize("truncate", ["round_robin", "waterfall"])
def test_special_tokens_are_never_cut(proto: bytes, truncate: Truncation) -> None:
    """However short, a pair keeps `[CLS]`, both `[SEP]` and its segments, and uses all the room."""
    tokenizer = FNetTokenizer(proto, truncate)
    whole = len(tokenizer.encode(TEXT, PAIR).token_ids)
    for length in range(3, whole + 3):
        tokens = tokenizer.encode_truncated(TEXT, PAIR, length)
        assert len(tokens.token_ids) == len(tokens.segment_ids) == min(length, whole)
        assert tokens.token_ids[0] == 4
        assert tokens.token_ids[-1] == 5
        assert tokens.token_ids.count(5) == 2
        middle = tokens.token_ids.index(5)
        assert tokens.segment_ids == [0] * (middle + 1) + [1] * (len(tokens.token_ids) - middle - 1)


@pytest.mark.parametrize(("pair", "length"), [(None, 1), (None, 0), (None, -5), ("", 2), (PAIR, 0)])
def test_no_room_for_special_tokens_is_an_error(tokenizer: FNetTokenizer, pair: str | None, length: int) -> None:
    """A length that cannot even hold the special tokens is refused."""
    with pytest.raises(ValueError, match="no room for the special tokens"):
        tokenizer.encode_truncated("a", pair, length)


# --- Padding ---


def test_padding_is_pad_of_segment_0(tokenizer: FNetTokenizer) -> None:
    """Sequences are filled up at the right with `<pad>`, of segment 0 even behind a second text."""
    tokens = tokenizer.encode("a", "b")
    padded = tokenizer.pad(tokens, 12)
    missing = 12 - len(tokens.token_ids)
    assert padded == Tokens(tokens.token_ids + [3] * missing, tokens.segment_ids + [0] * missing)


def test_padding_never_shortens(tokenizer: FNetTokenizer) -> None:
    """A sequence as long or longer stays as it is."""
    tokens = tokenizer.encode(TEXT)
    for length in (0, 1, len(tokens.token_ids)):
        assert tokenizer.pad(tokens, length) == tokens


# --- Sharing and damage ---


def test_threads_may_share_a_tokenizer(tokenizer: FNetTokenizer) -> None:
    """Many threads at once get what one gets."""
    texts = [f"{TEXT} {number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.1, 0.3, 0.5, 0.999999])
def test_a_truncated_vocabulary_is_refused(proto: bytes, share: float) -> None:
    """Wherever a download broke off, the file is told to be damaged."""
    with pytest.raises(PresetError, match=r"^assets/tokenizer/vocabulary\.spm: damaged") as caught:
        FNetTokenizer(proto[: int(len(proto) * share)])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"\0" * 100, b"text\n", b"\xff" * 1000, bytes(range(256))], ids=ascii)
def test_another_kind_of_file_is_refused(content: bytes) -> None:
    """What is no SentencePiece model is told so."""
    with pytest.raises(PresetError, match=r"^assets/tokenizer/vocabulary\.spm: damaged"):
        FNetTokenizer(content)


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "<pad>", "[MASK]"])
def test_a_vocabulary_without_fnets_tokens_is_refused(missing: str) -> None:
    """A vocabulary of another model lacks a special token, which is named."""
    proto = trained([token for token in ("[CLS]", "[SEP]", "<pad>", "[MASK]") if token != missing])
    with pytest.raises(PresetError) as caught:
        FNetTokenizer(proto)
    assert str(caught.value) == f"{VOCABULARY_FILE}: the vocabulary lacks the token {missing!r}"


def test_a_vocabulary_need_not_have_the_published_ids() -> None:
    """Special tokens are found by their names, whatever their ids."""
    tokenizer = FNetTokenizer(trained(["[MASK]", "<pad>", "[SEP]", "[CLS]"]))
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id) == (3, 4)
    assert tokenizer.encode("") == Tokens([6, 5], [0, 0])


def test_a_vocabulary_larger_than_the_network_is_refused(preset: Preset) -> None:
    """Ids beyond the embedding would be computed silently wrong."""
    small = dataclasses.replace(
        preset, architecture=dataclasses.replace(preset.architecture, vocabulary_size=VOCABULARY - 1)
    )
    with pytest.raises(
        PresetError, match=rf"has {VOCABULARY} tokens, more than config\.json's vocabulary_size of {VOCABULARY - 1}"
    ):
        FNetTokenizer.from_preset(small)


def test_a_vocabulary_may_be_smaller_than_the_network(preset: Preset) -> None:
    """Networks round their vocabulary up; unused rows do no harm."""
    large = dataclasses.replace(
        preset, architecture=dataclasses.replace(preset.architecture, vocabulary_size=VOCABULARY + 32)
    )
    assert FNetTokenizer.from_preset(large).vocabulary_size() == VOCABULARY


def test_a_preset_says_how_pairs_are_cut(preset: Preset) -> None:
    """The preprocessor's `truncate` reaches the tokenizer."""
    assert FNetTokenizer.from_preset(preset).truncate == "round_robin"
    assert FNetTokenizer.from_preset(dataclasses.replace(preset, truncate="waterfall")).truncate == "waterfall"


def test_a_handle_names_a_tokenizer_too(tokenizer: FNetTokenizer, preset: Preset) -> None:
    """What `FNetBackbone.from_preset` takes, a name or a directory, gives the tokenizer of the same preset."""
    for handle in (DEFAULT_PRESET, str(preset.directory), preset.directory):
        assert FNetTokenizer.from_preset(handle).encode(TEXT, PAIR) == tokenizer.encode(TEXT, PAIR)


def test_a_missing_vocabulary_is_named(preset: Preset, tmp_path: Path) -> None:
    """A preset for token ids alone has no tokenizer to give."""
    with pytest.raises(PresetError, match=r"^assets/tokenizer/vocabulary\.spm: not readable"):
        FNetTokenizer.from_preset(dataclasses.replace(preset, directory=tmp_path))


# --- Places ---

# What texts are made of that normalisation folds, composes, expands or drops.
PARTS = st.sampled_from(
    [
        *"aeEß \u0301\u0308\u00a8½ⅷ㎞\ufb01\ufb03\uff21\u0130\ufdfa\u200d\ufeff\u00ad\u3000▁\t\n\0日本가각",
        "  ",
        "Hello",
        " world",
        "e\u0301",
        "\u1112\u1161\u11ab",
        "\uff76\uff9e",
        "\U0001f469\u200d\U0001f467",
        "\U0001d518",
    ]
)


def places(tokenizer: FNetTokenizer, text: str) -> list[str]:
    """Return what each piece of a text was made of."""
    return [text[piece.start : piece.stop] for piece in tokenizer.pieces(text)]


@lru_cache(maxsize=1)
def processor_of(proto: bytes) -> Any:
    """Return the SentencePiece processor of a vocabulary."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(proto)
    return processor


def normalized(proto: bytes, text: str) -> str:
    """Return the text that SentencePiece splits into pieces."""
    return str(processor_of(proto).Normalize(text))


@given(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.lists(PARTS, max_size=12).map("".join))
)
def test_pieces_are_the_tokens_with_their_places(tokenizer: FNetTokenizer, proto: bytes, text: str) -> None:
    """Ids are those of `tokenize`; places are in the text, in order, and hold what each piece was made of."""
    pieces = tokenizer.pieces(text)
    assert [piece.id for piece in pieces] == tokenizer.tokenize(text)
    assert [piece.text for piece in pieces] == [tokenizer.id_to_token(piece.id) for piece in pieces]
    starts, stops = [piece.start for piece in pieces], [piece.stop for piece in pieces]
    assert starts == sorted(starts)
    assert stops == sorted(stops)
    assert all(0 <= piece.start <= piece.stop <= len(text) for piece in pieces)
    for piece in pieces:
        source = text[piece.start : piece.stop]
        if piece.id:
            # A place that is too wide holds more, and one beside the piece or in the midst of it does not hold it.
            assert piece.text.strip("▁") in normalized(proto, source)
        assert source or piece == Piece(piece.id, "▁", piece.start, piece.start)
    # Nothing but what normalisation drops lies between two pieces.
    for before, after in pairwise(pieces):
        assert before.stop >= after.start


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", []),
        ("\ufeff", []),
        ("hello world", ["hello", " world"]),
        ("Hello World", ["Hello", " World"]),
        ("hello   world ", ["hello", "   world"]),
        ("hello\n\tworld", ["hello", "\n\tworld"]),
        ("\ufb01ne", ["\ufb01ne"]),
        ("\uff28\uff25\uff2c\uff2c\uff2f", ["\uff28\uff25\uff2c\uff2c\uff2f"]),
    ],
    ids=ascii,
)
def test_a_place_is_what_a_piece_was_made_of(tokenizer: FNetTokenizer, text: str, expected: list[str]) -> None:
    """Cases, ligatures, widths, accents and spaces as they were written; the first `▁` may be made of nothing."""
    found = places(tokenizer, text)
    # Some vocabularies have a `▁` piece of its own before these words.
    assert [place for place in found if place] == [place for place in expected if place]


@pytest.mark.parametrize(
    "text", ["日本語 日", "e\u0301 a", "\U0001f469\u200d\U0001f467", "stra\xdfe \u1e9e"], ids=ascii
)
def test_pieces_leave_no_gap(tokenizer: FNetTokenizer, text: str) -> None:
    """Whether the vocabulary knows a script or not, the places of its pieces are the whole text.

    Two pieces share a character that was written out: the `ss` of an `ß`.
    """
    pieces = tokenizer.pieces(text)
    assert (pieces[0].start, pieces[-1].stop) == (0, len(text))
    assert all(before.start <= after.start <= before.stop for before, after in pairwise(pieces))


def test_leading_spaces_belong_to_no_piece(tokenizer: FNetTokenizer) -> None:
    """They are dropped, and places count them."""
    pieces = tokenizer.pieces("  hello")
    assert (pieces[0].start, pieces[-1].stop) == (2, 7)


def test_pieces_of_one_character_share_its_place(tokenizer: FNetTokenizer) -> None:
    """A character that becomes several is the origin of all of them."""
    assert [place.strip() for place in places(tokenizer, "one ½") if "½" in place] == ["½"] * 3
    assert places(tokenizer, "\ufdfa")[1:].count("\ufdfa") == len(places(tokenizer, "\ufdfa")) - 1 >= 3


def test_a_vocabulary_that_spells_bytes_has_places_too() -> None:
    """The bytes of an unknown character are within it."""
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["some words of few letters"] * 20),
        model_writer=proto,
        vocab_size=290,
        byte_fallback=True,
        user_defined_symbols=["[CLS]", "[SEP]", "<pad>", "[MASK]"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = FNetTokenizer(proto.getvalue())
    pieces = tokenizer.pieces("words 日")
    assert [piece.id for piece in pieces] == tokenizer.tokenize("words 日")
    assert [piece.text for piece in pieces[-3:]] == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert all(6 <= piece.start <= piece.stop <= 7 for piece in pieces[-3:])
    assert pieces[-1].stop == 7


# --- Back to text, and cutting at the beginning ---


def test_special_tokens_can_be_shown(tokenizer: FNetTokenizer) -> None:
    """By their names, with the words between them as they are."""
    ids = tokenizer.encode("hello world", "the end").token_ids
    shown = tokenizer.detokenize([*ids, tokenizer.pad_token_id], skip_special_tokens=False)
    assert shown == "[CLS] hello world[SEP] the end[SEP]<pad>"
    assert tokenizer.detokenize(ids) == "hello world the end"
    assert tokenizer.detokenize([6, *tokenizer.tokenize("a")], skip_special_tokens=False) == "[MASK] a"
    assert tokenizer.detokenize(tokenizer.tokenize("a b"), skip_special_tokens=False) == "a b"
    assert tokenizer.detokenize([], skip_special_tokens=False) == ""


def test_special_tokens_are_skipped_in_any_vocabulary() -> None:
    """Also where it has them as words of its own, which SentencePiece would write out."""
    tokenizer = FNetTokenizer(trained(["[MASK]", "<pad>", "[SEP]", "[CLS]"]))
    ids = tokenizer.encode("ab").token_ids
    assert tokenizer.detokenize(ids) == tokenizer.detokenize(ids[1:-1])
    assert [tokenizer.is_special(token) for token in (0, 1, 2, 3, 4, 5, 6, 7)] == [False, *[True] * 6, False]


def test_a_text_may_be_cut_at_its_beginning(tokenizer: FNetTokenizer) -> None:
    """The end of a text is kept, and special tokens stay where they are."""
    ids = tokenizer.tokenize(TEXT)
    for length in range(2, len(ids) + 5):
        kept = ids[max(0, len(ids) - (length - 2)) :] if length > 2 else []
        assert tokenizer.encode_truncated(TEXT, None, length, "left") == Tokens([4, *kept, 5], [0] * (len(kept) + 2))


def test_a_pair_may_be_cut_at_its_beginnings(tokenizer: FNetTokenizer) -> None:
    """Each text keeps as many tokens as when cut at its end."""
    first, second = tokenizer.tokenize(TEXT), tokenizer.tokenize(PAIR)
    for length in range(3, len(first) + len(second) + 5):
        right = tokenizer.encode_truncated(TEXT, PAIR, length)
        left = tokenizer.encode_truncated(TEXT, PAIR, length, "left")
        assert left.segment_ids == right.segment_ids
        middle = left.token_ids.index(5)
        assert left.token_ids[1:middle] == first[len(first) - (middle - 1) :]
        assert left.token_ids[middle + 1 : -1] == second[len(second) - (len(left.token_ids) - middle - 2) :]
