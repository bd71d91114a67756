"""Tokenization and detokenization with the special tokens of FNet."""

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
from model.presets.hub import DEFAULT_PRESET, load_preset
from model.presets.preset import VOCABULARY_FILE, Preset
from model.tokenizer import FNetTokenizer, Piece, TokenizedText, Truncation
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
    """The tokenizer of the bundled preset, with round-robin truncation."""
    return FNetTokenizer.from_preset(preset)


@pytest.fixture(scope="module")
def waterfall(proto: bytes) -> FNetTokenizer:
    """The same vocabulary with waterfall truncation."""
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


def round_robin_size(budget: int, first: int, second: int) -> int:
    """Return the tokens of the first text if two texts take tokens in turn."""
    turns = zip_longest(["a"] * first, ["b"] * second)
    cards = [card for turn in turns for card in turn if card is not None]
    return cards[:budget].count("a")


def test_special_tokens_have_fnets_ids(tokenizer: FNetTokenizer) -> None:
    """The special token ids equal the published ones."""
    assert [tokenizer.id_to_token(i) for i in range(7)] == ["<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]"]
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id)
    assert ids == (3, 4, 5, 6)


def test_ids_and_pieces_are_inverse(tokenizer: FNetTokenizer) -> None:
    """Ids and pieces map to each other, and an unknown piece has the id of `<unk>`."""
    assert all(tokenizer.token_to_id(tokenizer.id_to_token(i)) == i for i in range(tokenizer.vocabulary_size()))
    assert tokenizer.token_to_id("no such piece") == 0


def test_text_has_cls_and_sep(tokenizer: FNetTokenizer) -> None:
    """One text is `[CLS] a [SEP]`, all of segment 0."""
    ids = tokenizer.tokenize(TEXT)
    assert tokenizer.encode(TEXT) == TokenizedText([4, *ids, 5], [0] * (len(ids) + 2))


def test_pair_has_two_segments(tokenizer: FNetTokenizer) -> None:
    """A pair is `[CLS] a [SEP] b [SEP]`, segment 1 after the first `[SEP]`."""
    first, second = tokenizer.tokenize(TEXT), tokenizer.tokenize(PAIR)
    assert tokenizer.encode(TEXT, PAIR) == TokenizedText(
        [4, *first, 5, *second, 5], [0] * (len(first) + 2) + [1] * (len(second) + 1)
    )


def test_empty_texts_are_valid(tokenizer: FNetTokenizer) -> None:
    """An empty text has only special tokens, and an empty second text differs from none."""
    assert tokenizer.encode("") == TokenizedText([4, 5], [0, 0])
    assert tokenizer.encode("", "") == TokenizedText([4, 5, 5], [0, 0, 1])
    assert tokenizer.encode("   \n\t") == TokenizedText([4, 5], [0, 0])


def test_special_tokens_in_a_text_are_ordinary_text(tokenizer: FNetTokenizer) -> None:
    """A text cannot contain the ids of `[SEP]` or `<pad>`."""
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
    """Unknown scripts become `<unk>`."""
    ids = tokenizer.tokenize(text)
    assert all(0 <= i < tokenizer.vocabulary_size() for i in ids)
    assert tokenizer.encode(text).token_ids == [4, *ids, 5]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_gives_valid_ids(tokenizer: FNetTokenizer, text: str) -> None:
    """Ids of any text are within the vocabulary and are not special tokens."""
    assert all(i == 0 or 7 <= i < tokenizer.vocabulary_size() for i in tokenizer.tokenize(text))


def test_megabyte_of_text_is_tokenized_and_truncated(tokenizer: FNetTokenizer) -> None:
    """A very long text is tokenized completely, then truncated."""
    text = "word " * 200_000
    assert len(tokenizer.encode(text).token_ids) == 200_002
    assert tokenizer.encode_truncated(text, text, 512) == tokenizer.encode_truncated("word " * 600, "word " * 600, 512)


def test_detokenize_inverts_encode_for_lower_case_english(tokenizer: FNetTokenizer) -> None:
    """Detokenization returns the text without special tokens."""
    text = "the quick brown fox jumps over the lazy dog, again and again."
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text
    assert tokenizer.detokenize(tokenizer.encode(text).token_ids) == text
    assert tokenizer.detokenize([]) == ""


# --- Truncation ---


def test_text_is_truncated_at_its_end(tokenizer: FNetTokenizer) -> None:
    """The start of a text is size, and `[SEP]` ends the sequence at every length."""
    ids = tokenizer.tokenize(TEXT)
    for length in range(2, len(ids) + 5):
        size = ids[: length - 2]
        assert tokenizer.encode_truncated(TEXT, None, length) == TokenizedText([4, *size, 5], [0] * (len(size) + 2))


