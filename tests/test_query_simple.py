"""The simple query syntax: Vespa's own cases, and what people type."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipsearch.engine.query.simple import Names, parse_filter, parse_user_input
from clipsearch.engine.query.tree import Options
from clipsearch.errors import QueryError

# The indexes, special tokens and kinds of fields that Vespa's own test of its parsers configures.
FIELDS = frozenset(
    re.findall(
        r"\S+",
        """url.all host.all site foo.bar to ull s mail a normal url.domain normal.title url r.s title domain pagedepth
        audio.audall fast.type www date document.size date.all size.all name newstype language mixedCase
        performernameall songnameall metadata SongConsumable country collapsedrecord collapsecount doctype score_under
        _under_score_ exactindex phraseSegment score age intitle inurl hostname link""",
    )
)
NAMES = Names(
    FIELDS, {"exactindex": None}, frozenset({"url.all"}), frozenset({"host.all", "site"}),
    frozenset({"phraseSegment"}), segmenting=False,
)  # fmt: skip
SPECIAL_TOKENS = {"c++": "c++", ".net": "dotnet", "tcp/ip": "tcp/ip", "c#": "c#", "special-token-fs": "firstsecond"}
TERMINATORS = {"testExactMatchParsing1": "()/aa*::*&", "testExactMatchParsing2": "*!*", "testExactMatchParsing3": "*"}


def names_for(case: dict[str, Any]) -> Names:
    """The names of the configuration that the recorded test used."""
    test = case["test"]
    if test in TERMINATORS:
        field = "testexact2" if test.endswith("1") else "testexact1"
        exact = {"testexact1": None} | {field: TERMINATORS[test]}
        return replace(NAMES, fields=frozenset(exact), exact=exact)
    if test == "testSameElement":
        return replace(NAMES, fields=FIELDS | {"str_map"})
    if test == "testChineseSpecialTokens":
        return replace(NAMES, special=SPECIAL_TOKENS, inside=True)
    return NAMES


def parsed(case: dict[str, Any]) -> str | None:
    """What the engine makes of a case, as Vespa prints it."""
    (kind,) = (part for part in case["extra"] if part.startswith("Query.Type."))
    names = names_for(case)
    found = parse_user_input(case["query"] or "", kind.rpartition(".")[2], "", Options(), None, names)
    words = case["extra"][0].strip('"') if case["extra"][0] != kind else ""
    if words:
        found = parse_filter(found, words, "", names)
    return None if found is None else str(found)


def test_recorded_user_input_is_parsed_as_recorded_or_refused_by_name(shared: Path) -> None:
    cases = json.loads((shared / "vespa/cases/user_input.json").read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    for case in cases:
        if case["expected_tree"] == "this should not parse":
            with pytest.raises(QueryError, match="equiv takes words"):
                parsed(case)
            counts["answered"] += 1
            continue
        assert parsed(case) == case["expected_tree"], (case["extra"], case["query"])
        counts["answered"] += 1
    assert counts == {"answered": 231}


MORE = [
    ("foobar +(foo bar baz) xyzzy", "ANY", "RANK (OR foo bar baz) foobar xyzzy"),
    ("foobar -(foo bar baz) xyzzy", "ANY", "+(OR foobar xyzzy) -(AND foo bar baz)"),
    (
        "foobar +(fo ba foba) foo bar +(foz baraz) baz",
        "ANY",
        "RANK (AND (OR fo ba foba) (OR foz baraz)) foobar foo bar baz",
    ),
    (
        "foobar -(fo ba foba) -foo +(ffoooo bbaarr) -bar +(oof rab raboof) -(foz baraz) +baz +xyxyzzy",
        "ANY",
        "RANK (+(AND (OR ffoooo bbaarr) (OR oof rab raboof) baz xyxyzzy) -(AND fo ba foba) -foo -bar -(AND foz baraz)) "
        "foobar",
    ),
    (
        'foofoo -"foo bar foobar" xyzzy +"baz gaz faz" +bazar',
        "ANY",
        'RANK (+(AND "baz gaz faz" bazar) -"foo bar foobar") foofoo xyzzy',
    ),
    ("foo +(foobar +(bar baz)) xyzzy", "ANY", "RANK (OR foobar bar baz) foo xyzzy"),
    ("foo +(foobar +(bar baz)) xyzzy", "ALL", "AND foo (OR foobar bar baz) xyzzy"),
    ('""to be or not', "ANY", '"to be or not"'),
    ('+to"or not to be"""', "ANY", 'RANK to "or not to be"'),
    ('if am "  f g 4 2"" maybe', "ANY", 'OR if am "f g 4 2" maybe'),
    ("++other +++++is ++++++nothing -test", "ANY", "+(AND other is nothing) -test"),
    ("+www:www.hotelaiguablava:com", "ANY", "AND www:www www:hotelaiguablava www:com"),
    ("(foo bar) (xyzzy foobar)", "ANY", "OR (OR foo bar) (OR xyzzy foobar)"),
    ("(foo)", "ALL", "foo"),
    ("map NEAR(3) new NEAR(4) york", "ADVANCED", "NEAR(4) (NEAR(3) map new) york"),
    (
        '("Secondary Curriculum" ("Key Stage 3" OR KS3) ("Key Stage 4" OR KS4)) ',
        "ALL",
        'OR "Secondary Curriculum" "Key Stage 3" OR KS3 "Key Stage 4" OR KS4',
    ),
    ("( b -c  ( d -f )", "ALL", "+(OR (+d -f) b) -c"),
    ('foo equiv 5 equiv "a b"', "ADVANCED", 'EQUIV foo 5 "a b"'),
    ("foo!32 weakand(32) bar!64 weakand(32) baz", "ADVANCED", "WEAKAND(32) foo!32 bar!64 baz"),
    ("a!b", "ALL", "AND a!150 b"),
    ("Campion Ste: 3. When To Her Lute Corinna Sings", "ALL", "AND Campion Ste 3 When To Her Lute Corinna Sings"),
    ('foo -(bar baz "one two" 37)', "TOKENIZE", "WEAKAND foo bar baz one two 37"),
    ('title:"why" title:"&" title:"1/2"', "ALL", 'AND title:why title:"1 2"'),
    ('a OR ("b (c) d" AND e)', "ADVANCED", 'OR a (AND "b c d" e)'),
    ("exactindex:*test", "ALL", "exactindex:*test"),
    ('a -e "b c" d -f', "WEB", '+(AND a "b c" d) -e -f'),
    ("or1 a OR or2", "WEB", "OR (AND or1 a) or2"),
    ("OR a", "WEB", "AND OR a"),
    ("OR a OR", "WEB", "AND OR a"),
    ("OR a OR OR", "WEB", "AND OR a"),
    ("a b OR d c -e -f OR g h", "WEB", "+(OR (AND a b) (AND d c) (AND g h)) -e -f"),
    ("00012!", "WEB", "00012!150"),
    ("map! new york", "WEB", "AND map!150 new york"),
    ("normal:a normal: notanindex:", "ALL", "AND normal:a notanindex"),
    ("normal::", "ALL", None),
    ("a -(12 15)", "ALL", "+a -(AND 12 15)"),
    ("a -12.2", "ALL", "AND a -12.2"),
    ("title:why _under_score_:what _under_score_:>5000", "ALL", "AND title:why _under_score_:what _under_score_:>5000"),
    ("score:[1.25;2.18] AND age:[25;30]", "ADVANCED", "AND score:[1.25;2.18] age:[25;30]"),
]


