"""Wire types shared by several protocols."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from service.web.bodies import IdList, OneText


def _one_or_batch_of_ids(value: Any) -> str:
    nested = isinstance(value, list) and (not value or isinstance(value[0], list))
    return "batch" if nested else "one"


def _one_or_batch_of_texts(value: Any) -> str:
    return "batch" if isinstance(value, list) else "one"


def _text_or_pair(value: Any) -> str:
    return "pair" if isinstance(value, list) else "text"


Ids = Annotated[
    Annotated[list[IdList], Field(fail_fast=True), Tag("batch")] | Annotated[IdList, Tag("one")],
    Discriminator(_one_or_batch_of_ids),
]
Pair = Annotated[list[OneText], Field(min_length=2, max_length=2)]
TextOrPair = Annotated[Annotated[OneText, Tag("text")] | Annotated[Pair, Tag("pair")], Discriminator(_text_or_pair)]
Texts = Annotated[
    Annotated[list[TextOrPair], Field(fail_fast=True), Tag("batch")] | Annotated[OneText, Tag("one")],
    Discriminator(_one_or_batch_of_texts),
]
PaddingField = Literal["none", "max_length"] | Annotated[int, Field(strict=True, ge=1)]


class Usage(BaseModel):
    """Number of encoded sequences and tokens."""

    sequences: int
    tokens: int
