"""The JSON that document/v1 answers with, and what its handlers ask of the deployed package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import orjson

from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.outcome import Outcome
from clipsearch.engine.documents.requests import DocumentPath
from clipsearch.engine.documents.values import render_value
from clipsearch.engine.http.messages import Response, json_response
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError, StoreError

CONTENT_TYPE = "application/json; charset=UTF-8"


def deployed(package: ApplicationPackage | None) -> ApplicationPackage:
    """``package``. Raises ``DocumentError`` (503) before the first deploy."""
    if package is None:
        raise DocumentError("No application is deployed: run 'vespa deploy', or start with --app", status=503)
    return package


def schema_of(package: ApplicationPackage, path: DocumentPath) -> Schema:
    """The schema of the path's document type. Raises ``DocumentError`` (400) when there is none."""
    schema = package.schemas.get(path.type)
    if schema is None:
        raise DocumentError(f"Document type {path.type} does not exist")
    return schema


def render_fields(
    schema: Schema, fields: Mapping[str, FieldValue], tensors: str, wanted: Collection[str] | None = None
) -> dict[str, Any]:
    """``fields`` as JSON in the schema's order, those in ``wanted`` only (None: all)."""
    return {
        name: render_value(schema.fields[name].type, fields[name], tensors)
        for name in schema.fields
        if name in fields and (wanted is None or name in wanted)
    }


def reply(status: int, value: Any) -> Response:
    """``value`` as document/v1's JSON."""
    return Response(status, json_response(status, value).body, CONTENT_TYPE)


def success(path: DocumentPath, doc: DocumentId) -> Response:
    """That an operation on one document was done."""
    return Response(200, orjson.dumps({"pathId": path.raw, "id": doc.text}), CONTENT_TYPE)


class Ready:
    """An ``Answer`` that is there already."""

    __slots__ = ("_response",)

    def __init__(self, response: Response) -> None:
        self._response = response

    def done(self) -> bool:
        """Yes."""
        return True

    def result(self, timeout: float | None = None) -> Response:
        """The response."""
        return self._response

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls ``fn`` at once."""
        fn(self)


class Pending:
    """The ``Answer`` to an operation on ``doc`` that the store will have ``done``.

    The response is made by whoever asks for it, not by the store's writer; ``told`` is given its status.
    """

    __slots__ = ("_doc", "_done", "_path", "_told")

    def __init__(self, done: Outcome[None], path: DocumentPath, doc: DocumentId, told: Callable[[int], None]) -> None:
        self._done = done
        self._path = path
        self._doc = doc
        self._told = told

    def done(self) -> bool:
        """Whether the store is done with it."""
        return self._done.done()

    def result(self, timeout: float | None = None) -> Response:
        """What the store did; waits for it."""
        error = self._done.exception(timeout)
        if error is None:
            response = success(self._path, self._doc)
        elif isinstance(error, EngineError):
            response = error_response(self._path.raw, error, self._doc)
        else:
            failed = StoreError(f"{type(error).__name__}: {error}")
            response = error_response(self._path.raw, failed, self._doc)
        self._told(response.status)
        return response

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls ``fn`` on the store's thread once it is done."""
        self._done.add_done_callback(fn)


def error_response(path: str, error: EngineError, doc: DocumentId | None = None) -> Response:
    """``error`` as document/v1 tells it; ``doc`` is named when the operation reached the store."""
    status = error.status if isinstance(error, DocumentError) else 500
    named = {} if doc is None else {"id": str(doc)}
    return reply(status, {"pathId": path, **named, "message": str(error)})
