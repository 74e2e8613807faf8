"""Field values between the three places they live: feed JSON, the engine's memory, and document/v1 answers.

Source: Vespa's document JSON format and ``com.yahoo.document.json.readers``. As there, a scalar may be written as a
JSON string or number alike (``"width": "640"``), null in a put leaves the field empty, and a tensor is strict in size.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import Field, FieldType, Schema
from clipsearch.engine.package.synthetic import for_document, for_update
from clipsearch.engine.tensors import Tensor, feed_reader, render
from clipsearch.errors import DocumentError, ExpressionError

_INT_RANGES = {"byte": 1 << 7, "int": 1 << 31, "long": 1 << 63}
# What Vespa's Text.isTextCharacter refuses in a string field; lone surrogates cannot leave orjson.
_NOT_BASE64 = re.compile("[^A-Za-z0-9+/=]")
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufdd0-\ufddf\ufffe\uffff]")


def document_field(schema: Schema, name: str) -> Field:
    """The field ``name`` of ``schema``'s documents. Raises ``DocumentError`` (400) with Vespa's sentence."""
    field = schema.fields.get(name)
    if field is None or not field.in_document:
        known = ", ".join(f"{f.name} ({f.type})" for f in schema.fields.values() if f.in_document)
        raise DocumentError(
            f"No field '{name}' in the structure of type '{schema.name}', which has the fields: [{known}]"
        )
    return field


def parse_fields(schema: Schema, fields: Mapping[str, Any], doc: str) -> dict[str, FieldValue]:
    """The feed JSON ``fields`` of document ``doc`` as typed values; fields that are null are left out.

    Raises ``DocumentError`` (400): an unknown field, or a value that does not fit its field.
    """
    values: dict[str, FieldValue] = {}
    readers = _readers_of(schema)
    for name, value in fields.items():
        reader = readers.get(name)
        if reader is None:
            document_field(schema, name)  # says what is wrong with the name
        elif value is not None:
            try:
                values[name] = reader(value)
            except (DocumentError, ExpressionError) as error:
                raise _misfit(schema.fields[name], doc, error) from error
    return for_document(schema, values)


def parse_field(field: Field, value: Any, doc: str) -> FieldValue:
    """One field's JSON ``value``. Raises ``DocumentError`` (400) that names document, field and type."""
    try:
        return for_update(field, parse_value(field.type, value))
    except (DocumentError, ExpressionError) as error:
        raise _misfit(field, doc, error) from error


def _misfit(field: Field, doc: str, error: Exception) -> DocumentError:
    return DocumentError(
        f"Error in document '{doc}' - could not parse field '{field.name}' of type '{field.type}': {error}"
    )


def parse_value(kind: FieldType, value: Any) -> FieldValue:
    """JSON ``value`` as a value of type ``kind``. Raises ``DocumentError`` or ``ExpressionError``."""
    return _reader(kind)(value)


Reader = Callable[[Any], FieldValue]
# id of a schema -> the schema (so that the id stays its own) and the readers of its document's fields
_READERS: dict[int, tuple[Schema, dict[str, Reader]]] = {}
_MAX_READERS = 64


def _readers_of(schema: Schema) -> dict[str, Reader]:
    """What reads each field of ``schema``'s documents, made once a schema."""
    found = _READERS.get(id(schema))
    if found is None:
        if len(_READERS) >= _MAX_READERS:
            _READERS.clear()
        readers = {field.name: _reader(field.type) for field in schema.fields.values() if field.in_document}
        found = _READERS[id(schema)] = (schema, readers)
    return found[1]


def _reader(kind: FieldType) -> Reader:
    if kind.kind == "tensor" and kind.tensor is not None:
        return feed_reader(kind.tensor)
    if kind.kind == "string":
        return _parse_string
    if kind.kind == "array" and kind.element is not None and kind.element.kind == "string":
        return _parse_strings
    if kind.kind in _INT_RANGES:
        return partial(_parse_integer, kind.kind, _INT_RANGES[kind.kind])
    if kind.kind == "raw":
        return _parse_bytes
    if kind.kind in ("array", "weightedset") and kind.element is not None:
        return partial(_parse_array if kind.kind == "array" else _parse_weighted_set, kind.element)
    return partial(_parse_scalar, kind.kind)


def _parse_strings(value: Any) -> Any:
    if not isinstance(value, list):
        raise DocumentError(f"Expected start of array, got {_json_kind(value)}")
    return [_parse_string(item) for item in value]


