"""What the serving room's tests share: a package of music albums, built by hand, and a store that holds it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from clipsearch.engine.documents.handler import DocumentHandler
from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.operations import Put
from clipsearch.engine.documents.store import DocumentStore
from clipsearch.engine.http.messages import Request, Response
from clipsearch.engine.package.model import ApplicationPackage, Field, FieldType, Schema, SummaryClass
from clipsearch.engine.tensors import parse_type

STRING = FieldType("string")
ONE = "/space/music/docid/one"
FIELDS: dict[str, Any] = {
    "artist": "Tom Waits",
    "year": 1985,
    "plays": 1 << 40,
    "score": 0.1,
    "live": False,
    "tags": ["rain", "dogs"],
    "genres": {"blues": 3},
    "cover": base64.b64encode(b"\x00\xff").decode(),
    "embedding": {"type": "tensor(x[3])", "values": [1.0, 2.0, 3.0]},
}


def field(name: str, kind: FieldType, **options: Any) -> Field:
    """A field that is an attribute and in the summary."""
    return Field(name, kind, attribute=True, summary=True, **options)


def tensor(text: str) -> FieldType:
    """A tensor field type."""
    return FieldType("tensor", tensor=parse_type(text))


def music(**changed: FieldType | None) -> ApplicationPackage:
    """Schema music in cluster content; ``changed`` replaces, adds or (None) takes out fields."""
    kinds: dict[str, FieldType | None] = {
        "artist": STRING,
        "year": FieldType("int"),
        "plays": FieldType("long"),
        "score": FieldType("float"),
        "live": FieldType("bool"),
        "tags": FieldType("array", element=STRING),
        "genres": FieldType("weightedset", element=STRING),
        "cover": FieldType("raw"),
        "embedding": tensor("tensor(x[3])"),
    } | changed
    fields = {name: field(name, kind) for name, kind in kinds.items() if kind is not None}
    summary = SummaryClass("default", {name: name for name in fields})
    schema = Schema("music", fields, {}, {"default": summary}, {})
    files = {"schemas/music.sd": repr(sorted(changed)).encode()}
    return ApplicationPackage({"music": schema}, {}, "content", "default", True, files)


class State:
    """A store with a deployed package, as the document handler sees an engine."""

    def __init__(self, folder: Path, package: ApplicationPackage | None = None) -> None:
        self.store = DocumentStore(folder)
        self.package = package or music()
        self.store.exclusive(lambda: self.store.save_package(self.package))
        self.handler = DocumentHandler(self)

    def ask(self, method: str, path: str, body: Any = b"", **params: str) -> tuple[int, Any]:
        """Status and parsed JSON of one document/v1 request below /document/v1."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        answer = self.handler.handle(Request(method, "/document/v1" + path, tuple(params.items()), {}, data))
        return answer.status, content(answer)


def put(number: int, **fields: Any) -> Put:
    """A put of ``id:space:music::<number>``."""
    return Put(parse_id(f"id:space:music::{number}"), fields)


def reopen(folder: Path, package: ApplicationPackage | None = None) -> DocumentStore:
    """The store that ``folder`` holds, with a package in use."""
    store = DocumentStore(folder)
    store.exclusive(lambda: store.catalog.use(package or music()))
    return store


def content(answer: Response) -> Any:
    """The parsed body of an answer."""
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    return orjson.loads(body) if body else None


@contextmanager
def opened(folder: Path, package: ApplicationPackage | None = None) -> Iterator[State]:
    """A state that is closed at the end."""
    state = State(folder, package)
    try:
        yield state
    finally:
        state.store.close()
