"""Values that indexing statements make: Vespa computes them while feeding, so nobody feeds them.

A document field's own statements change the value before it is stored (``for_document``); fields outside the document
are computed from what is stored (``with_synthetic``). Source: Vespa's indexing language reference and its expression
classes. Which statements exist, and that their types fit, is decided when the package is loaded (``indexing.py``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import numpy as np

from clipsearch.engine.embedding import choose, embed_array
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.linguistics import drop_accents
from clipsearch.engine.package.indexing import Node, Scope, embed_target, has_embed, inputs_of, parse_source
from clipsearch.engine.package.model import Field, Schema
from clipsearch.engine.patterns import compile_pattern
from clipsearch.engine.tensors import Tensor
from clipsearch.engine.tensors.types import Dimension, TensorType
from clipsearch.errors import DocumentError, ExpressionError

_JAVA_SPACE = "".join(map(chr, range(33)))  # what Java's String.trim takes off
_RANGES = {"to_int": 1 << 31, "to_long": 1 << 63}


def with_synthetic(
    schema: Schema, fields: Mapping[str, FieldValue], names: Collection[str] | None = None
) -> Mapping[str, FieldValue]:
    """``fields`` of one stored document and what its schema computes from them; no source value, no field.

    ``names``: only these are wanted; None: all. Raises ``DocumentError`` for a value that its statement cannot take.
    """
    synthetic = [each for each in schema.computed if not each.in_document and (names is None or each.name in names)]
    return {**fields, **_made(schema, synthetic, fields)} if synthetic else fields


def for_document(schema: Schema, fields: dict[str, FieldValue]) -> dict[str, FieldValue]:
    """``fields`` of a put as they are stored: document fields with statements of their own have their results.

    Embeddings of the fields outside the document are computed now and thrown away: the one that writes finds them in
    the embedders' caches, and a value that cannot be embedded is refused before anything is stored.
    """
    if not schema.computed:
        return fields
    made = {**fields, **_made(schema, [field for field in schema.computed if field.in_document], fields)}
    _made(schema, [f for f in schema.computed if not f.in_document and has_embed(parse_source(f.source))], made)
    return made


def for_update(field: Field, value: FieldValue) -> FieldValue:
    """``value``, given to document field ``field`` by an update, as it is stored."""
    if not field.source or not field.in_document:
        return value
    changed = _value(field, Scope({field.name: field}, {}, field.type), {field.name: value})
    return value if changed is None else changed


def stored_for(schema: Schema, names: Collection[str]) -> set[str]:
    """The stored fields that the fields ``names`` need: themselves, or what they are computed from."""
    needed: set[str] = set()
    for name in names:
        field = schema.fields.get(name)
        computed = field is not None and field.source and not field.in_document
        needed |= inputs_of(parse_source(field.source)) if field is not None and computed else {name}
    return needed


def _made(schema: Schema, fields: Iterable[Field], values: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    made = {}
    for field in fields:
        value = _value(field, Scope(schema.fields, schema.embedders, field.type), values)
        if value is not None:
            made[field.name] = value
    return made


def _value(field: Field, scope: Scope, values: Mapping[str, FieldValue]) -> FieldValue | None:
    try:
        return _run(parse_source(field.source), None, scope, values)
    except (ExpressionError, ValueError, OverflowError) as error:
        raise DocumentError(f"field '{field.name}', indexing '{field.source}': {error}") from error


def _run(node: Node, value: FieldValue | None, scope: Scope, fields: Mapping[str, FieldValue]) -> FieldValue | None:
    """The value of ``node`` for the current ``value``; None is passed on by everything but ``||``."""
    match node.op:
        case "pipe":
            for place, part in enumerate(node.parts):
                target = embed_target(node.parts[place + 1 :], scope.target)
                value = _run(part, value, Scope(scope.fields, scope.embedders, target), fields)
            return value
        case "constant":
            return node.args[0]
        case "now":
            return int(time.time())
        case "input":
            return fields.get(str(node.args[0]))
        case "cat":
            return _concatenated([_run(part, value, scope, fields) for part in node.parts])
        case "choice":
            found = (_run(part, value, scope, fields) for part in node.parts)
            return next((each for each in found if each is not None), None)
    if value is None:
        return None
    if node.op == "for_each":
        items = [_run(node.parts[0], each, scope, fields) for each in cast("list[str]", value)]
        return cast("FieldValue", [each for each in items if each is not None])
    if node.op == "embed":
        return _embedded(node, value, scope)
    if isinstance(value, Tensor):
        return _pack_bits(value) if node.op == "pack_bits" else _binarize(value, float((node.args or (0,))[0]))
    return _step(node, value)


def _concatenated(values: list[FieldValue | None]) -> FieldValue | None:
    if any(isinstance(each, list) for each in values):
        return cast("FieldValue", [item for each in values if isinstance(each, list) for item in each])
    if any(isinstance(each, dict) for each in values):
        return {key: weight for each in values if isinstance(each, dict) for key, weight in each.items()}
    if any(each is None for each in values):
        return None
    return "".join(_text(each) for each in values)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _step(node: Node, value: Any) -> FieldValue:
    match node.op:
        case "lowercase":
            return str(value).lower()
        case "trim":
            return str(value).strip(_JAVA_SPACE)
        case "normalize":
            return drop_accents(str(value))
        case "substring":
            start, end = (int(each) for each in node.args)
            return str(value)[start : max(start, end)]
        case "split":
            return _split(str(node.args[0]), str(value))
        case "join":
            return str(node.args[0]).join(value)
        case "to_array":
            return [value]
        case "to_string":
            return _text(value)
        case "to_bool":
            return bool(value) if not isinstance(value, str) else value != ""
        case "to_int" | "to_long":
            return _whole(node.op, value)
        case "to_float" | "to_double":
            return float(np.float32(value)) if node.op == "to_float" else float(value)
    return cast("FieldValue", value)


def _split(pattern: str, text: str) -> list[str]:
    """As Java's ``Pattern.split``: empty strings at the end are left out."""
    if not text:
        return []
    compile_pattern(pattern).search(text)  # refuses what could take very long
    parts, start = [], 0
    for found in re.finditer(pattern, text):
        if found.end() > found.start() or found.start() > 0:
            parts.append(text[start : found.start()])
            start = found.end()
    parts.append(text[start:])
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _whole(op: str, value: Any) -> int:
    number = int(value)
    if not -_RANGES[op] <= number < _RANGES[op]:
        raise ValueError(f"{number} does not fit {op.removeprefix('to_')}")
    return number


def _embedded(node: Node, value: FieldValue, scope: Scope) -> FieldValue:
    embedder = choose(scope.embedders, str(node.args[0]) if node.args else "")
    target = scope.target.tensor if scope.target is not None else None
    if target is None:
        raise ExpressionError("embed has no tensor to embed to")
    if isinstance(value, list):
        return embed_array(embedder, [str(each) for each in value], target)
    return embedder.embed(str(value), target)


def _binarize(value: Tensor, threshold: float) -> Tensor:
    """1 for each cell above ``threshold``, else 0, in the same cell type."""
    return Tensor(value.type, (value.cells > threshold).astype(value.cells.dtype), value.labels)


def _pack_bits(value: Tensor) -> Tensor:
    """Eight cells of the indexed dimension to one int8, the first in the highest bit; a cell above 0 is 1."""
    packed = np.packbits(value.cells > 0, axis=-1, bitorder="big").view(np.int8)
    last = value.type.indexed[-1].name
    dimensions = (Dimension(d.name, packed.shape[-1]) if d.name == last else d for d in value.type.dimensions)
    return Tensor(TensorType(tuple(dimensions), "int8"), packed, value.labels)
