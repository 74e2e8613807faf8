"""A small life of a data folder, and the check that such a folder holds exactly what was acknowledged.

``live`` opens, deploys, feeds one by one and at once, redeploys, closes, opens again and feeds on. It tells ``note``
when an operation starts and how it was answered; ``Expected`` makes of these notes which versions of each document
may be there: an operation that was acknowledged must be, one that failed or was under way may be, as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import soak_app

import clipsearch.engine.engine as engine_room
import clipsearch.engine.index.index as index_room
from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request, Response
from clipsearch.engine.package import write_zip
from clipsearch.errors import EngineError

PREPARE = "/application/v2/tenant/default/prepareandactivate"
PACKAGES = (soak_app.app_files(), soak_app.app_files(extra=soak_app.EXTRA_FIELD))
MAX_FAILURES = 3
Operation = tuple[str, int, int]  # put, update or remove; number; version
PHASES: tuple[tuple[Operation, ...], ...] = (
    (*(("put", n, 0) for n in range(5)), ("update", 2, 1), ("remove", 3, 0), ("put", 1, 2), ("put", 3, 3)),
    (("update", 0, 1), ("remove", 4, 0), ("put", 20, 0), ("update", 20, 1)),
    (("put", 21, 0), ("update", 1, 3), ("remove", 2, 0), ("put", 2, 5)),
)
AT_ONCE: tuple[Operation, ...] = tuple(("put", n, 0) for n in range(10, 16))
assert engine_room.CHECKPOINT_CHANGES > 4
assert index_room.COMPACT_AT_DEAD_ROWS > 3
Note = Callable[[dict[str, Any]], None]


class Life:
    """One run in ``data``. ``heal`` ends a lasting fault; ``app`` is the first package's folder."""

    def __init__(self, data: Path, app: Path, note: Note, heal: Callable[[], None]) -> None:
        self.data, self.app, self.note, self.heal = data, app, note, heal
        self.failures, self.last = 0, ""
        self.count = 0
        self.seen = Expected()

    def live(self) -> None:
        """Everything, from the first start to the last close, with checkpoints and compactions every few documents."""
        engine_room.CHECKPOINT_CHANGES, index_room.COMPACT_AT_DEAD_ROWS = 4, 3
        engine = self._start(self.app, 1)
        checkpoint_often(engine)
        self._feed(engine, PHASES[0])
        self._feed_at_once(engine)
        self._feed(engine, PHASES[1])
        self._redeploy(engine)
        self._agree(engine)
        engine.close()
        engine = self._start(None, None)
        checkpoint_often(engine)
        self._feed(engine, PHASES[2])
        self._agree(engine)
        engine.close()

    def _tell(self, **event: Any) -> None:
        self.note(event)
        self.seen.hear(event)

    def _start(self, app: Path | None, package: int | None) -> Engine:
        for _ in range(MAX_FAILURES + 1):
            self._tell(event="start", package=package)
            try:
                engine = Engine(self.data, app)
            except EngineError as error:
                self._failed(str(error))
            else:
                self._tell(event="end", package=package, ok=True)
                return engine
        raise AssertionError(f"the engine does not start after the fault is over: {self.last}")

    def _redeploy(self, engine: Engine) -> None:
        for _ in range(MAX_FAILURES + 1):
            self._tell(event="start", package=2)
            answer = engine.deploy.handle(
                Request("POST", PREPARE, (), {"content-type": "application/zip"}, write_zip(PACKAGES[1]))
            )
            self._tell(event="end", package=2, ok=answer.status == 200)
            if answer.status == 200:
                return
            self._refused(answer)
        raise AssertionError(f"no deploy works after the fault is over: {self.last}")

    def _feed(self, engine: Engine, operations: Iterable[Operation]) -> None:
        """Each operation until it is acknowledged."""
        for operation in operations:
            for _ in range(MAX_FAILURES + 1):
                self.count += 1
                self._tell(event="start", key=self.count, operation=operation)
                answer = engine.container.handle(request(operation))
                self._tell(event="end", key=self.count, ok=answer.status == 200)
                if answer.status == 200:
                    break
                self._refused(answer)
            else:
                raise AssertionError(f"{operation} fails after the fault is over: {self.last}")

    def _feed_at_once(self, engine: Engine) -> None:
        """Operations that share a commit; what failed is sent again."""
        left: list[Operation] = list(AT_ONCE)
        while left:
            running = []
            for operation in left:
                self.count += 1
                self._tell(event="start", key=self.count, operation=operation)
                running.append((self.count, operation, engine.container.feed(request(operation))))
            left, refused = [], None
            for key, operation, future in running:
                assert future is not None
                answer = future.result()
                self._tell(event="end", key=key, ok=answer.status == 200)
                if answer.status != 200:
                    left.append(operation)
                    refused = answer
            if refused is not None:
                self._refused(refused)

    def _refused(self, answer: Response) -> None:
        assert answer.status >= 500, (answer.status, answer.body)
        body = json.loads(answer.body if isinstance(answer.body, bytes) else b"".join(answer.body))
        self._failed(str(body["message"]))

    def _failed(self, message: str) -> None:
        assert len(message) > 20, f"no sentence: {message!r}"
        assert "Traceback" not in message
        self.failures, self.last = self.failures + 1, message
        assert self.failures <= 20, message
        if self.failures >= MAX_FAILURES:
            self.heal()

    def _agree(self, engine: Engine) -> None:
        """The living process, too, shows what it acknowledged."""
        self.heal()
        found = problems(engine, self.seen.allowed())
        assert not found, found


