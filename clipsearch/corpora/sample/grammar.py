"""A small compositional grammar: what a scene shows -> five different captions in plain English."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

CAPTIONS = 5

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_PLURALS = {"bus": "buses", "church": "churches", "beach": "beaches", "bush": "bushes", "sea": "sea"}
_MASS = frozenset({"sand", "snow", "farmland"})
_PREPOSITIONS = ("next to", "near", "beside", "close to", "on", "at", "among")


@dataclass(frozen=True, slots=True)
class Thing:
    """Some objects of one kind: how many, what they look like, what they do (``parked``) and where."""

    noun: str
    count: int = 1
    adjective: str = ""
    doing: str = ""
    place: str = ""


@dataclass(slots=True)
class Facts:
    """What was drawn.

    ``names``: ways to call the scene, without article, the usual one first; ``around``: phrases about what
    lies around it; ``inside``: how its things relate to it (``in`` an airport, ``near`` a bridge).
    """

    names: tuple[str, ...]
    things: list[Thing]
    around: list[str] = field(default_factory=list)
    inside: str = "in"


def captions(facts: Facts, rng: np.random.Generator) -> list[str]:
    """Write ``CAPTIONS`` different captions; at least three of them name the scene.

    The same facts give many different sentences: quantities are exact or vague, adjectives and places come
    and go.
    """
    named = [_there_is, _scene_with, _things_in_scene, _scene_around, _two_things_scene, _seen_from_above]
    free = [_things_doing, _two_things]
    chosen = [named[i] for i in rng.permutation(len(named))[:3]]
    rest = free + [named[i] for i in rng.permutation(len(named))]
    found: list[str] = []
    for template in (chosen + rest) * 6:
        sentence = " ".join(template(facts, rng).split())
        if sentence not in found:
            found.append(sentence)
        if len(found) == CAPTIONS:
            break
    return [found[i] for i in rng.permutation(len(found))]


def article(phrase: str) -> str:
    """Put ``a`` or ``an`` before a phrase that can be counted."""
    if phrase in _MASS:
        return phrase
    return f"{'an' if phrase[:1] in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of a noun phrase whose last word is its head: ``tennis court`` -> ``tennis courts``,
    ``row of cars`` -> ``rows of cars``."""
    noun, of, rest = noun.partition(" of ")
    head, last = noun.rpartition(" ")[::2]
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}{of}{rest}".strip()


def noun_phrase(thing: Thing, rng: np.random.Generator, *, adjective: bool = True) -> str:
    """``a white plane``, ``three planes``, ``many planes``: without what they do and where."""
    noun = f"{thing.adjective if adjective else ''} {thing.noun}".strip()
    if thing.noun.rpartition(" ")[2] in _MASS:
        return noun
    if thing.count == 1:
        return article(noun)
    return f"{_quantity(thing.count, rng)} {plural(noun)}"


def _quantity(count: int, rng: np.random.Generator) -> str:
    if count in _NUMBERS and (count < 4 or rng.random() < 0.5):
        return _NUMBERS[count]
    if count <= 7:
        return _pick(("several", "some"), rng)
    return _pick(("many", "many", "lots of", "dozens of") if count > 20 else ("many", "several", "a lot of"), rng)


def _pick(options: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _name(facts: Facts, rng: np.random.Generator) -> str:
    return facts.names[0] if rng.random() < 0.7 else _pick(facts.names, rng)


def _thing(facts: Facts, rng: np.random.Generator, name: str = "") -> Thing | None:
    """A thing that the scene's name does not already say; the first one is what the picture is about."""
    fresh = [thing for thing in facts.things if thing.noun not in name]
    if not fresh:
        return None
    return fresh[0 if rng.random() < 0.5 else int(rng.integers(len(fresh)))]


def _around(facts: Facts, rng: np.random.Generator, chance: float = 1.0) -> str:
    return _pick(facts.around, rng) if facts.around and rng.random() < chance else ""


def _phrase(thing: Thing, rng: np.random.Generator) -> str:
    return noun_phrase(thing, rng, adjective=rng.random() < 0.8)


def _there_is(facts: Facts, rng: np.random.Generator) -> str:
    return f"there is {article(_name(facts, rng))} {_around(facts, rng)}"


def _scene_with(facts: Facts, rng: np.random.Generator) -> str:
    name = _name(facts, rng)
    thing = _thing(facts, rng, name)
    if thing is None or " with " in name:
        return _there_is(facts, rng)
    return f"{article(name)} with {_phrase(thing, rng)} {_around(facts, rng, 0.4)}"


def _things_in_scene(facts: Facts, rng: np.random.Generator) -> str:
    name = _name(facts, rng)
    thing = _thing(facts, rng, name)
    return f"{_phrase(thing, rng)} {_is(thing)} {facts.inside} the {name}" if thing else _there_is(facts, rng)


def _scene_around(facts: Facts, rng: np.random.Generator) -> str:
    around = _around(facts, rng)
    if not around:
        return _scene_with(facts, rng)
    located = around.startswith(_PREPOSITIONS)
    verb = _pick(("is", "lies", "is located") if located else ("is", "lies"), rng)
    if around.startswith("with"):
        return f"{article(_name(facts, rng))} {around}"
    return f"the {_name(facts, rng)} {verb} {around}"


def _two_things_scene(facts: Facts, rng: np.random.Generator) -> str:
    name = _name(facts, rng)
    fresh = [thing for thing in facts.things if thing.noun not in name]
    if len(fresh) < 2 or " with " in name:
        return _scene_with(facts, rng)
    a, b = (fresh[i] for i in rng.permutation(len(fresh))[:2])
    return f"{article(name)} with {_phrase(a, rng)} and {_phrase(b, rng)}"


def _seen_from_above(facts: Facts, rng: np.random.Generator) -> str:
    view = _pick(("an aerial view of", "a satellite view of", "this is", "we can see"), rng)
    return f"{view} {article(_name(facts, rng))} {_around(facts, rng, 0.6)}"


def _things_doing(facts: Facts, rng: np.random.Generator) -> str:
    thing = _thing(facts, rng)
    if thing is None or not (thing.place or thing.doing):
        return _things_in_scene(facts, rng)
    return f"{_phrase(thing, rng)} {_is(thing)} {thing.doing} {thing.place or _around(facts, rng)}"


def _two_things(facts: Facts, rng: np.random.Generator) -> str:
    if len(facts.things) < 2:
        return _things_doing(facts, rng)
    a, b = (facts.things[i] for i in rng.permutation(len(facts.things))[:2])
    verb = _pick(("near", "next to", "beside", "close to"), rng)
    return f"{_phrase(a, rng)} {verb} {_phrase(b, rng)}"


def _is(thing: Thing) -> str:
    mass = thing.noun.rpartition(" ")[2] in _MASS
    return "is" if thing.count == 1 or mass else "are"