@pytest.mark.parametrize("truncate", ["round_robin", "waterfall"])
def test_text_that_fits_is_not_truncated(proto: bytes, truncate: Truncation) -> None:
    """A sufficient length does not change the sequence."""
    tokenizer = FNetTokenizer(proto, truncate)
    for pair in (None, PAIR):
        untruncated = tokenizer.encode(TEXT, pair)
        assert tokenizer.encode_truncated(TEXT, pair, len(untruncated.token_ids)) == untruncated
        assert tokenizer.encode_truncated(TEXT, pair, 512) == untruncated


@given(first=st.integers(0, 20), second=st.integers(0, 20), budget=st.integers(0, 45))
def test_round_robin_takes_tokens_in_turn(tokenizer: FNetTokenizer, first: int, second: int, budget: int) -> None:
    """The texts of a pair take tokens in turn until the budget is exhausted."""
    word, other = tokenizer.tokenize("dog")[0], tokenizer.tokenize("fox")[0]
    actual = tokenizer.encode_truncated(" dog" * first, " fox" * second, budget + 3).token_ids
    size = round_robin_size(budget, first, second)
    assert actual.count(word) == size
    assert actual.count(other) == min(budget, first + second) - size


@given(first=st.integers(0, 20), second=st.integers(0, 20), budget=st.integers(0, 45))
def test_waterfall_truncates_the_second_text_first(
    waterfall: FNetTokenizer, first: int, second: int, budget: int
) -> None:
    """The first text keeps as many tokens as possible, and the second has the remainder."""
    word, other = waterfall.tokenize("dog")[0], waterfall.tokenize("fox")[0]
    actual = waterfall.encode_truncated(" dog" * first, " fox" * second, budget + 3).token_ids
    assert actual.count(word) == min(first, budget)
    assert actual.count(other) == min(second, budget - min(first, budget))


@pytest.mark.parametrize("truncate", ["round_robin", "waterfall"])
def test_special_tokens_are_never_truncated(proto: bytes, truncate: Truncation) -> None:
    """A pair of any length keeps `[CLS]`, both `[SEP]` and its segments, and has the maximum length."""
    tokenizer = FNetTokenizer(proto, truncate)
    untruncated = len(tokenizer.encode(TEXT, PAIR).token_ids)
    for length in range(3, untruncated + 3):
        tokens = tokenizer.encode_truncated(TEXT, PAIR, length)
        assert len(tokens.token_ids) == len(tokens.segment_ids) == min(length, untruncated)
        assert tokens.token_ids[0] == 4
        assert tokens.token_ids[-1] == 5
        assert tokens.token_ids.count(5) == 2
        middle = tokens.token_ids.index(5)
        assert tokens.segment_ids == [0] * (middle + 1) + [1] * (len(tokens.token_ids) - middle - 1)


@pytest.mark.parametrize(("pair", "length"), [(None, 1), (None, 0), (None, -5), ("", 2), (PAIR, 0)])
def test_length_below_the_special_tokens_is_an_error(tokenizer: FNetTokenizer, pair: str | None, length: int) -> None:
    """A length smaller than the number of special tokens is rejected."""
    with pytest.raises(ValueError, match=r"does not hold the [23] special tokens"):
        tokenizer.encode_truncated("a", pair, length)


# --- Padding ---


def test_padding_is_pad_of_segment_0(tokenizer: FNetTokenizer) -> None:
    """`<pad>` is appended with segment 0, also after a second text."""
    tokens = tokenizer.encode("a", "b")
    padded = tokenizer.pad(tokens, 12)
    missing = 12 - len(tokens.token_ids)
    assert padded == TokenizedText(tokens.token_ids + [3] * missing, tokens.segment_ids + [0] * missing)


def test_padding_never_truncates(tokenizer: FNetTokenizer) -> None:
    """A sequence of at least the length is returned unchanged."""
    tokens = tokenizer.encode(TEXT)
    for length in (0, 1, len(tokens.token_ids)):
        assert tokenizer.pad(tokens, length) == tokens


# --- Threads and damaged files ---


