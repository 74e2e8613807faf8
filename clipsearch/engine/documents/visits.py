"""Visits: reading, updating or removing every document that a selection picks, in steps with a continuation.

Documents come in the order of document type and local id; the continuation names the last one seen. Slices divide
documents by a hash of their id, so that slices of one visit are disjoint whatever is written meanwhile.
Source: Vespa's document/v1 reference, "Visit". ``fromTimestamp``, ``toTimestamp``, ``includeRemoves`` and copying
between clusters are refused by name.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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
from clipsearch.engine.documents.tables import BIG, Row
from clipsearch.engine.documents.updates import parse_update
from clipsearch.engine.http.messages import Request, Response
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError

MAX_COUNT = 1024
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
        first, last = parameters.number("fromTimestamp", 0), parameters.number("toTimestamp", 0)
        if last and last < first:
            raise DocumentError("toTimestamp must be greater than, or equal to, fromTimestamp")
        parameters.unsupported("fromTimestamp", "toTimestamp")
        if parameters.flag("includeRemoves"):
            parameters.unsupported("includeRemoves")
        tensors = parameters.tensors()
        for schema in self._schemas():
            self._wanted(schema)  # refuse a bad field set before the first byte is sent
        rows = self._rows()
        if not streamed:
            return self._page(rows, min(limit, MAX_COUNT), tensors)
        jsonl = _prefers_jsonl(self._request.headers.get("accept", ""))
        chunks = self._jsonl(rows, limit, tensors) if jsonl else self._json(rows, limit, tensors)
        return Response(200, chunks, "application/jsonl; charset=UTF-8" if jsonl else CONTENT_TYPE)

    def _page(self, rows: Iterator[Row], limit: int, tensors: str) -> Response:
        taken = list(islice(rows, limit))
        body: dict[str, Any] = {
            "pathId": self._path.raw,
            "documents": [{"id": str(row.id), "fields": self._render(row, tensors)} for row in taken],
            "documentCount": len(taken),
        }
        if len(taken) == limit and next(rows, None) is not None:
            body["continuation"] = self._token(taken[-1])
        return reply(200, body)

    def _json(self, rows: Iterator[Row], limit: int, tensors: str) -> Iterator[bytes]:
        yield b'{"pathId":' + orjson.dumps(self._path.raw) + b',"documents":['
        count, last = 0, None
        for last in islice(rows, limit):
            line = orjson.dumps({"id": str(last.id), "fields": self._render(last, tensors)})
            yield b"," + line if count else line
            count += 1
        tail: dict[str, Any] = {"documentCount": count}
        if last is not None and next(rows, None) is not None:
            tail["continuation"] = self._token(last)
        yield b"]," + orjson.dumps(tail)[1:]

    def _jsonl(self, rows: Iterator[Row], limit: int, tensors: str) -> Iterator[bytes]:
        count, last = 0, None
        for last in islice(rows, limit):
            yield orjson.dumps({"put": str(last.id), "fields": self._render(last, tensors)}) + b"\n"
            count += 1
        if last is not None and next(rows, None) is not None:
            yield orjson.dumps({"continuation": self._token(last)}) + b"\n"
        yield orjson.dumps({"documentCount": count}) + b"\n"

    def _update(self) -> Response:
        schema = schema_of(self._package, self._path)
        selection = self._where()
        body = parse_body(self._request.body, f"id:dummy:{schema.name}::", "update")
        update = parse_update(schema, body["fields"], f"id:dummy:{schema.name}::")
        return self._apply(lambda row: Modify(row.id, update, selection))

    def _remove(self) -> Response:
        self._parameters.require("selection")
        selection = self._where()
        return self._apply(lambda row: Remove(row.id, selection))

    def _copy(self) -> Response:
        self._parameters.require("destinationCluster")
        raise DocumentError(
            "Copying documents to 'destinationCluster' is not supported by the local engine: it has one cluster"
        )

    def _where(self) -> Selection:
        self._parameters.disallow("concurrency", "fieldSet", "route", "wantedDocumentCount")
        self._parameters.require("cluster")
        selection = compile_selection(self._parameters.require("selection"), self._package.schemas)
        self._parameters.cluster(self._package)
        return selection

    def _apply(self, operation: Callable[[Row], Operation]) -> Response:
        """Applies ``operation`` to every visited document; one changed meanwhile is left alone, not counted."""
        rows, count = self._rows(ids_only=True), 0
        while window := list(islice(rows, _WINDOW)):
            waiting: list[Future[None]] = [
                self._store.submit(operation(row), schema=self._package.schemas[row.id.type]) for row in window
            ]
            for done in waiting:
                try:
                    done.result()
                    count += 1
                except DocumentError as error:
                    if error.status != 412:
                        raise
        return reply(200, {"pathId": self._path.raw, "documentCount": count})

    # ---- which documents

    def _schemas(self) -> list[Schema]:
        if self._path.type:
            return [schema_of(self._package, self._path)]
        return [self._package.schemas[name] for name in sorted(self._package.schemas)]

    def _rows(self, ids_only: bool = False) -> Iterator[Row]:
        """The visited documents; parameters are checked before the first is read."""
        text = self._parameters.text("selection")
        selection = None if text is None else compile_selection(text, self._package.schemas)
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
                fields = self._read_fields(schema, ids_only)
                for row in self._store.scan(schema.name, after if schema.name == start else -1, fields):
                    if not self._path.holds(row.id):
                        continue
                    if slices > 1 and zlib.crc32(str(row.id).encode()) % slices != slice_id:
                        continue
                    if selection is None or selection.matches(row.id, row.fields):
                        yield row

        return rows()

    def _read_fields(self, schema: Schema, ids_only: bool) -> set[str] | None:
        wanted = () if ids_only else self._wanted(schema)
        if wanted is None:
            return None
        return {f.name for f in schema.fields.values() if f.type.kind not in BIG or f.name in wanted}

    def _wanted(self, schema: Schema) -> Any:
        return field_set(self._parameters.text("fieldSet"), self._path.type, schema)

    def _render(self, row: Row, tensors: str) -> dict[str, Any]:
        schema = self._package.schemas[row.id.type]
        return render_fields(schema, row.fields, tensors, self._wanted(schema))

    def _slice(self) -> tuple[int, int]:
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


def _prefers_jsonl(accept: str) -> bool:
    kinds = [part.split(";")[0].strip() for part in accept.split(",")]
    named = [kind for kind in kinds if kind in ("application/json", "application/jsonl")]
    return bool(named) and named[0] == "application/jsonl"
