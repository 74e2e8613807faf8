"""What runs beside the pages: samples of the index, and who is told when that the endpoint hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_vespa import FakeVespa, serve_fake, unit
from starlette.testclient import TestClient
from web_support import Model, small_index

from clipsearch.errors import UnreachableError
from clipsearch.records import Generation
from clipsearch.search import QueryEncoder, SearchClient
from clipsearch.web.app import UiConfig, by_model, create_app
from clipsearch.web.background import EMPTY, Backgrounds
from clipsearch.web.searching import Searcher
from clipsearch.web.uploads import Uploads

FIRST = Generation()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with small_index() as server:
        yield server


def test_a_sample_that_fails_in_any_way_breaks_no_page_and_is_taken_again(
    fake: FakeVespa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ui = TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())))))
    taken = SearchClient.sample

    def broken(*given: Any) -> np.ndarray:
        raise ValueError("a tensor that nobody can read")

    monkeypatch.setattr(SearchClient, "sample", broken)
    with caplog.at_level(logging.ERROR):
        assert [ui.get("/?q=river&ranking=vector").status_code for _ in range(2)] == [200, 200]
    assert "nobody can read" in caplog.text
    monkeypatch.setattr(SearchClient, "sample", taken)
    assert ui.get("/index.json?q=river&ranking=vector").json()["hits"][0]["probability"] is not None


def test_that_there_are_no_embeddings_is_remembered_for_a_minute(
    fake: FakeVespa, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def none(client: SearchClient, count: int, generation: Generation) -> np.ndarray:
        asked.append(generation)
        return np.zeros((0, 0), np.float32)

    monkeypatch.setattr(SearchClient, "sample", none)
    now = time.monotonic()
    with SearchClient(fake.url) as client:
        known = Backgrounds(client)
        assert [known.get(FIRST) for _ in range(3)] == [None] * 3
        assert len(asked) == 1
        monkeypatch.setattr("clipsearch.web.background.time.monotonic", lambda: now + EMPTY + 1)
        assert known.get(FIRST) is None
        assert len(asked) == 2


def test_a_sample_looks_at_five_times_as_many_documents_and_no_more() -> None:
    with serve_fake() as server, SearchClient(server.url) as client:
        for number in range(10):
            server.add(f"{number}.jpg", ["a"], number)
            del server.documents[f"id:demo:image::{number}.jpg"]["embedding"]
        server.add("late.jpg", ["a"], 11)
        assert len(client.sample(2)) == 0
        np.testing.assert_allclose(client.sample(3), [unit(11)], atol=1e-6)


def test_what_waits_for_an_endpoint_that_hangs_is_taken_back(fake: FakeVespa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.web.searching.PATIENCE", 0.02)
    with SearchClient(fake.url) as client:
        searcher = Searcher(client, {}, Uploads())
        searcher._pages = ThreadPoolExecutor(1)
        free, called = threading.Event(), []
        first = searcher._pages.submit(free.wait, 5)

        def away() -> None:
            raise UnreachableError("away")

        monkeypatch.setattr(searcher._probe, "check", away)
        with pytest.raises(UnreachableError):
            searcher.promptly(called.append, 1)
        free.set()
        assert first.result()
        searcher._pages.shutdown()
        assert called == []


@pytest.mark.parametrize(
    "path",
    ["/health", "/map.json?area=-80,-170,-70,-160", "/request.json?like=id:demo:image::bridge_3.jpg",
     "/request.yql?like=id:demo:image::bridge_3.jpg", "/request.curl?like=id:demo:image::bridge_3.jpg",
     "/compare?like=id:demo:image::bridge_3.jpg", "/?ranking=bm25"],
)  # fmt: skip
def test_every_page_tells_when_its_patience_is_at_an_end_that_an_endpoint_hangs(
    fake: FakeVespa, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("clipsearch.web.searching.PATIENCE", 0.1)
    monkeypatch.setattr("clipsearch.web.searching.PROBE", 0.1)
    ui = TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())))))
    free = threading.Event()
    live = FakeVespa.handle

    def handle(self: FakeVespa, method: str, url: str, body: dict[str, Any]) -> Any:
        hits = body.get("hits", 0) > 0 and "south" in body  # the map's own points come, the rest hangs
        if not hits:
            free.wait(3)
        return live(self, method, url, body)

    monkeypatch.setattr(FakeVespa, "handle", handle)
    start = time.perf_counter()
    answer = ui.get(path)
    assert time.perf_counter() - start < 1.5
    assert answer.status_code == (400 if "bm25" in path else 503)
    free.set()