def test_tokenizer_is_thread_safe(tokenizer: FNetTokenizer) -> None:
    """Concurrent threads return the same ids as one thread."""
    texts = [f"{TEXT} {number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.1, 0.3, 0.5, 0.999999])
def test_truncated_vocabulary_is_rejected(proto: bytes, share: float) -> None:
    """A file that is truncated anywhere is reported as damaged."""
    with pytest.raises(PresetError, match=r"^assets/tokenizer/vocabulary\.spm: damaged") as caught:
        FNetTokenizer(proto[: int(len(proto) * share)])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"\0" * 100, b"text\n", b"\xff" * 1000, bytes(range(256))], ids=ascii)
def test_another_kind_of_file_is_rejected(content: bytes) -> None:
    """A file that is not a SentencePiece model is rejected."""
    with pytest.raises(PresetError, match=r"^assets/tokenizer/vocabulary\.spm: damaged"):
        FNetTokenizer(content)


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "<pad>", "[MASK]"])
def test_vocabulary_without_fnets_tokens_is_rejected(missing: str) -> None:
    """The error contains the missing special token."""
    proto = trained([token for token in ("[CLS]", "[SEP]", "<pad>", "[MASK]") if token != missing])
    with pytest.raises(PresetError) as caught:
        FNetTokenizer(proto)
    assert str(caught.value) == f"{VOCABULARY_FILE}: the vocabulary lacks the token {missing!r}"


def test_special_tokens_may_have_other_ids() -> None:
    """Special tokens are looked up by name."""
    tokenizer = FNetTokenizer(trained(["[MASK]", "<pad>", "[SEP]", "[CLS]"]))
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id) == (3, 4)
    assert tokenizer.encode("") == TokenizedText([6, 5], [0, 0])


def test_vocabulary_larger_than_the_network_is_rejected(preset: Preset) -> None:
    """Ids outside the embedding table would give wrong outputs without an error."""
    small = dataclasses.replace(
        preset, architecture=dataclasses.replace(preset.architecture, vocabulary_size=VOCABULARY - 1)
    )
    with pytest.raises(
        PresetError, match=rf"has {VOCABULARY} tokens, more than config\.json's vocabulary_size of {VOCABULARY - 1}"
    ):
        FNetTokenizer.from_preset(small)


def test_vocabulary_may_be_smaller_than_the_network(preset: Preset) -> None:
    """Networks may have unused embedding rows."""
    large = dataclasses.replace(
        preset, architecture=dataclasses.replace(preset.architecture, vocabulary_size=VOCABULARY + 32)
    )
    assert FNetTokenizer.from_preset(large).vocabulary_size() == VOCABULARY


def test_preset_selects_the_truncation_of_pairs(preset: Preset) -> None:
    """The tokenizer has the `truncate` of the preprocessor."""
    assert FNetTokenizer.from_preset(preset).truncate == "round_robin"
    assert FNetTokenizer.from_preset(dataclasses.replace(preset, truncate="waterfall")).truncate == "waterfall"


def test_from_preset_accepts_handles(tokenizer: FNetTokenizer, preset: Preset) -> None:
    """A name and a directory return the tokenizer of the same preset."""
    for handle in (DEFAULT_PRESET, str(preset.directory), preset.directory):
        assert FNetTokenizer.from_preset(handle).encode(TEXT, PAIR) == tokenizer.encode(TEXT, PAIR)


def test_missing_vocabulary_is_reported(preset: Preset, tmp_path: Path) -> None:
    """The error for a preset without tokenizer contains the vocabulary file."""
    with pytest.raises(PresetError, match=r"^assets/tokenizer/vocabulary\.spm: not readable"):
        FNetTokenizer.from_preset(dataclasses.replace(preset, directory=tmp_path))


# --- Spans ---

# Characters that normalization folds, composes, expands or drops.
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


def spans(tokenizer: FNetTokenizer, text: str) -> list[str]:
    """Return the span of each piece of a text."""
    return [text[piece.start : piece.stop] for piece in tokenizer.pieces(text)]