@pytest.mark.parametrize(("text", "grammar", "expected"), MORE)
def test_plus_minus_groups_and_operators_combine_as_in_vespa(text: str, grammar: str, expected: str | None) -> None:
    found = parse_user_input(text, grammar, "", Options(), None, NAMES)
    assert (None if found is None else str(found)) == expected


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it's", "SAND it s"),
        ("the don't word", "AND the (SAND don t) word"),
        ('"it\'s here"', '"it s here"'),
        ("label:storage-tanks harbour", "AND label:storage-tanks harbour"),
        ('label:"two words" x', "AND label:two words x"),
        ("label:a* (label:b)", "AND label:a* label:b"),
        ("label:*a*!200", "label:*a*!200"),
        ('label:"open', 'label:"open'),
        ("code:a b@@ c", "AND code:a b c"),
        ("LABEL:Tank", "label:Tank"),
    ],
)
def test_words_are_cut_as_documents_are_and_exact_fields_are_not(text: str, expected: str) -> None:
    names = Names(frozenset({"label", "code"}), {"label": None, "code": "@@"})
    assert str(parse_user_input(text, "all", "", Options(), None, names)) == expected


def test_words_of_an_address_keep_their_hyphens_and_lose_their_apostrophes() -> None:
    found = parse_user_input(
        "host.all:www.abc.com/x'y-z a'b", "all", "", Options(), None, replace(NAMES, segmenting=True)
    )
    assert str(found) == 'AND host.all:"www abc com x y-z $" (SAND a b)'


def test_unbalanced_and_deep_parentheses_never_break_the_parser() -> None:
    for text in (
        "(" * 80 + "a",
        ")" * 500 + "a",
        "-(" * 80 + "b",
        "+(" * 80,
        '"' * 301 + "a",
        "+-" * 300 + "c",
        "!*" * 99 + "d",
    ):
        for grammar in ("any", "all", "weakAnd", "web", "advanced", "phrase", "tokenize"):
            parse_user_input(text, grammar, "x", Options())
    with pytest.raises(QueryError, match="more than 80 nested"):
        parse_user_input("(" * 81, "any", "", Options())
    with pytest.raises(QueryError, match="more than 1000 quotes"):
        parse_user_input('"' * 1001, "any", "", Options())


@pytest.mark.parametrize(
    "text",
    [
        ":" * 20_000,
        "a-b " * 3_000,
        '"a ' * 1_000,
        '" ' * 1_000,
        "[1;2 " * 3_000,
        "- " * 9_000,
        "+(" * 70 + ": " * 3_000,
    ],
)
def test_long_noise_is_read_in_a_moment(text: str) -> None:
    started = time.process_time()
    parse_user_input(text, "any", "x", Options())
    assert time.process_time() - started < 2
