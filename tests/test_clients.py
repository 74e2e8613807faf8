"""curl against a running engine, and the engine's process: kills, ports and folders in use, damaged data."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from engine_process import MAIN, ROOT, Running, fields, get, running, start, vespa


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("engine")
    with running(folder, free_port) as process:
        health = get(f"{process.deploy_url}/state/v1/health")
        assert health["status"]["code"] == "up"
        with pytest.raises(HTTPError, match="503"):
            get(process.url + "/search/?yql=select+*+from+image+where+true")
        vespa(folder, "deploy", "--target", process.deploy_url, str(ROOT / "vespa_app"))
        yield process


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_curl_feeds_and_queries(engine: Running, version: str) -> None:
    def curl(*arguments: str) -> tuple[int, Any]:
        command = ["curl", "--silent", "--show-error", "--max-time", "20", version, "--write-out", "\n%{http_code}"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    path = f"{engine.url}/document/v1/curl/image/docid/a%20b/c%231"
    body = json.dumps({"fields": {"captions": ["a lonely lighthouse"], "label": version}})
    assert curl("--data", body, path) == (
        200,
        {"pathId": "/document/v1/curl/image/docid/a%20b/c%231", "id": "id:curl:image::a b/c#1"},
    )
    yql = f"select * from image where userInput('lighthouse') and label contains '{version}'"
    status, answer = curl(
        "--get", "--data-urlencode", f"yql={yql}", "--data", "ranking=lexical", engine.url + "/search/"
    )
    assert status == 200
    assert [hit["id"] for hit in answer["root"]["children"]] == ["id:curl:image::a b/c#1"]
    assert curl("--request", "DELETE", path)[0] == 200
    assert curl(path)[0] == 404
    assert curl("--data", '{"fields":{"nonsense":1}}', path)[0] == 400
    assert curl(engine.url + "/nowhere")[0] == 404


# ---- engines of their own


@pytest.mark.soak
def test_kill_9_in_the_middle_of_concurrent_puts_loses_no_acknowledged_document(
    tmp_path: Path, free_port: Callable[[], int], rounds: Callable[[int, int], int]
) -> None:
    """Each round feeds the same folder on, kills, restarts and compares all that was ever acknowledged."""
    data, ports, acknowledged = tmp_path / "data", (free_port(), free_port()), set[int]()
    random, count = Random(20261121), rounds(1, 25)
    for number in range(count):
        first = 10_000 * number
        acknowledged |= feed_and_kill(data, ports, first, random.randrange(50, 400))
        again = start(data, *ports)
        try:
            stored = stored_numbers(again)
            assert acknowledged <= stored, sorted(acknowledged - stored)[:5]
            assert len(stored) <= len(acknowledged) + 4 * (number + 1), "at most what was under way at a kill"
            for key in random.sample(sorted(acknowledged), 20):
                document = get(f"{again.url}/document/v1/kill/image/docid/{key}")
                assert document["fields"]["captions"] == fields(key)["captions"]
        finally:
            assert again.stop(signal.SIGINT) == 0
    print(f"{count} kills, {len(acknowledged)} acknowledged documents, none lost")


def feed_and_kill(data: Path, ports: tuple[int, int], first: int, after: int) -> set[int]:
    """The numbers that were acknowledged by an engine that was killed after about ``after`` of them."""
    running = start(data, *ports, "--app", str(ROOT / "vespa_app"))
    acknowledged: set[int] = set()

    def feed(worker: int) -> None:
        for number in range(first + worker, first + 10_000, 4):
            body = json.dumps({"fields": fields(number)}).encode()
            url = f"{running.url}/document/v1/kill/image/docid/{number}"
            try:
                with urlopen(Request(url, data=body, method="POST"), timeout=10):
                    acknowledged.add(number)
            except OSError:
                return
            if len(acknowledged) >= after:  # not ==: two workers may add at once
                running.process.kill()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(feed, range(4)))
    running.process.wait(10)
    assert len(acknowledged) >= after
    return acknowledged


def stored_numbers(running: Running) -> set[int]:
    """The numbers of all documents in the engine, by visiting them."""
    numbers: set[int] = set()
    token = ""
    while True:
        url = f"{running.url}/document/v1/?cluster=images&wantedDocumentCount=1000&fieldSet=image:width{token}"
        page = get(url)
        numbers |= {int(document["id"].split("::")[1]) for document in page["documents"]}
        if "continuation" not in page:
            return numbers
        token = f"&continuation={page['continuation']}"


def run_engine(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "engine", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_a_port_in_use_and_a_folder_in_use_are_named_with_what_to_do(
    engine: Running, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    taken = run_engine("--data", str(tmp_path), "--port", str(engine.port), "--deploy-port", str(free_port()))
    assert taken.returncode != 0
    assert f":{engine.port}" in taken.stderr
    assert "--port" in taken.stderr
    data = engine.log.with_suffix("")
    locked = run_engine("--data", str(data), "--port", str(free_port()), "--deploy-port", str(free_port()))
    assert locked.returncode != 0
    assert f"another engine (pid {engine.process.pid}) uses {data}" in locked.stderr
    assert "Traceback" not in taken.stderr + locked.stderr


def test_damaged_documents_end_the_start_with_a_sentence(tmp_path: Path, free_port: Callable[[], int]) -> None:
    data, ports = tmp_path / "data", (free_port(), free_port())
    running = start(data, *ports, "--app", str(ROOT / "vespa_app"))
    body = json.dumps({"fields": fields(1)}).encode()
    with urlopen(Request(f"{running.url}/document/v1/a/image/docid/1", data=body), timeout=10):
        running.stop()
    db = sqlite3.connect(data / "documents.sqlite3")
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'blob_%'")]
    for table in tables:
        db.execute(f"UPDATE {table} SET data = x'00'")
    db.commit()
    db.close()
    shutil.rmtree(data / "index")  # with it, the start would not read the documents
    done = run_engine("--data", str(data), "--port", str(ports[0]), "--deploy-port", str(ports[1]))
    assert done.returncode == 1
    assert f"documents of 'image' in {data / 'documents.sqlite3'} are damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_cannot_be_read_stops_the_start_with_a_sentence(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    done = run_engine(
        "--data",
        str(tmp_path),
        "--app",
        str(tmp_path / "none"),
        "--port",
        str(free_port()),
        "--deploy-port",
        str(free_port()),
    )
    assert done.returncode == 1
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr
