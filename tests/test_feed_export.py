"""``feed export`` and ``feed visit`` write what ``vespa feed`` takes, and ``feed verify`` says that all arrived."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_process import vespa
from feed_support import PixelModel, engine_of, fed, feed, index, pixels, write_corpus

from clipsearch.errors import RejectedError, UnreachableError
from clipsearch.search.endpoint import Endpoint
from feeders.visit import visit_documents

__all__ = ["pixels"]  # a fixture


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    with engine_of(tmp_path_factory.mktemp("engine"), free_port) as running:
        yield running.url


def parse(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


@pytest.fixture
def shards(pixels: type[PixelModel], tmp_path: Path) -> Path:
    """Shards that are in no index yet."""
    corpus = write_corpus(tmp_path / "bulk", 20)
    arguments = ["export", corpus, "--model", "pixels-1", "--work", tmp_path / "work", "--out", tmp_path / "x.jsonl"]
    assert fed(*arguments)["documents"] == 20
    return tmp_path / "work" / "bulk" / "pixels-1"


def test_an_export_goes_through_vespa_feed_and_is_verified(shards: Path, url: str, tmp_path: Path) -> None:
    exported = feed("export", shards)
    assert exported.exit_code == 0
    assert "20 documents written" in exported.stderr
    summary = json.loads(vespa(tmp_path, "feed", "-", "--target", url, stdin=exported.stdout))
    assert (summary["feeder.ok.count"], summary["feeder.error.count"]) == (20, 0)
    assert fed("verify", shards, "--url", url)["clean"]

    updates = feed("export", shards, "--update", "label", "--update", "embedding").stdout
    assert set(parse(updates)[0]["fields"]) == {"label", "embedding", "model_id"}
    assert json.loads(vespa(tmp_path, "feed", "-", "--target", url, stdin=updates))["feeder.ok.count"] == 20
    assert fed("verify", shards, "--url", url)["clean"]


def test_a_dump_of_the_index_restores_it_through_both_feeders(shards: Path, url: str, tmp_path: Path) -> None:
    fed("shards", shards, "--url", url)
    before = index(url, "bulk")
    backup = tmp_path / "backup.jsonl"
    assert fed("visit", "--corpus", "bulk", "--out", backup, "--url", url)["documents"] == 20
    letters = ["--dead-letters", tmp_path / "letters", "--url", url]
    for again in (
        lambda: fed("jsonl", backup, "--url", url)["fed"],
        lambda: json.loads(vespa(tmp_path, "feed", str(backup), "--target", url))["feeder.ok.count"],
    ):
        assert fed("remove", "--corpus", "bulk", "--yes", *letters)["fed"] == 20
        assert again() == 20
        assert index(url, "bulk") == before
        assert fed("verify", shards, "--url", url)["clean"]


def test_a_visit_takes_corpora_selections_fields_and_slices(
    shards: Path, url: str, pixels: type[PixelModel], tmp_path: Path
) -> None:
    fed("shards", shards, "--url", url)
    other = write_corpus(tmp_path / "other", 3)
    fed("images", other, "--model", "pixels-1", "--work", tmp_path / "work", "--url", url)
    all_ids = [one["put"] for one in parse(feed("visit", "--fields", "[id]", "--url", url).stdout)]
    assert len(all_ids) == len(set(all_ids)) == 23
    few = parse(feed("visit", "--corpus", "other", "--fields", "label,width", "--url", url).stdout)
    assert [one["fields"] for one in few] == [{"label": "river", "width": 20}] * 3
    chosen = feed("visit", "--selection", 'id.namespace == "other" and image.width < 20', "--url", url)
    assert chosen.stdout == ""
    endpoint = Endpoint(url)
    sliced = [one["id"] for one in visit_documents(endpoint, "bulk", fields="[id]", slices=4)]
    assert sorted(sliced) == sorted(name for name in all_ids if ":bulk:" in name)
    with pytest.raises(RejectedError, match="nonsense"):
        list(visit_documents(endpoint, "bulk", fields="nonsense", slices=2))
    with pytest.raises(RejectedError):
        list(endpoint.visit("bulk", selection="this is no selection"))
    endpoint.close()


def test_pages_are_put_together_and_asked_for_again(shards: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fed("shards", shards, "--url", url)
    monkeypatch.setattr("clipsearch.search.endpoint.PAGE", 3)
    monkeypatch.setattr("clipsearch.search.endpoint.time.sleep", lambda seconds: None)
    endpoint = Endpoint(url)
    asked, ask = [], endpoint._ask

    def sometimes(path: str, options: Any) -> dict[str, Any]:
        asked.append(options)
        if len(asked) % 2:
            raise RejectedError(429, "overload") if len(asked) % 4 == 1 else UnreachableError("reset")
        return ask(path, options)

    monkeypatch.setattr(endpoint, "_ask", sometimes)
    assert len({one["id"] for one in endpoint.visit("bulk", fields="[id]")}) == 20
    assert len(asked) == 14
    endpoint.close()


def test_a_reader_that_goes_away_ends_an_export_without_a_traceback(shards: Path) -> None:
    command = [sys.executable, "-m", "clipsearch", "feed", "export", str(shards)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(20) == 1
    assert "Traceback" not in said
