"""Queries of a few content words out of one caption, and whether a page of hits has a caption with all of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import snowballstemmer

_STOP_WORDS = """
a about above across after all along also an and any are around as at be been before being below beside besides
between both but by can each few for from had has have he her here his i if in into is it its just many more most near
next no nor not of off on one only or other out over own same several she so some such than that the their them then
there these they this those through to too two under until up very was we were what when where which while who with
you
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_STEM = snowballstemmer.stemmer("english").stemWord
_WORD = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The word as the index keeps it: Snowball's English stem."""
    return str(_STEM(word))


def words_of(text: str) -> list[str]:
    """The words of a text, in order, in small letters."""
    return _WORD.findall(text.lower())


def content_queries(captions: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """``count`` queries of 3 to 6 different content words, each of one caption, in the caption's order."""
    generator = random.Random(seed)
    queries: list[str] = []
    while len(queries) < count:
        content = [w for w in dict.fromkeys(words_of(generator.choice(captions))) if w not in STOP_WORDS]
        if len(content) >= 3:
            chosen = sorted(generator.sample(range(len(content)), min(generator.randint(3, 6), len(content))))
            queries.append(" ".join(content[place] for place in chosen))
    return queries


def holds_every_word(captions: Iterable[str], query: str) -> bool:
    """Whether one of the captions has every word of the query after stemming."""
    wanted = {stem(word) for word in words_of(query)}
    return any(wanted <= {stem(word) for word in words_of(caption)} for caption in captions)
