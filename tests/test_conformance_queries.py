"""Queries of Vespa's own YQL tests that its recorded cases do not hold: inputs and what they are parsed to.

Facts of YqlParserTestCase, UserInputTestCase, TextInputTestCase, TermListTestCase, ParameterListParserTestCase and
GroupingParserTestCase.
"""

from __future__ import annotations

import pytest
from query_support import parsed

from clipsearch.engine.query.grouping import parse_groupings
from clipsearch.errors import QueryError

PARAMETERS = {
    "empty": "", "terms": "{'1':1, 2:1, \"c,}\": 14}", "numbers": " [ [0,12], [ 1,13]] ", "none": "{}",
    "strings": "a, 'b, c' ,\"d\"", "integers": "-11, 24,25", "yes": "true", "text": "yoni jo dima",
}  # fmt: skip


def tree(where: str) -> str:
    return parsed(where, PARAMETERS)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("t contains ({grammar: 'raw'}text('a b'))", "t:a b"),
        ("t contains ({grammar: 'all'}text('a b'))", "AND t:a t:b"),
        ("t contains ({grammar: 'any'}text('a b'))", "OR t:a t:b"),
        ("t contains ({grammar: 'weakAnd'}text('a b'))", "WEAKAND t:a t:b"),
        ("t contains ({grammar.composite: 'oNear', distance: 3}text('a b'))", "ONEAR(3) t:a t:b"),
        ("t contains ({targetHits: 50}text(@text))", "WEAKAND(50) t:yoni t:jo t:dima"),
        ("t contains ({defaultIndex: 'other'}text('a b'))", "WEAKAND t:a t:b"),
        ("t contains ({allowEmpty: true}text(@empty))", "FALSE"),
        ("{grammar: 'tokenize', targetHits: 17, totalTargetHits: 19, defaultIndex: 'f'}userInput('a test')",
         "WEAKAND(17) {totalTargetHits=19} f:a f:test"),
        ("{grammar.composite: 'or', grammar.tokenization: 'linguistics', grammar.syntax: 'none'}userInput('A b -c')",
         "OR default:a default:b default:c"),
        ("{grammar: 'linguistics'}userInput('No\u00ebl')", "WEAKAND default:noel"),
        ("{grammar.composite: 'weakAnd', grammar.tokenization: 'internal', grammar.syntax: 'web'}userInput('a b -c')",
         "+(WEAKAND default:a default:b) -default:c"),
        ("{grammar: 'all', grammar.syntax: 'advanced'}userInput('a or b')", "OR default:a default:b"),
        ("geoBoundingBox('place', -63.418, -10.433, 63.5, 10.5)",
         "GEO_LOCATION place:[2,-10433000,-63418000,10500000,63500000]"),
        ("foo contains phrase('forest', alternatives({trees: 1.0, tree: 0.7}))",
         'foo:"forest WORD_ALTERNATIVES foo:[ tree(0.7) trees(1.0) ]"'),
        ("foo contains ({origin: {original: \"m's\", offset: 0, length: 3}}phrase('m', 's'))", "foo:'m s'"),
        ("t contains ({id: 1, connectivity: {id: 2, weight: 7.0}}'a') and t contains ({id: 2}equiv('b', 'c'))",
         "AND t:a (EQUIV t:b t:c)"),
        ("t contains ({documentFrequency: {frequency: 13, count: 101L}}'a')", "t:a"),
        ("predicate(f, null, void)", "PREDICATE_QUERY_ITEM "),
        ("strings[1] = 'foo'", "strings[1]:{foo}"),
        ("flag = @yes", "flag:true"),
        ("t contains 'foo!'", "t:foo"),
        ("t contains '!'", "t:!"),
        ("weightedSet(f, @terms)", 'WEIGHTEDSET f{[1]:"1",[1]:"2",[14]:"c,}"}'),
        ("dotProduct(f, @numbers)", 'DOTPRODUCT f{[12]:"0",[13]:"1"}'),
        ("wand(f, @none)", "WAND f{}"),
        ("f in (@strings)", "f:{a,b, c,d}"),
        ("f in (42, 22L, -7, @integers)", "f:{42,22,-7,-11,24,25}"),
    ],
)  # fmt: skip
def test_conditions_are_parsed_to_vespas_tree(where: str, expected: str) -> None:
    assert tree(where) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("t contains text('')", "only resulted in NullItem"),
        ("t contains text(@missing)", "missing"),
        ("text('a')", "No such function"),
        ("{grammar.tokenization: 'linguistics', grammar.syntax: 'web'}userInput('a')", "combined with syntax none"),
        ("{grammar.composite: 'onear'}userInput('a')", "'onear' is none of"),
        ("{grammar.syntax: 'json'}userInput('a')", "'json' is not supported by the local engine"),
        ("{grammar.syntax: 'advanced'}userInput('a b')", "not supported by the local engine"),
        ("range(f, cox, 8)", r"Expected a numerical argument \(or 'Infinity'\) to range but got 'cox'"),
        ("f contains near('a', !'b', 'c')", "Positive terms must come before negative terms in NEAR"),
        ("f contains onear(!'a')", "Must have some positive term before negative terms in ONEAR"),
        ("f contains near('a', near('b', 'c'))", "Expected function"),
        ("f contains near('a', fuzzy('b'))", "Expected function"),
        ("f contains equiv('a', nalle(void))", "Expected function 'phrase', got 'nalle'"),
        ("f contains equiv('a', alternatives({b: 1.0}))", "Expected function 'phrase'"),
        ("f contains phrase('a', near('b', 'c'))", "Expected phrase or word alternatives, got near"),
        ("wand(f, 12)", "Expected ARRAY or MAP, got LITERAL"),
        ("weightedSet(f)", "Expected 2 arguments, got 1"),
        ("weightedSet(f, @text)", r"Expected a string starting by '\[' or '{'"),
        ("geoLocation(f, 2.0, 'N5.0', '0.5 deg')", "'Latitude: 2.0 degrees' and 'Latitude: 5.0 degrees'"),
        ("geoBoundingBox(f, 1, 2, 3)", "Expected 5 arguments, got 4"),
        ("predicate(f, null, {'0x80000000000000000': {'age': 23}})", "Too long subquery string: 0x80000000000000000"),
        ("f in (29.9, -7.4)", "has another type"),
        ("f in (true)", "has another type"),
        ("f not in (25)", "got NOT_IN"),
        ("t contains ({id: 1, connectivity: {id: 4, weight: 7.0}}'a')",
         "Item 't:a' was specified to connect to item with ID 4, which does not exist in the query"),
        ("t contains ({id: 1, connectivity: {id: 1}}'a')", "Map annotation 'connectivity' must contain"),
        ("t contains ({connectivity: 5}'a')", "another type"),
        ("t contains ({documentFrequency: {count: 3}}'a')", "Map annotation 'documentFrequency' must contain"),
    ],
)  # fmt: skip
def test_what_vespa_rejects_is_rejected_in_its_words(where: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as raised:
        tree(where)
    assert raised.value.code == 4


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ("bucket(-100, 0), bucket(0), bucket<0, 100>", ""),
        ("bucket[1.0, 2.0>, bucket[2.0], bucket<2.0, 6.0>", ""),
        ("bucket<-inf, a>, bucket('a', \"b\"), bucket[c, inf>", ""),
        ("bucket<infinite, inf]", ""),
        ("bucket(1, 2.0)", "Bucket type mismatch, expected 'LongValue' got 'DoubleValue'"),
        ("bucket(1, 2), bucket(three, four)", "Bucket type mismatch, expected 'LongValue' got 'StringValue'"),
        ("bucket<-inf, inf>", "Bucket type mismatch"),
        ("bucket<b, -inf>", "Bucket type mismatch"),
        ("bucket(2, 1)", "Bucket to-value can not be less than from-value"),
        ("bucket(3, 4), bucket(1, 2)", "Buckets must be monotonically increasing"),
        ("bucket(c, d), bucket(-inf, e)", "Buckets must be monotonically increasing"),
        ("bucket(u, inf), bucket(e, i)", "Buckets must be monotonically increasing"),
    ],
)
def test_buckets_are_of_one_type_and_ascend(buckets: str, message: str) -> None:
    text = f"|all(group(predefined(foo, {buckets})))"
    if not message:
        assert parse_groupings(text)
        return
    with pytest.raises(QueryError, match=message):
        parse_groupings(text)


def test_groups_may_be_ordered_by_plus_and_only_each_takes_a_label() -> None:
    (grouping,) = parse_groupings("|all(group(artist) order(-sum(a), +sum(b)) each(output(count())) as(x))")
    assert [(str(by), ascending) for by, ascending in grouping.order] == [("sum(a)", False), ("sum(b)", True)]
    with pytest.raises(QueryError, match="only each"):
        parse_groupings("|all(group(artist)) as(x)")
