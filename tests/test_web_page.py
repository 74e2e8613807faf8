"""What the search page does beyond a list of hits, over a stand-in endpoint: mixing, parts, facets, folding, twins."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from fake_vespa import FakeVespa, serve_fake, unit
from starlette.testclient import TestClient
from web_support import Elements, Model, asked, hits_of, small_index

from clipsearch.search import QueryEncoder
from clipsearch.search.query import yql
from clipsearch.web.app import UiConfig, by_model, create_app


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with small_index() as server:
        server.add("zipped.jpg", ["zipped"], 79)
        yield server


@pytest.fixture(autouse=True)
def _reset(fake: FakeVespa) -> None:
    fake.queries.clear()


@pytest.fixture(scope="module")
def page(fake: FakeVespa) -> TestClient:
    return TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())))))


SEARCHES = [
    "", "q=storage+tanks", "q=bridge&ranking=lexical&page=2", "q=bridge&ranking=vector&corpus=demo&dups=1",
    "q=a+river&ranking=hybrid_linear&alpha=0.8&label=bridge&split=test", "like=id:demo:image::bridge_3.jpg",
    "q=river&like=id:demo:image::bridge_3.jpg&with=-0.5:text:tanks&view=list", "q=bridge&sort=label&size=small",
    "q=bridge&parts=1", "q=river&with=1:like:id:demo:image::gone.jpg", "ranking=bm25",
]  # fmt: skip


@pytest.mark.parametrize("query", SEARCHES)
def test_page_twin_and_request_agree(page: TestClient, fake: FakeVespa, query: str) -> None:
    shown = page.get(f"/?{query}")
    sent = [dict(each) for each in fake.queries if each["hits"] >= 24 and each["presentation.summary"] != "id"]
    twin = page.get(f"/index.json?{query}")
    assert shown.status_code == twin.status_code
    if shown.status_code != 200:
        assert list(twin.json()) == ["error"]
        assert page.get(f"/request.json?{query}").status_code == shown.status_code
        return
    assert hits_of(shown.text) == [str(hit["rank"]) for hit in twin.json()["hits"]]
    assert sent[-1] == page.get(f"/request.json?{query}").json()
    links = [str(a["href"]) for a in Elements(shown.text).all("a") if "data-copy" in a]
    assert [urlsplit(link).path for link in links] == ["/", "/request.yql", "/request.curl"]
    assert page.get(links[1]).text.startswith(sent[-1]["yql"] + "\n\n")
    command = shlex.split(page.get(links[2]).text)
    assert command[0] == "curl"
    assert command[-1] == f"{fake.url}/search/"
    assert json.loads(command[command.index("-d") + 1]) == sent[-1]


def test_words_and_images_add_up_to_one_unit_vector(page: TestClient, fake: FakeVespa) -> None:
    state = (
        "q=storage+tanks&like=id:demo:image::bridge_3.jpg&with=-0.5:text:snow&with=2:like:id:demo:image::bridge_4.jpg"
    )
    shown = page.get(f"/?ranking=vector&{state}").text
    model = Model()
    total = model.embed_texts(["storage tanks"])[0] + unit(3) - 0.5 * model.embed_texts(["snow"])[0] + 2 * unit(4)
    np.testing.assert_allclose(asked(fake)["input.query(q)"], total / np.linalg.norm(total), atol=1e-5)
    chips = Elements(shown).all("li", "chip")
    assert [a["class"] for a in chips] == ["chip subject", "chip term less", "chip term"]
    assert "− 0.5 ×" in shown
    assert "id:demo:image::bridge_3.jpg" not in [hit["id"] for hit in page.get(f"/index.json?{state}").json()["hits"]]
    cancelled = page.get("/?q=snow&with=-1:text:snow")
    assert (cancelled.status_code, "cancel out" in cancelled.text) == (400, True)


def test_each_hit_can_be_added_and_subtracted_and_the_small_form_lands_on_a_clean_url(page: TestClient) -> None:
    elements = Elements(page.get("/?q=bridge&ranking=vector").text)
    more, less = (elements.all("a", css_class)[0] for css_class in ("plus", "minus"))
    assert "with=1%3Alike%3Aid%3Ademo%3Aimage%3A%3Abridge_" in str(more["href"])
    assert "with=-0.5%3Alike%3A" in str(less["href"])
    hidden = [(a["name"], a["value"]) for a in elements.all("input") if a.get("type") == "hidden"]
    assert ("q", "bridge") in hidden
    answer = page.get("/?q=bridge&ranking=&alpha=0.5&add=snow&weight=-1", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?q=bridge&with=-1%3Atext%3Asnow")


def test_parts_of_images_are_searched_and_the_winning_part_is_outlined(page: TestClient, fake: FakeVespa) -> None:
    elements = Elements(page.get("/?q=bridge&parts=1").text)
    assert asked(fake)["ranking.profile"] == "vector_patches"
    assert asked(fake)["model_id"] == "stand-in"
    box = elements.all("rect", "over")[0]
    assert [box[name] for name in ("x", "y", "width", "height")] == ["0.0", "12.0", "32.0", "24.0"]
    assert [a["value"] for a in elements.all("input") if "checked" in a and a["name"] == "parts"] == ["1"]


def test_facets_are_links_with_counts_that_are_taken_off_again(page: TestClient) -> None:
    facets = page.get("/index.json").json()["facets"]
    assert facets["label"]["bridge"] == 30
    assert facets["corpus"] == {"demo": 32, "other": 1}
    elements = Elements(page.get("/").text)
    assert {a["id"] for a in elements.all("section", "facet")} == {"facet-label", "facet-corpus"}
    assert "/?label=bridge" in [a.get("href") for a in elements.all("a")]
    chosen = [a for a in Elements(page.get("/?q=bridge&label=bridge").text).all("a") if a.get("aria-current") == "true"]
    assert [a["href"] for a in chosen] == ["/?q=bridge"]


def test_words_of_the_query_are_marked_in_the_best_caption(page: TestClient) -> None:
    text = page.get("/?q=bridge+and+rivers&ranking=lexical").text
    assert "a <mark>river</mark> with a <mark>bridge</mark>" in text
    assert "<mark>storage" not in text


def test_near_duplicates_are_folded_with_a_count_and_can_be_shown() -> None:
    with serve_fake() as index:
        for number in range(4):
            index.add(f"{number}.jpg", ["a river"], 1 if number < 3 else 2, content_hash=f"{number:064}")
        ui = TestClient(create_app(UiConfig(index.url, by_model(QueryEncoder(Model())))))
        folded, apart = ui.get("/?q=river").text, ui.get("/?q=river&dups=1").text
        assert (len(hits_of(folded)), len(hits_of(apart))) == (2, 4)
        assert "2 near-duplicates" in folded
        assert 'href="/?q=river&amp;dups=1"' in folded
        assert [len(hit["duplicates"]) for hit in ui.get("/index.json?q=river").json()["hits"]] in ([2, 0], [0, 2])


def test_a_second_model_can_be_chosen(fake: FakeVespa) -> None:
    class Other(Model):
        model_id = "other-model"

        def embed_texts(self, texts: list[str]) -> np.ndarray:
            return -super().embed_texts(texts)

    encoders = by_model(QueryEncoder(Model()), QueryEncoder(Other()))
    ui = TestClient(create_app(UiConfig(fake.url, encoders)))
    options = [a["value"] for a in Elements(ui.get("/").text).all("option")]
    assert options[:2] == ["", "other-model"]
    assert ui.get("/?q=river&model=other-model").status_code == 200
    np.testing.assert_allclose(asked(fake)["input.query(q)"], Other().embed_texts(["river"])[0], atol=1e-6)
    refused = ui.get("/?q=river&model=missing")
    assert (refused.status_code, "is not loaded here" in refused.text) == (400, True)


NAMES = (
    "q", "ranking", "alpha", "corpus", "label", "split", "size", "sort", "like", "img", "with", "model", "parts",
    "dups", "view", "page", "add", "weight",
)  # fmt: skip
NASTY = (
    "' or true",
    '"); drop',
    "\x00",
    "a\u202eb",
    "😀" * 50,
    "x" * 10_000,
    "../../etc",
    "1e999",
    "-1",
    "<b>",
    "%",
    "@text",
)


@pytest.mark.parametrize("path", ["/", "/index.json", "/request.json", "/request.yql", "/request.curl"])
def test_a_hostile_value_in_any_parameter_is_never_a_server_error(page: TestClient, fake: FakeVespa, path: str) -> None:
    for number, name in enumerate(NAMES):
        for value in (NASTY[number % len(NASTY)], NASTY[(number * 5 + 1) % len(NASTY)]):
            answer = page.get(path, params={"q": "river", name: value})
            assert answer.status_code < 500, (name, value)
    assert all(query["yql"] in yql() for query in fake.queries)


@pytest.mark.parametrize("path", ["/", "/index.json", "/compare", "/compare.json", "/map", "/request.yql"])
@pytest.mark.parametrize("query", ["like=foo&ranking=lexical", "with=1:like:foo&ranking=lexical", "like=foo"])
def test_what_is_no_document_id_is_refused_under_every_ranking(
    page: TestClient, fake: FakeVespa, path: str, query: str
) -> None:
    for ui in (page, TestClient(create_app(UiConfig(fake.url)))):
        answer = ui.get(f"{path}?q=river&{query}")
        assert answer.status_code == 400
        assert "is not the id of an image" in answer.text


def test_no_value_starts_a_line_or_a_control_sequence_in_what_is_copied(page: TestClient) -> None:
    nasty = "a\nhits=400\x1b[2J\x9b1m\x7f 'b' é"
    text = page.get("/request.yql", params={"q": nasty, "ranking": "lexical"}).text
    head, _, parameters = text.partition("\n\n")
    assert "\n" not in head
    values = shlex.split(parameters)
    assert "text=a\nhits=400[2J1m 'b' é" in values
    assert [value for value in values if value.startswith("hits=")] == ["hits=24"]
    assert not {"\x1b", "\x9b", "\x7f"} & set(text)
    command = page.get("/request.curl", params={"q": nasty, "ranking": "lexical"}).text
    assert all(" " <= character < "\x7f" for character in command.removesuffix("\n"))
    assert json.loads(shlex.split(command)[shlex.split(command).index("-d") + 1])["text"] == nasty


@pytest.mark.parametrize("path", ["/", "/compare", "/map"])
@pytest.mark.parametrize("lives", [False, True], ids=["hangs", "is slow"])
def test_people_are_told_within_two_seconds_that_an_endpoint_hangs_but_wait_for_a_slow_one(
    fake: FakeVespa, monkeypatch: pytest.MonkeyPatch, lives: bool, path: str
) -> None:
    monkeypatch.setattr("clipsearch.web.searching.PATIENCE", 0.1)
    ui = TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())))))
    assert ui.get(f"{path}?q=river").status_code == 200
    slow = threading.Event()
    probed = FakeVespa.handle

    def handle(self: FakeVespa, method: str, url: str, body: dict[str, Any]) -> Any:
        if body.get("text") or (url == "/ApplicationStatus" and not lives):
            slow.wait(3 if not lives else 0.4)
        return probed(self, method, url, body)

    monkeypatch.setattr(FakeVespa, "handle", handle)
    start = time.perf_counter()
    answer = ui.get(f"{path}?q=bridge")
    assert time.perf_counter() - start < 2
    assert (answer.status_code, "does not answer" in answer.text) == ((200, False) if lives else (503, True))
    slow.set()
    monkeypatch.undo()
    assert ui.get(f"{path}?q=bridge").status_code == 200
