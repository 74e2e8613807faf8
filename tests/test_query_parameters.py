"""Parameters of a search: their names and aliases, what counts as asking, and lists that they hold."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from query_support import Served, make_schema

from clipsearch.engine.http.messages import Request
from clipsearch.engine.package.model import Phase, RankProfile
from clipsearch.engine.query.parameter_lists import parameter_list, parameter_weights
from clipsearch.engine.query.parameters import TextParameters, read_parameters
from clipsearch.engine.query.where import Context
from clipsearch.engine.query.yql import parse_yql
from clipsearch.engine.tensors import Tensor
from clipsearch.engine.tensors.types import TensorType
from clipsearch.errors import QueryError

SEARCH = "select * from image where"


@pytest.fixture(scope="module")
def served() -> Served:
    names = ("term(0).weight", "bm25(captions)")
    served = Served(
        make_schema(profiles=[RankProfile("seen", first_phase=Phase("1"), match_features=names)]),
        query_profiles={"wide": {"grouping.globalMaxGroups": "-1"}, "narrow": {"grouping.globalMaxGroups": "50"}},
    )
    for lid, label in enumerate(("river", "sea", "song")):
        served.put(lid, {"captions": [f"a {label}"], "label": label, "width": lid})
    return served


def tree(where: str, **parameters: str) -> str:
    return str(parse_yql(f"{SEARCH} {where}", Context(parameters=parameters)).root)


@pytest.mark.parametrize(
    "name", ["query", "q", "filter", "language", "type", "ranking", "lang", "mine", "hits", "count"]
)
def test_yql_reads_a_parameter_by_the_name_that_the_request_gives_it(served: Served, name: str) -> None:
    value = {"language": "en", "lang": "en", "type": "all", "ranking": "seen", "hits": "1", "count": "1"}.get(
        name, "song"
    )
    where = f"{SEARCH} (label contains @{name} or true) and label contains 'song'"
    where += " and userQuery()" if name == "filter" else ""
    for status, root in (
        served.get(yql=where, **{"query": "song", name: value}),
        served.post({"yql": where, "query": "song", name: value}),
    ):
        assert (status, len(root.get("children", []))) == (200, 1), root
    if value == "song" and name != "filter":
        assert served.get(yql=f"{SEARCH} userInput(@{name})", **{name: value})[1]["fields"]["totalCount"] == 1


@pytest.mark.parametrize("name", ["query", "q", "mine"])
def test_a_query_input_embeds_a_parameter_by_the_name_that_the_request_gives_it(name: str) -> None:
    class Lengths:
        def embed(self, text: str, target: TensorType, *, query: bool) -> Tensor:
            return Tensor(target, np.full(4, len(text), np.float32))

    served = Served(make_schema(profiles=[RankProfile("near", make_schema().rank_profiles["default"].inputs,
                                                      first_phase=Phase("sum(query(q))"))]))  # fmt: skip
    assert served.application is not None
    served.application.package = replace(served.application.package, embedders={"lengths": Lengths()})  # type: ignore[dict-item]
    served.put(0, {"label": "a"})
    given = {"yql": f"{SEARCH} true", "ranking": "near", "input.query(q)": f"embed(@{name})", name: "abc"}
    for status, root in (served.get(**given), served.post(given)):
        assert (status, root.get("children", [{}])[0].get("relevance")) == (200, 12.0), root


def test_aliases_are_read_in_lists_of_the_statement_too(served: Served) -> None:
    status, root = served.get(yql=f"{SEARCH} true limit @count timeout @lang", count="2", lang="en")
    assert status == 400
    assert "timeout" in str(root)
    assert len(served.get(yql=f"{SEARCH} true limit @count", count="2")[1]["children"]) == 2
    found = TextParameters({"model.queryString": "a", "mine": 1})
    assert (found["query"], found["mine"], "query" in found, found.get("type")) == ("a", "1", True, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ranking.rankScoreDropLimit", 0), ("ranking.keepRankCount", 0), ("ranking.secondPhase.rankScoreDropLimit", 0),
        ("ranking.secondPhase.totalRerankCount", 5), ("ranking.globalPhase.rankScoreDropLimit", 0),
        ("hitcountestimate", True), ("searchpath", "0/0"), ("recall", "utc"), ("timezone", "CET"),
        ("grouping.globalMaxGroups", -1), ("grouping.globalMaxGroups", 0),
    ],
)  # fmt: skip
def test_what_is_asked_for_and_not_supported_is_refused_by_name(served: Served, name: str, value: Any) -> None:
    status, root = served.post({"yql": f"{SEARCH} true", name: value})
    assert status == 400
    assert {"searchpath": "model.searchPath"}.get(name, name) in root["errors"][0]["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hitcountestimate", False), ("ranking.listFeatures", "False"), ("timezone", "GMT"), ("timezone", "Etc/UTC"),
        ("recall", ""), ("ranking.secondPhase.rerankCount", 3),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_accepted(served: Served, name: str, value: Any) -> None:
    assert served.post({"yql": f"{SEARCH} true", name: value})[0] == 200


def test_two_names_of_one_rerank_count_must_agree(served: Served) -> None:
    names = ("ranking.rerankCount", "ranking.secondPhase.rerankCount")
    assert served.post({"yql": f"{SEARCH} true", names[0]: 3, names[1]: 3})[0] == 200
    assert served.post({"yql": f"{SEARCH} true", names[0]: 3, names[1]: 4})[0] == 400


def test_the_limit_of_all_groups_is_lifted_by_a_query_profile_only(served: Served) -> None:
    yql = f"{SEARCH} true limit 0 | all(group(label) max(inf) each(output(count())))"
    assert "globalMaxGroups" in str(served.get(yql=yql))
    _, root = served.get(yql=yql, queryProfile="wide")
    assert len(root["children"][0]["children"][0]["children"]) == 3
    status, root = served.get(yql=yql, queryProfile="narrow")
    assert (status, "'grouping.globalMaxGroups'" in root["errors"][0]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'a' 'b'", ["a", "b"]), ("'a''b', c", ["a", "b", "c"]), ("", []), (" ", []), ("a b , 'c,d'", ["a b", "c,d"]),
        ('["a", "b,c"]', ["a", "b,c"]), ("[]", []), ("[1, -2]", [1, -2]), ("1,", [1]), ("[ a ]", ["a"]),
    ],
)  # fmt: skip
def test_a_parameter_of_in_holds_values_with_or_without_commas(text: str, expected: list[Any]) -> None:
    assert parameter_list(text) == expected


@pytest.mark.parametrize("text", ["'a, b", '"', "[a, b", "a,,b", ",", "['a'"])
def test_a_parameter_of_in_that_is_no_list_is_rejected(text: str) -> None:
    with pytest.raises(QueryError):
        parameter_list(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a:1 , 'b c' : -2,\"d,}\":+3,}", {"a": "1", "b c": "-2", "d,}": "3"}), (" {}", {}), ("[]", {}),
        ("[[007, 1] [ 2 ,3]]", {"7": "1", "2": "3"}), ("{ a b : 1}", {"a b": "1"}), ("{'a': 1\n}", {"a": "1"}),
    ],
)  # fmt: skip
def test_tokens_and_their_weights_are_read(text: str, expected: dict[str, str]) -> None:
    assert parameter_weights(text) == expected


@pytest.mark.parametrize("text", ["", "a", "{",
                                  "{a", "{a:1", "{a:b}", "{a:1 b:2}", "{'a:1}", "[[1]]", "[[1,2]", "[1,2]",
                                  "{a:9999999999}", "[[99999999999999999999,1]]", "[}", "{a:1]"])  # fmt: skip
def test_what_holds_no_tokens_is_rejected(text: str) -> None:
    with pytest.raises(QueryError):
        parameter_weights(text)


LONG = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "{" + " " * LONG + "x}", "{a" + " " * LONG + "}", "{" + "a:1," * (LONG // 4) + "}",
        "{" + "'a':1 " * (LONG // 6),
        "[" + "[1,2]" * (LONG // 5), "1," * (LONG // 2), "'a'" * (LONG // 3),
        "[[1" + " " * LONG, "{'" + "a" * LONG, "{a:" + "1" * LONG + "}", "{" * LONG,
    ],
    ids=range(11),
)  # fmt: skip
def test_long_parameters_are_read_in_a_moment(text: str) -> None:
    begun = time.process_time()
    for read in (parameter_weights, parameter_list):
        with suppress(QueryError):
            read(text)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("label in (foo)", "READ_FIELD"),
        ("{grammar: 'all:or'}userInput('a')", "No query type 'all:or'"),
        ("{grammar.profile: 'x'}userInput('a')", "'grammar.profile' is not supported"),
        ("geoLocation(label, 1, 2, '1e999 km')", "finite"),
        ("t contains ({origin: {original: 'other', offset: 0, length: 5}}'word')", "'origin' of 'word'"),
        ("t contains phrase('a', ({origin: {original: 'other', offset: 0, length: 5}}'word'))", "'origin' of 'word'"),
        ("t contains ({origin: {original: 'a b', offset: 0, length: 3}}phrase('a', alternatives({b: 1.0})))",
         "'alternatives'"),
        ("t contains phrase('x', ({origin: {original: 'a b', offset: 0, length: 3}}"
         "phrase('a', alternatives({b: 1.0}))))", "'alternatives' in a phrase"),
    ],
)  # fmt: skip
def test_what_would_be_read_otherwise_by_vespa_is_refused_by_name(where: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        tree(where)


def test_a_type_of_the_request_is_one_name(served: Served) -> None:
    status, root = served.get(query="a", type="all:or")
    assert (status, "No query type 'all:or'" in root["errors"][0]["message"]) == (400, True)


def test_alternatives_near_a_word_are_refused_by_their_name(served: Served) -> None:
    status, root = served.get(yql=f"{SEARCH} captions contains near('a', alternatives({{b: 1.0}}))")
    assert (status, "alternatives" in root["errors"][0]["message"]) == (400, True)


def test_a_phrase_of_what_the_user_wrote_is_cut_as_it_was_written(served: Served) -> None:
    origin = "origin: {original: 'see a river', offset: 4, length: 7}"
    assert served.ids(f"{SEARCH} captions contains ({{{origin}}}phrase('other', 'words'))") == [0]
    assert served.ids(f"{SEARCH} captions contains ({{{origin}, implicitTransforms: false}}phrase('a', 'sea'))") == [1]
    same = "origin: {original: 'The RIVER', offset: 4, length: 5}"
    assert served.ids(f"{SEARCH} captions contains ({{{same}}}'river')") == [0]


@pytest.mark.parametrize(
    "call", ["{defaultIndex: 'captions', %s}userInput('sea')", "captions contains ({%s}text('sea'))"]
)
def test_only_some_annotations_reach_the_words_of_a_users_text(served: Served, call: str) -> None:
    def features(annotation: str) -> dict[str, float]:
        status, root = served.get(yql=f"{SEARCH} {call % annotation}", ranking="seen")
        assert status == 200, root
        found: dict[str, float] = root["children"][0]["fields"]["matchfeatures"]
        return found

    plain = features("stem: true")
    assert plain["bm25(captions)"] > 0
    for ignored in ("weight: 250", "significance: 0.0", "documentFrequency: {frequency: 3, count: 4}", "label: 'l'"):
        assert features(ignored) == plain, ignored
    assert features("ranked: false")["bm25(captions)"] == 0
    assert features("grammar: 'raw', weight: 250")["term(0).weight"] == 250


def test_no_annotation_reaches_the_requests_own_query(served: Served) -> None:
    yql = SEARCH + " {ranked: false, weight: 250, targetHits: 1}userQuery()"
    _, root = served.get(yql=yql, query="sea river", ranking="seen")
    found = [hit["fields"]["matchfeatures"] for hit in root["children"]]
    assert [each["term(0).weight"] for each in found] == [100, 100]
    assert all(each["bm25(captions)"] > 0 for each in found)


@pytest.mark.parametrize(
    ("grouping", "status"),
    [
        ("all(group(+label) each(output(+count())))", 200),
        ("all(group(label) order(+count()) each(output(count())))", 200),
        ("all(group(label) order(+-count()) each(output(count())))", 400),
        ("all(group(++width) each(output(count())))", 400),
        ("all(group(add(+width, -1)) order(-(+count())) each(output(count())))", 200),
    ],
)  # fmt: skip
def test_one_sign_may_stand_before_an_expression_of_a_grouping(served: Served, grouping: str, status: int) -> None:
    assert served.get(yql=f"{SEARCH} true limit 0 | {grouping}")[0] == status


def test_the_parameters_of_a_request_are_kept_by_their_full_names(served: Served) -> None:
    assert served.application is not None
    request = Request("GET", "/search/", (("query", "a"), ("q", "b")))
    assert read_parameters(request, served.application.package) == {"model.queryString": "a", "q": "b"}
