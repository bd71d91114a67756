"""Word lists of the composed text, read from `data/word_lists.toml`."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any, NamedTuple

SynonymSet = list[str]


class Action(NamedTuple):
    """Verbs that are near synonyms, and the complements that may follow each of them."""

    verbs: list[str]
    complements: list[str]


def read_data(name: str) -> str:
    """Return the text of a file below `distill/data`."""
    return files("distill").joinpath("data", name).read_text("utf-8")


_WORD_LISTS: dict[str, dict[str, Any]] = tomllib.loads(read_data("word_lists.toml"))


def _list(name: str) -> list[str]:
    words: list[str] = _WORD_LISTS["lists"][name]
    return words


def _synonym_sets(name: str) -> list[SynonymSet]:
    synonym_sets: list[SynonymSet] = _WORD_LISTS["synonym_sets"][name]
    return synonym_sets


def _actions(name: str) -> list[Action]:
    return [Action(**action) for action in _WORD_LISTS["actions"][name]]


COLORS = _list("colors")
COATS = _list("coats")
SIZES = _list("sizes")
LOOKS = _list("looks")
CLOTHES = _list("clothes")
# Repeated numbers are drawn more often.
NUMBERS = _list("numbers")
THING_LOOKS = _list("thing_looks")
CONTAINERS = _list("containers")
FEATURES = _list("features")
ROOM_LOOKS = _list("room_looks")
WEEKDAYS = _list("weekdays")
MONTHS = _list("months")
COMPANY_SUFFIXES = _list("company_suffixes")
NUMBER_WORDS = _list("number_words")
# Things that do not fit into a room.
LARGE_THINGS = frozenset(_list("large_things"))
OPEN_PLACES = _list("open_places")
NO_PERSON: str = _WORD_LISTS["pronouns"]["no_person"]

PEOPLE = _synonym_sets("people")
ANIMALS = _synonym_sets("animals")
OUTDOOR_PLACES = _synonym_sets("outdoor_places")
INDOOR_PLACES = _synonym_sets("indoor_places")
# Subject and object are both people or animals, so that the roles can be swapped.
INTERACTIONS = _synonym_sets("interactions")
ANIMAL_INTERACTIONS = _synonym_sets("animal_interactions")
THINGS = _synonym_sets("things")
RELATIONS = _synonym_sets("relations")
FOODS = _synonym_sets("foods")
ROOMS = _synonym_sets("rooms")

INDOOR_ACTIONS = _actions("indoor")
OUTDOOR_ACTIONS = _actions("outdoor")
# Actions without an object that could become the subject of a passive sentence.
INTRANSITIVE_ACTIONS = _actions("intransitive")
ANIMAL_ACTIONS = _actions("animal")
ANIMAL_OBJECT_ACTIONS = _actions("animal_object")

# Past tense and past participle by base form.
IRREGULAR_VERBS: dict[str, list[str]] = _WORD_LISTS["irregular_verbs"]
