"""Texts to pieces and ids to texts, for routes that only tokenize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from model.tokenizer import FNetTokenizer, Piece
from service.core.errors import MAX_PROBLEMS, InvalidInputError, Problem
from service.core.loader import LoadedModel


def tokenizer_of(loaded: LoadedModel, field: str) -> FNetTokenizer:
    """Return the preset's tokenizer.

    Raises:
        InvalidInputError: It has none.
    """
    if loaded.tokenizer is None:
        raise InvalidInputError.of(
            [Problem((field,), f"the preset {loaded.preset.name} has no tokenizer; send token ids")]
        )
    return loaded.tokenizer


def pieces_of(
    texts: Sequence[str], tokenizer: FNetTokenizer, max_tokens: int, locate: Callable[[int], tuple[str | int, ...]]
) -> list[list[Piece]]:
    """Return the pieces of texts: no more than a queue would take, for each weighs more than the text it is from.

    Raises:
        InvalidInputError: There are more than `max_tokens` of them.
    """
    left = max_tokens
    for index, text in enumerate(texts):
        left -= len(tokenizer.tokenize(text))
        if left < 0:
            message = f"the request exceeds the maximum of {max_tokens} tokens at this text; split the request"
            raise InvalidInputError.of([Problem(locate(index), message)])
    return [tokenizer.pieces(text) for text in texts]


def texts_of(
    ids: Sequence[Sequence[int]],
    tokenizer: FNetTokenizer,
    locate: Callable[[int], tuple[str | int, ...]],
    *,
    skip_special_tokens: bool,
) -> list[str]:
    """Return the texts that lists of ids stand for.

    Raises:
        InvalidInputError: An id is outside of the vocabulary.
    """
    end = tokenizer.vocabulary_size()
    wrong = (
        Problem((*locate(index), position), f"token id {value} is outside [0, {end})")
        for index, sequence in enumerate(ids)
        for position, value in enumerate(sequence)
        if not 0 <= value < end
    )
    if problems := list(islice(wrong, MAX_PROBLEMS)):
        raise InvalidInputError.of(problems)
    return [tokenizer.detokenize(sequence, skip_special_tokens=skip_special_tokens) for sequence in ids]
