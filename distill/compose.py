"""Composed everyday English: endless families of closely related texts for distillation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random

from distill import frames as fr
from distill import lexicon as lx
from distill.families import Family


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """Proper names, rare words and usual words, given by the caller."""

    first: Sequence[str]
    places: Sequence[str]
    words: Sequence[str]
    usual: Sequence[str]


_ARTICLE = re.compile(r"\b([Aa])n? (?=[\"'(]?(\w+))")
_AN_AS_CONSONANT = re.compile(r"(?:uni|use|usu|eur|ewe|uku|one|once|uten|uk\b)", re.IGNORECASE)
_AN_ANYWAY = re.compile(r"(?:hour|honest|heir|honou?r|8\d*|11\b|18\b)", re.IGNORECASE)
_SLOT = re.compile(r"\{([a-z]+)(\d?)(?:>(\w+))?\}")
_PREPOSITION = re.compile(r" (?=(?:into|onto|in|on|to|over|from|off|with|through|of)\b)")
_PLURALS = {"people": "people", "child": "children", "person": "people", "mouse": "mice", "goose": "geese"}
_SAME_PLURAL = ("sheep", "deer", "bison", "moose", "elk", "fish", "buffalo", "clothes", "dice")
_SINGULAR_IN_S = ("ss", "us")
_ALONE = {"couple", "pair"}
_PLURAL_WEAR = {"shorts", "jeans", "gloves", "boots", "sunglasses"}
_DOUBLING = {"begin", "forget", "quit", "split", "unwrap", "pedal", "travel", "shovel"}
_LOWER, _BARE = 0.08, 0.16
_SHORTEST, _LONGEST = 4, 8


def _chance(rng: Random, p: float) -> bool:
    return rng.random() < p


def _article(match: re.Match[str]) -> str:
    word = match[2]
    vowel = word[0] in "aeiouAEIOU"
    if _AN_AS_CONSONANT.match(word):
        vowel = False
    elif _AN_ANYWAY.match(word):
        vowel = True
    return f"{match[1]}n " if vowel else f"{match[1]} "


def _finish(rng: Random, text: str, *, stop: bool = True) -> str:
    """Mends a/an, sets the first letter, and now and then drops case and full stop."""
    text = _ARTICLE.sub(_article, text)
    text = text[:1].upper() + text[1:]
    if stop and text[-1] not in '.?!"':
        text += "."
    draw = rng.random()
    if draw < _BARE:
        text = text.rstrip(".")
    return text.lower() if draw < _LOWER else text


@cache
def _inflect(phrase: str, form: str) -> str:
    """Inflects the first word of a verb phrase: `s`, `ing`, `ed` or `en`."""
    verb, space, rest = phrase.partition(" ")
    if form == "s":
        out = _third(verb)
    elif form == "ing":
        out = _progressive(verb)
    elif verb in lx.IRREGULAR:
        out = lx.IRREGULAR[verb][form == "en"]
    elif verb.endswith("e"):
        out = verb + "d"
    elif re.search(r"[^aeiou]y$", verb):
        out = verb[:-1] + "ied"
    else:
        out = _doubled(verb) + "ed"
    return out + space + rest


def _third(verb: str) -> str:
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
    return _doubled(verb) + "ing"


def _doubled(verb: str) -> str:
    if verb in _DOUBLING or re.match(r"[^aeiou]*[aeiou][^aeiouwxy]$", verb):
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
    elif last not in _SAME_PLURAL:
        last = _third(last) if not last.endswith("o") else last + "s"
    return start + space + last


def _other(rng: Random, groups: list[list[str]], word: str, near: float) -> str:
    """Another word for `word`: of its own group with chance `near`, else of any group."""
    if _chance(rng, near):
        for group in groups:
            if word in group and len(group) > 1:
                return rng.choice([w for w in group if w != word])
    return rng.choice(rng.choice(groups))


@dataclasses.dataclass(frozen=True, slots=True)
class _Who:
    noun: str
    look: str
    count: str
    wear: str
    animal: bool

    @property
    def plural(self) -> bool:
        return self.count != "a"

    def text(self, det: str = "") -> str:
        noun = _plural(self.noun) if self.plural else self.noun
        parts = [det or self.count, self.look, noun]
        wear = self.wear
        if wear.startswith("in a ") and self.plural:
            wear = " ".join(("in", _plural(wear.removeprefix("in a "))))
        return " ".join(p for p in (*parts, wear) if p)


@dataclasses.dataclass(frozen=True, slots=True)
class _Scene:
    who: _Who
    verbs: list[str]
    verb: str
    objects: list[str]
    obj: str
    place: str
    passive: bool
    outdoors: bool


def _who(rng: Random, *, animal: bool) -> _Who:
    noun = rng.choice(rng.choice(lx.ANIMALS if animal else lx.PEOPLE))
    single = _chance(rng, 0.72) or noun in _ALONE
    look = wear = ""
    if _chance(rng, 0.35) and not noun.startswith(("old", "young", "elderly", "small")):
        look = rng.choice(rng.choice((lx.FUR, lx.SIZE)) if animal else lx.LOOKS)
    if not animal and _chance(rng, 0.25):
        clothes = rng.choice(lx.CLOTHES)
        wear = f"in {'' if clothes in _PLURAL_WEAR else 'a '}{rng.choice(lx.COLOURS)} {clothes}"
    return _Who(noun, look, "a" if single else rng.choice(lx.NUMBERS), wear, animal)


def _scene(rng: Random) -> _Scene:
    animal = _chance(rng, 0.25)
    if animal:
        passive = _chance(rng, 0.5)
        table, outdoors = (lx.ANIMAL_OBJ if passive else lx.ANIMAL_DO), True
    else:
        table = rng.choices((lx.DO_IN, lx.DO_OUT, lx.BE_ANY), (5, 4, 4))[0]
        passive, outdoors = table is not lx.BE_ANY, table is not lx.DO_IN
    verbs, objects = rng.choice(table)
    place = ""
    # An intransitive action carries a place of its own.
    if passive and _chance(rng, 0.45):
        place = _place(rng, outdoors=outdoors)
    verb, obj = rng.choice(verbs), rng.choice(objects)
    return _Scene(_who(rng, animal=animal), verbs, verb, objects, obj, place, passive, outdoors)


def _place(rng: Random, *, outdoors: bool) -> str:
    return rng.choice(rng.choice(lx.PLACES_OUT if outdoors else lx.PLACES_IN))


def _does(s: _Scene, form: str) -> str:
    verb = s.verb if form == "" else _inflect(s.verb, form)
    return f"{verb} {s.obj}"


def _at(s: _Scene) -> str:
    return f" {s.place}" if s.place else ""


def _be(s: _Scene) -> str:
    return "are" if s.who.plural else "is"


def _is_doing(s: _Scene) -> str:
    return f"{s.who.text()} {_be(s)} {_does(s, 'ing')}{_at(s)}"


def _the_doing(s: _Scene) -> str:
    return f"{s.who.text('the')} {_be(s)} {_does(s, 'ing')}{_at(s)}"


def _present(s: _Scene) -> str:
    return f"{s.who.text()} {_does(s, '' if s.who.plural else 's')}{_at(s)}"


def _past(s: _Scene) -> str:
    return f"{s.who.text()} {_does(s, 'ed')}{_at(s)}"


def _bare(s: _Scene) -> str:
    return f"{s.who.text()} {_does(s, 'ing')}{_at(s)}"


def _there(s: _Scene) -> str:
    return f"there {_be(s)} {s.who.text()} {_does(s, 'ing')}{_at(s)}"


def _fronted(s: _Scene) -> str:
    return f"{s.place}, {s.who.text()} {_be(s)} {_does(s, 'ing')}" if s.place else _is_doing(s)


def _passive(s: _Scene) -> str:
    if not s.passive or s.verb.startswith(("run after", "look")):
        return _the_doing(s)
    head, _, tail = (_PREPOSITION.sub("\0", s.obj, count=1) if " of " not in s.obj else s.obj).partition("\0")
    first = re.split(r" of | on | with ", head)[0]
    many = first.endswith("s") and not first.endswith(_SINGULAR_IN_S) and not first.startswith(("a ", "an "))
    many = many or first == "some clothes"
    done = _inflect(s.verb, "en") + (f" {tail}" if tail else "")
    return f"{head} {'are' if many else 'is'} being {done} by {s.who.text()}{_at(s)}"


def _negated(rng: Random, s: _Scene) -> str:
    who = s.who
    doing = (_does(s, "ing") + _at(s)).replace(" some ", " any ")
    isnt = "aren't" if who.plural else "isn't"
    noun = _plural(who.noun) if who.plural else who.noun
    return rng.choice(
        (
            f"there {_be(s)} no {noun} {doing}",
            f"nobody is {doing}" if not who.animal else f"no {noun} {_be(s)} {doing}",
            f"{who.text('the')} {isnt} {doing}",
            f"{who.text()} {_be(s)} not {doing}",
        )
    )


def _someone(s: _Scene) -> str:
    return f"{'an animal' if s.who.animal else 'someone'} is {_does(s, 'ing')}{_at(s)}"


_SAME: tuple[Callable[[_Scene], str], ...] = (
    _is_doing, _is_doing, _the_doing, _present, _bare, _there, _fronted, _passive, _past, _someone,
)  # fmt: skip


def _changed(rng: Random, s: _Scene) -> _Scene:  # noqa: PLR0911 - a return for each change
    """The same scene with one thing changed."""
    who, what = s.who, rng.randrange(7)
    if what == 0:
        verb = rng.choice(s.verbs)
        return dataclasses.replace(s, verb=verb)
    if what == 1:
        return dataclasses.replace(s, obj=rng.choice(s.objects))
    if what == 2:  # noqa: PLR2004 - the branch's number
        return dataclasses.replace(s, place=_place(rng, outdoors=s.outdoors) if s.passive else "")
    if what == 3:  # noqa: PLR2004
        fresh = _who(rng, animal=who.animal)
        return dataclasses.replace(s, who=dataclasses.replace(who, look=fresh.look, wear=fresh.wear))
    if what == 4 and who.noun not in _ALONE:  # noqa: PLR2004
        count = rng.choice(lx.NUMBERS) if not who.plural or _chance(rng, 0.5) else "a"
        return dataclasses.replace(s, who=dataclasses.replace(who, count=count))
    if what == 5:  # noqa: PLR2004
        fresh_scene = _scene(rng)
        if fresh_scene.who.animal == who.animal:
            return dataclasses.replace(fresh_scene, who=who)
    noun = _other(rng, lx.ANIMALS if who.animal else lx.PEOPLE, who.noun, 0.5)
    count = "a" if noun in _ALONE else who.count
    look = "" if noun.startswith(("old", "young", "elderly", "small")) else who.look
    return dataclasses.replace(s, who=dataclasses.replace(who, noun=noun, count=count, look=look))


def _action_family(rng: Random) -> Family:
    base = _scene(rng)
    out = [_is_doing(base) if _chance(rng, 0.5) else _bare(base)]
    out += [form(base) for form in rng.sample(_SAME, 2)]
    if _chance(rng, 0.45):
        out.append(_negated(rng, base))
    form = rng.choice(_SAME[:5])
    for _ in range(rng.randint(1, 4)):
        changed = _changed(rng, base)
        out.append((form if _chance(rng, 0.6) else rng.choice(_SAME))(changed))
    if _chance(rng, 0.1):
        out.append(shuffled(rng, out[0]))
    return out


_BEASTLY = lx.groups(
    "chase/run after/follow|watch/look at|sit next to/sit beside|stand behind|walk towards/approach|walk past|play with"
)


def _pair_family(rng: Random) -> Family:
    """Two parties, so that roles can be swapped, or two actions at once."""
    if _chance(rng, 0.5):
        one, two = _who(rng, animal=_chance(rng, 0.25)), _who(rng, animal=_chance(rng, 0.25))
        table = _BEASTLY if one.animal or two.animal else lx.INTERACT
        group = rng.choice(table)
        verb = rng.choice(group)
        place = f" {_place(rng, outdoors=True)}" if _chance(rng, 0.4) else ""

        def act(x: _Who, y: _Who, v: str, place: str = place) -> str:
            return f"{x.text()} {'are' if x.plural else 'is'} {_inflect(v, 'ing')} {y.text()}{place}"

        done = f"{two.text()} {'are' if two.plural else 'is'} being {_inflect(verb, 'en')} by {one.text()}{place}"
        passive = [] if " " in verb else [done]
        three = _who(rng, animal=table is _BEASTLY and _chance(rng, 0.5))
        pool = [
            act(one, two, rng.choice(group)),
            act(two, one, verb),
            act(one, three, verb),
            act(three, two, verb),
            act(one, two, rng.choice(rng.choice(table))),
            act(one, two, verb, ""),
            f"{one.text()} {'are' if one.plural else 'is'} not {_inflect(verb, 'ing')} {two.text()}{place}",
            f"{one.text()} and {two.text()}{place}",
            *passive,
        ]
        return [act(one, two, verb), *rng.sample(pool, rng.randint(3, 6))]
    one_s, two_s = _scene(rng), dataclasses.replace(_scene(rng), place="")
    first, second = _is_doing(one_s), _is_doing(two_s)
    swapped = _is_doing(dataclasses.replace(two_s, who=one_s.who))
    pool = [
        f"{second} while {first}",
        f"{first} and {second}",
        f"{_bare(one_s)} while {_present(two_s)}",
        f"{_is_doing(_changed(rng, one_s))} while {second}",
        f"{first} while {_is_doing(_changed(rng, two_s))}",
        f"{swapped} while {_is_doing(dataclasses.replace(one_s, who=two_s.who))}",
        first,
        second,
        f"{first} and nobody is {_does(two_s, 'ing').replace(' some ', ' any ')}",
    ]
    return [f"{first} while {second}", *rng.sample(pool, rng.randint(3, 6))]


_LARGE = {t for group in lx.THINGS for t in group if group in lx.THINGS[:16]} | set(
    lx.items("statue|church|house|cottage|tower|castle|barn|bridge|lighthouse|windmill|fountain|tree|fire hydrant")
)
_ROOM_LOOKS = lx.items("old|new|small|large|empty|dirty|colourful|modern|tidy|bright|dark|messy|cosy")
_ROOMY = [
    place
    for group in lx.PLACES_OUT
    for place in group
    if place.startswith(("near ", "beside ", "by ", "in a ", "in the ", "next to ", "outside ", "at "))
    and not place.startswith(("at a bus", "in a backyard", "at a camp", "in a canyon", "in a skate"))
]


def _still_family(rng: Random) -> Family:
    """Descriptions without an action: a thing or animal somewhere, a dish, a room."""
    kind = rng.randrange(4)
    if kind == 0:
        room, (one, two, three) = rng.choice(rng.choice(lx.ROOMS)), rng.sample(lx.FEATURES, 3)
        look = rng.choice(_ROOM_LOOKS)
        other = _other(rng, lx.ROOMS, room, 0.4)
        pool = [
            f"a {room} with {two}",
        f"a {look} {room} with {one}",
        f"a {other} with {one}",
        f"a {room} with {one} and {three}",
            f"the {room} has {two} and {one}", f"a {room} that has {one}", f"there is no one in the {look} {room}",
            f"view of a {room}, {one} and {two}", f"{one} and {two} in a {look} {room}",
        ]  # fmt: skip
        return [f"a {room} with {one} and {two}", *rng.sample(pool, rng.randint(3, 6))]
    if kind == 1:
        dish, food = rng.choice(lx.DISHES), rng.choice(rng.choice(lx.FOODS))
        side, place = rng.choice(rng.choice(lx.FOODS)), _place(rng, outdoors=_chance(rng, 0.3))
        other, dish2 = _other(rng, lx.FOODS, food, 0.4), rng.choice(lx.DISHES)
        pool = [
            f"close-up of a {dish} of {food} and {side}",
        f"a {dish} of {food} {place}",
        f"a {dish} of {other} and {side}",
            f"a {dish2} of {food} with {side}", f"{food} and {side} on a table", f"an empty {dish.split()[0]} {place}",
            f"someone is eating {food} with {side} {place}", f"{side} and {food} {place}",
            f"a {dish} of {food} with no {side}", f"a photo of {food} next to a {dish2} of {side}",
        ]  # fmt: skip
        return [f"a {dish} of {food} and {side}", *rng.sample(pool, rng.randint(3, 6))]
    thing = rng.choice(rng.choice(lx.THINGS))
    look, look2 = rng.sample(lx.THING_LOOKS, 2)
    groups = lx.THINGS
    if kind == 2:  # noqa: PLR2004 - the branch's number
        thing, groups = rng.choice(rng.choice(lx.ANIMALS)), lx.ANIMALS
        look, look2 = rng.choice(lx.FUR), rng.choice(lx.SIZE)
    place, place2 = _place(rng, outdoors=_chance(rng, 0.8)), _place(rng, outdoors=True)
    if thing in _LARGE:
        place, place2 = rng.choice(_ROOMY), rng.choice(_ROOMY)
    relation = rng.choice(lx.RELATIONS[rng.choice((0, 1))])
    beside = f"{rng.choice(lx.THING_LOOKS)} {rng.choice(rng.choice(lx.THINGS))}"
    number = rng.choice([n for n in lx.NUMBERS if n != "some"])
    pool = [
        f"a {look2} {thing} {place}",
        f"a {look} {_other(rng, groups, thing, 0.5)} {place}",
        f"a {look} {thing} {place2}",
        f"{number} {look} {_plural(thing)} {place}", f"there is a {look} {thing} {place}",
        f"a {look} {thing} {relation} a {beside}", f"the {thing} {place} is {look}", f"there is no {thing} {place}",
        f"a {beside} {relation} a {look} {thing}", f"a photo of a {look} {thing}", f"{place}, a {thing}, {look}",
        f"a {look} {thing} and a {beside} {place}", f"close-up of a {look} {thing} {place}",
    ]  # fmt: skip
    return [f"a {look} {thing} {place}", *rng.sample(pool, rng.randint(3, 6))]


def _cleaned(rng: Random, family: Sequence[str], *, stop: bool = True) -> Family:
    """Finished texts, without those that differ from another in case or full stop alone."""
    kept = {text.lower().rstrip("."): text for text in (_finish(rng, t, stop=stop) for t in family)}
    return list(kept.values())[:_LONGEST]


def _families(make: Callable[[], Family]) -> Iterator[Family]:
    while True:
        family = make()
        if len(family) >= _SHORTEST:
            yield family


def captions(rng: Random, names: Names) -> Iterator[Family]:
    """Families of image and short-video descriptions."""
    del names  # captions name nobody

    def make() -> Family:
        kind = rng.choices((_action_family, _pair_family, _still_family), (55, 20, 25))[0]
        return _cleaned(rng, kind(rng))

    yield from _families(make)


_DAYS = lx.items("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday")
_MONTHS = lx.items("January|February|March|April|May|June|July|August|September|October|November|December")
_FIRM = lx.items(
    "Holdings|Group|Industries|Energy|Foods|Bank|Motors|Systems|Airlines|Pharma|Media|& Sons|Partners|Labs|Steel"
)
_SMALL = lx.items("two|three|four|five|six|seven|eight|nine|ten|eleven|twelve")


def _surname(rng: Random, names: Names) -> str:
    word = rng.choice(names.words)
    return word[:1].upper() + word[1:]


_RULES: dict[str, Callable[[Random, Names], str]] = {
    "n": lambda r, _: str(r.randint(2, 90)) if _chance(r, 0.7) else r.choice(_SMALL),
    "big": lambda r, _: f"{r.randint(1, 30)},{r.randint(0, 9)}00",
    "pct": lambda r, _: (
        f"{r.randint(1, 40)}{r.choice(('', '.5', '.2', '.7'))}{r.choice(('%', ' percent', ' per cent'))}"
    ),
    "cash": lambda r, _: (
        f"{r.choice('$£€')}{r.randint(1, 900)}{r.choice((' million', ' million', 'm', ' billion', 'bn'))}"
    ),
    "score": lambda r, _: f"{r.randint(2, 6)}-{r.randint(0, 1)}",
    "age": lambda r, _: str(r.randint(19, 88)),
    "day": lambda r, _: r.choice(_DAYS),
    "month": lambda r, _: r.choice(_MONTHS),
    "year": lambda r, _: str(r.randint(1950, 2024)),
    "hour": lambda r, _: r.choice(
        (f"at {r.choice(_SMALL)} o'clock", f"on {r.choice(_DAYS)}s", "in the evening", "before work")
    ),
    "first": lambda r, k: r.choice(k.first),
    "place": lambda r, k: r.choice(k.places),
    "word": lambda r, k: r.choice(k.words),
    "surname": _surname,
    "name": lambda r, k: f"{r.choice(k.first)} {_surname(r, k)}",
    "company": lambda r, k: f"{_surname(r, k)} {r.choice(_FIRM)}",
}
_Fill = dict[str, str]


def _value(rng: Random, names: Names, kind: str) -> str:
    rule = _RULES.get(kind)
    value = rule(rng, names) if rule else rng.choice(rng.choice(fr.SLOTS[kind]))
    return _nested(rng, names, value)


def _nested(rng: Random, names: Names, value: str) -> str:
    return _SLOT.sub(lambda m: _RULES[m[1]](rng, names), value) if "{" in value else value


def _render(rng: Random, names: Names, frame: str, fill: _Fill) -> str:
    def put(match: re.Match[str]) -> str:
        kind, digit, form = match.groups()
        key = kind + digit
        if key not in fill:
            value, taken = _value(rng, names, kind), {v for k, v in fill.items() if k.rstrip("0123456789") == kind}
            for _ in range(4):
                if value not in taken:
                    break
                value = _value(rng, names, kind)
            fill[key] = value
        value = fill[key]
        if form is None:
            return value
        if form == "pl":
            bare = re.sub(r"^an? ", "", value)
            return bare if bare == value and kind == "plant" else _plural(bare)
        return value[:1].upper() + value[1:] if form == "cap" else _inflect(value, form)

    return _SLOT.sub(put, frame)


def _framed(rng: Random, names: Names, frames: list[tuple[list[str], list[str]]]) -> Family:
    """A frame's wordings with one filling, with one slot changed, and its opposites."""
    same, other = rng.choice(frames)
    fill: _Fill = {}
    wordings = rng.sample(same, min(len(same), rng.randint(2, 3)))
    out = [_render(rng, names, frame, fill) for frame in wordings]
    out += [_render(rng, names, frame, fill) for frame in rng.sample(other, min(len(other), rng.randint(1, 3)))]
    frame = rng.choice(wordings)
    slots = sorted({m[1] + m[2] for m in _SLOT.finditer(frame)})
    for slot in rng.sample(slots, min(len(slots), rng.randint(1, 2))):
        kind = slot.rstrip("0123456789")
        value = fill[slot]
        for _ in range(4):
            if value not in fill.values():
                break
            near = _other(rng, fr.SLOTS[kind], fill[slot], 0.5) if kind in fr.SLOTS else _value(rng, names, kind)
            value = _nested(rng, names, near)
        out.append(_render(rng, names, frame, {**fill, slot: value}))
    if _chance(rng, 0.1):
        out.append(shuffled(rng, out[0]))
    return out


