"""Validation of inputs: ids and texts become sequences, or an error with the location of each problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from model.encoder import TokenSequence
from model.presets.preset import Padding, Preset
from model.tokenizer import FNetTokenizer
from service.core.errors import MAX_PROBLEMS, InvalidInputError, Problem, TooManySequencesError


@dataclass(frozen=True, slots=True)
class Text:
    """A text or a pair of texts.

    Attributes:
        text: The first text.
        pair: The second text of a pair.
    """

    text: str
    pair: str | None = None


def check_count(count: int, max_count: int, field: str) -> None:
    """Check the number of sequences of a request.

    Args:
        count: Number of sequences.
        max_count: Maximum number of sequences.
        field: Field of the request that contains the sequences.

    Raises:
        InvalidInputError: The request has no sequence.
        TooManySequencesError: The request has more than `max_count` sequences.
    """
    if count == 0:
        raise InvalidInputError.of([Problem((field,), "contains no sequence; send at least one")])
    if count > max_count:
        message = f"{count} sequences exceed the maximum of {max_count} per request; split the request"
        raise TooManySequencesError(message, problems=[Problem((field,), message)])


def check_dimensions(dimensions: int | None, preset: Preset) -> None:
    """Check the requested number of dimensions of embeddings.

    Args:
        dimensions: Requested number of dimensions; `None` requests all.
        preset: The preset that computes the embeddings.

    Raises:
        InvalidInputError: The embeddings have fewer dimensions, or the preset does not support reduced dimensions.
    """
    hidden_dim = preset.architecture.hidden_dim
    if dimensions is None or dimensions == hidden_dim or (dimensions < hidden_dim and preset.matryoshka):
        return
    message = f"{dimensions} dimensions exceed the {hidden_dim} of {preset.name}"
    if dimensions < hidden_dim:
        message = f"{dimensions} dimensions are not supported by {preset.name}; use {hidden_dim} or omit the field"
    raise InvalidInputError.of([Problem(("dimensions",), message)])


def from_ids(
    token_ids: Sequence[Sequence[int]],
    segment_ids: Sequence[Sequence[int]] | None,
    preset: Preset,
    *,
    truncate: bool,
    locate: Callable[[str, int], tuple[str | int, ...]] = lambda field, index: (field, index),
) -> list[TokenSequence]:
    """Validate ids and convert them to arrays.

    Args:
        token_ids: One list per sequence.
        segment_ids: Lists of the same lengths as `token_ids`; zeros by default.
        preset: The preset that encodes the sequences.
        truncate: Whether to truncate sequences that are too long.
        locate: Returns the location of a sequence in the request.

    Returns:
        One pair of int32 arrays per sequence.

    Raises:
        InvalidInputError: A list is empty, too long or differs in length from its counterpart, or an id is out of
            range.
    """
    architecture = preset.architecture
    problems: list[Problem] = []
    sequences: list[TokenSequence] = []
    if segment_ids is not None and len(segment_ids) != len(token_ids):
        message = f"has {len(segment_ids)} lists; expected {len(token_ids)}, as in token_ids"
        raise InvalidInputError.of([Problem(("segment_ids",), message)])
    for index, ids in enumerate(token_ids):
        loc = locate("token_ids", index)
        if not ids:
            problems.append(Problem(loc, "is empty; send at least one token id"))
            continue
        if len(ids) > architecture.max_sequence_length and not truncate:
            problems.append(Problem(loc, too_long(len(ids), architecture.max_sequence_length)))
            continue
        problems += _out_of_range(ids, architecture.vocabulary_size, loc, "token id")
        segments = segment_ids[index] if segment_ids is not None else [0] * len(ids)
        loc = locate("segment_ids", index)
        if len(segments) != len(ids):
            problems.append(Problem(loc, f"has {len(segments)} ids; expected {len(ids)}, as in token_ids"))
            continue
        problems += _out_of_range(segments, architecture.num_segments, loc, "segment id")
        if not problems:
            max_tokens = architecture.max_sequence_length
            sequences.append(
                TokenSequence(np.array(ids[:max_tokens], np.int32), np.array(segments[:max_tokens], np.int32))
            )
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
) -> list[TokenSequence]:
    """Tokenize texts, add special tokens and pad.

    Args:
        texts: Texts and pairs.
        tokenizer: Tokenizer of the preset, if it has one.
        preset: The preset that encodes the sequences. It defines the default padding.
        truncate: Whether to truncate texts that are too long, to the padded length if there is padding.
        padding: `none`, `max_length` or a length in tokens. Longer texts are not padded.
        locate: Returns the location of a text in the request.

    Returns:
        One pair of int32 arrays per text.

    Raises:
        InvalidInputError: The preset has no tokenizer, a text is too long, or a pair needs a second segment.
    """
    max_tokens = preset.architecture.max_sequence_length
    if tokenizer is None:
        raise InvalidInputError.of([Problem(("texts",), f"the preset {preset.name} has no tokenizer; send token_ids")])
    length = preset.padding if padding is None else padding
    padded = max_tokens if length == "max_length" else 0 if length == "none" else length
    if padded > max_tokens:
        raise InvalidInputError.of([Problem(("padding",), f"{padded} tokens exceed the maximum of {max_tokens}")])
    limit = padded or max_tokens
    problems: list[Problem] = []
    sequences: list[TokenSequence] = []
    for index, text in enumerate(texts):
        if text.pair is not None and preset.architecture.num_segments < 2:  # noqa: PLR2004 - a pair has two
            problems.append(
                Problem(
                    locate(index),
                    f"is a pair, but the preset {preset.name} supports one segment only; send single texts",
                )
            )
            continue
        if truncate:
            if limit < (min_tokens := 2 if text.pair is None else 3):
                message = f"{min_tokens} special tokens exceed the padded length of {limit}; increase padding"
                problems.append(Problem(locate(index), message))
                continue
            tokens = tokenizer.encode_truncated(text.text, text.pair, limit)
        else:
            tokens = tokenizer.encode(text.text, text.pair)
        if len(tokens.token_ids) > max_tokens:
            problems.append(Problem(locate(index), too_long(len(tokens.token_ids), max_tokens)))
            continue
        tokens = tokenizer.pad(tokens, padded)
        sequences.append(TokenSequence(np.array(tokens.token_ids, np.int32), np.array(tokens.segment_ids, np.int32)))
    if problems:
        raise InvalidInputError.of(problems)
    return sequences


def too_long(tokens: int, max_tokens: int) -> str:
    """Return the message for a sequence that exceeds the maximum length."""
    return f'{tokens} tokens exceed the maximum of {max_tokens}; set "truncate": true'


def _out_of_range(ids: Sequence[int], end: int, loc: tuple[str | int, ...], kind: str) -> list[Problem]:
    if min(ids) >= 0 and max(ids) < end:
        return []
    invalid = islice(((index, value) for index, value in enumerate(ids) if not 0 <= value < end), MAX_PROBLEMS)
    return [Problem((*loc, index), f"{kind} {value} is outside [0, {end})") for index, value in invalid]
