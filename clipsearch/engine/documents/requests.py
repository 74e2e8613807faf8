"""What a document/v1 request says: its path, and its parameters with Vespa's checks and words.

Source: Vespa's document/v1 reference and ``DocumentV1ApiHandler``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from clipsearch.engine.documents.ids import DocumentId, make_id
from clipsearch.engine.http.messages import Request
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.engine.tensors.encode import FORMS
from clipsearch.errors import DocumentError

ROOT = "/document/v1"
BUCKET_SPACES = ("default", "global")
_PATHS = """/document/v1/
/document/v1/{namespace}/{documentType}/docid/
/document/v1/{namespace}/{documentType}/group/{group}/
/document/v1/{namespace}/{documentType}/number/{number}/
/document/v1/{namespace}/{documentType}/docid/{*}
/document/v1/{namespace}/{documentType}/group/{group}/{*}
/document/v1/{namespace}/{documentType}/number/{number}/{*}"""
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(ks|s|ms|\N{MICRO SIGN}s)?\s*")
_UNITS = {"ks": 1e3, "s": 1.0, "ms": 1e-3, "\N{MICRO SIGN}s": 1e-6}


class DocumentPath(NamedTuple):
    """A document/v1 path, decoded; ``user`` is None for a path that names many documents."""

    raw: str
    namespace: str = ""
    type: str = ""
    number: int | None = None
    group: str | None = None
    user: str | None = None

    @property
    def id(self) -> DocumentId:
        """The one document that the path names. Raises ``DocumentError`` (400) when that is not a legal id."""
        location = f"g={self.group}" if self.group is not None else ""
        location = f"n={self.number}" if self.number is not None else location
        return make_id(self.namespace, self.type, self.user or "", location)

    def holds(self, doc: DocumentId) -> bool:
        """Whether ``doc`` lies below this path."""
        if self.namespace and (doc.namespace != self.namespace or doc.type != self.type):
            return False
        return (self.number is None or doc.number == self.number) and (self.group is None or doc.group == self.group)


def parse_path(raw: str) -> DocumentPath:
    """The percent-encoded ``raw``. Raises ``DocumentError`` (404 with the paths there are, 400 a bad number)."""
    if raw.rstrip("/") == ROOT:
        return DocumentPath(raw)
    parts = raw[len(ROOT) + 1 :].split("/")
    if "%" in raw:
        parts = [_decode(part) for part in parts]
    elif not raw.isascii():
        parts = [_decode(part.encode("latin-1", "replace")) for part in parts]
    if not raw.startswith(ROOT + "/") or len(parts) < 3 or "" in parts[:3]:
        raise _nothing_at(raw)
    namespace, doctype, kind, *rest = parts
    if kind == "docid":
        return DocumentPath(raw, namespace, doctype, user="/".join(rest) or None)
    if kind not in ("number", "group") or not rest or not rest[0]:
        raise _nothing_at(raw)
    user = "/".join(rest[1:]) or None
    if kind == "group":
        return DocumentPath(raw, namespace, doctype, group=rest[0], user=user)
    number = rest[0]
    if not (number.isascii() and number.isdecimal()) or len(number) > 20 or int(number) >= 1 << 64:
        raise DocumentError(f"Failed parsing '{number}': it is not an unsigned 64-bit number")
    return DocumentPath(raw, namespace, doctype, number=int(number), user=user)


def _decode(part: str | bytes) -> str:
    data = part if isinstance(part, bytes) else part.encode("latin-1", "replace")
    try:
        return unquote_to_bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"'{data!r}' in the path is not percent-encoded UTF-8") from error


def allowed_methods(path: DocumentPath) -> tuple[str, ...]:
    """What may be done at ``path``; documents are updated only below a document type."""
    return ("GET", "POST", "PUT", "DELETE") if path.type else ("GET", "POST", "DELETE")


def _nothing_at(raw: str) -> DocumentError:
    return DocumentError(f"Nothing at '{raw}'. Available paths are:\n{_PATHS}", status=404)


class Parameters:
    """A request's parameters, read with Vespa's checks; every method raises ``DocumentError`` (400)."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._values = dict(request.query)

    def text(self, name: str) -> str | None:
        """The last value of ``name``; None when it is not given."""
        value = self._values.get(name)
        if value == "":
            raise DocumentError(f"Expected non-empty value for request property '{name}'")
        return value

    def require(self, name: str) -> str:
        """The value of ``name``, which must be given."""
        value = self.text(name)
        if value is None:
            raise DocumentError(f"Must specify '{name}' at '{self._request.path}'")
        return value

    def disallow(self, *names: str) -> None:
        """Refuses ``names`` at this path."""
        for name in names:
            if name in self._values:
                raise DocumentError(f"May not specify '{name}' at '{self._request.path}'")

    def unsupported(self, *names: str) -> None:
        """Refuses what Vespa has and the local engine has not."""
        for name in names:
            if name in self._values:
                raise DocumentError(f"Request property '{name}' is not supported by the local engine")

    def flag(self, name: str) -> bool | None:
        """``name`` as true or false."""
        value = self.text(name)
        if value is None:
            return None
        if value.lower() not in ("true", "false"):
            raise DocumentError(f"Failed parsing '{value}': Value must be 'true' or 'false'")
        return value.lower() == "true"

    def positive(self, name: str, default: int) -> int:
        """``name`` as an integer above 0."""
        value = self.number(name, default)
        if value <= 0:
            raise DocumentError(f"{name} must be positive")
        return value

    def number(self, name: str, default: int) -> int:
        """``name`` as a 64-bit integer."""
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value, re.ASCII):
            raise DocumentError(f"Failed parsing '{value}': {name} must be an integer")
        return int(value)

    def unsigned(self, name: str) -> int | None:
        """``name`` as an unsigned 64-bit integer; None when it is not given."""
        value = self.text(name)
        if value is None:
            return None
        if not re.fullmatch(r"\+?[0-9]{1,20}", value, re.ASCII) or int(value) >= 1 << 64:
            raise DocumentError(f"Failed parsing '{value}': {name} must be an unsigned integer")
        return int(value)

    def check_timeout(self) -> None:
        """Refuses a timeout that is none; the engine's operations are too short to need it."""
        self.duration("timeout", 0.0)

    def duration(self, name: str, default: float) -> float:
        """``name`` as seconds: ``10``, ``10s``, ``500ms``."""
        value = self.text(name)
        if value is None:
            return default
        match = _DURATION.fullmatch(value)
        if match is None:
            raise DocumentError(f"Failed parsing '{value}': expected a duration such as 10, 10s or 500ms")
        return float(match[1]) * _UNITS[match[2] or "s"]

    def cluster(self, package: ApplicationPackage, name: str = "cluster", required: bool = False) -> None:
        """Checks that ``name``, when given, is the content cluster's id."""
        value = self.require(name) if required else self.text(name)
        if value is not None and value != package.content_cluster:
            raise DocumentError(
                f"Your Vespa deployment has no content cluster '{value}', only '{package.content_cluster}'"
            )

    def tensors(self) -> str:
        """The tensor form, ``format.tensors``."""
        value = self.text("format.tensors") or "short"
        if value not in FORMS:
            raise DocumentError(f"Unknown tensor format '{value}', expected one of {', '.join(FORMS)}")
        return value


