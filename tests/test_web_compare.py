"""Two rankings side by side: what moved and by how much, what is alike, and a side that fails alone."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_vespa import FakeVespa, serve_fake
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from web_support import HOSTILE, Elements, Model

from clipsearch.metrics.overlap import rank_biased_overlap
from clipsearch.search import QueryEncoder
from clipsearch.web.app import UiConfig, by_model, create_app
from clipsearch.web.compare import DEPTH, SHOWN


def doc(number: int) -> str:
    return f"id:demo:image::d{number}.jpg"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        for number in range(60):
            server.add(f"d{number}.jpg", ["nothing", f"a river, number {number}"], number)
        server.add("bad.jpg", [HOSTILE], 99)
        yield server


@pytest.fixture(autouse=True)
def _reset(fake: FakeVespa) -> Iterator[None]:
    fake.queries.clear()
    yield
    fake.answer = lambda method, path, body: None


@pytest.fixture(scope="module")
def ui(fake: FakeVespa) -> TestClient:
    encoders = by_model(QueryEncoder(Model()), QueryEncoder(Model("second")))
    return TestClient(create_app(UiConfig(fake.url, encoders)))


def rank_as(fake: FakeVespa, **orders: list[int]) -> None:
    """Answer each rank profile with documents in this order; a missing one is refused."""

    def special(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if path != "/search/" or ("text" not in body and "input.query(q)" not in body):
            return None
        order = orders.get(str(body["ranking.profile"]))
        if order is None:
            return 400, {"root": {"errors": [{"code": 4, "message": "no such profile"}]}}
        children = [fake.child(1 / (1 + place), doc(number), 1.0, 0.5) for place, number in enumerate(order)]
        return 200, {"root": {"fields": {"totalCount": len(order)}, "children": children[: body["hits"]]}}

    fake.answer = special


def test_each_hit_says_how_its_rank_differs(ui: TestClient, fake: FakeVespa) -> None:
    rank_as(fake, lexical=[1, 2, 3, 4, 5], vector=[3, 2, 6, 1])
    answer = ui.get("/compare.json?q=river&a=lexical&b=vector").json()
    changes = {side: [(hit["id"], hit["other_rank"], hit["change"]) for hit in answer[side]["hits"]] for side in "ab"}
    assert changes == {
        "a": [
            (doc(1), 4, "down"), (doc(2), 2, "same"), (doc(3), 1, "up"), (doc(4), None, "gone"), (doc(5), None, "gone"),
        ],
        "b": [(doc(3), 3, "up"), (doc(2), 2, "same"), (doc(6), None, "new"), (doc(1), 1, "down")],
    }  # fmt: skip
    text = ui.get("/compare?q=river&a=lexical&b=vector").text
    words = re.findall(r'class="change"[^>]*>\s*<span class="sign" aria-hidden="true">.</span> ([^<]+)<', text)
    gone, new = f"gone: not in B&#39;s first {DEPTH}", f"new: not in A&#39;s first {DEPTH}"
    assert words == [
        "down 3, to 4", "same rank", "up 2, to 1", gone, gone, "up 2, from 3", "same rank", new, "down 3, from 1",
    ]  # fmt: skip
    assert "3 of the first 5 images are in both lists" in text


def test_a_change_may_come_from_below_what_is_shown(ui: TestClient, fake: FakeVespa) -> None:
    rank_as(fake, lexical=list(range(50)), vector=[40, *range(40)])
    answer = ui.get("/compare.json?q=river&a=lexical&b=vector").json()
    assert answer["b"]["hits"][0]["other_rank"] == 41
    assert len(answer["a"]["hits"]) == len(answer["b"]["hits"]) == SHOWN
    entries = Elements(ui.get("/compare?q=river&a=lexical&b=vector").text).all("li")
    assert [entry["id"] for entry in entries if "data-link" not in entry and "entry" in entry.get("class", "")] == [
        "a-20", "b-1",
    ]  # fmt: skip


def test_the_same_image_is_linked_across(ui: TestClient, fake: FakeVespa) -> None:
    rank_as(fake, lexical=[1, 2, 3], vector=[3, 9, 1])
    elements = Elements(ui.get("/compare?q=river&a=lexical&b=vector").text)
    links = {entry["id"]: entry["data-link"] for entry in elements.all("li") if "data-link" in entry}
    assert links == {"a-1": "1", "b-3": "1", "a-3": "2", "b-1": "2"}
    ids = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    targets = [a["href"][1:] for a in elements.all("a") if a["href"].startswith("#") and a["href"] != "#main"]
    assert targets == ["b-3", "b-1", "a-3", "a-1"]
    assert set(targets) <= ids
    assert len(ids) == sum("id" in attributes for _, attributes in elements.found)


def test_one_side_that_fails_leaves_the_other_standing(ui: TestClient, fake: FakeVespa) -> None:
    rank_as(fake, lexical=[1, 2])
    answer = ui.get("/compare?q=river&a=lexical&b=hybrid")
    assert answer.status_code == 200
    assert "The search engine refuses this query: no such profile" in answer.text
    assert len([entry for entry in Elements(answer.text).all("li") if "entry" in entry.get("class", "")]) == 2
    twin = ui.get("/compare.json?q=river&a=lexical&b=hybrid").json()
    assert "no such profile" in twin["b"]["error"]
    assert len(twin["a"]["hits"]) == 2
    assert twin["rank_biased_overlap"] is None
    assert [hit["change"] for hit in twin["a"]["hits"]] == ["", ""]
    assert "One side is missing" in answer.text
    assert "gone:" not in answer.text


def test_both_sides_that_fail_are_an_error(ui: TestClient, fake: FakeVespa) -> None:
    rank_as(fake)
    assert ui.get("/compare?q=river").status_code == 400
    assert ui.get("/compare.json?q=river").json()["error"].startswith("The search engine refuses")


def test_an_engine_that_is_away_is_a_sentence(free_port: Callable[[], int]) -> None:
    away = TestClient(create_app(UiConfig(f"http://127.0.0.1:{free_port()}", by_model(QueryEncoder(Model())))))
    answer = away.get("/compare?q=river&a=lexical&b=vector")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "data-down" in answer.text
    assert 'value="river"' in answer.text
    assert away.get("/compare.json?q=river").status_code == 503
    assert away.get("/compare").status_code == 200


def test_two_models_answer_the_same_ranking(ui: TestClient, fake: FakeVespa) -> None:
    original = fake.child

    def child(*hit_parts: Any) -> dict[str, Any]:
        """With the features and models of two generations."""
        hit = original(*hit_parts)
        hit["fields"]["matchfeatures"]["closeness(field,embedding_g2)"] = 0.0
        return hit | {"fields": hit["fields"] | {"model_id": "stand-in", "model_id_g2": "second"}}

    fake.child = child  # type: ignore[method-assign]
    for fields in fake.documents.values():
        fields["embedding_g2"] = fields["embedding"]
    try:
        encoders = by_model(QueryEncoder(Model()), QueryEncoder(Model("second")))
        fresh = TestClient(create_app(UiConfig(fake.url, encoders)))
        answer = fresh.get("/compare?q=river&a=vector&b=vector&bm=second")
        assert answer.status_code == 200
        assert {query["ranking.profile"] for query in fake.queries if "hits" in query and query["hits"] == DEPTH} == {
            "vector", "vector_g2",
        }  # fmt: skip
        chosen = [option for option in Elements(answer.text).all("option") if "selected" in option]
        assert [option["value"] for option in chosen] == ["vector", "", "vector", "second"]
        unknown = fresh.get("/compare?q=river&a=lexical&b=vector&bm=third")
        assert unknown.status_code == 200
        assert "third" in unknown.text
        by_image = fresh.get("/compare.json", params={"like": doc(3)}).json()
        assert [by_image[side]["ranking"] for side in "ab"] == ["vector", "vector"]
        assert by_image["b"]["model"] == "second"
        chosen_first = fresh.get("/compare.json", params={"like": doc(3), "a": "vector", "b": "vector"}).json()
        assert chosen_first["b"]["model"] == ""
    finally:
        fake.child = original  # type: ignore[method-assign]


def test_swapping_and_the_twin_keep_the_whole_query(ui: TestClient) -> None:
    url = "/compare?q=river&corpus=demo&with=-0.5%3Atext%3Asnow&a=lexical&b=hybrid_linear&ba=0.25"
    elements = Elements(ui.get(url).text)
    (swap,) = [a["href"] for a in elements.all("a") if "swap" in a.get("class", "")]
    assert parse_qs(urlsplit(swap).query) == {
        "q": ["river"], "corpus": ["demo"], "with": ["-0.5:text:snow"], "a": ["hybrid_linear"], "aa": ["0.25"],
        "b": ["lexical"],
    }  # fmt: skip
    back = [a["href"] for a in Elements(ui.get(swap).text).all("a") if "swap" in a.get("class", "")]
    assert parse_qs(urlsplit(back[0]).query) == parse_qs(urlsplit(url).query)
    assert f"/compare.json?{urlsplit(back[0]).query}" in [a["href"] for a in elements.all("a")]
    hidden = {(each["name"], each["value"]) for each in elements.all("input") if each.get("type") == "hidden"}
    assert hidden == {("corpus", "demo"), ("with", "-0.5:text:snow")}


def test_blending_weights_go_to_their_own_side(ui: TestClient, fake: FakeVespa) -> None:
    ui.get("/compare?q=river&a=hybrid_linear&aa=0.2&b=hybrid_linear&ba=0.8")
    assert sorted(query.get("input.query(alpha)", 9) for query in fake.queries if query["hits"] == DEPTH) == [0.2, 0.8]


@pytest.mark.parametrize("query", ["a=bm25", "b=x", "aa=2", "ba=nan", "page=0", "with=1"])
def test_values_that_make_no_sense_are_named(ui: TestClient, query: str) -> None:
    answer = ui.get(f"/compare?q=river&{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.text
    assert ui.get(f"/compare.json?q=river&{query}").status_code == 400


def test_without_words_or_a_model_the_page_says_what_is_missing(ui: TestClient, fake: FakeVespa) -> None:
    assert "Two rankings side by side" in ui.get("/compare").text
    assert "no words to rank by" in ui.get("/compare", params={"like": doc(1), "a": "lexical", "b": "vector"}).text
    words_only = TestClient(create_app(UiConfig(fake.url)))
    assert "--model" in words_only.get("/compare").text
    answer = words_only.get("/compare?q=river")
    assert answer.status_code == 200
    assert "needs a model" in answer.text


def test_hostile_captions_and_queries_are_text(ui: TestClient) -> None:
    answer = ui.get("/compare", params={"q": HOSTILE, "a": "lexical", "b": "vector"})
    elements = Elements(answer.text)
    assert len(elements.all("script")) == 1
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]


def test_the_words_that_match_are_marked(ui: TestClient) -> None:
    assert re.search(r"a <mark>river</mark>, number \d", ui.get("/compare?q=rivers&a=lexical&b=vector").text)


def rbo_by_definition(first: list[str], second: list[str], p: float, depth: int = 2000) -> float:
    """The sum of agreement over all depths, the lists drawn out as RBO_EXT takes them to go on."""
    short, long = sorted((first, second), key=len)
    s, ends = len(short), len(long)

    def common(depth: int) -> int:
        return len(set(short[:depth]) & set(long[:depth]))

    def agreement(depth: int) -> float:
        if depth <= s:
            return common(depth) / depth
        if depth <= ends:
            return (common(depth) + common(s) * (depth - s) / s) / depth
        return agreement(ends)

    return (1 - p) * sum(p ** (d - 1) * agreement(d) for d in range(1, depth))


@given(st.permutations("abcdef"), st.permutations("abcdefgh"), st.integers(1, 6), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_rank_biased_overlap_is_its_definition_and_symmetric(
    first: list[str], second: list[str], cut: int, other: int
) -> None:
    found = rank_biased_overlap(first[:cut], second[:other])
    assert found == pytest.approx(rbo_by_definition(first[:cut], second[:other], 0.9), abs=1e-9)
    assert found == pytest.approx(rank_biased_overlap(second[:other], first[:cut]))


def test_rank_biased_overlap_at_its_ends_and_by_hand() -> None:
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1)
    assert rank_biased_overlap("abc", "def") == 0
    assert rank_biased_overlap("", "") == 1
    assert rank_biased_overlap("", "a") == 0
    # agreements 0, 1, then for ever 1
    assert rank_biased_overlap("ab", "ba", 0.5) == pytest.approx(0.5)
    orders = ["".join(order) for order in itertools.permutations("abcd")]
    best = max(orders, key=lambda order: rank_biased_overlap("abcd", order))
    assert best == "abcd"
    assert not math.isnan(rank_biased_overlap("a" * 1, "b" * 1))


def test_parts_of_images_can_be_a_side_where_the_index_has_some(
    ui: TestClient, fake: FakeVespa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.search.SearchClient.has_patches", lambda client, model: False)
    assert "vector_patches" not in [option["value"] for option in Elements(ui.get("/compare").text).all("option")]
    monkeypatch.setattr("clipsearch.search.SearchClient.has_patches", lambda client, model: True)
    answer = ui.get("/compare?q=river&a=vector&b=vector_patches")
    assert answer.status_code == 200
    assert [query["ranking.profile"] for query in fake.queries if query["hits"] == DEPTH and "model_id" in query] == [
        "vector_patches"
    ]
    links = [a["href"] for a in Elements(answer.text).all("a") if a.get("aria-label") == "Open B as a search"]
    assert links == ["/?q=river&parts=1"]
