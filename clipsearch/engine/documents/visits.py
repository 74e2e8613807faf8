"""Visits: reading, updating or removing every document that a selection picks, in steps with a continuation.

Documents come in the order of document type and local id; the continuation names the last one seen. Slices divide
documents by a hash of their id, so that slices of one visit are disjoint whatever is written meanwhile.
Source: Vespa's document/v1 reference, "Visit", and ``DocumentV1ApiHandler``. ``fromTimestamp``, ``toTimestamp`` and
``includeRemoves`` are refused by name: neither times of writing nor removed documents are kept.
"""

from __future__ import annotations

import base64
import binascii
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import orjson

from clipsearch.engine.documents.answers import CONTENT_TYPE, render_fields, reply, schema_of
from clipsearch.engine.documents.operations import Modify, Operation, Remove
from clipsearch.engine.documents.requests import (
    BUCKET_SPACES,
    DocumentPath,
    Parameters,
    field_set,
    parse_body,
)
from clipsearch.engine.documents.selection import Selection, compile_selection
from clipsearch.engine.documents.store import DocumentStore
from clipsearch.engine.documents.tables import Row
from clipsearch.engine.documents.updates import parse_update
from clipsearch.engine.http.messages import Request, Response
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError

MAX_COUNT = 1024
TIME_CHUNK = 60.0  # seconds that one update or removal of many documents takes, about
_WINDOW = 512
_ALL = 1 << 62