def parse_body(body: bytes) -> dict[str, Any]:
    """A put or update's JSON object, which has an object ``fields``. Raises ``DocumentError`` (400)."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise DocumentError("expected start of root object, got null") from error
        raise DocumentError(f"failed parsing document: {error}") from error
    if not isinstance(value, dict):
        raise DocumentError(f"expected start of root object, got {_token(value)}")
    if "fields" not in value:
        raise DocumentError('document is missing the required "fields" field')
    if not isinstance(value["fields"], dict):
        raise DocumentError(f"Expected start of JSON object, got {_token(value['fields'])}")
    if not isinstance(value.get("condition", ""), (str, type(None))):
        raise DocumentError(f"expected string value for condition, got {_token(value['condition'])}")
    if not isinstance(value.get("create", True), bool):
        raise DocumentError(f"failed parsing document: create must be true or false, got {_token(value['create'])}")
    return value


def _token(value: Any) -> str:
    """What Vespa's JSON parser calls the first token of ``value``."""
    if value is None or isinstance(value, bool):
        return f"VALUE_{'NULL' if value is None else str(value).upper()}"
    names = {dict: "START_OBJECT", list: "START_ARRAY", str: "VALUE_STRING", int: "VALUE_NUMBER_INT"}
    return names.get(type(value), "VALUE_NUMBER_FLOAT")


def field_set(text: str | None, doctype: str, schema: Schema) -> Collection[str] | None:
    """The names that ``fieldSet`` selects of ``schema``; None: all. Raises ``DocumentError`` (400)."""
    if text is None or text in ("[all]", "[document]"):
        return None
    if text in ("[id]", "[docid]", "[none]"):
        return ()
    wanted, colon, names = text.partition(":")
    if not colon:
        raise DocumentError(f"The field set '{text}' is not [all], [document], [id], [none] or <type>:<field>,...")
    if wanted != (doctype or schema.name):
        return () if not doctype else _wrong_type(text, doctype)
    if names in ("[document]", "[all]"):
        return None
    chosen: list[str] = []
    for name in (each.strip() for each in names.split(",")):
        if name not in schema.fields and name not in schema.fieldsets:
            raise DocumentError(f"Field '{name}' in field set '{text}' does not exist in document type '{wanted}'")
        chosen += [name] if name in schema.fields else schema.fieldsets[name]
    return chosen


def _wrong_type(text: str, doctype: str) -> Collection[str]:
    raise DocumentError(f"The field set '{text}' is not of document type '{doctype}'")
