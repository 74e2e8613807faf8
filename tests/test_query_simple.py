"""The simple query syntax: Vespa's own cases, and what people type."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from clipsearch.engine.query.simple import Names, parse_user_input
from clipsearch.engine.query.tree import Options
from clipsearch.errors import QueryError

# Fields that Vespa's test configuration makes uri, host, exact or phrase-segmented fields: refused in user input.
SPECIAL = frozenset({"site", "url.all", "host.all", "testexact1", "testexact2", "phraseSegment", "str_map"})


def test_recorded_user_input_is_parsed_as_recorded_or_refused_by_name(shared: Path) -> None:
    cases = json.loads((shared / "vespa/cases/user_input.json").read_text(encoding="utf-8"))
    known = {name for case in cases for name in re.findall(r"([A-Za-z_][\w.]*):", case["expected_tree"] or "")}
    names = Names(frozenset(known | {"normal"}), SPECIAL)
    counts: Counter[str] = Counter()
    for case in cases:
        if len(case["extra"]) > 1:  # the request parameter `filter`, which the handler refuses, or a language
            counts["refused"] += 1
            continue
        grammar = case["extra"][-1].rpartition(".")[2]
        try:
            found = parse_user_input(case["query"] or "", grammar, "", Options(), None, names)
        except QueryError as error:
            counts["refused" if "not supported" in str(error) else str(error)] += 1
            continue
        got = None if found is None else str(found)
        assert got == case["expected_tree"], (grammar, case["query"])
        counts["answered"] += 1
    assert counts == {"answered": 131, "refused": 100}


@pytest.mark.parametrize(
    ("text", "grammar", "expected"),
    [
        ("storage tanks", "weakAnd", "WEAKAND storage tanks"),
        ("a river with a bridge", "all", "AND a river with a bridge"),
        ("black-and-white roof", "weakAnd", "WEAKAND (AND black and white) roof"),
        ('"tennis court" -green', "weakAnd", '+(WEAKAND "tennis court") -green'),
        ("label:airport runway", "any", "OR label:airport runway"),
        ("14:30 runway", "any", "OR (AND 14 30) runway"),
        ("near the sea", "phrase", '"near the sea"'),
        ("+must maybe", "any", "RANK must maybe"),
        ("two words", "raw", "two words"),
        ("two-words", "segment", "'two words'"),
        ("x", "tokenize", "WEAKAND x"),
    ],
)
def test_what_people_type_is_understood(text: str, grammar: str, expected: str) -> None:
    names = Names(frozenset({"label"}))
    assert str(parse_user_input(text, grammar, "", Options(), None, names)) == expected


@pytest.mark.parametrize("text", ["", "   ", "!!!", "()", "- + -", '""', "…"])
def test_text_without_a_word_is_nothing_to_search_for(text: str) -> None:
    assert parse_user_input(text, "all", "", Options()) is None


def test_unknown_grammars_are_refused() -> None:
    with pytest.raises(QueryError, match="No query type 'klingon'"):
        parse_user_input("a", "klingon", "", Options())
