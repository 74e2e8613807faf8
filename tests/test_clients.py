"""The unmodified clients against a running engine: the vespa command line, pyvespa, and curl.

One engine runs as a process of its own for the whole module; the tests build on each other's documents only through
namespaces of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from vespa.application import Vespa

ROOT = Path(__file__).resolve().parent.parent
SCENES = ("a stadium next to a river", "storage tanks beside a road", "boats in a harbour", "a bridge over the river")
VESPA = Path(sys.executable).with_name("vespa")
MAIN = "import sys; from clipsearch.cli import main; sys.argv = ['clipsearch', *sys.argv[1:]]; main()"


@dataclass
class Running:
    """An engine process; ``log`` has what it printed."""

    process: subprocess.Popen[str]
    port: int
    deploy_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, signal_: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_)
        return self.process.wait(20)


def start(data: Path, port: int, deploy_port: int, *options: str) -> Running:
    """Starts an engine and waits for its ready line."""
    log = data.with_name(f"{data.name}.log")
    arguments = ["engine", "--data", str(data), "--port", str(port), "--deploy-port", str(deploy_port), *options]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    if not line.startswith(f"serving on http://127.0.0.1:{port}, deploy on"):
        process.kill()
        process.wait(10)
        pytest.fail(f"the engine did not start: {line}{log.read_text()}")
    return Running(process, port, deploy_port, log)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("engine") / "data", free_port(), free_port())
    try:
        health = get(f"http://127.0.0.1:{running.deploy_port}/state/v1/health")
        assert health["status"]["code"] == "up"
        with pytest.raises(HTTPError, match="503"):
            get(running.url + "/search/?yql=select+*+from+image+where+true")
        deploy(running, tmp_path_factory.mktemp("cli"))
        yield running
    finally:
        code = running.stop()
    assert code == 0
    assert "Traceback" not in running.log.read_text()


def get(url: str) -> Any:
    with urlopen(url, timeout=10) as answer:
        return json.load(answer)


def deploy(running: Running, home: Path) -> str:
    environment = os.environ | {
        "VESPA_CLI_HOME": str(home),
        "VESPA_CLI_CLOUD_CI": "true",
    }
    command = [str(VESPA), "deploy", "--target", f"http://127.0.0.1:{running.deploy_port}", str(ROOT / "vespa_app")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def vespa(engine: Running, tmp_path: Path) -> Callable[..., str]:
    """Runs ``vespa ARGUMENTS`` against the container and returns what it prints."""

    def run(*arguments: str) -> str:
        command = [str(VESPA), *arguments, "--target", engine.url]
        environment = os.environ | {"VESPA_CLI_HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def embedding(number: int) -> list[float]:
    vector = np.random.default_rng(number).standard_normal(512)
    return [round(float(x), 4) for x in vector / np.linalg.norm(vector)]


def fields(number: int) -> dict[str, Any]:
    return {
        "captions": [SCENES[number % 4], f"scene number {number}"],
        "label": f"class{number % 4}",
        "corpus": "test",
        "width": 100 + number,
        "embedding": embedding(number),
    }


def write_jsonl(path: Path, namespace: str, count: int) -> Path:
    lines = [json.dumps({"put": f"id:{namespace}:image::k{n}", "fields": fields(n)}) for n in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_vespa_feed_query_visit_and_document_work(vespa: Callable[..., str], tmp_path: Path) -> None:
    summary = json.loads(vespa("feed", str(write_jsonl(tmp_path / "docs.jsonl", "cli", 40))))
    assert summary["feeder.ok.count"] == 40
    assert summary["feeder.error.count"] == 0
    yql = "select documentid, captions from image where userInput('boats harbour') and label contains 'class2'"
    answer = json.loads(vespa("query", f"yql={yql}", "ranking=lexical", "hits=3"))
    assert answer["root"]["fields"]["totalCount"] >= 10
    assert "boats in a harbour" in answer["root"]["children"][0]["fields"]["captions"]
    visited = vespa("visit", "--field-set", "[id]", "--selection", "id.namespace == 'cli'")
    assert visited.count("id:cli:image::k") == 40
    streamed = vespa("visit", "--stream", "--slices", "2", "--slice-id", "1", "--selection", "id.namespace == 'cli'")
    assert 0 < streamed.count("id:cli:image::k") < 40
    document = json.loads(vespa("document", "get", "id:cli:image::k7"))
    assert document["fields"]["width"] == 107
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"update": "id:cli:image::k7", "fields": {"width": {"increment": 1000}}}))
    vespa("document", str(one))
    assert json.loads(vespa("document", "get", "id:cli:image::k7"))["fields"]["width"] == 1107
    vespa("document", "remove", "id:cli:image::k7")
    assert json.loads(vespa("query", "yql=select * from image where width = 1107"))["root"]["fields"] == {
        "totalCount": 0
    }


def test_vespa_status_sees_the_container(vespa: Callable[..., str]) -> None:
    assert "ready" in vespa("status")


def test_vespa_query_reaches_the_container_through_the_deploy_port(engine: Running, tmp_path: Path) -> None:
    """``vespa`` with target local asks serviceconverge for the container's port; here the ports are not the default."""
    services = get(
        f"http://127.0.0.1:{engine.deploy_port}/application/v2/tenant/default/application/default/environment/prod"
        "/region/default/instance/default/serviceconverge"
    )
    assert [service["port"] for service in services["services"]] == [engine.port]
    assert services["converged"] is True


