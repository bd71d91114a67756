"""Composed everyday English: unlimited groups of closely related texts for distillation.

Each public function yields groups of one kind. All texts of a group share most of their words, so the student has to
learn the differences.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random

from distill.corpus import templates, word_lists
from distill.corpus.groups import Group
from distill.corpus.templates import TemplateSet
from distill.corpus.word_lists import SynonymSet


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """Names and words from the sources, which fill slots.

    Attributes:
        first_names: First names.
        places: Cities and countries.
        rare_words: Words of any frequency, from the dictionary.
        frequent_words: Frequent words.
    """

    first_names: Sequence[str]
    places: Sequence[str]
    rare_words: Sequence[str]
    frequent_words: Sequence[str]


_ARTICLE = re.compile(r"\b([Aa])n? (?=[\"'(]?(\w+))")
_CONSONANT_SOUND = re.compile(r"(?:uni|use|usu|eur|ewe|uku|one|once|uten|uk\b)", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"(?:hour|honest|heir|honou?r|8\d*|11\b|18\b)", re.IGNORECASE)
_SLOT = re.compile(r"\{([a-z]+)(\d?)(?:>(\w+))?\}")
_PREPOSITION = re.compile(r" (?=(?:into|onto|in|on|to|over|from|off|with|through|of)\b)")
_PLURALS = {"people": "people", "child": "children", "person": "people", "mouse": "mice", "goose": "geese"}
_INVARIANT_PLURALS = ("sheep", "deer", "bison", "moose", "elk", "fish", "buffalo", "clothes", "dice")
_SINGULAR_ENDINGS = ("ss", "us")
_NO_PLURAL = {"couple", "pair"}
_PLURAL_CLOTHES = {"shorts", "jeans", "gloves", "boots", "sunglasses"}
_DOUBLED_CONSONANT = {"begin", "forget", "quit", "split", "unwrap", "pedal", "travel", "shovel"}
# Probabilities of a text in lower case, and of one without a final stop.
_LOWER_CASE_PROBABILITY, _NO_STOP_PROBABILITY = 0.08, 0.16
_MIN_GROUP_TEXTS, _MAX_GROUP_TEXTS = 4, 8


def _happens(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def _article(match: re.Match[str]) -> str:
    word = match[2]
    vowel = word[0] in "aeiouAEIOU"
    if _CONSONANT_SOUND.match(word):
        vowel = False
    elif _VOWEL_SOUND.match(word):
        vowel = True
    return f"{match[1]}n " if vowel else f"{match[1]} "


def _finish(rng: Random, text: str, *, stop: bool = True) -> str:
    """Correct the articles, capitalize the text and add a stop; at random, drop the stop or the case."""
    text = _ARTICLE.sub(_article, text)
    text = text[:1].upper() + text[1:]
    if stop and text[-1] not in '.?!"':
        text += "."
    number = rng.random()
    if number < _NO_STOP_PROBABILITY:
        text = text.rstrip(".")
    return text.lower() if number < _LOWER_CASE_PROBABILITY else text


@cache
def _inflect(phrase: str, form: str) -> str:
    """Inflect the first word of a verb phrase; the form is `s`, `ing`, `ed` or `en`."""
    verb, space, rest = phrase.partition(" ")
    if form == "s":
        inflected = _third_person(verb)
    elif form == "ing":
        inflected = _progressive(verb)
    elif verb in word_lists.IRREGULAR_VERBS:
        inflected = word_lists.IRREGULAR_VERBS[verb][form == "en"]
    elif verb.endswith("e"):
        inflected = verb + "d"
    elif re.search(r"[^aeiou]y$", verb):
        inflected = verb[:-1] + "ied"
    else:
        inflected = _double_consonant(verb) + "ed"
    return inflected + space + rest


def _third_person(verb: str) -> str:
    if verb == "have":
        return "has"
    if re.search(r"(?:s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def _progressive(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
        return verb[:-1] + "ing"
    return _double_consonant(verb) + "ing"


def _double_consonant(verb: str) -> str:
    if verb in _DOUBLED_CONSONANT or re.match(r"[^aeiou]*[aeiou][^aeiouwxy]$", verb):
        return verb + verb[-1]
    return verb


@cache
def _plural(noun: str) -> str:
    if " in his " in noun or " of " in noun:
        head, _, tail = noun.partition(" in " if " in his " in noun else " of ")
        return _plural(head) + (" in their " if " in his " in noun else " of ") + tail.removeprefix("his ")
    start, space, last = noun.rpartition(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith("man") and last != "human":
        last = last[:-3] + "men"
    elif last in {"wolf", "calf", "loaf", "bookshelf"}:
        last = last[:-1] + "ves"
    elif last == "ox":
        last = "oxen"
    elif last not in _INVARIANT_PLURALS:
        last = _third_person(last) if not last.endswith("o") else last + "s"
    return start + space + last


def _replacement(rng: Random, synonym_sets: list[SynonymSet], word: str, synonym_probability: float) -> str:
    """Return a synonym of a word with the given probability, otherwise a word of any set."""
    if _happens(rng, synonym_probability):
        for synonyms in synonym_sets:
            if word in synonyms and len(synonyms) > 1:
                return rng.choice([synonym for synonym in synonyms if synonym != word])
    return rng.choice(rng.choice(synonym_sets))


@dataclasses.dataclass(frozen=True, slots=True)
class _Participant:
    """A person or an animal, or several of them, with adjective, count and clothes."""

    noun: str
    look: str
    count: str
    clothes: str
    is_animal: bool

    @property
    def is_plural(self) -> bool:
        return self.count != "a"

    def text(self, determiner: str = "") -> str:
        noun = _plural(self.noun) if self.is_plural else self.noun
        parts = [determiner or self.count, self.look, noun]
        clothes = self.clothes
        if clothes.startswith("in a ") and self.is_plural:
            clothes = " ".join(("in", _plural(clothes.removeprefix("in a "))))
        return " ".join(part for part in (*parts, clothes) if part)


@dataclasses.dataclass(frozen=True, slots=True)
class _Scene:
    """A participant with an action at a place; `verbs` and `complements` are the alternatives of the action."""

    participant: _Participant
    verbs: list[str]
    verb: str
    complements: list[str]
    complement: str
    place: str
    has_passive: bool
    outdoors: bool


def _draw_participant(rng: Random, *, animal: bool) -> _Participant:
    noun = rng.choice(rng.choice(word_lists.ANIMALS if animal else word_lists.PEOPLE))
    single = _happens(rng, 0.72) or noun in _NO_PLURAL
    look = worn = ""
    if _happens(rng, 0.35) and not noun.startswith(("old", "young", "elderly", "small")):
        look = rng.choice(rng.choice((word_lists.COATS, word_lists.SIZES)) if animal else word_lists.LOOKS)
    if not animal and _happens(rng, 0.25):
        garment = rng.choice(word_lists.CLOTHES)
        worn = f"in {'' if garment in _PLURAL_CLOTHES else 'a '}{rng.choice(word_lists.COLORS)} {garment}"
    return _Participant(noun, look, "a" if single else rng.choice(word_lists.NUMBERS), worn, animal)


def _draw_scene(rng: Random) -> _Scene:
    animal = _happens(rng, 0.25)
    if animal:
        has_passive = _happens(rng, 0.5)
        actions, outdoors = (word_lists.ANIMAL_OBJECT_ACTIONS if has_passive else word_lists.ANIMAL_ACTIONS), True
    else:
        actions = rng.choices(
            (word_lists.INDOOR_ACTIONS, word_lists.OUTDOOR_ACTIONS, word_lists.INTRANSITIVE_ACTIONS), (5, 4, 4)
        )[0]
        has_passive, outdoors = actions is not word_lists.INTRANSITIVE_ACTIONS, actions is not word_lists.INDOOR_ACTIONS
    verbs, complements = rng.choice(actions)
    place = ""
    # The complement of an intransitive action is a place already.
    if has_passive and _happens(rng, 0.45):
        place = _draw_place(rng, outdoors=outdoors)
    verb, complement = rng.choice(verbs), rng.choice(complements)
    return _Scene(
        _draw_participant(rng, animal=animal), verbs, verb, complements, complement, place, has_passive, outdoors
    )


def _draw_place(rng: Random, *, outdoors: bool) -> str:
    return rng.choice(rng.choice(word_lists.OUTDOOR_PLACES if outdoors else word_lists.INDOOR_PLACES))


def _predicate(scene: _Scene, form: str) -> str:
    verb = scene.verb if form == "" else _inflect(scene.verb, form)
    return f"{verb} {scene.complement}"


def _place_suffix(scene: _Scene) -> str:
    return f" {scene.place}" if scene.place else ""


def _copula(scene: _Scene) -> str:
    return "are" if scene.participant.is_plural else "is"


def _progressive_sentence(scene: _Scene) -> str:
    return f"{scene.participant.text()} {_copula(scene)} {_predicate(scene, 'ing')}{_place_suffix(scene)}"


def _definite_sentence(scene: _Scene) -> str:
    return f"{scene.participant.text('the')} {_copula(scene)} {_predicate(scene, 'ing')}{_place_suffix(scene)}"


def _present_sentence(scene: _Scene) -> str:
    form = "" if scene.participant.is_plural else "s"
    return f"{scene.participant.text()} {_predicate(scene, form)}{_place_suffix(scene)}"


def _past_sentence(scene: _Scene) -> str:
    return f"{scene.participant.text()} {_predicate(scene, 'ed')}{_place_suffix(scene)}"


def _noun_phrase(scene: _Scene) -> str:
    return f"{scene.participant.text()} {_predicate(scene, 'ing')}{_place_suffix(scene)}"


def _existential_sentence(scene: _Scene) -> str:
    return f"there {_copula(scene)} {scene.participant.text()} {_predicate(scene, 'ing')}{_place_suffix(scene)}"


def _fronted_sentence(scene: _Scene) -> str:
    if not scene.place:
        return _progressive_sentence(scene)
    return f"{scene.place}, {scene.participant.text()} {_copula(scene)} {_predicate(scene, 'ing')}"


def _passive_sentence(scene: _Scene) -> str:
    if not scene.has_passive or scene.verb.startswith(("run after", "look")):
        return _definite_sentence(scene)
    # Only the part before a preposition becomes the subject.
    split = scene.complement if " of " in scene.complement else _PREPOSITION.sub("\0", scene.complement, count=1)
    head, _, tail = split.partition("\0")
    first = re.split(r" of | on | with ", head)[0]
    many = first.endswith("s") and not first.endswith(_SINGULAR_ENDINGS) and not first.startswith(("a ", "an "))
    many = many or first == "some clothes"
    done = _inflect(scene.verb, "en") + (f" {tail}" if tail else "")
    return f"{head} {'are' if many else 'is'} being {done} by {scene.participant.text()}{_place_suffix(scene)}"


def _negated_sentence(rng: Random, scene: _Scene) -> str:
    participant = scene.participant
    doing = (_predicate(scene, "ing") + _place_suffix(scene)).replace(" some ", " any ")
    negated_copula = "aren't" if participant.is_plural else "isn't"
    noun = _plural(participant.noun) if participant.is_plural else participant.noun
    return rng.choice(
        (
            f"there {_copula(scene)} no {noun} {doing}",
            f"{word_lists.NO_PERSON} is {doing}"
            if not participant.is_animal
            else f"no {noun} {_copula(scene)} {doing}",
            f"{participant.text('the')} {negated_copula} {doing}",
            f"{participant.text()} {_copula(scene)} not {doing}",
        )
    )


def _indefinite_sentence(scene: _Scene) -> str:
    subject = "an animal" if scene.participant.is_animal else "someone"
    return f"{subject} is {_predicate(scene, 'ing')}{_place_suffix(scene)}"


# The first form appears twice, so it is drawn more often.
_PARAPHRASES: tuple[Callable[[_Scene], str], ...] = (
    _progressive_sentence,
    _progressive_sentence,
    _definite_sentence,
    _present_sentence,
    _noun_phrase,
    _existential_sentence,
    _fronted_sentence,
    _passive_sentence,
    _past_sentence,
    _indefinite_sentence,
)


def _vary(rng: Random, scene: _Scene) -> _Scene:  # noqa: PLR0911 - one return per variation
    """Return the scene with one random detail changed."""
    participant, variation = scene.participant, rng.randrange(7)
    if variation == 0:
        verb = rng.choice(scene.verbs)
        return dataclasses.replace(scene, verb=verb)
    if variation == 1:
        return dataclasses.replace(scene, complement=rng.choice(scene.complements))
    if variation == 2:  # noqa: PLR2004 - the number of the branch
        return dataclasses.replace(scene, place=_draw_place(rng, outdoors=scene.outdoors) if scene.has_passive else "")
    if variation == 3:  # noqa: PLR2004
        fresh = _draw_participant(rng, animal=participant.is_animal)
        return dataclasses.replace(
            scene, participant=dataclasses.replace(participant, look=fresh.look, clothes=fresh.clothes)
        )
    if variation == 4 and participant.noun not in _NO_PLURAL:  # noqa: PLR2004
        count = rng.choice(word_lists.NUMBERS) if not participant.is_plural or _happens(rng, 0.5) else "a"
        return dataclasses.replace(scene, participant=dataclasses.replace(participant, count=count))
    if variation == 5:  # noqa: PLR2004
        fresh_scene = _draw_scene(rng)
        if fresh_scene.participant.is_animal == participant.is_animal:
            return dataclasses.replace(fresh_scene, participant=participant)
    noun = _replacement(rng, word_lists.ANIMALS if participant.is_animal else word_lists.PEOPLE, participant.noun, 0.5)
    count = "a" if noun in _NO_PLURAL else participant.count
    look = "" if noun.startswith(("old", "young", "elderly", "small")) else participant.look
    return dataclasses.replace(scene, participant=dataclasses.replace(participant, noun=noun, count=count, look=look))


def _action_group(rng: Random) -> Group:
    base = _draw_scene(rng)
    texts = [_progressive_sentence(base) if _happens(rng, 0.5) else _noun_phrase(base)]
    texts += [form(base) for form in rng.sample(_PARAPHRASES, 2)]
    if _happens(rng, 0.45):
        texts.append(_negated_sentence(rng, base))
    form = rng.choice(_PARAPHRASES[:5])
    for _ in range(rng.randint(1, 4)):
        changed = _vary(rng, base)
        texts.append((form if _happens(rng, 0.6) else rng.choice(_PARAPHRASES))(changed))
    if _happens(rng, 0.1):
        texts.append(shuffle_words(rng, texts[0]))
    return texts


def _pair_group(rng: Random) -> Group:
    """Return texts about two participants, whose roles can be swapped, or about two simultaneous actions."""
    if _happens(rng, 0.5):
        one, two = (
            _draw_participant(rng, animal=_happens(rng, 0.25)),
            _draw_participant(rng, animal=_happens(rng, 0.25)),
        )
        table = word_lists.ANIMAL_INTERACTIONS if one.is_animal or two.is_animal else word_lists.INTERACTIONS
        verbs = rng.choice(table)
        verb = rng.choice(verbs)
        place = f" {_draw_place(rng, outdoors=True)}" if _happens(rng, 0.4) else ""

        def sentence(subject: _Participant, target: _Participant, action: str, place: str = place) -> str:
            copula = "are" if subject.is_plural else "is"
            return f"{subject.text()} {copula} {_inflect(action, 'ing')} {target.text()}{place}"

        passive = f"{two.text()} {'are' if two.is_plural else 'is'} being {_inflect(verb, 'en')} by {one.text()}{place}"
        passives = [] if " " in verb else [passive]
        three = _draw_participant(rng, animal=table is word_lists.ANIMAL_INTERACTIONS and _happens(rng, 0.5))
        pool = [
            sentence(one, two, rng.choice(verbs)),
            sentence(two, one, verb),
            sentence(one, three, verb),
            sentence(three, two, verb),
            sentence(one, two, rng.choice(rng.choice(table))),
            sentence(one, two, verb, ""),
            f"{one.text()} {'are' if one.is_plural else 'is'} not {_inflect(verb, 'ing')} {two.text()}{place}",
            f"{one.text()} and {two.text()}{place}",
            *passives,
        ]
        return [sentence(one, two, verb), *rng.sample(pool, rng.randint(3, 6))]
    first_scene, second_scene = _draw_scene(rng), dataclasses.replace(_draw_scene(rng), place="")
    first, second = _progressive_sentence(first_scene), _progressive_sentence(second_scene)
    first_swapped = _progressive_sentence(dataclasses.replace(second_scene, participant=first_scene.participant))
    second_swapped = _progressive_sentence(dataclasses.replace(first_scene, participant=second_scene.participant))
    pool = [
        f"{second} while {first}",
        f"{first} and {second}",
        f"{_noun_phrase(first_scene)} while {_present_sentence(second_scene)}",
        f"{_progressive_sentence(_vary(rng, first_scene))} while {second}",
        f"{first} while {_progressive_sentence(_vary(rng, second_scene))}",
        f"{first_swapped} while {second_swapped}",
        first,
        second,
        f"{first} and {word_lists.NO_PERSON} is {_predicate(second_scene, 'ing').replace(' some ', ' any ')}",
    ]
    return [f"{first} while {second}", *rng.sample(pool, rng.randint(3, 6))]


def _still_group(rng: Random) -> Group:
    """Return descriptions without an action: of a room, a dish, an animal or a thing."""
    kind = rng.randrange(4)
    if kind == 0:
        room, (one, two, three) = rng.choice(rng.choice(word_lists.ROOMS)), rng.sample(word_lists.FEATURES, 3)
        look = rng.choice(word_lists.ROOM_LOOKS)
        other = _replacement(rng, word_lists.ROOMS, room, 0.4)
        pool = [
            f"a {room} with {two}",
            f"a {look} {room} with {one}",
            f"a {other} with {one}",
            f"a {room} with {one} and {three}",
            f"the {room} has {two} and {one}",
            f"a {room} that has {one}",
            f"there is no one in the {look} {room}",
            f"view of a {room}, {one} and {two}",
            f"{one} and {two} in a {look} {room}",
        ]
        return [f"a {room} with {one} and {two}", *rng.sample(pool, rng.randint(3, 6))]
    if kind == 1:
        dish, food = rng.choice(word_lists.CONTAINERS), rng.choice(rng.choice(word_lists.FOODS))
        side, place = rng.choice(rng.choice(word_lists.FOODS)), _draw_place(rng, outdoors=_happens(rng, 0.3))
        other, other_dish = _replacement(rng, word_lists.FOODS, food, 0.4), rng.choice(word_lists.CONTAINERS)
        pool = [
            f"close-up of a {dish} of {food} and {side}",
            f"a {dish} of {food} {place}",
            f"a {dish} of {other} and {side}",
            f"a {other_dish} of {food} with {side}",
            f"{food} and {side} on a table",
            f"an empty {dish.split()[0]} {place}",
            f"someone is eating {food} with {side} {place}",
            f"{side} and {food} {place}",
            f"a {dish} of {food} with no {side}",
            f"a photo of {food} next to a {other_dish} of {side}",
        ]
        return [f"a {dish} of {food} and {side}", *rng.sample(pool, rng.randint(3, 6))]
    thing = rng.choice(rng.choice(word_lists.THINGS))
    look, other_look = rng.sample(word_lists.THING_LOOKS, 2)
    synonym_sets = word_lists.THINGS
    if kind == 2:  # noqa: PLR2004 - the number of the branch
        thing, synonym_sets = rng.choice(rng.choice(word_lists.ANIMALS)), word_lists.ANIMALS
        look, other_look = rng.choice(word_lists.COATS), rng.choice(word_lists.SIZES)
    place, other_place = _draw_place(rng, outdoors=_happens(rng, 0.8)), _draw_place(rng, outdoors=True)
    if thing in word_lists.LARGE_THINGS:
        place, other_place = rng.choice(word_lists.OPEN_PLACES), rng.choice(word_lists.OPEN_PLACES)
    relation = rng.choice(word_lists.RELATIONS[rng.choice((0, 1))])
    neighbor = f"{rng.choice(word_lists.THING_LOOKS)} {rng.choice(rng.choice(word_lists.THINGS))}"
    number = rng.choice([count for count in word_lists.NUMBERS if count != "some"])
    pool = [
        f"a {other_look} {thing} {place}",
        f"a {look} {_replacement(rng, synonym_sets, thing, 0.5)} {place}",
        f"a {look} {thing} {other_place}",
        f"{number} {look} {_plural(thing)} {place}",
        f"there is a {look} {thing} {place}",
        f"a {look} {thing} {relation} a {neighbor}",
        f"the {thing} {place} is {look}",
        f"there is no {thing} {place}",
        f"a {neighbor} {relation} a {look} {thing}",
        f"a photo of a {look} {thing}",
        f"{place}, a {thing}, {look}",
        f"a {look} {thing} and a {neighbor} {place}",
        f"close-up of a {look} {thing} {place}",
    ]
    return [f"a {look} {thing} {place}", *rng.sample(pool, rng.randint(3, 6))]


def _finish_all(rng: Random, group: Sequence[str], *, stop: bool = True) -> Group:
    """Finish all texts, without those that differ from another one only in case or final stop."""
    distinct = {text.lower().rstrip("."): text for text in (_finish(rng, raw, stop=stop) for raw in group)}
    return list(distinct.values())[:_MAX_GROUP_TEXTS]


def _repeat(make: Callable[[], Group]) -> Iterator[Group]:
    """Yield the groups that are large enough, without end."""
    while True:
        group = make()
        if len(group) >= _MIN_GROUP_TEXTS:
            yield group


def captions(rng: Random, names: Names) -> Iterator[Group]:
    """Yield groups of descriptions of images and short videos."""
    del names  # captions contain no names

    def make() -> Group:
        kind = rng.choices((_action_group, _pair_group, _still_group), (55, 20, 25))[0]
        return _finish_all(rng, kind(rng))

    yield from _repeat(make)


def _surname(rng: Random, names: Names) -> str:
    word = rng.choice(names.rare_words)
    return word[:1].upper() + word[1:]


_RULES: dict[str, Callable[[Random, Names], str]] = {
    "n": lambda r, _: str(r.randint(2, 90)) if _happens(r, 0.7) else r.choice(word_lists.NUMBER_WORDS),
    "big": lambda r, _: f"{r.randint(1, 30)},{r.randint(0, 9)}00",
    "pct": lambda r, _: (
        f"{r.randint(1, 40)}{r.choice(('', '.5', '.2', '.7'))}{r.choice(('%', ' percent', ' per cent'))}"
    ),
    "cash": lambda r, _: (
        f"{r.choice('$£€')}{r.randint(1, 900)}{r.choice((' million', ' million', 'm', ' billion', 'bn'))}"
    ),
    "score": lambda r, _: f"{r.randint(2, 6)}-{r.randint(0, 1)}",
    "age": lambda r, _: str(r.randint(19, 88)),
    "day": lambda r, _: r.choice(word_lists.WEEKDAYS),
    "month": lambda r, _: r.choice(word_lists.MONTHS),
    "year": lambda r, _: str(r.randint(1950, 2024)),
    "hour": lambda r, _: r.choice(
        (
            f"at {r.choice(word_lists.NUMBER_WORDS)} o'clock",
            f"on {r.choice(word_lists.WEEKDAYS)}s",
            "in the evening",
            "before work",
        )
    ),
    "first": lambda r, k: r.choice(k.first_names),
    "place": lambda r, k: r.choice(k.places),
    "word": lambda r, k: r.choice(k.rare_words),
    "surname": _surname,
    "name": lambda r, k: f"{r.choice(k.first_names)} {_surname(r, k)}",
    "company": lambda r, k: f"{_surname(r, k)} {r.choice(word_lists.COMPANY_SUFFIXES)}",
}
_Fill = dict[str, str]


def _draw_value(rng: Random, names: Names, kind: str) -> str:
    rule = _RULES.get(kind)
    value = rule(rng, names) if rule else rng.choice(rng.choice(templates.SLOTS[kind]))
    return _fill_nested(rng, names, value)


def _fill_nested(rng: Random, names: Names, value: str) -> str:
    return _SLOT.sub(lambda m: _RULES[m[1]](rng, names), value) if "{" in value else value


def _render(rng: Random, names: Names, template: str, fill: _Fill) -> str:
    """Fill the slots of a template; values drawn here are added to `fill`."""

    def fill_slot(match: re.Match[str]) -> str:
        kind, digit, form = match.groups()
        key = kind + digit
        if key not in fill:
            value, taken = _draw_value(rng, names, kind), {v for k, v in fill.items() if k.rstrip("0123456789") == kind}
            for _ in range(4):
                if value not in taken:
                    break
                value = _draw_value(rng, names, kind)
            fill[key] = value
        value = fill[key]
        if form is None:
            return value
        if form == "pl":
            bare = re.sub(r"^an? ", "", value)
            return bare if bare == value and kind == "plant" else _plural(bare)
        return value[:1].upper() + value[1:] if form == "cap" else _inflect(value, form)

    return _SLOT.sub(fill_slot, template)


def _template_group(rng: Random, names: Names, template_sets: list[TemplateSet]) -> Group:
    """Return wordings of one template set with one filling, with one slot changed, and its contrasts."""
    wordings, contrasts = rng.choice(template_sets)
    fill: _Fill = {}
    chosen = rng.sample(wordings, min(len(wordings), rng.randint(2, 3)))
    texts = [_render(rng, names, template, fill) for template in chosen]
    texts += [
        _render(rng, names, template, fill)
        for template in rng.sample(contrasts, min(len(contrasts), rng.randint(1, 3)))
    ]
    template = rng.choice(chosen)
    slots = sorted({m[1] + m[2] for m in _SLOT.finditer(template)})
    for slot in rng.sample(slots, min(len(slots), rng.randint(1, 2))):
        kind = slot.rstrip("0123456789")
        value = fill[slot]
        for _ in range(4):
            if value not in fill.values():
                break
            other = (
                _replacement(rng, templates.SLOTS[kind], fill[slot], 0.5)
                if kind in templates.SLOTS
                else _draw_value(rng, names, kind)
            )
            value = _fill_nested(rng, names, other)
        texts.append(_render(rng, names, template, {**fill, slot: value}))
    if _happens(rng, 0.1):
        texts.append(shuffle_words(rng, texts[0]))
    return texts


def headlines(rng: Random, names: Names) -> Iterator[Group]:
    """Yield groups of news headlines and first sentences of news stories."""
    yield from _repeat(lambda: _finish_all(rng, _template_group(rng, names, templates.HEADLINES), stop=False))


def questions(rng: Random, names: Names) -> Iterator[Group]:
    """Yield groups of questions, forum posts and short advice."""

    def make() -> Group:
        group = _template_group(rng, names, templates.QUESTIONS)
        if _happens(rng, 0.8):
            fill: _Fill = {}
            before, after = (_render(rng, names, rng.choice(templates.CONTEXTS), fill) for _ in range(2))
            for i, text in enumerate(group):
                if _happens(rng, 0.7):
                    group[i] = rng.choice((f"{before} {text}", f"{text} {before}", f"{text} {after}"))
        return _finish_all(rng, group, stop=False)

    yield from _repeat(make)


def statements(rng: Random, names: Names) -> Iterator[Group]:
    """Yield groups of opinions, speeches, clauses, narration, definitions and dialogue."""
    yield from _repeat(lambda: _finish_all(rng, _template_group(rng, names, templates.STATEMENTS), stop=False))


def mentions(rng: Random, names: Names) -> Iterator[Group]:
    """Yield groups of short strings that share rare words and names."""

    def make() -> Group:
        group = _template_group(rng, names, templates.MENTIONS)
        if _happens(rng, 0.3):
            pool = [
                rng.choice(rng.choice((names.rare_words, names.first_names, names.places)))
                for _ in range(rng.randint(3, 6))
            ]
            group += [", ".join(pool), ", ".join(reversed(pool)), " ".join(pool[:2]), ", ".join(pool[1:4])]
        # These texts are not capitalized: a list of words starts as its first word does.
        texts = (_ARTICLE.sub(_article, text) for text in group)
        return list(dict.fromkeys(text.lower() if _happens(rng, 0.1) else text for text in texts))[:_MAX_GROUP_TEXTS]

    yield from _repeat(make)


def words(rng: Random, names: Names) -> Iterator[Group]:
    """Yield groups of frequent words: single, with an article or a stop, and in pairs."""

    def make() -> Group:
        first, second, third = rng.sample(names.frequent_words, 3)
        pairs = [f"{first} {second}", f"{second} {first}", f"{first} and {third}", f"{second} or {third}"]
        variants = [rng.choice((f"the {word}", f"a {word}", f"{word}.", word.capitalize())) for word in (first, second)]
        texts = (first, second, third, *variants, *rng.sample(pairs, 2))
        return list(dict.fromkeys(_ARTICLE.sub(_article, text) for text in texts))

    yield from _repeat(make)


def shuffle_words(rng: Random, text: str) -> str:
    """Return the words of a text in random order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def cut_fragment(rng: Random, text: str) -> str:
    """Return two to eight consecutive words of a text."""
    words = text.split()
    size = min(len(words), rng.randint(2, 8))
    start = rng.randint(0, len(words) - size)
    return " ".join(words[start : start + size])
