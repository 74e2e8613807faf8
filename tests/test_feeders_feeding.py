"""``feed``: operations in, a summary out; resumed where it stopped, and never a word too much."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_vespa import FakeVespa, serve_fake

from clipsearch.errors import CorpusError, InputError, ServiceError
from feeders import dispatcher
from feeders.dispatcher import Failure
from feeders.feeding import FeedSummary, feed
from feeders.operations import Operation, to_request

FIELDS = {"captions": ["a river"], "embedding": "3F80" * 8}


def name(number: int) -> str:
    return f"id:demo:image::{number}"


def puts(count: int, **fields: Any) -> Iterator[Operation]:
    for number in range(count):
        yield Operation("put", name(number), FIELDS | {"width": number} | fields)


@pytest.fixture
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as running:
        yield running


@pytest.fixture
def run(fake: FakeVespa, tmp_path: Path) -> Callable[..., FeedSummary]:
    def run(operations: Any, **options: Any) -> FeedSummary:
        known = {"dead_letters": tmp_path / "dead.jsonl", "journal": tmp_path / "j", "progress": False}
        return feed(operations, fake.url, **(known | options))

    return run


def sent(fake: FakeVespa) -> list[str]:
    paths = [url.partition("?")[0] for method, url in fake.requests if "/document/" in url and method != "GET"]
    return [path.rsplit("/", 1)[1] for path in paths]


def letters(folder: Path) -> list[Failure]:
    return [Failure(**json.loads(line)) for line in (folder / "dead.jsonl").read_text().splitlines()]


def test_each_kind_goes_its_way(fake: FakeVespa, run: Callable[..., FeedSummary]) -> None:
    fake.answer = lambda method, path, body: (200, {"pathId": "x"}) if method in ("PUT", "DELETE") else None
    update = Operation("update", name(1), {"width": {"assign": 2}}, condition='image.split == "a b"', create=True)
    assert run([*puts(1), update, Operation("remove", name(2))]).fed == 3
    assert fake.documents[name(0)] == FIELDS | {"width": 0}
    assert {method: url for method, url in fake.requests if "/document/" in url} == {
        "POST": "/document/v1/demo/image/docid/0?timeout=27000ms",
        "PUT": "/document/v1/demo/image/docid/1?condition=image.split%20%3D%3D%20%22a%20b%22&create=true"
        "&timeout=27000ms",
        "DELETE": "/document/v1/demo/image/docid/2?timeout=27000ms",
    }


def test_a_write_that_timed_out_in_the_endpoint_is_sent_again_unless_twice_would_be_wrong(
    fake: FakeVespa, run: Callable[..., FeedSummary], tmp_path: Path
) -> None:
    counted: list[str] = []

    def slow_at_first(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if not path.startswith("/document/") or method == "GET":
            return None
        counted.append(path)
        first = counted.count(path) == 1
        return (504, {"pathId": path, "message": "timed out"}) if first else (200, {"pathId": path})

    fake.answer = slow_at_first
    summary = run([*puts(2), Operation("update", name(5), {"width": {"increment": 1}})])
    assert (summary.fed, summary.failed, summary.retries) == (2, 1, 2)
    (letter,) = letters(tmp_path)
    assert (letter.id, letter.status) == (name(5), 504)
    assert "timed out" in letter.reason
    assert dispatcher.UNSURE in letter.reason


def test_numpy_values_are_json_too() -> None:
    request = to_request(Operation("put", name(1), {"width": np.int64(3), "weights": np.ones(2, np.float32)}))
    assert request.body == b'{"fields":{"width":3,"weights":[1.0,1.0]}}'


@pytest.mark.parametrize(
    ("change", "repeatable"),
    [
        ({"assign": 1}, True),
        ({"increment": 1}, False),
        ({"multiply": 2}, False),
        ({"add": ["word"]}, False),
        ({"add": {"word": 3}}, True),
        ({"remove": {"word": 0}}, True),
        ({"match": {"element": 0, "increment": 1}}, False),
        ({"match": {"element": 0, "assign": "x"}}, True),
        ({"modify": {"operation": "add", "cells": []}}, False),
        ({"modify": {"operation": "replace", "cells": []}}, True),
    ],
)
def test_what_may_be_sent_twice(change: dict[str, Any], repeatable: bool) -> None:
    assert Operation("update", name(1), {"f": change}).repeatable is repeatable
    assert Operation("update", name(1), {"f": change}, condition="image.f == 1").repeatable


def test_what_cannot_be_sent_is_written_down_and_stops_nobody(
    fake: FakeVespa, run: Callable[..., FeedSummary], tmp_path: Path
) -> None:
    bad = [
        Operation("put", "id:demo:image::../3", FIELDS),
        Operation("put", name(8), {"width": object()}),
        Failure(name(9), 0, "the image is cut off"),
    ]
    summary = run([*bad, *puts(3)])
    assert (summary.fed, summary.failed, summary.complete) == (3, 3, False)
    assert [failure.id for failure in letters(tmp_path)] == [operation.id for operation in bad]
    assert letters(tmp_path)[2] == bad[2]


def test_an_unmet_condition_and_a_missing_document_are_no_failures(
    fake: FakeVespa, run: Callable[..., FeedSummary]
) -> None:
    fake.answer = lambda method, path, body: {"0": (412, {"pathId": "x"}), "1": (404, {"pathId": "x"})}.get(
        path.partition("?")[0].rsplit("/", 1)[1]
    )
    summary = run(puts(3))
    assert (summary.fed, summary.unmet, summary.failed, summary.complete) == (1, 2, 0, True)
    assert "2 had nothing to do" in str(summary)


def test_a_failed_feed_started_again_sends_only_what_is_missing(
    fake: FakeVespa, run: Callable[..., FeedSummary], tmp_path: Path
) -> None:
    fake.answer = lambda method, path, body: (507, {"message": "full"}) if "/7?" in path else None
    assert run(puts(20), total=20).failed == 1
    fake.answer = lambda method, path, body: None
    fake.requests.clear()
    summary = run(puts(20), total=20)
    assert (summary.fed, summary.skipped, summary.complete) == (1, 19, True)
    assert "19 were fed before" in str(summary)
    assert sent(fake) == ["7"]
    assert not (tmp_path / "dead.jsonl").exists()
    assert run(puts(20)).fed == 20  # it was complete: from now on everything counts as new


def test_a_producer_that_raises_leaves_a_journal_to_go_on_with(
    fake: FakeVespa, run: Callable[..., FeedSummary]
) -> None:
    def produce() -> Iterator[Operation]:
        yield from puts(10)
        raise CorpusError("the shard is cut off")

    with pytest.raises(CorpusError):
        run(produce())
    summary = run(puts(12))
    assert (summary.skipped, summary.fed) == (10, 2)


def test_an_index_that_was_emptied_is_not_taken_for_fed(fake: FakeVespa, run: Callable[..., FeedSummary]) -> None:
    fake.answer = lambda method, path, body: (507, {}) if "/7?" in path else None
    run(puts(20))
    fake.documents.clear()
    fake.answer = lambda method, path, body: None
    with pytest.raises(ServiceError, match="emptied or changed the index"):
        run(puts(20))
    assert run(puts(20)).fed == 20
    assert len(fake.documents) == 20


def test_ctrl_c_says_how_to_go_on(fake: FakeVespa, run: Callable[..., FeedSummary]) -> None:
    def produce() -> Iterator[Operation]:
        yield from puts(10)
        signal.raise_signal(signal.SIGINT)

    first = run(produce(), total=50)
    assert first.interrupted
    assert not first.complete
    assert "because Ctrl-C came: run the same command again to go on" in str(first)
    second = run(puts(50), total=50)
    assert (second.skipped, second.fed) == (first.fed, 50 - first.fed)


def test_a_folder_that_takes_no_journal_is_fed_all_the_same(
    fake: FakeVespa, run: Callable[..., FeedSummary], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(puts(3), journal=tmp_path / "file" / "j").fed == 3
    assert "no journal at" in capsys.readouterr().err


def test_one_feed_at_a_time_with_one_journal(fake: FakeVespa, run: Callable[..., FeedSummary]) -> None:
    def produce() -> Iterator[Operation]:
        with pytest.raises(InputError, match="another feed is going on"):
            run(puts(1))
        yield from puts(1)

    assert run(produce()).fed == 1


def test_retries_are_counted(fake: FakeVespa, run: Callable[..., FeedSummary], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_WAIT", 0.002)
    seen: list[str] = []

    def once(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if "/document/" not in path or path in seen:
            return None
        seen.append(path)
        return 503, {"message": "restarting"}

    fake.answer = once
    summary = run(puts(10))
    assert (summary.fed, summary.retries) == (10, 10)
    assert summary.as_json()["retries"] == 10


def test_a_page_that_answers_200_to_everything_is_not_vespa(fake: FakeVespa, run: Callable[..., FeedSummary]) -> None:
    fake.answer = lambda method, path, body: (200, {"welcome": "guest"}) if "/document/" in path else None
    with pytest.raises(ServiceError, match="not a Vespa container"):
        run(puts(3))