@pytest.fixture
def application(engine: Running) -> Vespa:
    return Vespa("http://127.0.0.1", engine.port)


def documents(count: int) -> list[dict[str, Any]]:
    return [{"id": f"k{n}", "fields": fields(n)} for n in range(count)]


def vector_query(number: int) -> dict[str, Any]:
    return {
        "yql": "select * from image where {targetHits:5}nearestNeighbor(embedding,q)",
        "input.query(q)": embedding(number),
        "ranking": "vector",
        "presentation.summary": "hit",
        "hits": 5,
    }


def check_fed(application: Vespa, namespace: str, count: int) -> None:
    with application.syncio() as session:
        found = session.query({**vector_query(3), "yql": vector_query(3)["yql"] + f" and width = {103}"})
        assert found.status_code == 200
        assert found.hits[0]["fields"]["width"] == 103
    pages = application.visit("images", "image", namespace=namespace, slices=2)
    visited = [document["id"] for page in pages for part in page for document in part.documents]
    assert sorted(visited) == sorted(f"id:{namespace}:image::k{n}" for n in range(count))


def test_pyvespas_synchronous_client_feeds_queries_and_deletes(application: Vespa) -> None:
    failed: list[Any] = []

    def collect(response: Any, document_id: str) -> None:
        if not response.is_successful():
            failed.append((document_id, response.json))

    application.feed_iterable(documents(30), schema="image", namespace="sync", callback=collect)
    assert failed == []
    check_fed(application, "sync", 30)
    found = application.get_data("image", "k5", namespace="sync")
    assert found.json["fields"]["captions"] == fields(5)["captions"]
    assert application.update_data("image", "k5", {"width": 9}, namespace="sync").status_code == 200
    assert application.get_data("image", "k5", namespace="sync").json["fields"]["width"] == 9
    assert application.delete_data("image", "k5", namespace="sync").status_code == 200
    assert application.get_data("image", "k5", namespace="sync").status_code == 404
    application.delete_all_docs("images", "image", namespace="sync")
    assert application.get_data("image", "k6", namespace="sync").status_code == 404


def test_pyvespas_asynchronous_clients_feed_and_query(application: Vespa) -> None:
    failed: list[Any] = []

    def collect(response: Any, document_id: str) -> None:
        if not response.is_successful():
            failed.append((document_id, response.json))

    application.feed_async_iterable(documents(30), schema="image", namespace="async", callback=collect)
    assert failed == []
    check_fed(application, "async", 30)
    answers = application.query_many([vector_query(n) for n in range(10)])
    answers = list(asyncio.run(answers)) if asyncio.iscoroutine(answers) else list(answers)
    assert [answer.hits[0]["fields"]["width"] for answer in answers] == [100 + n for n in range(10)]

    async def one() -> Any:
        async with application.asyncio() as session:
            await session.feed_data_point("image", "z", {"width": 1}, namespace="async")
            return await session.query(vector_query(4))

    assert asyncio.run(one()).hits[0]["fields"]["width"] == 104


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


def test_a_bad_package_is_refused_and_the_old_one_goes_on(engine: Running) -> None:
    request = Request(
        f"http://127.0.0.1:{engine.deploy_port}/application/v2/tenant/default/prepareandactivate",
        data=b"not a zip",
        headers={"Content-Type": "application/zip"},
    )
    with pytest.raises(HTTPError, match="400") as caught:
        urlopen(request, timeout=10)
    caught.value.close()
    assert get(engine.url + "/ApplicationStatus")["application"]


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
