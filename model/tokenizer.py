"""Tokenization of texts and pairs with SentencePiece and special tokens, and detokenization.

Source: FNetTokenizer and MultiSegmentPacker of keras-hub, which return the same ids: SentencePiece pieces within
`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to the first `[SEP]` and 1 after it. SentencePiece normalizes
texts by the rules (`normalizer_spec`) in the preset's vocabulary file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import sentencepiece

from model.errors import PresetError
from model.presets.hub import load_preset
from model.presets.preset import VOCABULARY_FILE, Preset

Truncation = Literal["round_robin", "waterfall"]
Side = Literal["left", "right"]

# The SentencePiece symbol for a space.
_SPACE = "\u2581"
# Field number of `normalizer_spec` in a ModelProto (sentencepiece_model.proto).
_NORMALIZER_FIELD = 3
# Protobuf wire types.
_VARINT, _EIGHT_BYTES, _DELIMITED = 0, 1, 2
_SPECIAL_TOKENS = ("[CLS]", "[SEP]", "<pad>", "[MASK]")


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One tokenized sequence.

    Attributes:
        token_ids: `[n]`, special tokens included.
        segment_ids: `[n]`.
    """

    token_ids: list[int]
    segment_ids: list[int]


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text and its span in the text.

    Attributes:
        id: The token id.
        text: The piece of the vocabulary. `▁` stands for a space, or for nothing at the start of a text.
        start: Start of the span, in Unicode code points.
        stop: End of the span, exclusive. Pieces of one character, such as `½`, have the same span.
    """

    id: int
    text: str
    start: int
    stop: int


class FNetTokenizer:
    """The SentencePiece vocabulary of a preset, with the special tokens of FNet. Instances are thread-safe.

    Args:
        proto: The serialized SentencePiece model.
        truncate: How a pair is truncated. `round_robin` truncates the longer text first, then both equally.
            `waterfall` truncates the second text first.

    Raises:
        PresetError: `proto` is not a SentencePiece model, or lacks a special token.
    """

    def __init__(self, proto: bytes, truncate: Truncation = "round_robin") -> None:
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(proto)
        except RuntimeError as error:
            raise PresetError(f"{VOCABULARY_FILE}: damaged or not a SentencePiece model") from error
        # Pieces precede the settings, so SentencePiece accepts a file that is truncated between two pieces.
        if _NORMALIZER_FIELD not in _top_fields(proto):
            raise PresetError(f"{VOCABULARY_FILE}: damaged: the file ends before its normalizer; download it again")
        for token in _SPECIAL_TOKENS:
            # An unknown piece maps to <unk>.
            if self._pieces.IdToPiece(self._pieces.PieceToId(token)) != token:
                raise PresetError(f"{VOCABULARY_FILE}: the vocabulary lacks the token {token!r}")
        self.truncate = truncate
        self.cls_token_id, self.sep_token_id, self.pad_token_id, self.mask_token_id = map(
            self._pieces.PieceToId, _SPECIAL_TOKENS
        )
        self._special_ids = frozenset(map(self._pieces.PieceToId, _SPECIAL_TOKENS))

    @classmethod
    def from_preset(cls, preset: str | Path | Preset) -> FNetTokenizer:
        """Read the vocabulary of a preset.

        Args:
            preset: An argument of `FNetBackbone.from_preset`, or a loaded preset.

        Raises:
            PresetError: The vocabulary is missing or damaged, or has more tokens than the network.
        """
        preset = preset if isinstance(preset, Preset) else load_preset(str(preset))
        path = preset.directory / VOCABULARY_FILE
        try:
            tokenizer = cls(path.read_bytes(), preset.truncate)
        except OSError as error:
            raise PresetError(f"{VOCABULARY_FILE}: not readable: {error.strerror}") from error
        if tokenizer.vocabulary_size() > preset.architecture.vocabulary_size:
            raise PresetError(
                f"{VOCABULARY_FILE}: has {tokenizer.vocabulary_size()} tokens, "
                f"more than config.json's vocabulary_size of {preset.architecture.vocabulary_size}"
            )
        return tokenizer

    def vocabulary_size(self) -> int:
        """Return the number of tokens."""
        return int(self._pieces.GetPieceSize())

    def id_to_token(self, token_id: int) -> str:
        """Return the piece of a token id."""
        return str(self._pieces.IdToPiece(token_id))

    def token_to_id(self, token: str) -> int:
        """Return the id of a piece, or the id of `<unk>` for an unknown piece."""
        return int(self._pieces.PieceToId(token))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        return list(self._pieces.EncodeAsIds(text))

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens of a text with their spans, without special tokens.

        The normalization of the vocabulary may fold, compose, expand and drop characters. Spans refer to `text`.
        """
        encoded = self._pieces.Encode(text, return_type="offset_mapping")
        normalized, origins = self._pieces.Normalize(text, with_offsets=True)
        spans: list[tuple[int, int]] = encoded["offsets"]
        if "".join(encoded["pieces"]) == normalized:  # false where a vocabulary encodes unknown characters as bytes
            lengths = [len(piece) for piece in encoded["pieces"]]
            spans = _character_spans(lengths, origins, spaced=normalized.startswith(_SPACE))
        return [
            Piece(token_id, self.id_to_token(token_id), start, stop)
            for token_id, (start, stop) in zip(encoded["ids"], spans, strict=True)
        ]

    def is_special(self, token_id: int) -> bool:
        """Whether an id is `[CLS]`, `[SEP]`, `<pad>`, `[MASK]` or another control token."""
        return token_id in self._special_ids or bool(self._pieces.IsControl(token_id))

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids.

        Args:
            token_ids: Ids in `[0, vocabulary_size)`.
            skip_special_tokens: Whether special tokens are left out rather than written by name.
        """
        if skip_special_tokens:
            return str(self._pieces.DecodeIds([i for i in token_ids if not self.is_special(i)]))
        return "".join(self._texts_and_names(token_ids))

    def encode(self, text: str, pair: str | None = None) -> TokenizedText:
        """Tokenize a text or a pair with special tokens, without truncation."""
        return self._join(self.tokenize(text), None if pair is None else self.tokenize(pair))

    def encode_truncated(self, text: str, pair: str | None, length: int, side: Side = "right") -> TokenizedText:
        """Tokenize as `encode`, truncated to at most `length` tokens. Special tokens are always kept.

        Args:
            text: The text.
            pair: The second text of a pair.
            length: Maximum number of tokens.
            side: Side of each text that is truncated: `right` is its end, `left` its start.

        Raises:
            ValueError: `length` is smaller than the number of special tokens.
        """
        first = self.tokenize(text)
        second = None if pair is None else self.tokenize(pair)
        special = 2 if second is None else 3
        budget = length - special
        if budget < 0:
            raise ValueError(f"a length of {length} does not hold the {special} special tokens")
        if second is None:
            return self._join(_truncated(first, budget, side), None)
        size = self._first_size(budget, len(first), len(second))
        return self._join(_truncated(first, size, side), _truncated(second, budget - size, side))

    def pad(self, tokens: TokenizedText, length: int) -> TokenizedText:
        """Append `<pad>` tokens of segment 0 up to `length`; a longer sequence is returned unchanged."""
        missing = max(0, length - len(tokens.token_ids))
        return TokenizedText(tokens.token_ids + [self.pad_token_id] * missing, tokens.segment_ids + [0] * missing)

    def _texts_and_names(self, token_ids: Sequence[int]) -> Iterator[str]:
        """Yield the text of each run of ordinary tokens, and the names of special tokens between them."""
        first = True
        for special, run in groupby(token_ids, self.is_special):
            ids = list(run)
            if special:
                yield from map(self.id_to_token, ids)
            else:
                # SentencePiece drops the space before the first word; it is restored after a special token.
                spaced = not first and self.id_to_token(ids[0]).startswith(_SPACE)
                yield (" " if spaced else "") + str(self._pieces.DecodeIds(ids))
            first = False

    def _first_size(self, budget: int, first: int, second: int) -> int:
        """Return how many tokens of the first text are kept if both texts have `budget` tokens together."""
        if self.truncate == "waterfall":
            return min(first, budget)
        # Texts take tokens in turn, the first text first, until the budget or a text is exhausted.
        return min(first, max(budget - second, (budget + 1) // 2))

    def _join(self, first: list[int], second: list[int] | None) -> TokenizedText:
        token_ids = [self.cls_token_id, *first, self.sep_token_id]
        segment_ids = [0] * len(token_ids)
        if second is not None:
            token_ids += [*second, self.sep_token_id]
            segment_ids += [1] * (len(second) + 1)
        return TokenizedText(token_ids, segment_ids)


def _truncated(ids: list[int], size: int, side: Side) -> list[int]:
    return ids[:size] if side == "right" else ids[max(0, len(ids) - size) :]


def _character_spans(lengths: Sequence[int], origins: Sequence[int], *, spaced: bool) -> list[tuple[int, int]]:
    """Return the span of each piece in the original text.

    SentencePiece assigns a character that expands to several, such as `½`, to the last of their pieces. This function
    assigns it to all of them.

    Args:
        lengths: Number of characters of each piece in the normalized text.
        origins: Offset in the original text of each character of the normalized text, and the end of the last one.
        spaced: Whether the normalized text starts with a space.
    """
    # For each normalized character, the end of its original character.
    ends = list(origins[1:])
    for index in range(len(ends) - 2, -1, -1):
        if ends[index] == origins[index]:
            ends[index] = ends[index + 1]
    spans = []
    begin = 0
    for length in lengths:
        end = begin + length
        # SentencePiece adds the `▁` before the first word; its span is empty.
        added = spaced and end == 1 and origins[0] == origins[1]
        spans.append((origins[begin], origins[0] if added else ends[end - 1]))
        begin = end
    return spans


def _top_fields(proto: bytes) -> set[int]:
    """Return the field numbers of a protobuf message, without parsing the fields."""
    fields: set[int] = set()
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = proto[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:  # noqa: PLR2004 - the last byte has no continuation bit
                return value

    while position < len(proto):
        key = varint()
        fields.add(key >> 3)
        wire_type = key & 7
        if wire_type == _DELIMITED:
            size = varint()  # advances the position
            position += size
        elif wire_type == _VARINT:
            varint()
        else:
            position += 8 if wire_type == _EIGHT_BYTES else 4
    return fields
