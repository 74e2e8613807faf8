"""``clipsearch feed``: shards into an endpoint, every document accounted for, trouble said in one sentence."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_vespa import DIM, FakeVespa, jpeg, serve_fake, unit

from clipsearch.commands import feed as front
from clipsearch.errors import ShardError, UnreachableError
from clipsearch.records import Embedded, Record
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from feeders import dispatcher
from feeders.shards import feed_shards


def rows(count: int, dim: int = DIM) -> list[Embedded]:
    """Embedded images of a corpus that was never there."""
    return [
        Embedded(
            Record("demo", f"{n}.jpg", f"images/{n}.jpg", (f"caption {n}",), "test", "river"),
            unit(n, dim), jpeg(n), 64, 48, f"{n:064x}", "stand-in-1",
        )
        for n in range(count)
    ]  # fmt: skip


def write(folder: Path, items: list[Embedded], dim: int = DIM) -> Path:
    """A shard folder as ``clipsearch encode`` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, dim, rows=20) as writer:
        for item in items:
            writer.add(item)
    write_manifest(folder, Manifest("demo", "stand-in-1", dim, len(items), complete=True))
    return folder


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(front.command, [str(argument) for argument in arguments])


def test_every_row_becomes_a_document(tmp_path: Path) -> None:
    folder = write(tmp_path / "shards", rows(50))
    with serve_fake() as fake:
        summary = feed_shards(folder, fake.url, progress=False)
        assert (summary.fed, summary.failed, summary.not_sent) == (50, 0, 0)
        assert summary.complete
        assert len(fake.documents) == 50
        stored = fake.documents["id:demo:image::7.jpg"]
        assert base64.b64decode(stored["thumbnail"]) == jpeg(7)
        assert np.allclose(fake.cells(stored), unit(7), rtol=2**-7)
        assert feed_shards(folder, fake.url, progress=False).fed == 50  # again: nothing is doubled
        assert len(fake.documents) == 50
    assert not (folder / "dead-letters.jsonl").exists()


