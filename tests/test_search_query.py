"""Requests: YQL is constant whatever the user types, and every part of the query travels as a parameter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import InputError
from clipsearch.records import Generation
from clipsearch.search import query
from clipsearch.search.query import NO_FILTERS, Filters, by_profile, hybrid, lexical, vector

Q = np.array([0.6, 0.8], dtype=np.float32)
YQL = query.yql()
HOSTILE = st.one_of(
    st.text(min_size=1, max_size=200).filter(lambda text: bool(text.strip())),
    st.sampled_from(
        [
            '") or true limit 400 //', "@text", "' or corpus contains \"x\"", "captions:river -lake +\"a b\"",
            "select * from image where true", "\x00\x1f", "\u202egnp.exe", "🛰️ storage tanks", "a" * 10_000, "\ud800",
        ]
    ),
)  # fmt: skip


@given(
    text=HOSTILE, corpus=st.text(max_size=20), label=HOSTILE, split=st.text(max_size=9),
    size=st.sampled_from(["", *query.SIZES]), sort=st.sampled_from(list(query.SORTS)), facets=st.booleans(),
    area=st.sampled_from([None, query.WORLD]),
)  # fmt: skip
def test_no_text_or_filter_changes_the_yql(
    text: str, corpus: str, label: str, split: str, size: str, sort: str, facets: bool, area: query.Area | None
) -> None:
    filters = Filters(corpus, label, split, size)
    plain = Filters(*("x" if value else "" for value in (corpus, label, split)), "small" if size else "")
    options: Any = {"sort": sort, "facets": facets, "area": area}
    for make in (
        lambda text, filters: lexical(text, filters=filters, **options),
        lambda text, filters: vector(Q, filters=filters, **options),
        lambda text, filters: hybrid(text, Q, filters=filters, **options),
        lambda text, filters: query.patches(Q, text, filters=filters, **options),
    ):
        request = make(text, filters)
        assert request["yql"] == make("river", plain)["yql"]
        assert request["yql"] in YQL
        json.dumps(request).encode("utf-8")


def test_the_yql_names_no_parameter_that_is_not_sent() -> None:
    for name in ("corpus", "label", "split"):
        request = lexical("a river", filters=Filters(**{name: "value"}))
        assert f"{name} contains @{name}" in request["yql"]
        assert request[name] == "value"
        assert [other for other in ("corpus", "label", "split") if f"@{other}" in request["yql"]] == [name]


def test_a_text_without_filters_is_the_shortest_yql() -> None:
    assert lexical("river")["yql"] == "select * from image where (userInput(@text))"
    assert vector(Q)["yql"] == "select * from image where (({targetHits:200}nearestNeighbor(embedding,q)))"
    assert hybrid("river", Q)["yql"] == (
        "select * from image where (({targetHits:100}nearestNeighbor(embedding,q)) or userInput(@text))"
    )


@pytest.mark.parametrize("make", [vector, lambda embedding, **options: query.patches(embedding, "m", **options)])
def test_no_page_looks_for_more_neighbours_than_another_so_that_counts_stay(make: Callable[..., query.Request]) -> None:
    asked = {make(Q, hits=24, offset=offset)["yql"] for offset in range(0, 1001, 24)} | {make(Q, hits=0)["yql"]}
    assert len(asked) == 1
    assert "targetHits:200}" in asked.pop()
    assert "targetHits:1000}" in make(Q, hits=201)["yql"], "one long list, as the map's, gets what it asks for"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("river", False), ("a river", False), ("river, river & RIVERS!", False), ("river bridge -trees -cars", False),
        ("river-bank", False), ("🛰 tanks", False), ("storage tanks river", True), ("a river-bank", True),
        ('"a big river"', True),
    ],
)  # fmt: skip
def test_all_words_in_one_caption_count_from_three_words_on(text: str, whole: bool) -> None:
    request = hybrid(text, Q)
    assert request.get("input.query(whole)") == (None if whole else 0.0)  # 1 is the profile's default
    assert query.counts_whole(text) == whole
    assert "input.query(whole)" not in hybrid(text, Q, profile="hybrid_linear")
    assert "input.query(whole)" not in hybrid(text, Q, sort="label"), "the profile that sorts has no such input"


def test_bounds_of_an_area_travel_as_numbers_that_yql_can_read() -> None:
    request = query.located(area=query.Area(-2e-05, 1e-05, 0, 151.20934567))
    sent = {side: request[side] for side in ("south", "west", "north", "east")}
    assert sent == {"south": "-0.0000200", "west": "0.0000100", "north": "0.0000000", "east": "151.2093457"}
    assert query.located(area=query.Area(-1e-12, 0, 1, 1))["south"] == "0.0000000"


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_bound_is_written_without_an_exponent(latitude: float, longitude: float) -> None:
    for text in query.Area(latitude, longitude, latitude, longitude).bounds().values():
        assert re.fullmatch(r"-?\d+\.\d{7}", text)


def test_every_request_asks_for_the_summary_without_thumbnail_and_embedding() -> None:
    for request in (lexical("river"), vector(Q), hybrid("river", Q), query.browse()):
        assert request["presentation.summary"] == "hit"


def test_a_query_vector_travels_without_loss() -> None:
    exact = np.random.default_rng(0).normal(size=512).astype(np.float32)
    sent = json.loads(json.dumps(vector(exact)))["input.query(q)"]
    assert np.array_equal(np.array(sent, dtype=np.float32), exact)


def test_alpha_is_sent_with_the_linear_blend_only() -> None:
    assert hybrid("river", Q, profile="hybrid_linear", alpha=0.3)["input.query(alpha)"] == 0.3
    assert "input.query(alpha)" not in hybrid("river", Q, alpha=0.3)
    with pytest.raises(InputError, match="from 0 to 1"):
        hybrid("river", Q, profile="hybrid_linear", alpha=1.5)


def test_an_image_query_in_a_hybrid_ranking_is_a_vector_query() -> None:
    assert by_profile("hybrid", " ", Q) == vector(Q)
    assert by_profile("hybrid", "river", Q) == hybrid("river", Q)
    assert by_profile("lexical", "river", None) == lexical("river")


@pytest.mark.parametrize(
    ("profile", "text", "complaint"),
    [("bm25", "river", "there is no ranking"), ("vector", "river", "needs a model"), ("lexical", " ", "empty")],
)
def test_what_is_missing_is_named(profile: str, text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        by_profile(profile, text, None)


def test_hits_and_offset_stay_within_what_vespa_gives() -> None:
    with pytest.raises(InputError, match="401 hits"):
        lexical("river", hits=401)
    with pytest.raises(InputError, match="out of reach"):
        lexical("river", offset=1001)


def test_browsing_needs_no_words_and_can_count_only() -> None:
    assert query.browse()["yql"] == "select * from image where (true)"
    request = query.browse(filters=Filters("rsicd"), hits=0)
    assert request["yql"] == "select * from image where (true) and corpus contains @corpus"
    assert (request["hits"], request["corpus"]) == (0, "rsicd")
    assert NO_FILTERS.active() == {}


def test_the_yql_is_as_many_texts_as_its_description_says() -> None:
    said = query.__doc__ or ""
    assert len(query.yql()) == 2048 + 1
    assert "2,048 texts for each generation" in said
    assert all("nearestNeighbor(embedding_g2,q_g2)" in text for text in query.yql(Generation(2)) if "embedding" in text)


def test_sizes_meet_without_a_gap_and_travel_as_numbers() -> None:
    bounds = list(query.SIZES.values())
    assert bounds[0][0] == 1
    assert all(low == before[1] + 1 for before, (low, _) in pairwise(bounds))
    request = query.browse(filters=Filters(size="medium"))
    assert (request["narrowest"], request["widest"]) == query.SIZES["medium"]
    assert "size" not in request


def test_an_order_leaves_no_global_phase_and_no_parameter_of_one() -> None:
    request = hybrid("river", Q, profile="hybrid_linear", sort="label")
    assert request["ranking.profile"] == "vector"
    assert "input.query(alpha)" not in request
    assert request["yql"].endswith(" order by label asc")
    assert lexical("river", sort="width", facets=True)["yql"].partition(" | ")[0].endswith(" order by width desc")


def test_the_embedding_travels_in_hex_by_the_summary_of_its_generation() -> None:
    asked = {name: value for name, value in vector(Q, summary="hit_vector").items() if name.startswith("presentation")}
    assert asked == {"presentation.summary": "hit_vector", "presentation.format.tensors": "hex"}
    second = lexical("river", summary="hit_vector", generation=Generation(2))
    assert second["presentation.summary"] == "hit_vector_g2"
    assert "presentation.format.tensors" not in lexical("river", summary="id")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"filters": Filters(size="tiny")}, "no size 'tiny': choose one of small, medium"),
        ({"sort": "random"}, "no order 'random': choose one of label, width"),
        ({"summary": "default"}, "no summary 'default'"),
    ],
)
def test_what_there_is_none_of_is_named(options: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        lexical("river", **options)


@pytest.mark.parametrize("area", [(10, 0, 5, 1), (0, 20, 1, 10), (-91, 0, 0, 0), (0, 0, 0, 181), (np.nan, 0, 1, 1)])
def test_an_area_that_is_none_is_refused(area: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="is no area"):
        query.Area(*area)


@pytest.mark.parametrize("bad", [np.ones((1, 2)), np.array([np.nan, 1.0])])
def test_a_vector_that_is_no_vector_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="finite"):
        vector(bad)
