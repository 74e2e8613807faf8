"""Field values between the three places they live: feed JSON, the engine's memory, and document/v1 answers.

Source: Vespa's document JSON format and ``com.yahoo.document.json.readers``. As there, a scalar may be written as a
JSON string or number alike (``"width": "640"``), null in a put leaves the field empty, and a tensor is strict in size.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import Field, FieldType, Schema
from clipsearch.engine.tensors import Tensor, parse_feed, render
from clipsearch.errors import DocumentError, ExpressionError

_INT_RANGES = {"int": 1 << 31, "long": 1 << 63}
# What Vespa's Text.isTextCharacter refuses in a string field; lone surrogates cannot leave orjson.
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
    for name, value in fields.items():
        field = document_field(schema, name)
        if value is not None:
            values[name] = parse_field(field, value, doc)
    return values


def parse_field(field: Field, value: Any, doc: str) -> FieldValue:
    """One field's JSON ``value``. Raises ``DocumentError`` (400) that names document, field and type."""
    try:
        return parse_value(field.type, value)
    except (DocumentError, ExpressionError) as error:
        raise DocumentError(
            f"Error in document '{doc}' - could not parse field '{field.name}' of type '{field.type}': {error}"
        ) from error


def parse_value(kind: FieldType, value: Any) -> FieldValue:
    """JSON ``value`` as a value of type ``kind``. Raises ``DocumentError`` or ``ExpressionError``."""
    if kind.kind == "tensor":
        if kind.tensor is None:
            raise DocumentError("the tensor field has no type")
        return parse_feed(value, kind.tensor)
    if kind.kind == "array" and kind.element is not None:
        items: list[str] = _parse_array(kind.element, value)
        return items
    if kind.kind == "weightedset" and kind.element is not None:
        return _parse_weighted_set(kind.element, value)
    return _parse_scalar(kind.kind, value)


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
    if isinstance(value, (list, Mapping)) or value is None:
        raise DocumentError(f"Expected a value of type {kind}, got {_json_kind(value)}")
    if kind == "string":
        return _parse_string(value)
    if kind in _INT_RANGES:
        return _parse_int(kind, value)
    if kind in ("float", "double"):
        return _parse_real(kind, value)
    if kind == "bool":
        return _parse_bool(value)
    if kind == "raw":
        return _parse_raw(value)
    raise DocumentError(f"fields of type {kind} are not supported by the local engine")


def _parse_string(value: Any) -> str:
    text = value if isinstance(value, str) else _json_text(value)
    bad = _NOT_TEXT.search(text)
    if bad is not None:
        raise DocumentError(f"The string field value contains illegal code point 0x{ord(bad[0]):X}")
    return text


def _parse_int(kind: str, value: Any) -> int:
    text = _json_text(value)
    limit = _INT_RANGES[kind]
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text, re.ASCII) or not -limit <= int(text) < limit:
        raise DocumentError(f'For input string: "{text}"')
    return int(text)


def _parse_real(kind: str, value: Any) -> float:
    text = _json_text(value)
    try:
        number = float(text)
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
    try:
        return base64.b64decode(_json_text(value).encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"a raw field is fed as base64: {error}") from error


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
