"""The JSON that document/v1 answers with, and what its handlers ask of the deployed package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.requests import DocumentPath
from clipsearch.engine.documents.values import render_value
from clipsearch.engine.http.messages import Response, json_response
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError

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


def error_response(path: str, error: EngineError, doc: DocumentId | None = None) -> Response:
    """``error`` as document/v1 tells it; ``doc`` is named when the operation reached the store."""
    status = error.status if isinstance(error, DocumentError) else 500
    named = {} if doc is None else {"id": str(doc)}
    return reply(status, {"pathId": path, **named, "message": str(error)})