def headlines(rng: Random, names: Names) -> Iterator[Family]:
    """Families of news headlines and first sentences of news stories."""
    yield from _families(lambda: _cleaned(rng, _framed(rng, names, fr.HEADLINES), stop=False))


def questions(rng: Random, names: Names) -> Iterator[Family]:
    """Families of questions, forum posts and short advice."""

    def make() -> Family:
        family = _framed(rng, names, fr.QUESTIONS)
        if _chance(rng, 0.8):
            fill: _Fill = {}
            before, after = (_render(rng, names, rng.choice(fr.CONTEXTS), fill) for _ in range(2))
            for i, text in enumerate(family):
                if _chance(rng, 0.7):
                    family[i] = rng.choice((f"{before} {text}", f"{text} {before}", f"{text} {after}"))
        return _cleaned(rng, family, stop=False)

    yield from _families(make)


def statements(rng: Random, names: Names) -> Iterator[Family]:
    """Families of opinions, speeches, clauses, narration, definitions and turns of talk."""
    yield from _families(lambda: _cleaned(rng, _framed(rng, names, fr.STATEMENTS), stop=False))


def mentions(rng: Random, names: Names) -> Iterator[Family]:
    """Families of short strings that share rare words and names."""

    def make() -> Family:
        family = _framed(rng, names, fr.MENTIONS)
        if _chance(rng, 0.3):
            pool = [rng.choice(rng.choice((names.words, names.first, names.places))) for _ in range(rng.randint(3, 6))]
            family += [", ".join(pool), ", ".join(reversed(pool)), " ".join(pool[:2]), ", ".join(pool[1:4])]
        # No capital is forced on them: a list of words begins as its words do.
        texts = (_ARTICLE.sub(_article, text) for text in family)
        return list(dict.fromkeys(t.lower() if _chance(rng, 0.1) else t for t in texts))[:_LONGEST]

    yield from _families(make)


def words(rng: Random, names: Names) -> Iterator[Family]:
    """Families of usual words, each alone, in its smallest dress, and beside another."""

    def make() -> Family:
        first, second, third = rng.sample(names.usual, 3)
        pairs = [f"{first} {second}", f"{second} {first}", f"{first} and {third}", f"{second} or {third}"]
        dressed = [rng.choice((f"the {word}", f"a {word}", f"{word}.", word.capitalize())) for word in (first, second)]
        texts = (first, second, third, *dressed, *rng.sample(pairs, 2))
        return list(dict.fromkeys(_ARTICLE.sub(_article, text) for text in texts))

    yield from _families(make)


def shuffled(rng: Random, text: str) -> str:
    """The words of a text in another order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def fragment(rng: Random, text: str) -> str:
    """A run of two to eight words of a text."""
    words = text.split()
    size = min(len(words), rng.randint(2, 8))
    start = rng.randint(0, len(words) - size)
    return " ".join(words[start : start + size])
