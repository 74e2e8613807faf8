"""The document/v1 API: put, update, remove and get of one document; visits are in ``visits.py``.

Source: Vespa's document/v1 reference; statuses and bodies as ``DocumentV1ApiHandler`` gives them. ``feed`` never
blocks: it answers with a response to come that the store's group commit completes, so one event loop feeds many
clients. ``route`` and ``tracelevel`` are accepted: there is one route, and no trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from clipsearch.engine.documents.answers import (
    Pending,
    Ready,
    deployed,
    error_response,
    render_fields,
    reply,
    schema_of,
    success,
)
from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.operations import Modify, Operation, Put, Remove
from clipsearch.engine.documents.requests import (
    DocumentPath,
    Parameters,
    allowed_methods,
    field_set,
    parse_body,
    parse_path,
)
from clipsearch.engine.documents.selection import Selection, compile_selection
from clipsearch.engine.documents.store import DocumentStore
from clipsearch.engine.documents.updates import parse_update
from clipsearch.engine.documents.values import parse_fields
from clipsearch.engine.documents.visits import Visits
from clipsearch.engine.http.messages import Answer, Request, Response
from clipsearch.engine.http.metrics import DocumentMetrics
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError

_KINDS = {"POST": "puts", "PUT": "updates", "DELETE": "removes"}


class DocumentState(Protocol):
    """What the handler needs of the engine."""

    @property
    def package(self) -> ApplicationPackage | None:
        """The deployed application."""

    @property
    def store(self) -> DocumentStore:
        """Where documents lie."""


class DocumentHandler:
    """Answers everything under /document/v1/; ``metrics`` counts its operations."""

    def __init__(self, state: DocumentState) -> None:
        self._state = state
        self.metrics: DocumentMetrics = DocumentMetrics()

    def handle(self, request: Request) -> Response:
        """The answer to any document/v1 request; blocks until a write is durable."""
        answer = self.feed(request)
        if answer is not None:
            return answer.result()
        return _guarded(request, lambda: self._read(request))

    def feed(self, request: Request) -> Answer | None:
        """The answer to a put, update or remove of one document, to come; None when ``request`` is something else."""
        kind = _KINDS.get(request.method)
        if kind is None:
            return None
        started = time.monotonic()
        try:
            path = parse_path(request.path)
            if path.user is None:
                return None
            doc = path.id
            operation, schema = self._operation(request, path, doc)
            if operation is None:  # a dry run
                return Ready(success(path, doc))
            done = self._state.store.submit(operation, len(request.body), schema)
            return Pending(done, path, doc, lambda status: self.metrics.count(kind, status, started))
        except EngineError as error:
            answer = error_response(request.path, error)
            self.metrics.count(kind, answer.status, started)
            return Ready(answer)

    def counts(self) -> dict[str, int]:
        """How many documents there are of each deployed type."""
        package = self._state.package
        return {} if package is None else {name: self._state.store.count(name) for name in sorted(package.schemas)}

    def _operation(
        self, request: Request, path: DocumentPath, doc: DocumentId
    ) -> tuple[Operation | None, Schema | None]:
        """What to do, and the schema that it was read by; (None, None) for a dry run."""
        given, create = None, None
        if request.query:
            dry_run, given, create = _write_parameters(request.query)
            if dry_run:
                return None, None
        package = deployed(self._state.package)
        schema = schema_of(package, path)
        if request.method == "DELETE":
            return Remove(doc, _condition(given, package)), schema
        body = parse_body(request.body)
        condition = _condition(given or body.get("condition"), package)
        create = body.get("create", False) if create is None else create
        if request.method == "POST":
            return Put(doc, parse_fields(schema, body["fields"], doc.text), condition, create), schema
        return Modify(doc, parse_update(schema, body["fields"], doc.text), condition, create), schema

    def _read(self, request: Request) -> Response:
        path = parse_path(request.path)
        methods = allowed_methods(path)
        if request.method == "OPTIONS":
            return Response(204, headers=(("Allow", ",".join(methods)),))
        if request.method not in methods:
            raise DocumentError(
                f"'{request.method}' not allowed at '{request.path}'. Allowed methods are: {', '.join(methods)}",
                status=405,
            )
        parameters = Parameters(request)
        parameters.check_timeout()
        parameters.number("tracelevel", 0)
        parameters.disallow("dryRun")
        package = deployed(self._state.package)
        if path.user is None:
            return Visits(self._state.store, package, request, path, parameters).answer()
        return self._get(path, parameters, package)

    def _get(self, path: DocumentPath, parameters: Parameters, package: ApplicationPackage) -> Response:
        parameters.cluster(package)
        tensors = parameters.tensors()
        schema = schema_of(package, path)
        doc = path.id
        row = self._state.store.get(doc)
        if row is None:
            return reply(404, {"pathId": path.raw, "id": doc.text})
        wanted = field_set(parameters.text("fieldSet"), path.type, schema)
        fields = render_fields(schema, row.fields, tensors, wanted)
        return reply(200, {"pathId": path.raw, "id": doc.text, "fields": fields})


@lru_cache(maxsize=256)
def _write_parameters(query: tuple[tuple[str, str], ...]) -> tuple[bool | None, str | None, bool | None]:
    """``dryRun``, ``condition`` and ``create``, with all that may be said checked; a feed says the same every time."""
    parameters = Parameters(Request("POST", "", query))
    parameters.check_timeout()
    parameters.text("route")
    parameters.number("tracelevel", 0)
    return parameters.flag("dryRun"), parameters.text("condition"), parameters.flag("create")


def _condition(text: Any, package: ApplicationPackage) -> Selection | None:
    if not text:
        return None
    return compile_selection(text, package.schemas)


def _guarded(request: Request, answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except EngineError as error:
        return error_response(request.path, error)