class Visits:
    """One request on a path that names many documents."""

    def __init__(
        self,
        store: DocumentStore,
        package: ApplicationPackage,
        request: Request,
        path: DocumentPath,
        parameters: Parameters,
    ) -> None:
        self._store = store
        self._package = package
        self._request = request
        self._path = path
        self._parameters = parameters

    def answer(self) -> Response:
        """The answer. Raises ``DocumentError`` with document/v1's status."""
        return {"GET": self._visit, "PUT": self._update, "DELETE": self._remove, "POST": self._copy}[
            self._request.method
        ]()

    def _visit(self) -> Response:
        parameters = self._parameters
        streamed = parameters.flag("stream") or False
        limit = parameters.positive("wantedDocumentCount", _ALL if streamed else 1)
        parameters.positive("concurrency", 1)
        if not self._path.type and parameters.text("cluster") is None:
            raise DocumentError(
                "Must set 'cluster' parameter to a valid content cluster id when visiting at a root /document/v1/ level"
            )
        parameters.cluster(self._package)
        if parameters.flag("includeRemoves"):
            parameters.unsupported("includeRemoves")
        tensors = parameters.tensors()
        for schema in self._schemas():
            self._wanted(schema)  # refuse a bad field set before the first byte is sent
        rows = self._rows()
        if not streamed:
            return self._page(rows, min(limit, MAX_COUNT), tensors)
        jsonl = prefers_jsonl(self._request.headers.get("accept", ""))
        chunks = self._jsonl(rows, limit, tensors) if jsonl else self._json(rows, limit, tensors)
        return Response(200, chunks, "application/jsonl; charset=UTF-8" if jsonl else CONTENT_TYPE)

    def _page(self, rows: Iterator[Row], limit: int, tensors: str) -> Response:
        taken = list(islice(rows, limit))
        body: dict[str, Any] = {
            "pathId": self._path.raw,
            "documents": [{"id": row.id.text, "fields": self._render(row, tensors)} for row in taken],
            "documentCount": len(taken),
        }
        if len(taken) == limit and next(rows, None) is not None:
            body["continuation"] = self._token(taken[-1])
        return reply(200, body)

    def _json(self, rows: Iterator[Row], limit: int, tensors: str) -> Iterator[bytes]:
        yield b'{"pathId":' + orjson.dumps(self._path.raw) + b',"documents":['
        end: dict[str, Any] = {"documentCount": 0}
        try:
            last = None
            for last in islice(rows, limit):
                line = orjson.dumps({"id": last.id.text, "fields": self._render(last, tensors)})
                yield b"," + line if end["documentCount"] else line
                end["documentCount"] += 1
            if last is not None and next(rows, None) is not None:
                end["continuation"] = self._token(last)
        except (EngineError, sqlite3.Error) as error:  # too late for a status: Vespa says so in the body as well
            end["message"] = str(error)
        yield b"]," + orjson.dumps(end)[1:]

    def _jsonl(self, rows: Iterator[Row], limit: int, tensors: str) -> Iterator[bytes]:
        count, last, more = 0, None, False
        try:
            for last in islice(rows, limit):
                yield orjson.dumps({"put": last.id.text, "fields": self._render(last, tensors)}) + b"\n"
                count += 1
                if count % _WINDOW == 0:  # a client that is cut off goes on from the last of these that it saw
                    yield self._continuation(last)
            more = last is not None and next(rows, None) is not None
        except (EngineError, sqlite3.Error) as error:
            yield orjson.dumps({"message": {"text": str(error), "severity": "error"}}) + b"\n"
        else:
            yield self._continuation(last if more else None)
        yield orjson.dumps({"sessionStats": {"documentCount": count}}) + b"\n"

    def _continuation(self, last: Row | None) -> bytes:
        """The line that says where a visit goes on after ``last``; None: it is finished."""
        if last is None:
            return orjson.dumps({"continuation": {"percentFinished": 100.0}}) + b"\n"
        total = max(1, sum(self._store.count(schema.name) for schema in self._schemas()))
        percent = min(99.0, 100.0 * (last.lid + 1) / max(total, last.lid + 1))
        return orjson.dumps({"continuation": {"token": self._token(last), "percentFinished": percent}}) + b"\n"

    def _update(self) -> Response:
        self._parameters.cluster(self._package, required=True)
        selection = self._where()
        schema = schema_of(self._package, self._path)
        body = parse_body(self._request.body)
        update = parse_update(schema, body["fields"], f"id:dummy:{schema.name}::")
        create = body.get("create", False)
        return self._apply(lambda row: Modify(row.id, update, selection, create))

    def _remove(self) -> Response:
        selection = self._where()
        return self._apply(lambda row: Remove(row.id, selection))

    def _copy(self) -> Response:
        """Copies to ``destinationCluster``, of which there is one: every document is there already."""
        self._parameters.require("destinationCluster")
        self._parameters.cluster(self._package, "destinationCluster")
        self._where()
        return reply(200, {"pathId": self._path.raw, "documentCount": sum(1 for _ in self._rows(ids_only=True))})

    def _where(self) -> Selection:
        self._parameters.disallow("concurrency", "fieldSet", "route", "wantedDocumentCount")
        text = self._parameters.require("selection")
        self._parameters.cluster(self._package, required=True)
        return compile_selection(text, self._package.schemas)

    def _apply(self, operation: Callable[[Row], Operation]) -> Response:
        """Applies ``operation`` to every visited document, for about ``timeChunk``; then there is a continuation.

        A document that was changed meanwhile so that it is no longer selected is left alone, but counted, as in Vespa.
        """
        until = time.monotonic() + self._parameters.duration("timeChunk", TIME_CHUNK)
        rows, count, last = self._rows(ids_only=True), 0, None
        body: dict[str, Any] = {"pathId": self._path.raw, "documentCount": 0}
        while window := list(islice(rows, _WINDOW)):
            waiting = [self._store.submit(operation(row), schema=self._package.schemas[row.id.type]) for row in window]
            for done in waiting:
                try:
                    done.result()
                except DocumentError as error:
                    if error.status != 412:
                        raise
            count += len(window)
            last = window[-1]
            if time.monotonic() >= until:
                break
        body["documentCount"] = count
        if last is not None and next(rows, None) is not None:
            body["continuation"] = self._token(last)
        return reply(200, body)

    # ---- which documents

    def _schemas(self) -> list[Schema]:
        if self._path.type:
            return [schema_of(self._package, self._path)]
        return [self._package.schemas[name] for name in sorted(self._package.schemas)]

    def _rows(self, ids_only: bool = False) -> Iterator[Row]:
        """The visited documents; parameters are checked before the first is read."""
        text = self._parameters.text("selection")
        selection = None if text is None else compile_selection(text, self._package.schemas)
        self._check_times()
        slices, slice_id = self._slice()
        space = self._parameters.text("bucketSpace") or "default"
        if space not in BUCKET_SPACES:
            raise DocumentError(
                f"Bucket space '{space}' is not a known bucket space; expected one of {', '.join(BUCKET_SPACES)}"
            )
        start, after = self._start()
        schemas = [s for s in self._schemas() if s.name >= start] if space == "default" else []

        def rows() -> Iterator[Row]:
            for schema in schemas:
                fields = self._read_fields(schema, selection, ids_only)
                for row in self._store.scan(schema.name, after if schema.name == start else -1, fields):
                    if not self._path.holds(row.id):
                        continue
                    if slices > 1 and zlib.crc32(row.id.text.encode()) % slices != slice_id:
                        continue
                    if selection is None or selection.matches(row.id, row.fields):
                        yield row

        return rows()

    def _check_times(self) -> None:
        """The engine keeps no time of writing: a visit from 0 on without end is all that it can answer."""
        first, last = self._parameters.unsigned("fromTimestamp"), self._parameters.unsigned("toTimestamp")
        if last is not None and (first or 0) > last:
            raise DocumentError("toTimestamp must be greater than, or equal to, fromTimestamp")
        if first:
            self._parameters.unsupported("fromTimestamp")
        if last is not None:
            self._parameters.unsupported("toTimestamp")

    def _read_fields(self, schema: Schema, selection: Selection | None, ids_only: bool) -> set[str] | None:
        """The fields to read: those to show, and those that the selection looks at; None: all."""
        wanted = () if ids_only else self._wanted(schema)
        return None if wanted is None else {*wanted, *(selection.fields if selection is not None else ())}

    def _wanted(self, schema: Schema) -> Any:
        return field_set(self._parameters.text("fieldSet"), self._path.type, schema)

    def _render(self, row: Row, tensors: str) -> dict[str, Any]:
        schema = self._package.schemas[row.id.type]
        return render_fields(schema, row.fields, tensors, self._wanted(schema))

    def _slice(self) -> tuple[int, int]:
        given = [self._parameters.text(name) is not None for name in ("slices", "sliceId")]
        if any(given) and not all(given):
            raise DocumentError("None or both of 'slices' and 'sliceId' must be set")
        slices = self._parameters.positive("slices", 1)
        slice_id = self._parameters.number("sliceId", 0)
        if not 0 <= slice_id < slices:
            raise DocumentError(f"sliceId must be from 0 to slices - 1 = {slices - 1}, but was {slice_id}")
        return slices, slice_id

    def _start(self) -> tuple[str, int]:
        token = self._parameters.text("continuation")
        if token is None:
            return "", -1
        try:
            schema, lid = orjson.loads(base64.urlsafe_b64decode(token))
        except (binascii.Error, ValueError, TypeError):
            schema, lid = "", None
        if not isinstance(schema, str) or not isinstance(lid, int) or not 0 <= lid < _ALL:
            raise DocumentError(f"'{token}' is not a continuation of this engine")
        return schema, lid

    def _token(self, row: Row) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([row.id.type, row.lid])).decode()


def prefers_jsonl(accept: str) -> bool:
    """Whether an Accept header wants JSON lines rather than JSON: the better quality, else what is named first."""
    found: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        quality = next((text[2:].strip() for text in parameters if text.startswith("q=")), "1")
        if kind in ("application/json", "application/jsonl") and re.fullmatch(r"[01](\.[0-9]{0,3})?", quality):
            found[kind] = max(float(quality), found.get(kind, 0.0))
    return max(found, key=lambda kind: found[kind], default="") == "application/jsonl"