def test_a_document_that_fails_is_counted_written_down_and_stops_nobody(tmp_path: Path) -> None:
    items = rows(30)
    items[3] = replace(items[3], record=replace(items[3].record, key="../3"))
    items[4] = replace(items[4], embedding=items[4].embedding * 2)
    folder = write(tmp_path / "shards", items)

    def refuse(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (507, {"message": "disk is full"}) if "/9.jpg?" in path else None

    with serve_fake() as fake:
        fake.answer = refuse
        done = run(folder, "--url", fake.url, "--json")
        assert not any(".." in url for _, url in fake.requests)
        assert len(fake.documents) == 27
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert (answer["fed"], answer["failed"], answer["not_sent"]) == (27, 3, 0)
    letters = [json.loads(line) for line in Path(answer["dead_letters"]).read_text().splitlines()]
    reasons = {letter["id"]: (letter["status"], letter["reason"]) for letter in letters}
    assert reasons["id:demo:image::9.jpg"] == (507, "HTTP 507: disk is full")
    assert "not the id of an image" in reasons["id:demo:image::../3"][1]
    assert "length 2.000" in reasons["id:demo:image::4.jpg"][1]


def test_dead_letters_speak_of_the_last_run_only(tmp_path: Path) -> None:
    folder = write(tmp_path / "shards", rows(3))
    with serve_fake() as fake:
        fake.answer = lambda method, path, body: (507, {"message": "full"}) if method == "POST" else None
        assert feed_shards(folder, fake.url, progress=False).failed == 3
        assert (folder / "dead-letters.jsonl").exists()
        fake.answer = lambda method, path, body: None
        assert feed_shards(folder, fake.url, progress=False).complete
    assert not (folder / "dead-letters.jsonl").exists()


def test_the_summary_is_a_sentence_and_the_exit_code_0(tmp_path: Path) -> None:
    with serve_fake() as fake:
        done = run(write(tmp_path / "shards", rows(5)), "--url", fake.url)
    assert done.exit_code == 0
    assert done.stdout.startswith("5 documents fed in ")
    assert "docs/s" in done.stdout


def test_an_engine_that_is_not_running_is_said_at_once(tmp_path: Path, free_port: Callable[[], int]) -> None:
    done = run(write(tmp_path / "shards", rows(5)), "--url", f"http://127.0.0.1:{free_port()}")
    assert isinstance(done.exception, UnreachableError)
    assert "clipsearch engine --data DIR" in str(done.exception)


def test_vectors_of_another_size_are_one_sentence(tmp_path: Path) -> None:
    folder = write(tmp_path / "shards", rows(40, dim=4), dim=4)
    with serve_fake() as fake:
        with pytest.raises(ShardError, match=r"vectors of 4 numbers .*stores vectors of 8.*app --dim 4") as caught:
            feed_shards(folder, fake.url, progress=False)
        assert str(caught.value).count("\n") == 0
        assert not [url for method, url in fake.requests if method == "POST" and "/document/" in url]
        assert not fake.documents
    assert not (folder / "dead-letters.jsonl").exists()


def test_a_restart_in_the_middle_of_a_feed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_WAIT", 0.002)
    folder = write(tmp_path / "shards", rows(40))
    puts = [0]

    def sometimes(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if method != "POST" or "/document/" not in path:
            return None
        puts[0] += 1
        return (503, {"message": "restarting"}) if 10 < puts[0] < 40 else None

    with serve_fake() as fake:
        fake.answer = sometimes
        assert feed_shards(folder, fake.url, progress=False).fed == 40
        assert len(fake.documents) == 40


def test_an_endpoint_that_goes_away_for_good_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_WAIT", 0.002)
    folder = write(tmp_path / "shards", rows(60))

    def gone(fake: FakeVespa) -> Callable[[str, str, dict[str, Any]], tuple[int, dict[str, Any]] | None]:
        return lambda method, path, body: (503, {"message": "away"}) if len(fake.documents) >= 10 else None

    with serve_fake() as fake:
        fake.answer = gone(fake)
        summary = feed_shards(folder, fake.url, workers=2, patience=1.0, progress=False)
    assert summary.fed == 10
    assert summary.not_sent == 60 - 10 - summary.failed > 0
    assert "run the same command again" in str(summary)


def test_a_damaged_shard_is_an_error_and_no_hang(tmp_path: Path) -> None:
    folder = write(tmp_path / "shards", rows(60))
    broken = sorted(folder.glob("*.parquet"))[1]
    data = bytearray(broken.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    broken.write_bytes(bytes(data))
    with serve_fake() as fake, pytest.raises(ShardError, match=broken.name):
        feed_shards(folder, fake.url, progress=False)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--url", "http://127.0.0.1:9")
    assert isinstance(done.exception, ShardError)
    assert str(tmp_path) in str(done.exception)


def test_what_an_interrupted_encoding_left_is_fed_with_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path / "shards", rows(5))
    write_manifest(folder, Manifest("demo", "stand-in-1", DIM, 5, complete=False))
    with serve_fake() as fake:
        done = run(folder, "--url", fake.url, "--json")
        assert len(fake.documents) == 5
    assert done.exit_code == 0
    assert json.loads(done.stdout)["fed"] == 5
    assert f"did not get to its end in {folder}: feeding 5 images" in done.stderr


@pytest.mark.parametrize("status", [404, 302])
def test_a_server_that_takes_no_documents_is_never_counted_as_fed(tmp_path: Path, status: int) -> None:
    folder = write(tmp_path / "shards", rows(5))
    with serve_fake() as fake:
        fake.answer = lambda method, path, body: (status, {}) if method in ("POST", "PUT") else None
        with pytest.raises(UnreachableError, match=f"not a Vespa container.*HTTP {status}"):
            feed_shards(folder, fake.url, progress=False)
