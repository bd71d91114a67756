"""What a client sent becomes sequences that the network can take, or an error that names the place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from model.encoder import Tokens
from model.presets.preset import Padding, Preset
from model.tokenizer import FNetTokenizer
from service.core.errors import MAX_PROBLEMS, InvalidInputError, Problem, TooManySequencesError


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or a pair of texts.

    Attributes:
        text: The first.
        pair: The second, where there is one.
    """

    text: str
    pair: str | None = None


def check_count(count: int, max_count: int, field: str) -> None:
    """Refuse no sequences, and more than a request may hold.

    Raises:
        InvalidInputError: There are none.
        TooManySequencesError: There are more than `max_count`.
    """
    if count == 0:
        raise InvalidInputError.of([Problem((field,), "contains no sequence; expected at least one")])
    if count > max_count:
        raise TooManySequencesError(
            f"{count} sequences exceed the maximum of {max_count} per request; split the request",
            problems=[Problem((field,), f"contains {count} sequences, expected at most {max_count}")],
        )


def check_dimensions(wanted: int | None, preset: Preset) -> None:
    """Refuse embeddings of a length that a preset does not give.

    Raises:
        InvalidInputError: They would be longer than they are, or cut though the preset was not trained for it.
    """
    whole = preset.architecture.hidden_dim
    if wanted is None or wanted == whole or (wanted < whole and preset.matryoshka):
        return
    message = f"is {wanted}, but the embeddings of {preset.name} have {whole}"
    if wanted < whole:
        message = f"is {wanted}, but {preset.name} was not trained to be cut: expected {whole}, or leave it out"
    raise InvalidInputError.of([Problem(("dimensions",), message)])


def too_long(count: int, max_tokens: int) -> str:
    """Return the message for a sequence of too many tokens."""
    return f'{count} tokens exceed the maximum of {max_tokens}; set "truncate": true'


def from_ids(
    token_ids: Sequence[Sequence[int]],
    segment_ids: Sequence[Sequence[int]] | None,
    preset: Preset,
    *,
    truncate: bool,
    locate: Callable[[str, int], tuple[str | int, ...]] = lambda field, index: (field, index),
) -> list[Tokens]:
    """Check ids and lay them out as arrays.

    Args:
        token_ids: One list a sequence.
        segment_ids: As many lists of the same lengths; zeros where there are none.
        preset: What they have to fit.
        truncate: Whether what is too long is cut.
        locate: Returns the location of a sequence in the request.

    Raises:
        InvalidInputError: A list is empty, too long, of another length than its counterpart, or holds an id that the
            network does not have.
    """
    architecture = preset.architecture
    problems: list[Problem] = []
    sequences: list[Tokens] = []
    if segment_ids is not None and len(segment_ids) != len(token_ids):
        message = f"contains {len(segment_ids)} lists, expected {len(token_ids)} as in token_ids"
        raise InvalidInputError.of([Problem(("segment_ids",), message)])
    for index, ids in enumerate(token_ids):
        loc = locate("token_ids", index)
        if not ids:
            problems.append(Problem(loc, "is empty; expected at least one token id"))
            continue
        if len(ids) > architecture.max_sequence_length and not truncate:
            message = too_long(len(ids), architecture.max_sequence_length)
            problems.append(Problem(loc, message))
            continue
        problems += _out_of_range(ids, architecture.vocabulary_size, loc, "token id")
        segments = segment_ids[index] if segment_ids is not None else [0] * len(ids)
        loc = locate("segment_ids", index)
        if len(segments) != len(ids):
            problems.append(Problem(loc, f"has {len(segments)} ids, expected {len(ids)} as in token_ids"))
            continue
        problems += _out_of_range(segments, architecture.num_segments, loc, "segment id")
        if not problems:
            max_tokens = architecture.max_sequence_length
            sequences.append(Tokens(np.array(ids[:max_tokens], np.int32), np.array(segments[:max_tokens], np.int32)))
    if problems:
        raise InvalidInputError.of(problems)
    return sequences


def from_texts(
    texts: Sequence[Text],
    tokenizer: FNetTokenizer | None,
    preset: Preset,
    *,
    truncate: bool,
    padding: Padding | None,
    locate: Callable[[int], tuple[str | int, ...]] = lambda index: ("texts", index),
) -> list[Tokens]:
    """Tokenise texts, with special tokens and the padding asked for.

    Args:
        texts: Texts and pairs.
        tokenizer: The preset's, if it has one.
        preset: What the result has to fit; says what padding is where none is asked for.
        truncate: Whether what is too long is cut, to the length of the padding where there is one.
        padding: `none`, `max_length` or a length; a longer text is not padded.
        locate: Returns the location of a text in the request.

    Raises:
        InvalidInputError: There is no tokeniser, a text is too long, or needs more segments than there are.
    """
    max_tokens = preset.architecture.max_sequence_length
    if tokenizer is None:
        raise InvalidInputError.of([Problem(("texts",), f"the preset {preset.name} has no tokenizer; send token_ids")])
    length = preset.padding if padding is None else padding
    padded = max_tokens if length == "max_length" else 0 if length == "none" else length
    if padded > max_tokens:
        raise InvalidInputError.of([Problem(("padding",), f"{padded} exceeds the maximum of {max_tokens} tokens")])
    limit = padded or max_tokens
    problems: list[Problem] = []
    sequences: list[Tokens] = []
    for index, text in enumerate(texts):
        if text.pair is not None and preset.architecture.num_segments < 2:  # noqa: PLR2004 - a pair has two
            problems.append(Problem(locate(index), f"is a pair, but the preset {preset.name} has only one segment"))
            continue
        if truncate:
            if limit < (least := 2 if text.pair is None else 3):
                problems.append(Problem(locate(index), f"{least} special tokens exceed the length of {limit} tokens"))
                continue
            tokens = tokenizer.encode_truncated(text.text, text.pair, limit)
        else:
            tokens = tokenizer.encode(text.text, text.pair)
        if len(tokens.token_ids) > max_tokens:
            message = too_long(len(tokens.token_ids), max_tokens)
            problems.append(Problem(locate(index), message))
            continue
        tokens = tokenizer.pad(tokens, padded)
        sequences.append(Tokens(np.array(tokens.token_ids, np.int32), np.array(tokens.segment_ids, np.int32)))
    if problems:
        raise InvalidInputError.of(problems)
    return sequences


def _out_of_range(ids: Sequence[int], end: int, loc: tuple[str | int, ...], what: str) -> list[Problem]:
    if min(ids) >= 0 and max(ids) < end:
        return []
    wrong = islice(((locate, value) for locate, value in enumerate(ids) if not 0 <= value < end), MAX_PROBLEMS)
    return [Problem((*loc, locate), f"{what} {value} is outside [0, {end})") for locate, value in wrong]
