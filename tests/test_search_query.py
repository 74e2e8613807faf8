"""Requests: YQL is constant whatever the user types, and every part of the query travels as a parameter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import InputError
from clipsearch.search import query
from clipsearch.search.query import NO_FILTERS, Filters, by_profile, hybrid, lexical, similar, vector

Q = np.array([0.6, 0.8], dtype=np.float32)
HOSTILE = st.one_of(
    st.text(min_size=1, max_size=200).filter(lambda text: bool(text.strip())),
    st.sampled_from(
        [
            '") or true limit 400 //', "@text", "' or corpus contains \"x\"", "captions:river -lake +\"a b\"",
            "select * from image where true", "\x00\x1f", "\u202egnp.exe", "🛰️ storage tanks", "a" * 10_000, "\ud800",
        ]
    ),
)  # fmt: skip


@given(text=HOSTILE, corpus=st.text(max_size=20), label=HOSTILE, split=st.text(max_size=9))
def test_no_text_or_filter_changes_the_yql(text: str, corpus: str, label: str, split: str) -> None:
    filters = Filters(corpus, label, split)
    plain = Filters(*("x" if value else "" for value in (corpus, label, split)))
    for make in (
        lambda text, filters: lexical(text, filters=filters),
        lambda text, filters: vector(Q, filters=filters),
        lambda text, filters: hybrid(text, Q, filters=filters),
    ):
        request = make(text, filters)
        assert request["yql"] == make("river", plain)["yql"]
        assert request["yql"] in query.YQL.values()
        json.dumps(request).encode("utf-8")


def test_the_yql_names_no_parameter_that_is_not_sent() -> None:
    for name in ("corpus", "label", "split"):
        request = lexical("a river", filters=Filters(**{name: "value"}))
        assert f"{name} contains @{name}" in request["yql"]
        assert request[name] == "value"
        assert [other for other in ("corpus", "label", "split") if f"@{other}" in request["yql"]] == [name]


def test_a_text_without_filters_is_the_shortest_yql() -> None:
    assert lexical("river")["yql"] == "select * from image where (userInput(@text))"
    assert vector(Q)["yql"] == "select * from image where (({targetHits:100}nearestNeighbor(embedding,q)))"
    assert hybrid("river", Q)["yql"] == (
        "select * from image where (({targetHits:100}nearestNeighbor(embedding,q)) or userInput(@text))"
    )


def test_pages_beyond_the_hundredth_hit_look_further_for_neighbours() -> None:
    assert "targetHits:1000" in vector(Q, hits=20, offset=100)["yql"]
    assert "targetHits:100}" in vector(Q, hits=20, offset=80)["yql"]


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


def test_similar_leaves_room_for_the_image_itself() -> None:
    assert similar(Q, hits=10)["hits"] == 11
    assert (similar(Q, hits=10, offset=20)["hits"], similar(Q, hits=10, offset=20)["offset"]) == (10, 21)


def test_browsing_needs_no_words_and_can_count_only() -> None:
    assert query.browse()["yql"] == "select * from image where (true)"
    request = query.browse(filters=Filters("rsicd"), hits=0)
    assert request["yql"] == "select * from image where (true) and corpus contains @corpus"
    assert (request["hits"], request["corpus"]) == (0, "rsicd")
    assert NO_FILTERS.active() == {}


@pytest.mark.parametrize("bad", [np.ones((1, 2)), np.array([np.nan, 1.0])])
def test_a_vector_that_is_no_vector_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="finite"):
        vector(bad)