@lru_cache(maxsize=1)
def processor_of(proto: bytes) -> Any:
    """Return the SentencePiece processor of a vocabulary."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(proto)
    return processor


def normalized(proto: bytes, text: str) -> str:
    """Return the normalized text, which SentencePiece splits into pieces."""
    return str(processor_of(proto).Normalize(text))


@given(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.lists(PARTS, max_size=12).map("".join))
)
def test_pieces_are_the_tokens_with_their_spans(tokenizer: FNetTokenizer, proto: bytes, text: str) -> None:
    """Ids equal those of `tokenize`, and spans are ordered and contain the characters of their pieces."""
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
            # A span that is too wide normalizes to more than the piece, and a shifted or narrow span to less.
            assert piece.text.strip("▁") in normalized(proto, source)
        assert source or piece == Piece(piece.id, "▁", piece.start, piece.start)
    # Between two pieces are only characters that normalization drops.
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
def test_span_contains_the_characters_of_a_piece(tokenizer: FNetTokenizer, text: str, expected: list[str]) -> None:
    """Spans cover case, ligatures, widths, accents and spaces of the input; the first `▁` may be empty."""
    actual = spans(tokenizer, text)
    # Some vocabularies have a separate `▁` piece before these words.
    assert [span for span in actual if span] == [span for span in expected if span]


@pytest.mark.parametrize(
    "text", ["日本語 日", "e\u0301 a", "\U0001f469\u200d\U0001f467", "stra\xdfe \u1e9e"], ids=ascii
)
def test_spans_have_no_gap(tokenizer: FNetTokenizer, text: str) -> None:
    """The spans cover the text, also for unknown scripts.

    Two pieces share a character that expands, such as `ß` to `ss`.
    """
    pieces = tokenizer.pieces(text)
    assert (pieces[0].start, pieces[-1].stop) == (0, len(text))
    assert all(before.start <= after.start <= before.stop for before, after in pairwise(pieces))


def test_leading_spaces_are_outside_all_spans(tokenizer: FNetTokenizer) -> None:
    """Leading spaces are dropped, but spans count them."""
    pieces = tokenizer.pieces("  hello")
    assert (pieces[0].start, pieces[-1].stop) == (2, 7)


def test_pieces_of_one_character_share_its_span(tokenizer: FNetTokenizer) -> None:
    """All pieces of an expanded character have its span."""
    assert [span.strip() for span in spans(tokenizer, "one ½") if "½" in span] == ["½"] * 3
    assert spans(tokenizer, "\ufdfa")[1:].count("\ufdfa") == len(spans(tokenizer, "\ufdfa")) - 1 >= 3


def test_byte_fallback_has_spans() -> None:
    """The byte pieces of an unknown character have spans within it."""
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


# --- Detokenization, and truncation at the start ---


def test_detokenize_can_include_special_tokens(tokenizer: FNetTokenizer) -> None:
    """Special tokens are written by name between the words."""
    ids = tokenizer.encode("hello world", "the end").token_ids
    text = tokenizer.detokenize([*ids, tokenizer.pad_token_id], skip_special_tokens=False)
    assert text == "[CLS] hello world[SEP] the end[SEP]<pad>"
    assert tokenizer.detokenize(ids) == "hello world the end"
    assert tokenizer.detokenize([6, *tokenizer.tokenize("a")], skip_special_tokens=False) == "[MASK] a"
    assert tokenizer.detokenize(tokenizer.tokenize("a b"), skip_special_tokens=False) == "a b"
    assert tokenizer.detokenize([], skip_special_tokens=False) == ""


def test_special_tokens_are_skipped_in_any_vocabulary() -> None:
    """Special tokens are also skipped if the vocabulary has them as user-defined pieces."""
    tokenizer = FNetTokenizer(trained(["[MASK]", "<pad>", "[SEP]", "[CLS]"]))
    ids = tokenizer.encode("ab").token_ids
    assert tokenizer.detokenize(ids) == tokenizer.detokenize(ids[1:-1])
    assert [tokenizer.is_special(token) for token in (0, 1, 2, 3, 4, 5, 6, 7)] == [False, *[True] * 6, False]


def test_text_may_be_truncated_at_its_start(tokenizer: FNetTokenizer) -> None:
    """The end of a text and all special tokens are size."""
    ids = tokenizer.tokenize(TEXT)
    for length in range(2, len(ids) + 5):
        size = ids[max(0, len(ids) - (length - 2)) :] if length > 2 else []
        assert tokenizer.encode_truncated(TEXT, None, length, "left") == TokenizedText(
            [4, *size, 5], [0] * (len(size) + 2)
        )


def test_pair_may_be_truncated_at_its_starts(tokenizer: FNetTokenizer) -> None:
    """Each text keeps as many tokens as with truncation at the end."""
    first, second = tokenizer.tokenize(TEXT), tokenizer.tokenize(PAIR)
    for length in range(3, len(first) + len(second) + 5):
        right = tokenizer.encode_truncated(TEXT, PAIR, length)
        left = tokenizer.encode_truncated(TEXT, PAIR, length, "left")
        assert left.segment_ids == right.segment_ids
        middle = left.token_ids.index(5)
        assert left.token_ids[1:middle] == first[len(first) - (middle - 1) :]
        assert left.token_ids[middle + 1 : -1] == second[len(second) - (len(left.token_ids) - middle - 2) :]