def checkpoint_often(engine: Engine) -> None:
    """SQLite copies its log into its file every few pages, so that a short life has many checkpoints."""
    engine.store.exclusive(lambda: engine.store._db.execute("PRAGMA wal_autocheckpoint = 30"))


@dataclass
class Expected:
    """What a folder may hold after the notes that were heard."""

    versions: dict[int, set[int | None]] = field(default_factory=dict)
    packages: set[int] = field(default_factory=lambda: {0})
    _running: dict[int, Operation] = field(default_factory=dict)

    def hear(self, event: Mapping[str, Any]) -> None:
        """The next note."""
        if "package" in event:
            package = event["package"]
            if package is not None:
                self.packages = {package} if event.get("ok") else self.packages | {package}
        elif event["event"] == "start":
            self._running[event["key"]] = tuple(event["operation"])
        elif event["ok"]:
            operation = self._running.pop(event["key"])
            self.versions[operation[1]] = {after(operation, v) for v in self._of(operation)}
        else:  # it stays among those that may have happened, at any later time, as a whole
            operation = self._running.pop(event["key"])
            self.versions[operation[1]] = self._of(operation) | {after(operation, v) for v in self._of(operation)}

    def _of(self, operation: Operation) -> set[int | None]:
        return self.versions.get(operation[1], {None})

    def allowed(self) -> dict[str, Any]:
        """As JSON: the allowed versions by document number, and the allowed packages."""
        versions = dict(self.versions)
        for operation in self._running.values():
            before = versions.get(operation[1], {None})
            versions[operation[1]] = before | {after(operation, v) for v in before}
        listed = {str(n): sorted(v, key=lambda x: -1 if x is None else x) for n, v in versions.items()}
        return {"versions": listed, "packages": sorted(self.packages)}


def after(operation: Operation, version: int | None) -> int | None:
    """The version of a document that had ``version`` (None: no such document) after ``operation``."""
    kind, _, new = operation
    return None if kind == "remove" or (kind == "update" and version is None) else new


def request(operation: Operation) -> Request:
    """``operation`` as document/v1 takes it."""
    kind, number, version = operation
    path = f"/document/v1/n/note/docid/{number}"
    if kind == "remove":
        return Request("DELETE", path)
    values = soak_app.fields(number, version)
    if kind == "put":
        return Request("POST", path, (), {}, orjson.dumps({"fields": values}))
    assigned = {name: {"assign": value} for name, value in values.items()}
    return Request("PUT", path, (), {}, orjson.dumps({"fields": assigned}))


