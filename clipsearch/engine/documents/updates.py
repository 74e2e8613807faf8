"""Partial updates: ``{"fields": {"width": {"increment": 1}, "captions": {"add": ["a pier"]}}}``.

Parsed and checked once, before the document is read, then applied to its fields as a pure function, so that the store
can serialise read, change and write per document. Source: Vespa's document JSON format, "Updates".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipsearch.engine.documents.element_updates import (
    ARITHMETIC,
    is_field_path,
    match_change,
    number_operand,
    path_change,
)
from clipsearch.engine.documents.tensor_updates import Change, tensor_change
from clipsearch.engine.documents.values import document_field, parse_field
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import Field, Schema
from clipsearch.errors import DocumentError, ExpressionError

_NUMERIC = ("byte", "int", "long", "float", "double")


@dataclass(frozen=True, slots=True)
class Update:
    """The changes of one update operation, in the order given: (field name, what it does to the value)."""

    changes: tuple[tuple[str, Change], ...]

    def apply(self, fields: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
        """A new field map; a field whose new value is None is left out."""
        changed = dict(fields)
        for name, change in self.changes:
            value = change(changed.get(name))
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = value
        return changed


def parse_update(schema: Schema, fields: Any, doc: str) -> Update:
    """The feed JSON ``fields`` of an update of ``doc``.

    Raises ``DocumentError`` (400): an unknown field or operation, or a value of the wrong type; or an update that the
    local engine does not support, named.
    """
    changes: list[tuple[str, Change]] = []
    for name, operations in fields.items():
        try:
            if not isinstance(operations, Mapping):
                raise DocumentError("Expected start of JSON object with an update operation")
            for op, operand in operations.items():
                if is_field_path(name):
                    changes.append(path_change(schema, name, op, operand))
                else:
                    changes.append((name, _change(document_field(schema, name), op, operand, doc)))
        except (DocumentError, ExpressionError) as error:
            raise DocumentError(f"Error in '{name}': {error}") from error
    return Update(tuple(changes))


def _change(field: Field, op: str, operand: Any, doc: str) -> Change:
    if op == "assign":
        value = None if operand is None else parse_field(field, operand, doc)
        return lambda old: value
    if op in ARITHMETIC:
        return _arithmetic(field, op, operand, doc)
    if op == "modify" and field.type.tensor is None:
        raise DocumentError(
            f"A modify update can only be applied to tensor fields. Field '{field.name}' is of type '{field.type}'"
        )
    if field.type.tensor is not None and op in ("add", "remove", "modify"):
        return tensor_change(field.type.tensor, op, operand)
    if op in ("add", "remove"):
        return _collection_change(field, op, operand, doc)
    if op == "match":
        return match_change(field, operand)
    raise DocumentError(
        f"Unknown update operation '{op}', expected one of assign, add, remove, match, modify, {', '.join(ARITHMETIC)}"
    )


def _arithmetic(field: Field, op: str, operand: Any, doc: str) -> Change:
    if field.type.kind not in _NUMERIC:
        raise DocumentError(f"cannot {op} a field of type {field.type}")
    by = number_operand(op, operand)
    if op == "divide" and by == 0:
        raise DocumentError("division by zero")

    def change(old: FieldValue | None) -> FieldValue | None:
        # As Vespa's attributes: arithmetic on a field without a value leaves it without one.
        if not isinstance(old, (int, float)):
            return old
        try:
            result = ARITHMETIC[op](old, by)
        except OverflowError:
            result = math.inf
        if not math.isfinite(result):
            raise DocumentError(f"Error in '{field.name}': the result of {op} is too large for {field.type}")
        return parse_field(field, int(result) if field.type.kind in ("byte", "int", "long") else result, doc)

    return change


def _collection_change(field: Field, op: str, operand: Any, doc: str) -> Change:
    if field.type.kind == "array":
        items = parse_field(field, operand, doc)
        return _array_add(items) if op == "add" else _array_remove(items)
    if field.type.kind == "weightedset":
        given = _weights(field, operand) if isinstance(operand, list) else operand
        weights = parse_field(field, given, doc)
        return _set_add(weights) if op == "add" else _set_remove(weights)
    raise DocumentError(f"cannot {op} in a field of type {field.type}")


def _weights(field: Field, keys: list[Any]) -> dict[Any, int]:
    if any(key is None or isinstance(key, (list, Mapping)) for key in keys):
        raise DocumentError(f"a key of {field.type} must be a plain value")
    return dict.fromkeys(keys, 1)


def _array_add(items: Any) -> Change:
    return lambda old: [*(old if isinstance(old, list) else []), *items]


def _array_remove(items: Any) -> Change:
    def change(old: FieldValue | None) -> Any:
        return [item for item in old if item not in items] if isinstance(old, list) else None

    return change


def _set_add(weights: Any) -> Change:
    return lambda old: {**(old if isinstance(old, dict) else {}), **weights}


def _set_remove(weights: Any) -> Change:
    def change(old: FieldValue | None) -> Any:
        return {k: w for k, w in old.items() if k not in weights} if isinstance(old, dict) else None

    return change
