"""Updates of one element of an array or of one key of a weighted set.

``{"tags": {"match": {"element": 0, "assign": "rain"}}}``, and the same as a field path: ``{"tags[0]": {"assign":
"rain"}}``, ``{"genres{blues}": {"increment": 1}}``. As in Vespa, an element that is not there is left alone, but a
field path makes a weighted set's key that it assigns to or calculates with, from 0. Source: Vespa's document JSON
format, and ``MapValueUpdate`` and ``FieldPathUpdate`` in its C++.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from clipsearch.engine.documents.values import document_field, parse_value
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import Field, FieldType, Schema
from clipsearch.errors import DocumentError, ExpressionError

Change = Callable[[FieldValue | None], FieldValue | None]
Element = Callable[[Any], Any]  # an element's value (None: not there) to its new value (None: remove it, or leave it)
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "increment": lambda old, by: old + by,
    "decrement": lambda old, by: old - by,
    "multiply": lambda old, by: old * by,
    "divide": lambda old, by: old / by,
}
_INT = FieldType("int")
_PATH = re.compile(r"(\w+)(?:\[\s*([0-9]{1,9})\s*\]|\{\s*(\w+|\"(?:\\\"|[^\\\"])*\")\s*\})")


def is_field_path(name: str) -> bool:
    """Whether a key of an update's fields is a path into a field."""
    return any(c in name for c in ".[{")


def match_change(field: Field, operand: Any) -> Change:
    """What ``match`` does. Raises ``DocumentError`` (400)."""
    if not isinstance(operand, Mapping):
        raise DocumentError("Expected object for match update")
    rest = {key: value for key, value in operand.items() if key != "element"}
    if "element" not in operand or len(rest) != 1:
        raise DocumentError("match expects an 'element' and one update operation")
    if "match" in rest:
        raise DocumentError(f"a match in a match is of no use in a field of type {field.type}")
    ((op, value),) = rest.items()
    kind = _element_type(field)
    if op == "assign":
        element = _assigned(None if value is None else _parse(kind, value))
    elif op in ARITHMETIC:
        element = _arithmetic(kind, op, value)
    else:
        raise DocumentError(f"Operation '{op}' not implemented.")
    if field.type.kind == "array":
        at = _parse(_INT, operand["element"])
        return _array_element(at, element)
    return _key(_parse_key(field, operand["element"]), element, create=False)


def path_change(schema: Schema, path: str, op: str, operand: Any) -> tuple[str, Change]:
    """The field that a field path update changes, and how. Raises ``DocumentError`` (400)."""
    match = _PATH.fullmatch(path)
    field = document_field(schema, match[1] if match else re.split(r"[.\[{]", path)[0])
    kind = _element_type(field)
    if match is None or (match[2] is None) == (field.type.kind == "array"):
        raise DocumentError(
            f"the field path '{path}' into a field of type {field.type} is not supported by the local engine"
        )
    op = op.lower()
    create = op != "remove"
    if op == "remove":
        if isinstance(operand, (list, Mapping)):
            raise DocumentError("Expected a scalar value")
        element = _assigned(None)
    elif op == "assign":
        element = _assigned(_parse(kind, operand))
    elif op in ARITHMETIC:
        element = _arithmetic(kind, op, operand)
    elif op == "add":
        raise DocumentError(f"cannot add to an element of a field of type {field.type}")
    else:
        raise DocumentError(f"Field path update type '{op}' not supported.")
    if match[2] is not None:
        return field.name, _array_element(int(match[2]), element)
    label = match[3][1:-1].replace('\\"', '"') if match[3].startswith('"') else match[3]
    return field.name, _key(_parse_key(field, label), element, create)


def _element_type(field: Field) -> FieldType:
    if field.type.kind == "array" and field.type.element is not None:
        return field.type.element
    if field.type.kind == "weightedset":
        return _INT
    raise DocumentError(f"Container type {field.type} not supported for match update.")


def _parse_key(field: Field, value: Any) -> Any:
    element = field.type.element or FieldType("string")
    return str(_parse(element, value))  # keys are kept as text


def _parse(kind: FieldType, value: Any) -> Any:
    try:
        return parse_value(kind, value)
    except ExpressionError as error:
        raise DocumentError(str(error)) from error


def number_operand(op: str, operand: Any) -> float:
    """The number that an arithmetic update is given, which may be text. Raises ``DocumentError`` (400)."""
    if isinstance(operand, (bool, list, Mapping)) or operand is None:
        raise DocumentError(f"{op} expects a number, got '{operand}'")
    number = parse_value(FieldType("double"), operand)
    return operand if isinstance(operand, int) else float(str(number))


def _assigned(value: Any) -> Element:
    return lambda old: value


def _arithmetic(kind: FieldType, op: str, operand: Any) -> Element:
    if kind.kind not in ("int", "long", "float", "double"):
        raise DocumentError(f"cannot {op} a value of type {kind}")
    by = number_operand(op, operand)

    def element(old: Any) -> Any:
        try:
            result = ARITHMETIC[op](old or 0, by)
            return _parse(kind, int(result) if kind.kind in ("int", "long") else result)
        except (ArithmeticError, ValueError, DocumentError):  # as in Vespa: what cannot be calculated changes nothing
            return old

    return element


def _array_element(at: int, element: Element) -> Change:
    def change(old: FieldValue | None) -> Any:
        if not isinstance(old, list) or not 0 <= at < len(old):
            return old
        new = element(old[at])
        return [*old[:at], *(() if new is None else (new,)), *old[at + 1 :]]

    return change


def _key(key: str, element: Element, create: bool) -> Change:
    def change(old: FieldValue | None) -> Any:
        weights = old if isinstance(old, dict) else {}
        if key not in weights and not create:
            return old
        new = element(weights.get(key))
        kept = {**weights, key: new}
        if new is None:
            del kept[key]
        return kept

    return change