def check_folder(data: Path, allowed: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``data`` on a sound disk: it must open, hold what is ``allowed``, and take new documents."""
    engine = Engine(data)
    try:
        found = problems(engine, allowed)
        if engine.package is not None and not found:
            answer = engine.container.handle(request(("put", 99, 7)))
            if answer.status != 200:
                found.append(f"a put is answered {answer.status}: {answer.body!r}")
            after_put = allowed["versions"] | {"99": [7]}
            found += problems(engine, {"versions": after_put, "packages": allowed["packages"]}, only=99)
        return found
    finally:
        engine.close()


def problems(engine: Engine, allowed: Mapping[str, Any], only: int | None = None) -> list[str]:
    """How the documents of ``engine``, and what its index finds of them, differ from what is ``allowed``.

    ``only``: just this document is searched by its word and its vector.
    """
    package = engine.package
    served = 0 if package is None else 1 + [dict(files) for files in PACKAGES].index(dict(package.files))
    if served not in allowed["packages"]:
        return [f"package {served} is served, expected one of {allowed['packages']}"]
    if package is None:
        return [f"document {n} is gone" for n, v in allowed["versions"].items() if None not in v]
    documents = visited(engine)
    found = [f"torn: {doc}" for doc in documents if not soak_app.is_whole(doc)]
    versions = {doc["number"]: doc["version"] for doc in documents}
    if len(versions) != len(documents):
        found.append("a document is there twice")
    for number, choices in allowed["versions"].items():
        if versions.get(int(number)) not in choices:
            found.append(f"document {number} has version {versions.get(int(number))}, expected one of {choices}")
    found += [f"phantom: document {n}" for n in versions if str(n) not in allowed["versions"]]
    return found + disagreements(engine, versions, only)


def visited(engine: Engine) -> list[dict[str, Any]]:
    """The fields of all documents."""
    answer = engine.container.handle(Request("GET", "/document/v1/n/note/docid/", (("stream", "true"),)))
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    return [document["fields"] for document in orjson.loads(body)["documents"]]


def disagreements(engine: Engine, versions: Mapping[int, int], only: int | None) -> list[str]:
    """Where the index does not find exactly the stored ``versions``: by ``true``, by word, by vector."""
    everything = search(engine, yql="select * from note where true", hits=400)
    shown = {hit["fields"]["number"]: hit["fields"]["version"] for hit in everything.get("children", [])}
    found = [f"torn hit: {hit}" for hit in everything.get("children", []) if not soak_app.is_whole(hit["fields"])]
    if shown != versions or everything["fields"]["totalCount"] != len(versions):
        found.append(f"the index shows {shown}, the store holds {versions}")
    for number, version in versions.items():
        if only is not None and number != only:
            continue
        by_word = search(engine, yql=f'select * from note where caption contains "n{number}v{version}"')
        near = "select * from note where {targetHits:1}nearestNeighbor(vector,q)"
        wanted = soak_app.vector(number, version, 8).tolist()
        by_vector = search(engine, **{"yql": near, "ranking": "near", "input.query(q)": wanted})
        for way, root in (("word", by_word), ("vector", by_vector)):
            hits = [(hit["fields"]["number"], hit["fields"]["version"]) for hit in root.get("children", [])]
            if hits[:1] != [(number, version)]:
                found.append(f"document {number} version {version} is not found by {way}: {hits}")
    return found


def search(engine: Engine, **body: Any) -> dict[str, Any]:
    """The root of a search's answer."""
    answer = engine.container.handle(Request("POST", "/search/", (), {}, orjson.dumps(body)))
    assert isinstance(answer.body, bytes)
    assert answer.status == 200, answer.body
    root: dict[str, Any] = orjson.loads(answer.body)["root"]
    return root
