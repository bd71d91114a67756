"""Text to token ids and back: SentencePiece, and the special tokens around one text or a pair.

Source: keras-hub's FNetTokenizer and MultiSegmentPacker, whose ids these are: the vocabulary applied as it is, then
`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to the first `[SEP]` and 1 after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import sentencepiece

from model.errors import PresetError
from model.presets.preset import VOCABULARY_FILE, Preset, load_preset

Truncation = Literal["round_robin", "waterfall"]
Side = Literal["left", "right"]

# SentencePiece's sign for a space.
_SPACE = "\u2581"
# The field of a ModelProto (sentencepiece_model.proto).
_NORMALIZER = 3
# How protobuf writes a field.
_VARINT, _EIGHT_BYTES, _DELIMITED = 0, 1, 2
_SPECIAL_TOKENS = ("[CLS]", "[SEP]", "<pad>", "[MASK]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence, ready for the network.

    Attributes:
        token_ids: The ids, special tokens included.
        segment_ids: As many segment ids.
    """

    token_ids: list[int]
    segment_ids: list[int]


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text, and what it was made of.

    Attributes:
        id: The token's id.
        text: The vocabulary's piece; `▁` stands for a space, or at the text's beginning for nothing.
        start: Where in the text it begins, counted in Unicode code points.
        stop: Where it ends, likewise; pieces of one character, such as `½`, have the same place.
    """

    id: int
    text: str
    start: int
    stop: int


class FNetTokenizer:
    """A preset's SentencePiece vocabulary, with FNet's special tokens. Safe to share among threads.

    Args:
        proto: The serialised SentencePiece model.
        truncate: How a pair that is too long is cut: `round_robin` gives each text the same room as long as it needs
            it, so that the longest is cut first; `waterfall` gives the first text all the room that it needs.

    Raises:
        PresetError: `proto` is no SentencePiece model, or lacks a special token.
    """

    def __init__(self, proto: bytes, truncate: Truncation = "round_robin") -> None:
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(proto)
        except RuntimeError as error:
            raise PresetError(f"{VOCABULARY_FILE}: damaged or not a SentencePiece model") from error
        # The pieces come first and the settings last: a file that broke off between two pieces is read without a word.
        if _NORMALIZER not in _top_fields(proto):
            raise PresetError(f"{VOCABULARY_FILE}: damaged: it ends before its normalizer")
        for token in _SPECIAL_TOKENS:
            # An unknown piece maps to <unk>, whose own text is another one.
            if self._pieces.IdToPiece(self._pieces.PieceToId(token)) != token:
                raise PresetError(f"{VOCABULARY_FILE}: the vocabulary lacks the token {token!r}")
        self.truncate = truncate
        self.cls_token_id, self.sep_token_id, self.pad_token_id, self.mask_token_id = map(
            self._pieces.PieceToId, _SPECIAL_TOKENS
        )
        self._special_ids = frozenset(map(self._pieces.PieceToId, _SPECIAL_TOKENS))

    @classmethod
    def from_preset(cls, preset: str | Path | Preset) -> FNetTokenizer:
        """Read a preset's vocabulary.

        Args:
            preset: What `FNetBackbone.from_preset` takes, or a preset already read.

        Raises:
            PresetError: The preset has none, it is damaged, or has more tokens than the network.
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
        """Return the piece of text that an id stands for."""
        return str(self._pieces.IdToPiece(token_id))

    def token_to_id(self, token: str) -> int:
        """Return a piece's id, that of `<unk>` where there is none."""
        return int(self._pieces.PieceToId(token))

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return list(self._pieces.EncodeAsIds(text))

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens of a text with their places in it, without special tokens.

        The vocabulary's normalisation may fold, compose, expand and drop characters: places are those in `text` itself.
        """
        found = self._pieces.Encode(text, return_type="offset_mapping")
        normalized, origins = self._pieces.Normalize(text, with_offsets=True)
        spans: list[tuple[int, int]] = found["offsets"]
        if "".join(found["pieces"]) == normalized:  # not where a vocabulary spells unknown characters as bytes
            lengths = [len(piece) for piece in found["pieces"]]
            spans = _whole_characters(lengths, origins, spaced=normalized.startswith(_SPACE))
        return [
            Piece(token_id, self.id_to_token(token_id), start, stop)
            for token_id, (start, stop) in zip(found["ids"], spans, strict=True)
        ]

    def is_special(self, token_id: int) -> bool:
        """Whether an id is none of a text's own, but `[CLS]`, `[SEP]`, `<pad>`, `[MASK]` or another control token."""
        return token_id in self._special_ids or bool(self._pieces.IsControl(token_id))

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text that ids stand for.

        Args:
            token_ids: The ids, each within the vocabulary.
            skip_special_tokens: Whether special tokens stand for nothing, rather than for their names.
        """
        if skip_special_tokens:
            return str(self._pieces.DecodeIds([i for i in token_ids if not self.is_special(i)]))
        return "".join(self._with_names(token_ids))

    def encode(self, text: str, pair: str | None = None) -> Tokens:
        """Tokenise a text, or a pair of them, with special tokens and nothing cut."""
        return self._join(self.tokenize(text), None if pair is None else self.tokenize(pair))

    def encode_truncated(self, text: str, pair: str | None, length: int, side: Side = "right") -> Tokens:
        """Tokenise as `encode`, cut to at most `length` tokens; special tokens are always kept.

        Args:
            text: The text.
            pair: The second text, where there is one.
            length: Most tokens to keep.
            side: Where texts lose what is too long, at their end or at their beginning.

        Raises:
            ValueError: `length` has no room for the special tokens.
        """
        first = self.tokenize(text)
        second = None if pair is None else self.tokenize(pair)
        room = length - (2 if second is None else 3)
        if room < 0:
            raise ValueError(f"{length} tokens have no room for the special tokens")
        if second is None:
            return self._join(_cut(first, room, side), None)
        kept = self._share(room, len(first), len(second))
        return self._join(_cut(first, kept, side), _cut(second, room - kept, side))

    def pad(self, tokens: Tokens, length: int) -> Tokens:
        """Append `<pad>` tokens of segment 0 up to `length`; a longer sequence stays as it is."""
        missing = max(0, length - len(tokens.token_ids))
        return Tokens(tokens.token_ids + [self.pad_token_id] * missing, tokens.segment_ids + [0] * missing)

    def _with_names(self, token_ids: Sequence[int]) -> Iterator[str]:
        """Yield the texts of ids that stand together, and the names of special tokens between them."""
        first = True
        for special, run in groupby(token_ids, self.is_special):
            ids = list(run)
            if special:
                yield from map(self.id_to_token, ids)
            else:
                # The space before a text's first word is left out; behind a special token there is one.
                spaced = not first and self.id_to_token(ids[0]).startswith(_SPACE)
                yield (" " if spaced else "") + str(self._pieces.DecodeIds(ids))
            first = False

    def _share(self, room: int, first: int, second: int) -> int:
        """Return how many tokens of the first text are kept when both share `room`."""
        if self.truncate == "waterfall":
            return min(first, room)
        # Tokens are dealt in turn, the first text's first, until the room or a text is used up.
        return min(first, max(room - second, (room + 1) // 2))

    def _join(self, first: list[int], second: list[int] | None) -> Tokens:
        token_ids = [self.cls_token_id, *first, self.sep_token_id]
        segment_ids = [0] * len(token_ids)
        if second is not None:
            token_ids += [*second, self.sep_token_id]
            segment_ids += [1] * (len(second) + 1)
        return Tokens(token_ids, segment_ids)


def _cut(ids: list[int], kept: int, side: Side) -> list[int]:
    return ids[:kept] if side == "right" else ids[max(0, len(ids) - kept) :]


def _whole_characters(lengths: Sequence[int], origins: Sequence[int], *, spaced: bool) -> list[tuple[int, int]]:
    """Return where in the original text each piece comes from.

    SentencePiece gives a character that became several, such as `½`, to the last of their pieces alone, and nothing to
    the others. Here it belongs to each of them.

    Args:
        lengths: Characters of each piece in the normalised text.
        origins: For each character of the normalised text where it comes from, and where the last one ends.
        spaced: Whether the normalised text begins with a space.
    """
    # Where in the original text the character ends that a normalised one comes from.
    ends = list(origins[1:])
    for index in range(len(ends) - 2, -1, -1):
        if ends[index] == origins[index]:
            ends[index] = ends[index + 1]
    spans = []
    begin = 0
    for length in lengths:
        end = begin + length
        # The `▁` before a text's first word was put there, and comes from nothing.
        added = spaced and end == 1 and origins[0] == origins[1]
        spans.append((origins[begin], origins[0] if added else ends[end - 1]))
        begin = end
    return spans


def _top_fields(proto: bytes) -> set[int]:
    """Return the numbers of a protobuf message's fields, none of them looked into."""
    found: set[int] = set()
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = proto[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:  # noqa: PLR2004 - the last one has no upper bit
                return value

    while place < len(proto):
        key = varint()
        found.add(key >> 3)
        kind = key & 7
        if kind == _DELIMITED:
            size = varint()  # which moves the place itself
            place += size
        elif kind == _VARINT:
            varint()
        else:
            place += 8 if kind == _EIGHT_BYTES else 4
    return found
