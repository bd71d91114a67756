"""Tokenization and detokenization for routes that do not run the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from model.tokenizer import FNetTokenizer, Piece
from service.core.errors import MAX_PROBLEMS, InvalidInputError, Problem
from service.core.loader import LoadedModel


def tokenizer_of(loaded: LoadedModel, field: str) -> FNetTokenizer:
    """Return the tokenizer of the preset.

    Raises:
        InvalidInputError: The preset has no tokenizer.
    """
    if loaded.tokenizer is None:
        raise InvalidInputError.of(
            [Problem((field,), f"the preset {loaded.preset.name} has no tokenizer; send token ids")]
        )
    return loaded.tokenizer


def pieces_of(
    texts: Sequence[str], tokenizer: FNetTokenizer, max_tokens: int, locate: Callable[[int], tuple[str | int, ...]]
) -> list[list[Piece]]:
    """Split texts into pieces.

    Args:
        texts: Texts to split.
        tokenizer: The tokenizer of the preset.
        max_tokens: Maximum number of pieces of all texts. Pieces take more memory than their text.
        locate: Returns the location of a text in the request.

    Returns:
        One list of pieces per text.

    Raises:
        InvalidInputError: The texts have more than `max_tokens` pieces.
    """
    remaining = max_tokens
    for index, text in enumerate(texts):
        remaining -= len(tokenizer.tokenize(text))
        if remaining < 0:
            message = f"the request exceeds the maximum of {max_tokens} tokens; send fewer texts per request"
            raise InvalidInputError.of([Problem(locate(index), message)])
    return [tokenizer.pieces(text) for text in texts]


def texts_of(
    ids: Sequence[Sequence[int]],
    tokenizer: FNetTokenizer,
    locate: Callable[[int], tuple[str | int, ...]],
    *,
    skip_special_tokens: bool,
) -> list[str]:
    """Decode lists of token ids into texts.

    Args:
        ids: One list per text.
        tokenizer: The tokenizer of the preset.
        locate: Returns the location of a list in the request.
        skip_special_tokens: Whether to omit special tokens.

    Returns:
        One text per list.

    Raises:
        InvalidInputError: An id is outside the vocabulary.
    """
    end = tokenizer.vocabulary_size()
    problems_of_ids = (
        Problem((*locate(index), position), f"token id {value} is outside [0, {end})")
        for index, sequence in enumerate(ids)
        for position, value in enumerate(sequence)
        if not 0 <= value < end
    )
    if problems := list(islice(problems_of_ids, MAX_PROBLEMS)):
        raise InvalidInputError.of(problems)
    return [tokenizer.detokenize(sequence, skip_special_tokens=skip_special_tokens) for sequence in ids]
