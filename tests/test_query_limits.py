"""Queries at their limits: terms by their number, huge numbers, negated operators, and clocks that run out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from query_support import VECTOR, Served, make_schema

from clipsearch.engine.package.model import Field, FieldType, Input, Phase, RankProfile
from clipsearch.engine.patterns import Pattern
from clipsearch.engine.tensors import Tensor, parse_type
from clipsearch.errors import ExpressionError

NEAR = "{targetHits: 9}nearestNeighbor(embedding, q)"
RIVER, EVEN = "captions contains ({weight: 250}'river')", "label contains ({weight: 30}'even')"


@pytest.fixture(scope="module")
def served() -> Served:
    names = ("term(0).weight", "term(1).weight", "queryTermCount", "closeness(field,embedding)", "rawScore(tags)")
    inputs = {"q": Input("q", parse_type("tensor<float>(x[4])"))}
    profiles = [RankProfile(n, inputs, first_phase=Phase(e), match_features=names) for n, e in
                (("one", "1"), ("words", "bm25(captions)"))]  # fmt: skip
    big = Field("big", FieldType("long"), attribute=True, summary=True)
    served = Served(make_schema(profiles=profiles, big=big))
    for lid in range(4):
        fields = {"captions": ["a river"], "label": ("even", "odd")[lid % 2], "width": lid, "big": 2**53 + lid}
        tags = {} if lid == 3 else {"b": 2}
        vector = Tensor(VECTOR, np.array([1, 0, 0, lid], np.float32))
        served.put(lid, {**fields, "tags": tags, "embedding": vector})
    return served


def ask(served: Served, where: str, **parameters: str) -> tuple[int, dict]:  # type: ignore[type-arg]
    return served.get(
        yql=f"select * from image where {where}", **{"ranking": "one", "input.query(q)": "[1,0,0,0]", **parameters}
    )


@pytest.mark.parametrize("profile", ["one", "words"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [(f"(({NEAR}) or {RIVER}) and {EVEN}", [100, 250, 3]), (f"{RIVER} and {EVEN}", [250, 30, 2])],
)
def test_terms_are_numbered_as_they_stand_in_the_query(
    served: Served, where: str, expected: list[int], profile: str
) -> None:
    status, root = ask(served, where, ranking=profile)
    assert status == 200, root
    found = root["children"][0]["fields"]["matchfeatures"]
    assert [found[name] for name in ("term(0).weight", "term(1).weight", "queryTermCount")] == expected


def test_what_must_not_match_gives_no_closeness(served: Served) -> None:
    _, root = ask(served, f"true and !({NEAR.replace('9', '1')})")
    assert [hit["fields"]["matchfeatures"]["closeness(field,embedding)"] for hit in root["children"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("{targetHits: -1}wand(tags, {'b': 1})", 400),
        ("{targetHits: -5, totalTargetHits: 10}nearestNeighbor(embedding, q)", 200),
        ("true | all(group(fixedwidth(width, 1e30)) each(output(count())))", 200),
        ("true | all(group(fixedwidth(width, 99999999999999999999)) each(output(count())))", 400),
        ("true | all(group(width) max(1e400) each(output(count())))", 400),
        ("true | all(group(width) order(sum(math.exp(width * 1000)) % 3) each(output(count())))", 200),
        ("true | all(group(width) order(min(label) + 1) each(output(count())))", 400),
        ("true | all(group(width) order(min(tags)) each(output(count())))", 200),
    ],
)
def test_numbers_out_of_bounds_are_answered_or_refused(served: Served, where: str, status: int) -> None:
    assert ask(served, where)[0] == status


def test_a_weighted_set_of_longs_is_not_rounded_to_doubles(served: Served) -> None:
    _, root = ask(served, f"weightedSet(big, {{'{2**53 + 1}': 1, '9': 1}})")
    assert root["fields"]["totalCount"] == 1


def test_classes_that_python_reads_otherwise_are_refused() -> None:
    with pytest.raises(ExpressionError, match="not supported by the local engine"):
        Pattern("[[:alpha:]]+")


@pytest.mark.parametrize(
    "where", ["label contains ({maxEditDistance: 9}fuzzy('" + "abd" * 61 + "'))", "label matches 'a.*b.*x'"]
)
def test_a_slow_test_of_many_strings_ends_when_the_time_is_over(where: str) -> None:
    served = Served(make_schema(profiles=[RankProfile("one", first_phase=Phase("1"))]))
    for lid in range(400):
        served.put(lid, {"label": "abc" * 60 + str(lid)})
    started = time.process_time()
    status, _ = served.get(yql=f"select * from image where {where}", ranking="one", timeout="0.02")
    assert status == 504
    assert time.process_time() - started < 0.15


def test_near_takes_time_in_proportion_to_the_rows(served: Served) -> None:
    def took(count: int) -> float:
        served = Served(make_schema(profiles=[RankProfile("one", first_phase=Phase("1"))]))
        for lid in range(count):
            served.put(lid, {"captions": ["b c d e f g a x river " * 3]})
        started = time.process_time()
        _, root = served.get(
            yql="select * from image where captions contains near('a', 'river')", ranking="one", timeout="60"
        )
        assert root["fields"]["totalCount"] == count
        return time.process_time() - started

    assert took(8000) < 50 * took(500)


@pytest.mark.parametrize("hits", ["0", "2", "12"])
def test_groups_rank_by_the_second_phase_whatever_the_page(hits: str) -> None:
    second = Phase("-1 - attribute(width) * 0", rerank_count=3)
    served = Served(
        make_schema(profiles=[RankProfile("p", first_phase=Phase("attribute(width)"), second_phase=second)])
    )
    for lid in range(12):
        served.put(lid, {"width": lid})
    yql = "select * from image where true | all(group(width) max(9) each(output(count())))"
    _, root = served.get(yql=yql, ranking="p", hits=hits)
    groups = root["children"][0]["children"][0]["children"]
    assert [(group["value"], group["relevance"]) for group in groups[:3]] == [("9", -1), ("10", -1), ("11", -1)]
    assert groups[3]["relevance"] < -1
    assert len(root["children"]) - 1 == int(hits)


def test_word_and_digit_classes_are_ascii_as_in_re2() -> None:
    assert not Pattern(r"^\w$").search("\u00e9")
    assert not Pattern(r"^\d$").search("\u0663")
    assert Pattern("^AIR", ignore_case=True).search("airport")
