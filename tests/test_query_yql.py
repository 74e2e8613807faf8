"""Vespa's own YQL cases: parsed to the recorded tree, or refused by name."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from query_support import attribute, make_schema, text_field

from clipsearch.engine.index import Index
from clipsearch.engine.query.matching import Matcher
from clipsearch.engine.query.where import Context
from clipsearch.engine.query.yql import parse_yql
from clipsearch.errors import QueryError

# Vespa's serialiser leaves the ! of near's negative words out, so the recorded text is another query.
LOSSY = "near('A', !equiv('B', 'C'))"
SERIALIZER = ("serialize_where_roundtrip", "yql_representation")
SCHEMA = make_schema(
    field=attribute("field", "string"), string=attribute("string", "string"), float=attribute("float", "float"),
    number=attribute("number", "int"), a=text_field("a"),
)  # fmt: skip


def tree(yql: str, context: Context) -> str:
    """The tree without quotes: the serialiser writes a segmented word and a phrase alike."""
    return str(parse_yql(yql, context).root).replace("'", "").replace('"', "")


def is_refused(case: dict[str, Any]) -> bool:
    """Whether parsing and matching the failing case is refused."""
    schema = SCHEMA
    schema.fieldsets["mixed"] = ("string", "number")  # type: ignore[index]  # a dictionary behind a Mapping
    try:
        statement = parse_yql(case["yql"], Context())
        assert statement.root is not None
        Matcher(schema, Index(schema, True).snapshot(), {}).run(statement.root)
    except QueryError as error:
        found = str(error)
        return any(words in found for words in (case["message"], "another type", "not supported"))
    return False


def outcome(case: dict[str, Any]) -> str:
    """answered, refused or different."""
    context = Context(parameters=case.get("params") or {})
    kind, expected = case["kind"], case.get("expected")
    if kind == "fail":
        return "answered" if is_refused(case) else "different"
    try:
        statement = parse_yql(case["yql"], context)
    except QueryError as error:
        return "refused" if "not supported" in str(error) else "different"
    got: Any = str(statement.root)
    if kind in ("parse", "canonical_parse"):
        expected = case["expected_tree"]
    elif kind == "sources":
        got = list(statement.sources)
    elif kind == "summary_fields":
        got = list(statement.fields)
    elif kind == "root_class":
        got = "PrefixItem" if getattr(statement.root, "prefix", False) else type(statement.root).__name__
    elif kind == "assertEquals" and "getAnnotation" in case["expression_java"]:
        assert statement.root is not None
        got = statement.root.annotations["scope"]
    elif kind in SERIALIZER:
        if LOSSY in case["yql"]:
            return "refused"
        got = tree(case["yql"], context)
        written = expected or f"select * from sources * where {case['expected_where']}"
        expected = tree(written, context)
    return "answered" if got == expected else "different"


def test_recorded_yql_is_parsed_as_recorded_or_refused_by_name(shared: Path) -> None:
    cases = json.loads((shared / "vespa/cases/yql.json").read_text(encoding="utf-8"))
    counts: Counter[tuple[bool, str]] = Counter()
    for case in cases:
        found = outcome(case)
        assert found != "different", case
        counts[case["kind"] in SERIALIZER, found] += 1
    assert counts == {(False, "answered"): 93, (False, "refused"): 1, (True, "answered"): 79, (True, "refused"): 1}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("({targetHits:100}nearestNeighbor(embedding,q)) or userInput(@text)",
         "OR NEAREST_NEIGHBOR {field=embedding,queryTensorName=q,targetHits=100} "
         "(WEAKAND default:river default:bridge)"),
        ("label contains 'air port' and !(width in (1, -2))", "+label:'air port' -width:{1,-2}"),
        ("{defaultIndex:'both', grammar:'all'}userInput(@text)", "AND both:river both:bridge"),
        ("captions contains phrase('a', @text)", 'captions:"a river bridge"'),
        ("rank(userInput(@text), width > 3)", "RANK (WEAKAND default:river default:bridge) width:>3"),
    ],
)  # fmt: skip
def test_the_queries_of_our_own_pages_are_parsed(where: str, expected: str) -> None:
    context = Context(parameters={"text": "river bridge"})
    found = str(parse_yql(f"select * from image where {where} limit 5", context).root)
    assert found == expected


@pytest.mark.parametrize(
    ("yql", "message"),
    [
        ("select * from image where", "syntax error"),
        ("select * from image where label contains", "syntax error"),
        ("select * from image where label contains @gone", "no parameter of that name"),
        ("select * from image where foo(1)", "No such function"),
        ("select * from image where 'a'", "expected a condition"),
        ("select * from image where label != 'a'", "not supported"),
        ("select * from image where width > 'a'", "not a number"),
        ("select * from image where {targetHits:'x'}nearestNeighbor(embedding,q)", "another type than expected"),
        ("select * from image where weightedSet(label, {'a':'b'})", "another type than expected"),
        ("select * from image where true limit many", "syntax error"),
        ("select * from image where geoLocation(a, 91, 0, '1 km')", "expected a latitude"),
        ("select * from image where geoLocation(a, 1, 0, '1 mile')", "is not a radius"),
        ("select * from image where predicate(a, 1)", "Expected 3 arguments"),
        ("select * from image where predicate(a, {'x': {'b': 'c'}}, 0)", "is not a subquery bitmap"),
        ("select * from image where true limit @n", "Unresolved parameter"),
        ("select * from image where userInput('')", "only resulted in NullItem"),
        ("select * from image where ({grammar:'programmatic'}userInput('a'))", "'programmatic' is not supported"),
        ("select * from image where true | all(group(label) each(output(quantile(width))))", "not supported"),
        ("select * from image where " + "!(" * 3000 + "true" + ")" * 3000, "nested too deeply"),
        ('select * from image where label contains "\\u12"', "not a unicode escape"),
    ],
)
def test_bad_yql_is_refused_with_a_sentence(yql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as raised:
        parse_yql(yql, Context())
    assert raised.value.code == 4
    assert str(raised.value).startswith("Could not create query from YQL: ")


def test_limit_counts_from_the_first_hit_and_comments_are_skipped() -> None:
    statement = parse_yql(
        "select label, width /* all */ from sources a, b where true // yes\norder by width desc, label "
        "limit 31 offset 30 timeout 3 | all(group(label) order(-count()) max(3) each(output(count() as(n)))) # end",
        Context(),
    )
    assert (statement.limit, statement.offset, statement.timeout) == (31, 30, "3")
    assert statement.fields == ("label", "width")
    assert statement.sources == ("a", "b")
    assert [(sort.field, sort.descending) for sort in statement.order] == [("width", True), ("label", False)]
    (grouping,) = statement.groupings
    assert (str(grouping.group), grouping.maximum) == ("label", 3)
    assert [(str(expression), ascending) for expression, ascending in grouping.order] == [("count()", False)]
    (each,) = grouping.children
    assert [(str(output), output.label) for output in each.outputs] == [("count()", "n")]


def test_long_statements_do_not_fill_the_memory() -> None:
    words = " or ".join(f"label contains 'w{number}'" for number in range(300))
    parse_yql(f"select * from image where label contains 'first' or {words}", Context())
    tracemalloc.start()
    try:
        for number in range(20):
            parse_yql(f"select * from image where label contains 'n{number}' or {words}", Context())
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 3_000_000


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("geoLocation(place, 63.418417, 10.433033, '0.5 deg')",
         "GEO_LOCATION place:(2,10433033,63418417,500000,0,1,0,1921876103)"),
        ("geoLocation(place, 1, 2, '-1 m')", "GEO_LOCATION place:(2,2000000,1000000,-1,0,1,0,4294313150)"),
        ("predicate(p, {'a': ['b', 'c']}, {'n': -5L})", "PREDICATE_QUERY_ITEM a=b, a=c, n:-5"),
        ("predicate(p, {'[0, 63]': {'a': 'b'}}, 0)", "PREDICATE_QUERY_ITEM a=b[0x8000000000000001]"),
        ("label contains alternatives({'trees': 1, 'tree': 0.7})", "WORD_ALTERNATIVES label:[ tree(0.7) trees(1.0) ]"),
        ("label contains ({maxEditDistance: 1, prefix: true}fuzzy('a'))", "FUZZY(a,1,0,true) label:a"),
        ("title contains ({defaultIndex: 'other'}text('a b'))", "WEAKAND title:a title:b"),
    ],
)  # fmt: skip
def test_operators_over_fields_that_are_refused_at_deploy_are_parsed(where: str, expected: str) -> None:
    assert str(parse_yql(f"select * from image where {where}", Context()).root) == expected


def test_operators_over_fields_that_are_refused_at_deploy_are_refused_when_they_are_executed() -> None:
    schema = make_schema()
    for where in ("geoLocation(place, 1, 2, '1 km')", "predicate(p, 0, 0)", "label contains alternatives({'a': 1})"):
        root = parse_yql(f"select * from image where {where}", Context()).root
        assert root is not None
        with pytest.raises(QueryError, match="not supported by the local engine"):
            Matcher(schema, Index(schema, True).snapshot(), {}).run(root)
