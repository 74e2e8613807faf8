"""kill -9 at random moments of a feed: nothing acknowledged is lost, nothing is torn, nothing appears from nowhere."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
import soak_app
from soak_engine import Client, Running, start, wait_until_it_answers

pytestmark = pytest.mark.soak
SIZE, WRITERS, SECONDS = 64, 8, 5.0
Versions = dict[int, int | None]  # version by document number; None: removed


class Feed:
    """What was sent and what was acknowledged; each writer has the documents whose number leaves its remainder."""

    def __init__(self, seed: int) -> None:
        self.acknowledged: Versions = {}
        self.unsure: dict[int, list[int | None]] = {}  # sent, but never answered: either is right, as a whole
        self.known: dict[bytes, tuple[int, int]] = {}  # lines of visits that were checked -> number, version
        self.done = 0
        self._random = [Random(seed * 1000 + worker) for worker in range(WRITERS)]
        self._next = list(range(WRITERS))
        self._lock = threading.Lock()

    def run(self, engine: Running, stop: Callable[[int], bool]) -> None:
        """Feeds with all writers until the engine dies, or ``stop`` says so of the number of documents."""
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda worker: self._write(worker, engine, stop), range(WRITERS)))

    def _write(self, worker: int, engine: Running, stop: Callable[[int], bool]) -> None:
        random, client = self._random[worker], Client(engine.port)
        try:
            while not stop(self.done):
                number, version, method = self._choose(worker, random)
                with self._lock:
                    self.unsure.setdefault(number, []).append(version)
                if not self._send(client, method, number, version):
                    return
                with self._lock:
                    self.unsure.pop(number)
                    self.acknowledged[number] = version
                    self.done += method == "POST"
        except (OSError, http.client.HTTPException):
            return  # killed
        finally:
            client.close()

    def _choose(self, worker: int, random: Random) -> tuple[int, int | None, str]:
        """A new document mostly; now and then a new version, or the removal, of one that is there."""
        number = self._next[worker]
        if random.random() < 0.1 and number > 20 * WRITERS:
            old = random.randrange(number // WRITERS) * WRITERS + worker
            version = self.acknowledged.get(old)
            if version is not None and old not in self.unsure:
                return (old, None, "DELETE") if random.random() < 0.2 else (old, version + 1, "PUT")
        self._next[worker] = number + WRITERS
        return number, 0, "POST"

    def _send(self, client: Client, method: str, number: int, version: int | None) -> bool:
        path = f"/document/v1/k/note/docid/{number}"
        if version is None:
            return client.ask("DELETE", path)[0] == 200
        values = soak_app.fields(number, version, SIZE)
        fields = {name: {"assign": value} for name, value in values.items()} if method == "PUT" else values
        status, answer = client.ask(method, path, {"fields": fields})
        assert status == 200, answer
        return True

    def settle(self, found: Versions) -> None:
        """What a restart shows of the operations that were never answered is from now on the truth."""
        for number in self.unsure:
            self.acknowledged[number] = found.get(number)
        self.unsure.clear()


def lines_of(engine: Running, names: str, selection: str = "") -> Iterator[bytes]:
    """The fields ``names`` of every document that ``selection`` picks, as lines of JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=60)
    options = {"stream": "true", "fieldSet": f"note:{names}", "format.tensors": "short-value"}
    options |= {"selection": selection} if selection else {}
    connection.request(
        "GET", f"/document/v1/k/note/docid/?{urlencode(options)}", headers={"Accept": "application/jsonl"}
    )
    line = b""
    for line in connection.getresponse():
        if line.startswith(b'{"put"'):
            yield line
    assert b"documentCount" in line, f"the visit was cut short: {line!r}"
    connection.close()


def differences(engine: Running, feed: Feed, random: Random, since: int = 0) -> list[str]:
    """What is lost, torn or invented, and where index and store disagree.

    Every document's version and checksum are looked at, and all fields of those whose number is ``since`` or above.
    """
    found: Versions = {}
    wrong = []
    for line in lines_of(engine, "number,version,check"):
        if line not in feed.known:  # those that were right after the last kill and are the same need no second look
            fields = orjson.loads(line)["fields"]
            number, version = fields["number"], fields["version"]
            if fields["check"] != soak_app.fields(number, version, SIZE)["check"]:
                wrong.append(f"torn: {fields}")
            feed.known[line] = number, version
        number, version = feed.known[line]
        if number in found:
            wrong.append(f"document {number} is there twice")
        found[number] = version
    for line in lines_of(engine, "number,version,caption,tags,total,parts,vector,check", f"note.number >= {since}"):
        fields = orjson.loads(line)["fields"]
        if not soak_app.is_whole(fields, SIZE) or found.get(fields["number"]) != fields["version"]:
            wrong.append(f"torn: {fields}")
    for number in found.keys() | feed.acknowledged.keys() | feed.unsure.keys():
        allowed = [feed.acknowledged.get(number), *feed.unsure.get(number, [])]
        if found.get(number) not in allowed:
            kind = "phantom" if number not in feed.acknowledged else "lost"
            wrong.append(f"{kind}: document {number} has version {found.get(number)}, expected one of {allowed}")
    feed.settle(found)
    return wrong + disagreements(engine, found, random)


