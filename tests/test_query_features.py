"""Rank features of terms, positions, attributes with several values and time, with values computed by hand."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from query_support import Served, attribute, make_schema

from clipsearch.engine.package.model import Field, FieldType, Input, Phase, RankProfile, Schema
from clipsearch.engine.query import execution
from clipsearch.engine.ranking import compile_profile
from clipsearch.engine.tensors import parse_literal, parse_type
from clipsearch.errors import PackageError

NOW = 1_700_000_000
RIVER_OR_BRIDGE = "captions contains 'river' or captions contains 'bridge'"
HEAVY_RIVER = "captions contains ({weight: 300}'river') or captions contains 'bridge'"
CANCELLED = "captions contains ({weight: 100}'under') or captions contains ({weight: -100}'bridge') or width > 0"
PATCHES = parse_type("tensor<float>(patch{},x[2])")


def schema(*features: str, properties: dict[str, str] | None = None) -> Schema:
    weights = FieldType("weightedset", FieldType("int"))
    profile = RankProfile("f", first_phase=Phase("1"), match_features=features, properties=properties or {})
    patches = FieldType("tensor", tensor=PATCHES)
    return make_schema(
        profiles=[profile],
        sizes=Field("sizes", FieldType("array", FieldType("int")), attribute=True, summary=True),
        names=Field("names", FieldType("array", FieldType("string")), attribute=True, summary=True, match="word"),
        levels=Field("levels", weights, attribute=True, summary=True),
        day=attribute("day", "long"),
        patches=Field("patches", patches, attribute=True, summary=True, distance_metric="euclidean"),
    )


def features(
    where: str, *names: str, properties: dict[str, str] | None = None, **parameters: str
) -> list[dict[str, Any]]:
    served = Served(schema(*names, properties=properties))
    served.put(
        0,
        {
            "captions": ["a river under a bridge", "the river"],
            "title": ["one bridge"],
            "tags": {"red": 3, "blue": 7},
            "sizes": [4, 5],
            "names": ["b", "a", "b"],
            "day": NOW - 86_400,
            "width": 9,
            "patches": parse_literal("tensor<float>(patch{},x[2]):{a:[0,0],b:[3,4]}"),
        },
    )
    served.put(1, {"captions": ["river river"], "tags": {}, "sizes": [], "day": NOW + 50, "width": 8})
    status, root = served.get(yql=f"select * from image where {where}", ranking="f", **parameters)
    assert status == 200, root
    hits = sorted(root["children"], key=lambda hit: hit["id"])
    return [hit["fields"]["matchfeatures"] for hit in hits]


@pytest.mark.parametrize(
    ("where", "feature", "expected"),
    [
        ("captions contains 'river' or captions contains 'bridge'", "matchCount(captions)", [2, 1]),
        ("captions contains 'river' or title contains 'bridge'", "matches(title)", [1, 0]),
        ("captions contains 'river' or captions contains 'bridge'", "matches(captions,1)", [1, 0]),
        ("captions contains 'river' or captions contains 'bridge'", "matches(captions,7)", [0, 0]),
        ("captions contains 'river' and ({ranked: false}captions contains 'river')", "matchCount(captions)", [1, 1]),
        ("captions contains 'river'", "fieldLength(captions)", [5, 2]),
        ("captions contains phrase('the', 'river') or true", "fieldLength(captions)", [2, 1_000_000]),
        ("captions contains 'river'", "fieldLength(title)", [1_000_000, 1_000_000]),
        ("captions contains 'river'", "fieldTermMatch(captions,0)", [1, 0]),
        ("captions contains 'river'", "fieldTermMatch(captions,0).lastPosition", [1, 1]),
        ("captions contains 'river'", "fieldTermMatch(captions,0).occurrences", [2, 2]),
        ("captions contains 'river'", "fieldTermMatch(captions,0).weight", [2, 2]),
        ("captions contains 'river'", "fieldTermMatch(captions,0).exactness", [1, 1]),
        ("captions contains 'river'", "fieldTermMatch(captions,1)", [1_000_000, 1_000_000]),
        ("captions contains 'river' or captions contains 'bridge'", "fieldTermMatch(captions,1)", [4, 1_000_000]),
        ("captions contains phrase('a', 'bridge') or true", "fieldTermMatch(captions,0)", [3, 1_000_000]),
        ("captions contains 'river' or title contains 'x'", "queryTermCount", [2, 2]),
        ("rank(captions contains 'river', width > 3) and !(title contains 'y')", "queryTermCount", [2, 2]),
        ("captions contains ({weight: 250}'river')", "term(0).weight", [250, 250]),
        ("captions contains 'river'", "term(3).weight", [0, 0]),
        ("captions contains 'river' or captions contains 'bridge'", "queryCompleteness(captions)", [2, 1]),
        ("captions contains 'river' or captions contains 'bridge'", "queryCompleteness(captions).miss", [0, 1]),
        # the first element has 2 of 5 words and both terms, the second 1 of 2 words and one term of two
        ("captions contains 'river' or captions contains 'bridge'", "elementCompleteness(captions)", [0.7, 0.5]),
        (RIVER_OR_BRIDGE, "elementCompleteness(captions).fieldCompleteness", [0.4, 0.5]),
        (RIVER_OR_BRIDGE, "elementCompleteness(captions).queryCompleteness", [1, 0.5]),
        ("captions contains 'river'", "elementCompleteness(captions).elementWeight", [1, 1]),
        ("captions contains 'river'", "elementCompleteness(title).completeness", [0, 0]),
        (HEAVY_RIVER, "elementCompleteness(captions)", [0.7, 0.625]),
        (CANCELLED, "elementCompleteness(captions)", [0, 0]),
        (CANCELLED, "elementCompleteness(captions).queryCompleteness", [0, 0]),
        ("true", "attribute(tags).count", [2, 0]),
        ("true", "attribute(tags,blue).weight", [7, 0]),
        ("true", "attribute(tags,red).contains", [1, 0]),
        ("true", "attribute(levels)", [0, 0]),
        ("true", "attribute(sizes,1)", [5, 0]),
        ("true", "attribute(sizes,7)", [0, 0]),
        ("true", "attribute(sizes).count", [2, 0]),
        ("true", "attribute(width).count", [1, 1]),
        ("true", "attribute(width).value", [9, 8]),
        ("true", "attribute(width).weight", [0, 0]),
        ("true", "attribute(names).count", [3, 0]),
    ],
)  # fmt: skip
def test_a_feature_has_the_value_that_vespa_gives_it(where: str, feature: str, expected: list[float]) -> None:
    for pruning in (True, False):
        before, execution.PRUNING = execution.PRUNING, pruning
        try:
            assert [hit[feature] for hit in features(where, feature)] == pytest.approx(expected)
        finally:
            execution.PRUNING = before


def test_ages_and_freshness_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW + 0.9)
    names = ("now", "age(day)", "freshness(day)", "freshness(day).logscale")
    first, second = features("true", *names)
    assert first["now"] == NOW
    assert (first["age(day)"], second["age(day)"]) == (86_400, 0)
    assert first["freshness(day)"] == pytest.approx(1 - 1 / 90)
    scale = 7 * 7 / (90 - 14) * 86_400
    most = math.log(90 * 86_400 + scale)
    assert first["freshness(day).logscale"] == pytest.approx(
        (most - math.log(86_400 + scale)) / (most - math.log(scale))
    )
    assert second["freshness(day).logscale"] == pytest.approx(1)
    (first, _) = features("true", *names, properties={"freshness(day).maxAge": "172800"})
    assert first["freshness(day)"] == pytest.approx(0.5)


def test_labels_and_weighted_sets_become_tensors() -> None:
    first, second = features(
        "true", "tensorFromWeightedSet(attribute(tags),t)", "tensorFromLabels(attribute(names))",
        "tensorFromLabels(attribute(sizes),s)",
    )  # fmt: skip
    sets = "tensorFromWeightedSet(attribute(tags),t)"
    assert first[sets] == {"type": "tensor(t{})", "cells": {"red": 3.0, "blue": 7.0}}
    assert second[sets] == {"type": "tensor(t{})", "cells": {}}
    assert first["tensorFromLabels(attribute(names))"]["cells"] == {"b": 1.0, "a": 1.0}
    assert first["tensorFromLabels(attribute(sizes),s)"] == {"type": "tensor(s{})", "cells": {"4": 1.0, "5": 1.0}}


def test_the_closest_subspace_is_named() -> None:
    query = "{targetHits: 5, label: 'l'}nearestNeighbor(patches, p)"
    wanted = schema("closest(patches)", "closest(patches,l)", "closest(patches,other)")
    inputs = {"p": Input("p", parse_type("tensor<float>(x[2])"))}
    profiles = {**wanted.rank_profiles, "f": replace(wanted.rank_profiles["f"], inputs=inputs)}
    served = Served(replace(wanted, rank_profiles=profiles))
    served.put(0, {"patches": parse_literal("tensor<float>(patch{},x[2]):{a:[0,0],b:[3,4]}")})
    _, root = served.get(yql=f"select * from image where {query}", ranking="f", **{"input.query(p)": "[3,3]"})
    shown = root["children"][0]["fields"]["matchfeatures"]
    assert shown["closest(patches)"] == {"type": "tensor<float>(patch{})", "cells": {"b": 1.0}}
    assert shown["closest(patches,l)"] == shown["closest(patches)"]
    assert shown["closest(patches,other)"]["cells"] == {}


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("attribute(label)", "the field is a string"),
        ("attribute(tags,red)", "the field is a weightedset<string>"),
        ("attribute(flag).weight", "the field is a bool"),
        ("attribute(sizes,x)", "whole number"),
        ("attribute(width,b,c)", "takes a field name"),
        ("term(0)", "only its weight"),
        ("term(0).significance", "only its weight"),
        ("term(x).weight", "number of a query term"),
        ("fieldTermMatch(label,0)", "not indexed"),
        ("fieldTermMatch(captions)", "number of a query term"),
        ("elementCompleteness(captions).nothing", "its outputs are completeness"),
        ("bm25(captions).x", "it has no outputs"),
        ("closest(embedding)", "does not have one mapped and one indexed"),
        ("closest(embedding,a,b)", "takes a field"),
        ("freshness(score)", "needs a whole number"),
        ("tensorFromLabels(query(x))", "takes attribute(field)"),
        ("tensorFromWeightedSet(attribute(sizes))", "has no labels"),
        ("nativeRank", "not supported"),
        ("foreach(terms,N,matches(captions,N),true,sum)", "not supported"),
        ("firstPhaseRank", "not supported"),
        ("globalSequence", "not supported"),
        ("randomNormalStable", "not supported"),
        ("fieldMatch(captions)", "not supported"),
    ],
)
def test_a_feature_that_is_not_exact_is_refused_by_name(feature: str, message: str) -> None:
    wanted = schema(feature)
    with pytest.raises(PackageError, match=r".") as raised:
        compile_profile(wanted.rank_profiles["f"], wanted)
    assert message in str(raised.value)


def test_positions_of_what_is_no_word_are_refused() -> None:
    served = Served(schema("fieldLength(captions)"))
    served.put(0, {"captions": ["river"]})
    where = "captions contains equiv('river', 'sea')"
    status, root = served.get(yql=f"select * from image where {where}", ranking="f")
    assert status == 400
    assert "not supported by the local engine" in root["errors"][0]["message"]


def test_closeness_and_distance_without_neighbours_are_vespas(shared: Path) -> None:
    rows = json.loads((shared / "vespa/cases/golden_numbers.json").read_text(encoding="utf-8"))
    golden = {row["group"]: row["expected"] for row in rows if row["name"] == "no NN item / unrelated label"}
    assert golden.keys() == {"closeness", "distance_feature"}
    names = ("closeness(field,embedding)", "closeness(label,l)", "distance(field,embedding)", "distance(label,l)")
    for hit in features("captions contains 'river'", *names):
        assert [hit[name] for name in names] == [golden["closeness"]] * 2 + [golden["distance_feature"]] * 2
