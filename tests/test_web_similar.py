"""Searching by an image of the index: the image itself is left out, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fake_vespa import FakeVespa, serve_fake
from starlette.testclient import TestClient
from web_support import Elements, Model

from clipsearch.search import QueryEncoder
from clipsearch.search.query import MAX_HITS
from clipsearch.web.app import UiConfig, by_model, create_app

COUNT = 60
LIKE = "id:demo:image::30.jpg"
BY_IT = f"like={quote(LIKE)}"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        for number in range(COUNT):
            captions = ["a river"] if number % 2 else ["a bridge"]
            label = "even" if number % 2 == 0 else "odd"
            server.add(f"{number}.jpg", captions, number, label=label, latitude=number / 2, longitude=number / 2)
        yield server


@pytest.fixture(autouse=True)
def _reset(fake: FakeVespa) -> None:
    fake.queries.clear()


@pytest.fixture
def page(fake: FakeVespa) -> TestClient:
    return TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())))))


@pytest.fixture
def words_only(fake: FakeVespa) -> TestClient:
    return TestClient(create_app(UiConfig(fake.url)))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (BY_IT, COUNT - 1), (f"{BY_IT}&label=odd", COUNT // 2), (f"{BY_IT}&q=river", COUNT - 1),
        (f"{BY_IT}&label=even", COUNT // 2 - 1), (f"{BY_IT}&with=-2:like:{quote(LIKE)}", COUNT - 1),
    ],
    ids=["plain", "a filter excludes the image", "with words", "a filter keeps it", "it comes last"],
)  # fmt: skip
def test_all_pages_show_every_other_image_exactly_once(page: TestClient, query: str, found: int) -> None:
    seen: list[str] = []
    url: str | None = f"?{query}&dups=1"
    while url:
        twin = page.get(f"/index.json{url}").json()
        seen += [hit["id"] for hit in twin["hits"]]
        url = twin["next"]
    assert len(seen) == len(set(seen)) == found
    assert LIKE not in seen


def test_a_page_that_held_nothing_but_the_image_itself_leads_back(page: TestClient) -> None:
    shown = page.get(f"/?{BY_IT}&page=4")
    assert "No further image" in shown.text
    assert [a["rel"] for a in Elements(shown.text).all("a") if "rel" in a] == ["prev"]


def test_the_map_of_similar_images_leaves_the_image_out(page: TestClient, fake: FakeVespa) -> None:
    answer = page.get(f"/map.json?{BY_IT}")
    assert answer.status_code == 200
    ids = [point["id"] for point in answer.json()["points"]]
    assert len(ids) == answer.json()["total"] == COUNT - 1
    assert LIKE not in ids
    assert [point["rank"] for point in answer.json()["points"]] == list(range(1, COUNT))
    assert max(query["hits"] for query in fake.queries) <= MAX_HITS


def test_both_sides_of_a_comparison_know_as_many_hits(page: TestClient) -> None:
    answer = page.get(f"/compare.json?q=river&{BY_IT}&a=vector&b=hybrid").json()
    assert all(LIKE not in [hit["id"] for hit in answer[side]["hits"]] for side in "ab")
    text = page.get(f"/compare?{BY_IT}&a=vector&b=vector").text
    assert LIKE not in [a.get("value", "") for a in Elements(text).all("button")]


def test_ranks_in_the_two_lists_do_not_count_the_image_itself(page: TestClient) -> None:
    pages = [page.get(f"/index.json?q=bridge&{BY_IT}&dups=1&page={number}").json()["hits"] for number in (1, 2, 3)]
    for name, count in (("word_rank", COUNT // 2), ("vector_rank", COUNT)):
        ranks = sorted(hit[name] for hits in pages for hit in hits if hit[name])
        assert ranks == list(range(1, count)), name


def test_where_an_order_is_set_no_lists_are_asked_for(page: TestClient, fake: FakeVespa) -> None:
    assert page.get("/?q=bridge&ranking=hybrid&sort=label").status_code == 200
    assert not [query for query in fake.queries if query["presentation.summary"] == "id"]
    assert page.get("/?q=bridge&ranking=hybrid").status_code == 200
    assert len([query for query in fake.queries if query["presentation.summary"] == "id"]) == 2


IGNORED = [
    (f"q=river&ranking=lexical&{BY_IT}", "the image does not count"),
    (f"q=river&ranking=lexical&with=-1:like:{quote(LIKE)}", "what is added or subtracted does not count"),
    (f"q=river&ranking=lexical&{BY_IT}&with=1:text:snow", "the image and what is added or subtracted do not count"),
]


@pytest.mark.parametrize(("query", "sentence"), IGNORED)
def test_a_ranking_by_words_says_what_it_does_not_look_at(page: TestClient, query: str, sentence: str) -> None:
    assert page.get(f"/?{query}").text.count(sentence) == 1
    assert sentence in page.get(f"/index.json?{query}").json()["note"]
    assert "not count" not in page.get(f"/?{query.replace('lexical', 'hybrid')}").text
    compared = page.get(f"/compare?{query}&a=lexical&b=hybrid").text
    assert compared.count(sentence) == 1
    assert compared.index("side-a") < compared.index(sentence) < compared.index("side-b")
    twin = page.get(f"/compare.json?{query}&a=lexical&b=hybrid").json()
    assert (sentence in twin["a"]["note"], twin["b"]["note"]) == (True, "")


def test_without_a_model_an_image_beside_words_is_said_not_to_count(words_only: TestClient) -> None:
    assert "the image does not count" in words_only.get(f"/?q=river&{BY_IT}").text
    assert "not count" not in words_only.get(f"/?{BY_IT}").text
    assert "not count" not in words_only.get("/?q=river").text


def test_a_judgment_has_only_what_the_ranking_looked_at(fake: FakeVespa, tmp_path: Path) -> None:
    kept = tmp_path / "judgments.jsonl"
    ui = TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())), judgments=kept)))
    url = f"q=river&{BY_IT}&with=1:text:snow&judge=1"
    mark = {"mark": "relevant 1 id:demo:image::1.jpg"}
    ui.post(f"/judge?{url}&ranking=lexical", data=mark)
    ui.post(f"/judge?{url}&ranking=hybrid", data=mark)
    assert [json.loads(line)["query"] for line in kept.read_text().splitlines()] == [
        {"q": "river"}, {"q": "river", "like": LIKE, "terms": ["1:text:snow"]},
    ]  # fmt: skip
    other = {"mark": "irrelevant 2 id:demo:image::3.jpg"}
    ui.post("/judge?q=river&ranking=lexical", data=other)
    assert "<b>2</b> judged" in ui.get(f"/?{url}&ranking=lexical").text
    assert "<b>1</b> judged" in ui.get(f"/?{url}&ranking=hybrid").text
    pressed = Elements(ui.get(f"/compare?{url}&a=lexical&b=hybrid").text).all("button")
    assert [
        (str(a["form"]), str(a["value"]).rpartition("::")[2]) for a in pressed if a.get("aria-pressed") == "true"
    ] == [("judging-a", "1.jpg"), ("judging-a", "3.jpg"), ("judging-b", "1.jpg")]
