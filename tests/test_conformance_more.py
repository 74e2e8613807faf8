"""Small cases like those of Vespa's own tests, in the corners that its recorded cases do not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
from query_support import parsed
from test_engine_ranking_expressions import evaluate
from test_query_simple import FIELDS, NAMES

from clipsearch.engine.index import linguistics
from clipsearch.engine.query.simple import Names, parse_user_input
from clipsearch.engine.query.tree import Options
from clipsearch.engine.query.where import Context
from clipsearch.engine.query.yql import parse_yql
from clipsearch.engine.ranking.parser import parse_expression
from clipsearch.engine.tensors import decode_json, parse_feed, parse_literal, parse_query_input, parse_type, render
from clipsearch.errors import ExpressionError, QueryError

PARAMETERS = {"empty": "", "commas": ",,,", "word": "river"}


def tree(where: str) -> str:
    return parsed(where, PARAMETERS)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("flag = true", "flag:true"),
        ("stock[2] = true", "stock[2]:{true}"),
        ("stock[2] contains 'a'", "stock[2]:{a}"),
        ("a contains sameElement(near('b', 'c'), phrase('d', 'e'))", 'a:{(NEAR(2) b c) "d e"}'),
        ("a contains phrase('b', {origin: {original: 'c d', offset: 0, length: 3}}phrase('c', 'd'))", "a:\"b 'c d'\""),
        ("a contains phrase('b', phrase('c', 'd'))", 'a:"b c d"'),
        ("a contains ({grammar: 'raw'}'b c d')", "a:b c d"),
        ("a contains ({nfkc: true}'a\\u030a')", "a:\u00e5"),
        ("a contains 'a\\u030a'", "a:a\u030a"),
        ("wand(a, [[11, 1], [37L, 2]])", 'WAND a{[1]:"11",[2]:"37"}'),
        ("weightedSet(a, [[5, 2]])", 'WEIGHTEDSET a{[2]:"5"}'),
        ("geoLocation(a, 'E10.5', 'N63.25', '5km')", "GEO_LOCATION a:(2,10500000,63250000,45066,0,1,0,1933158083)"),
        ("geoLocation(a, 'S12', '34W', '-1 m')", "GEO_LOCATION a:(2,-34000000,-12000000,-1,0,1,0,4201111954)"),
        ("{allowEmpty: true}userInput(@commas)", "FALSE"),
        ("a contains ({substring: true}'b')", "a:*b*"),
        ("{targetHits: 7}weakAnd(a contains @word)", "WEAKAND(7) a:river"),
    ],
)
def test_conditions_are_parsed_to_the_tree_that_vespa_prints(where: str, expected: str) -> None:
    assert tree(where) == expected


@pytest.mark.parametrize(
    "where",
    [
        "a contains equiv('b', 42)",
        "a contains 42",
        "a contains b",
        "a matches 4",
        "a contains fuzzy(5)",
        "a contains phrase(5, 'b')",
        "userInput(a)",
        "userInput(@commas)",
        "a contains ({prefix: true, suffix: true}'b')",
        "a contains ({substring: true, suffix: true}'b')",
        "{hitLimit: 3, ascending: true, descending: false}range(a, 0, 1)",
        "{bounds: 'ajar'}range(a, 0, 1)",
        "a contains near(!'b', 'c')",
        "a contains near(!'b')",
        "b contains 'c' and nonEmpty(a contains @empty)",
        "nonEmpty(b contains 'c' and a contains phrase())",
        "geoLocation(a, 'N1', 'N2', '1 km')",
        "geoLocation(a, 'N1;30', 'E2', '1 km')",
        "weightedSet(a, [[1, 2, 3]])",
        "{targetHits: '10'}nearestNeighbor(a, b)",
        "{approximate: 1}nearestNeighbor(a, b)",
        "a contains ({filter: 'true'}'b')",
        "a contains ({label: 5}'b')",
    ],
)
def test_what_vespa_rejects_is_rejected(where: str) -> None:
    with pytest.raises(QueryError) as raised:
        tree(where)
    assert raised.value.code == 4


def test_an_enclosing_mark_ends_a_token() -> None:
    assert linguistics.tokenize("gate 1\ufe0f\u20e3 a\u20dd") == ["gate", "1\ufe0f", "a"]


def test_sorting_takes_annotations_in_brackets_too() -> None:
    written = "select * from a where true order by [{'function': 'lowercase'}]b desc, {function: 'raw'}c"
    assert [(s.field, s.descending, s.function) for s in parse_yql(written, Context()).order] == [
        ("b", True, "lowercase"), ("c", False, "raw"),
    ]  # fmt: skip


def test_conditions_on_one_element_are_read_from_user_input() -> None:
    names: Names = replace(NAMES, fields=FIELDS | {"map", "map.key"})
    for text, expected in (
        ("map:{key:a value:b}", "map:{key:a value:b}"),
        ('x map:{key:"a b" v.w:7} y', 'AND x map:{key:"a b" v.w:7} y'),
        ("map.key:a", "map.key:a"),
        ("map:{a b}", "AND map:a b"),
    ):
        found = parse_user_input(text, "all", "", Options(), None, names)
        assert str(found) == expected, text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("if(1>2,3,4,0.5)", "if (1 > 2, 3, 4, 0.5)"),
        ("007", "7"),
        (r'"a\tb\x41\\"', r'"a\tbA\\"'),
        ("tensor(b[3],a[2]):[[1,4],[2,5],[3,6]]", "tensor(a[2],b[3]):" + "{{a:0,b:0}:1,{a:0,b:1}:2,{a:0,b:2}:3,"
         "{a:1,b:0}:4,{a:1,b:1}:5,{a:1,b:2}:6}"),
    ],
)  # fmt: skip
def test_expressions_have_vespas_canonical_form(written: str, expected: str) -> None:
    assert str(parse_expression(written, "java")) == expected


def test_escapes_in_strings_are_characters() -> None:
    assert float(evaluate(r'if("a\t" == "at", 1, 2)').cells) == 2
    assert float(evaluate(r'if("\x41" == "A", 1, 2)').cells) == 1


def test_a_literals_arrays_are_in_the_order_in_which_its_dimensions_are_written() -> None:
    expected = parse_literal("tensor(a[2],b[3]):[[1,2,3],[4,5,6]]")
    assert parse_literal("tensor(b[3],a[2]):[[1,4],[2,5],[3,6]]") == expected
    assert evaluate("tensor(b[3],a[2]):[[1,4],[2,5],[3,6]]") == expected
    mixed = "tensor(y[2],p{},a[1]):{k:[[1],[2]]}"
    assert parse_literal(mixed) == evaluate(mixed) == parse_literal("tensor(a[1],p{},y[2]):{k:[[1,2]]}")
    sparse = parse_literal("tensor(b{},a{}):{{b:x,a:y}:1}")
    assert sparse == parse_literal("tensor(a{},b{}):{{a:y,b:x}:1}")


def test_integers_and_positions_are_javas() -> None:
    assert float(evaluate("f[1.7]", {"f": "tensor(x[3]):[1,2,3]"}).cells) == 2
    with pytest.raises(ExpressionError, match="64-bit"):
        parse_expression("9223372036854775808", "java")
    with pytest.raises(ExpressionError, match="not supported by the local engine"):
        evaluate("if(1, f, 2)", {"f": "tensor(x[1]):[1]"})


@pytest.mark.parametrize(
    ("type", "value"),
    [
        ("tensor(x[3])", {"values": []}),
        ("tensor(x[3])", {"values": ""}),
        ("tensor(x[3])", []),
        ("tensor(x[3])", 5),
        ("tensor(x[3])", {"blocks": {}}),
        ("tensor(x{})", {"blocks": {"a": 1}}),
        ("tensor(x{})", {"values": [1]}),
        ("tensor(x{})", {"a": [1]}),
        ("tensor(x{},y[3])", {"blocks": {"a": []}}),
        ("tensor(x{},y[3])", {"blocks": [{"address": {"x": "a"}, "values": []}]}),
    ],
)
def test_tensor_json_without_values_or_of_the_wrong_form_is_rejected(type: str, value: object) -> None:
    for decode in (decode_json, parse_feed):
        with pytest.raises(ExpressionError):
            decode(value, parse_type(type))


def test_nested_values_of_json_are_read_in_order_and_numbers_as_java_reads_them() -> None:
    square = parse_type("tensor(x[2],y[2])")
    assert decode_json({"values": [[1], [2]]}, square) == parse_literal("tensor(x[2],y[2]):[[1,2],[0,0]]")
    assert decode_json([[1], [2]], square) == decode_json({"values": [1, 2]}, square)
    assert decode_json([], parse_type("tensor(x{},y{})")) == parse_literal("tensor(x{},y{}):{}")
    assert parse_query_input("[1f,2d]", parse_type("tensor(x[2])")) == parse_literal("tensor(x[2]):[1,2]")


def test_cells_of_whole_numbers_are_written_as_whole_numbers() -> None:
    tensor = parse_literal("tensor<int8>(p{},x[2]):{a:[2,-3]}")
    assert str(render(tensor, "short-value")) == "{'a': [2, -3]}"
    assert str(render(tensor, "long-value")[1]) == "{'address': {'p': 'a', 'x': '1'}, 'value': -3}"
    assert str(render(parse_literal("tensor<float>(x[1]):[2]"), "short-value")) == "[2.0]"