def _parse_integer(kind: str, limit: int, value: Any) -> FieldValue:
    return value if type(value) is int and -limit <= value < limit else _parse_scalar(kind, value)


def _parse_bytes(value: Any) -> FieldValue:
    if type(value) is str:
        with contextlib.suppress(ValueError):
            return binascii.a2b_base64(value, strict_mode=True)
    return _parse_scalar("raw", value)


def _parse_array(element: FieldType, value: Any) -> Any:
    if not isinstance(value, list):
        raise DocumentError(f"Expected start of array, got {_json_kind(value)}")
    return [_parse_scalar(element.kind, item) for item in value]


def _parse_weighted_set(element: FieldType, value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise DocumentError(f"Expected start of JSON object, got {_json_kind(value)}")
    weights = {}
    for key, weight in value.items():
        parsed_weight = _parse_scalar("int", weight)
        weights[str(_parse_scalar(element.kind, key))] = int(str(parsed_weight))
    return weights


def _parse_scalar(kind: str, value: Any) -> str | int | float | bool | bytes:
    if kind == "string":
        return _parse_string(value)
    _refuse_structure(kind, value)
    if kind in _INT_RANGES:
        return _parse_int(kind, value)
    if kind in ("float", "double"):
        return _parse_real(kind, value)
    if kind == "bool":
        return _parse_bool(value)
    if kind == "raw":
        return _parse_raw(value)
    raise DocumentError(f"fields of type {kind} are not supported by the local engine")


def _refuse_structure(kind: str, value: Any) -> None:
    if isinstance(value, (list, Mapping)) or value is None:
        raise DocumentError(f"Expected a value of type {kind}, got {_json_kind(value)}")


def _parse_string(value: Any) -> str:
    if isinstance(value, str):
        text = value
    else:
        _refuse_structure("string", value)
        text = _json_text(value)
    bad = _NOT_TEXT.search(text)
    if bad is not None:
        raise DocumentError(f"The string field value contains illegal code point 0x{ord(bad[0]):X}")
    return text


def _parse_int(kind: str, value: Any) -> int:
    limit = _INT_RANGES[kind]
    if type(value) is int and -limit <= value < limit:
        return value
    text = _json_text(value)
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text, re.ASCII) or not -limit <= int(text) < limit:
        raise DocumentError(f'For input string: "{text}"')
    return int(text)


def _parse_real(kind: str, value: Any) -> float:
    text = _json_text(value)
    try:
        number = float("" if "_" in text else text)  # Python alone reads 1_000
        if kind == "float":
            number = float(struct.unpack("<f", struct.pack("<f", number))[0])
    except (ValueError, OverflowError) as error:
        raise DocumentError(f'For input string: "{text}"') from error
    if not math.isfinite(number):
        raise DocumentError(f"{text} in a {kind} field is not supported by the local engine: feed a finite number")
    return number


def _parse_bool(value: Any) -> bool:
    text = _json_text(value).lower()
    if text not in ("true", "false"):
        raise DocumentError(f"'{text}' is neither true nor false")
    return text == "true"


def _parse_raw(value: Any) -> bytes:
    """Base64 as Java's MIME decoder reads it: characters outside the alphabet are skipped, padding may be missing."""
    text = _NOT_BASE64.sub("", _json_text(value))
    digits = text.rstrip("=")
    left, padding = len(digits) % 4, len(text) - len(digits)
    if left == 1 or "=" in digits or padding not in (0, -left % 4):
        raise DocumentError("a raw field is fed as base64: the end, or the padding, is wrong")
    return base64.b64decode(digits + "=" * (-left % 4))


def _json_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", dict: "an object", list: "an array", str: "a string"}
    return names.get(type(value), "a number")


def render_value(kind: FieldType, value: FieldValue, tensors: str = "short") -> Any:
    """``value`` as document/v1 shows it; ``tensors`` is a ``format.tensors`` name."""
    if isinstance(value, Tensor):
        return render(value, tensors)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if kind.kind == "float" and isinstance(value, float):
        return shortest_float32(value)
    if isinstance(value, list) and kind.element is not None and kind.element.kind == "float":
        return [shortest_float32(float(item)) for item in value]
    return value


def shortest_float32(value: float) -> float:
    """The shortest decimal that is ``value`` in single precision: 0.1, not 0.10000000149011612."""
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value
