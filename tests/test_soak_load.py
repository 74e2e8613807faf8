"""Many readers and writers at once: no error, no torn read, memory flat."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import soak_app
from soak_engine import Client, Running, running

pytestmark = pytest.mark.soak
READERS, WRITERS, DOCUMENTS, SIZE = 16, 4, 2000, 8
GROWTH = 64 << 20  # bytes of resident memory that may come after the warm-up


class Load:
    """What the threads of one run saw."""

    def __init__(self, engine: Running) -> None:
        self.engine = engine
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, seconds: float) -> list[int]:
        """Loads the engine; returns its resident bytes, sampled at even times."""
        threads = [threading.Thread(target=self._guarded, args=(self._read, n)) for n in range(READERS)]
        threads += [threading.Thread(target=self._guarded, args=(self._write, n)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        samples = []
        for _ in range(50):
            self.over.wait(seconds / 50)
            samples.append(self.engine.memory())
        self.over.set()
        for thread in threads:
            thread.join()
        return samples

    def _guarded(self, work: Callable[[Client, Random, int], None], number: int) -> None:
        client, random = Client(self.engine.port), Random(number)
        try:
            while not self.over.is_set():
                work(client, random, number)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            self.over.set()
        finally:
            client.close()

    def _ask(self, client: Client, method: str, path: str, body: Any = None) -> Any:
        status, answer = client.ask(method, path, body)
        self.done[method if path != "/search/" else "query"] += 1
        if status != 200 and not (status == 404 and method == "GET"):
            self.wrong.append(f"{status} to {method} {path}: {answer}")
        return answer

    def _write(self, client: Client, random: Random, number: int) -> None:
        key = random.randrange(DOCUMENTS // WRITERS) * WRITERS + number
        path, version = f"/document/v1/l/note/docid/{key}", random.randrange(1000)
        values = soak_app.fields(key, version, SIZE)
        kind = random.random()
        if kind < 0.05:
            self._ask(client, "DELETE", path)
        elif kind < 0.4:
            fields = {name: {"assign": value} for name, value in values.items()}
            self._ask(client, "PUT", f"{path}?create=true", {"fields": fields})
        else:
            self._ask(client, "POST", path, {"fields": values})

    def _read(self, client: Client, random: Random, number: int) -> None:
        kind = random.randrange(5)
        if kind == 0:
            answer = self._ask(client, "GET", f"/document/v1/l/note/docid/{random.randrange(DOCUMENTS)}")
            documents = [answer["fields"]] if "fields" in answer else []
        elif kind == 1:
            path = "/document/v1/l/note/docid/?wantedDocumentCount=20&format.tensors=short-value"
            answer = self._ask(client, "GET", f"{path}&slices=50&sliceId={random.randrange(50)}")
            documents = [document["fields"] for document in answer["documents"]]
        else:
            documents = self._query(client, random, kind)
        for document in documents:
            self.done["documents read"] += 1
            if not soak_app.is_whole(document, SIZE):
                self.wrong.append(f"torn: {document}")

    def _query(self, client: Client, random: Random, kind: int) -> list[Any]:
        key, word = random.randrange(DOCUMENTS), random.choice(soak_app.WORDS)
        body: dict[str, Any] = {"hits": 10, "text": word}
        near = "{targetHits:10}nearestNeighbor(vector,q)"
        if kind > 2:
            body |= {"ranking": "near", "input.query(q)": soak_app.vector(key, 0, SIZE).tolist()}
        where = {2: "userInput(@text)", 3: near, 4: f"{near} or userInput(@text)"}[kind]
        root = self._ask(client, "POST", "/search/", body | {"yql": f"select * from note where {where}"})["root"]
        if "errors" in root:
            self.wrong.append(f"errors in {root['errors']}")
        hits = root.get("children", [])
        # As in Vespa, a document that was removed before its fields were read is a hit without any.
        self.done["hits removed meanwhile"] += sum("fields" not in hit for hit in hits)
        return [hit["fields"] for hit in hits if "fields" in hit]


def test_readers_and_writers_at_once_see_no_error_and_no_torn_document(
    tmp_path: Path, free_port: Callable[[], int], rounds: Callable[[int, int], int]
) -> None:
    app, seconds = soak_app.write_app(tmp_path / "app", soak_app.app_files(SIZE)), rounds(5, 300)
    with running(tmp_path / "data", free_port(), free_port(), app) as engine:
        client = Client(engine.port)
        for key in range(DOCUMENTS // 4):
            assert client.ask("POST", f"/document/v1/l/note/docid/{key}", {"fields": soak_app.fields(key, 0)})[0] == 200
        client.close()
        load, started = Load(engine), time.monotonic()
        samples = load.run(seconds)
        took = time.monotonic() - started
        log = engine.log.read_text()
    warm = len(samples) // 5
    before, after = max(samples[warm : 2 * warm]), max(samples[-warm:])
    shown = ", ".join(f"{count} {name}" for name, count in sorted(load.done.items()))
    print(
        f"{READERS} readers and {WRITERS} writers for {took:.0f} s ({shown}): {len(load.wrong)} errors or torn reads; "
        f"memory {before >> 20} MiB after the warm-up, {after >> 20} MiB at the end"
    )
    assert not load.wrong, "\n".join(load.wrong[:10])
    assert load.done["documents read"] > 100
    assert load.done["hits removed meanwhile"] <= load.done["DELETE"]
    assert "Traceback" not in log, log[-3000:]
    assert after - before < GROWTH
