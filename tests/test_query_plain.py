"""Plain words are read without a parser, and mean what the parser makes of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from clipsearch.engine.query import simple
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.simple import Names, parse_user_input

WORDS = [
    "and",
    "or",
    "OR",
    "AND",
    "not",
    "NOT",
    "near",
    "a",
    "rank",
    "andnot",
    "captions",
    "label",
    "X",
    "true",
    "null",
]
NAMES = Names(frozenset({"captions", "label"}), {"label": None})


def test_plain_words_are_what_the_parser_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    options = q.Options()
    plain = simple._PLAIN
    for _ in range(300):
        text = " ".join(random.choice(WORDS, random.integers(1, 6)))
        found = []
        for pattern in (plain, re.compile("(?!)")):
            monkeypatch.setattr(simple, "_PLAIN", pattern)
            tree = parse_user_input(text, "weakAnd", "default", options, {"targetHits": 7}, NAMES)
            assert tree is not None
            found.append((str(tree), [(type(node), getattr(node, "options", None)) for node in tree.walk()]))
        assert found[0] == found[1]
