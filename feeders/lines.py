"""Vespa's feed JSONL: one operation a line, as ``vespa feed`` and ``feed jsonl`` read it.

``{"put": id, "fields": {...}}``, ``{"update": id, "fields": {"label": {"assign": ...}}}``, ``{"remove": id}``, each
optionally with ``condition`` and ``create``. Source: Vespa's document JSON reference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from clipsearch.errors import InputError
from feeders.dispatcher import Failure
from feeders.operations import Kind, Operation

_KINDS: tuple[Kind, ...] = ("put", "update", "remove")


def line(kind: Kind, document_id: str, fields: Mapping[str, Any] | None) -> bytes:
    """One operation as a line, with its end."""
    content: dict[str, Any] = {kind: document_id}
    if fields is not None:
        content["fields"] = fields
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """Each line's object of a JSONL file ("-": standard input), or what is wrong with it, after "line 7 of FILE"."""
    with reading(path) as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            where = f"line {number} of {path}"
            try:
                content = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                yield where, InputError(f"{where} is not JSON: {error}")
                continue
            yield where, content if isinstance(content, dict) else InputError(f"{where} is not a JSON object")


def read_operations(path: str | Path) -> Iterator[Operation | Failure]:
    """The operations of a feed file ("-": standard input), one a line; a line that is none becomes a dead letter."""
    for where, content in read_objects(path):
        try:
            if isinstance(content, InputError):
                raise content
            yield to_operation(content, where)
        except InputError as error:
            yield Failure(where, 0, str(error))


def to_operation(content: Mapping[str, Any], where: str) -> Operation:
    """One parsed line as an operation; a document as ``vespa visit`` prints it is a put. ``InputError``: it is none."""
    kind = next((kind for kind in _KINDS if kind in content), None)
    if kind is None and not {"id", "fields"} <= content.keys():
        raise InputError(f'{where} is no operation: it has no "put", "update" or "remove"')
    document_id, fields = str(content[kind or "id"]), content.get("fields")
    if kind == "remove":
        return Operation(kind, document_id, None, str(content.get("condition") or ""))
    if not isinstance(fields, dict):
        raise InputError(f'{where} has no object "fields"')
    return Operation(
        kind or "put", document_id, fields, str(content.get("condition") or ""), bool(content.get("create"))
    )


@contextmanager
def reading(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of standard input for "-". ``InputError`` when there is no such file."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115  # closed below; what reading raises later is no fault of opening
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    with file:
        yield file


@contextmanager
def writing(path: str | Path) -> Iterator[IO[bytes]]:
    """Where to write bytes: a file, which gets its name when it is whole, or standard output for "-"."""
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
