"""The document/v1 API: put, update, remove and get of one document; visits are in ``visits.py``.

Source: Vespa's document/v1 reference; statuses and bodies as ``DocumentV1ApiHandler`` gives them. ``feed`` never
blocks: it answers with a future that the store's group commit completes, so one event loop feeds many clients.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from clipsearch.engine.documents.answers import deployed, error_response, render_fields, reply, schema_of
from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.operations import Modify, Operation, Put, Remove
from clipsearch.engine.documents.requests import (
    DocumentPath,
    Parameters,
    field_set,
    parse_body,
    parse_path,
)
from clipsearch.engine.documents.selection import Selection, compile_selection
from clipsearch.engine.documents.store import DocumentStore
from clipsearch.engine.documents.updates import parse_update
from clipsearch.engine.documents.values import parse_fields
from clipsearch.engine.documents.visits import Visits
from clipsearch.engine.http.messages import Request, Response
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError, StoreError

_METHODS = ("GET", "POST", "PUT", "DELETE")


class DocumentState(Protocol):
    """What the handler needs of the engine."""

    @property
    def package(self) -> ApplicationPackage | None:
        """The deployed application."""

    @property
    def store(self) -> DocumentStore:
        """Where documents lie."""


class DocumentHandler:
    """Answers everything under /document/v1/."""

    def __init__(self, state: DocumentState) -> None:
        self._state = state

    def handle(self, request: Request) -> Response:
        """The answer to any document/v1 request; blocks until a write is durable."""
        answer = self.feed(request)
        if answer is not None:
            return answer.result()
        return _guarded(request, lambda: self._read(request))

    def feed(self, request: Request) -> Future[Response] | None:
        """The answer to a put, update or remove of one document, to come; None when ``request`` is something else."""
        if request.method not in ("POST", "PUT", "DELETE"):
            return None
        answer: Future[Response] = Future()
        answer.set_running_or_notify_cancel()  # a client that goes away cannot cancel what is queued
        try:
            path = parse_path(request.path)
            if path.user is None:
                return None
            doc = path.id
            operation, schema = self._operation(request, path, doc)
            if operation is None:  # a dry run
                answer.set_result(_success(path, doc))
            else:
                done = self._state.store.submit(operation, len(request.body), schema)
                done.add_done_callback(lambda future: _finish(answer, request, path, doc, future))
        except EngineError as error:
            answer.set_result(error_response(request.path, error))
        return answer

    def _operation(
        self, request: Request, path: DocumentPath, doc: DocumentId
    ) -> tuple[Operation | None, Schema | None]:
        """What to do, and the schema that it was read by; (None, None) for a dry run."""
        parameters = Parameters(request)
        parameters.check_timeout()
        parameters.text("route")
        if parameters.flag("dryRun"):
            return None, None
        package = deployed(self._state.package)
        if request.method == "DELETE":
            condition = _condition(parameters.text("condition"), package)
            return Remove(doc, condition), schema_of(package, path)
        schema = schema_of(package, path)
        body = parse_body(request.body, str(doc), "put" if request.method == "POST" else "update")
        condition = _condition(parameters.text("condition") or body.get("condition"), package)
        create = parameters.flag("create")
        create = bool(body.get("create", False)) if create is None else create
        if request.method == "POST":
            return Put(doc, parse_fields(schema, body["fields"], str(doc)), condition, create), schema
        return Modify(doc, parse_update(schema, body["fields"], str(doc)), condition, create), schema

    def _read(self, request: Request) -> Response:
        path = parse_path(request.path)
        if request.method == "OPTIONS":
            return Response(204, headers=(("Allow", ",".join(_METHODS)),))
        if request.method not in _METHODS:
            raise DocumentError(
                f"'{request.method}' not allowed at '{request.path}'. Allowed methods are: {', '.join(_METHODS)}",
                status=405,
            )
        parameters = Parameters(request)
        parameters.check_timeout()
        package = deployed(self._state.package)
        if path.user is None:
            return Visits(self._state.store, package, request, path, parameters).answer()
        return self._get(path, parameters, package)

    def _get(self, path: DocumentPath, parameters: Parameters, package: ApplicationPackage) -> Response:
        parameters.disallow("dryRun", "create", "condition", "route")
        parameters.cluster(package)
        tensors = parameters.tensors()
        schema = schema_of(package, path)
        doc = path.id
        row = self._state.store.get(doc)
        if row is None:
            return reply(404, {"pathId": path.raw, "id": str(doc)})
        wanted = field_set(parameters.text("fieldSet"), path.type, schema)
        return reply(
            200,
            {
                "pathId": path.raw,
                "id": str(doc),
                "fields": render_fields(schema, row.fields, tensors, wanted),
            },
        )


def _condition(text: Any, package: ApplicationPackage) -> Selection | None:
    if text is None:
        return None
    return compile_selection(str(text), package.schemas)


def _success(path: DocumentPath, doc: DocumentId) -> Response:
    return reply(200, {"pathId": path.raw, "id": str(doc)})


def _finish(
    answer: Future[Response], request: Request, path: DocumentPath, doc: DocumentId, done: Future[None]
) -> None:
    error = done.exception()
    if error is None:
        answer.set_result(_success(path, doc))
    elif isinstance(error, EngineError):
        answer.set_result(error_response(request.path, error, doc))
    else:
        answer.set_result(error_response(request.path, StoreError(f"{type(error).__name__}: {error}"), doc))


def _guarded(request: Request, answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except EngineError as error:
        return error_response(request.path, error)