def disagreements(engine: Running, found: Versions, random: Random) -> list[str]:
    """Counts, and for a sample of documents: found by their word and by their vector, whole."""
    client, wrong = Client(engine.port), []
    total = search(client, yql="select * from note where true", hits=0)["fields"]["totalCount"]
    if total != len(found):
        wrong.append(f"the index has {total} documents, the store {len(found)}")
    newest = sorted(found)[-10:]
    for number in {*newest, *random.sample(sorted(found), min(20, len(found)))}:
        version = found[number]
        assert version is not None
        word = search(client, yql=f'select * from note where caption contains "n{number}v{version}"')
        q = soak_app.vector(number, version, SIZE).tolist()
        near = "select * from note where {targetHits:5}nearestNeighbor(vector,q)"
        vector = search(client, **{"yql": near, "ranking": "near", "input.query(q)": q})
        for way, root in (("word", word), ("vector", vector)):
            hits = [hit["fields"] for hit in root.get("children", []) if hit["fields"]["number"] == number]
            if len(hits) != 1 or hits[0]["version"] != version or not soak_app.is_whole(hits[0], SIZE):
                wrong.append(f"document {number} version {version} is not found by {way}: {hits}")
    client.close()
    return wrong


def search(client: Client, **body: Any) -> Any:
    """The root of a query's answer."""
    status, answer = client.ask("POST", "/search/", body)
    assert status == 200, answer
    return answer["root"]


def test_kill_9_at_random_moments_of_a_feed_loses_nothing(
    tmp_path: Path, free_port: Callable[[], int], rounds: Callable[[int, int], int]
) -> None:
    kills, documents = rounds(2, 100), rounds(600, 200_000)
    app = soak_app.write_app(tmp_path / "app", soak_app.app_files(SIZE))
    data, ports, random, feed = tmp_path / "data", (free_port(), free_port()), Random(20261121), Feed(1)
    engine = start(data, *ports, app)
    wait_until_it_answers(engine)
    starts: list[float] = []
    wrong: list[str] = []
    try:
        for kill in range(1, kills + 1):
            kill_in_the_middle(engine, feed, documents * kill // kills, random)
            engine = start(data, *ports)
            starts.append(wait_until_it_answers(engine))
            since = max(0, feed.done * (kill - 2) // kill)  # what was fed since the kill before the last
            found = differences(engine, feed, random, 0 if kill % 25 == 0 else since)
            wrong += [f"after kill {kill}: {problem}" for problem in found]
            assert not wrong, "\n".join(wrong[:10])
        feed.run(engine, lambda done: done >= documents)
        wrong += differences(engine, feed, random)
    finally:
        engine.process.kill()
        engine.process.wait()
    live = sum(version is not None for version in feed.acknowledged.values())
    print(
        f"{kills} kills in a feed of {feed.done} puts, {live} documents at the end: 0 lost, 0 phantom, 0 torn; "
        f"restart to first answer {max(starts):.2f} s at most, {sorted(starts)[len(starts) // 2]:.2f} s median"
    )
    assert not wrong, "\n".join(wrong[:10])
    assert max(starts) < SECONDS


def kill_in_the_middle(engine: Running, feed: Feed, until: int, random: Random) -> None:
    """Feeds to about ``until`` documents and kills the engine while writers wait for answers."""
    delay = random.random() * 0.05

    def near_the_end(done: int) -> bool:
        return done >= until - 40

    def killer() -> None:
        while engine.process.poll() is None and not near_the_end(feed.done):
            time.sleep(0.002)
        time.sleep(delay)
        engine.process.kill()

    thread = threading.Thread(target=killer)
    thread.start()
    feed.run(engine, lambda done: False)
    thread.join()
    engine.process.wait()
