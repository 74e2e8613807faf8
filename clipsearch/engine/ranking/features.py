"""The raw rank features that the local engine has, and those of Vespa's that it refuses, with what to do instead.

Source: Vespa's rank feature reference. The query room computes the values; here arguments and types are checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from clipsearch.engine.package.model import Field, Schema
from clipsearch.engine.ranking.nodes import Reference, Text
from clipsearch.engine.ranking.source import Feature
from clipsearch.engine.tensors.types import SCALAR, Dimension, TensorType
from clipsearch.errors import ExpressionError

_SET_FIRST_PHASE = "set a first-phase of bm25(field), closeness(field,f) or your own expression"
REFUSED = {
    "nativeRank": _SET_FIRST_PHASE,
    "nativeFieldMatch": _SET_FIRST_PHASE,
    "nativeProximity": _SET_FIRST_PHASE,
    "nativeAttributeMatch": _SET_FIRST_PHASE,
    "nativeDotProduct": _SET_FIRST_PHASE,
    "fieldMatch": "use bm25(field) or matches(field) instead",
    "attributeMatch": "use attribute(field) or matches(field) instead",
    "textSimilarity": "use bm25(field) instead",
    "elementSimilarity": "use bm25(field) instead",
    "dotProduct": "feed a tensor field and write sum(query(q) * attribute(f))",
    "matrix": "write the expression with tensors",
    "random": "scores would differ in each evaluation",
    "randomNormal": "scores would differ in each evaluation",
    "randomNormalStable": "scores would differ from Vespa's",
    "termDistance": "use bm25(field), or near() in the query",
    "firstPhaseRank": "order by the first phase's own expression",
    "globalSequence": "feed a number of your own and use attribute(f)",
    "foreach": "write out its terms",
    "onnx": "evaluate the model outside of the engine",
    "onnxModel": "evaluate the model outside of the engine",
    "xgboost": "evaluate the model outside of the engine",
    "lightgbm": "evaluate the model outside of the engine",
}


def raw_feature(node: Reference, schema: Schema) -> tuple[Feature, TensorType]:
    """The raw feature that ``node`` names, and the type of its value.

    Raises ``ExpressionError``: a name that is no feature, one that is refused, or arguments that do not fit ``schema``.
    """
    if node.name in REFUSED:
        raise ExpressionError(f"the rank feature '{node}' is not supported by the local engine: {REFUSED[node.name]}")
    check = _FEATURES.get(node.name)
    if check is None:
        raise ExpressionError(
            f"unknown rank feature '{node}': neither a function of the profile nor a rank feature that the local "
            f"engine supports ({', '.join(sorted([*_FEATURES, 'query', 'constant']))})"
        )
    outputs = _OUTPUTS.get(node.name, ())
    if node.output and node.output not in outputs:
        known = f"its outputs are {', '.join(outputs)}" if outputs else "it has no outputs there"
        raise ExpressionError(f"the rank feature '{node}' is not supported by the local engine: {known}")
    arguments = tuple(a.value if isinstance(a, Text) else str(a) for a in node.arguments or ())
    feature, type = check(node.name, arguments, schema)
    feature = replace(feature, output=node.output)
    if node.name in ("attribute", "term"):
        _check_output(feature, schema)
    return feature, type


def _field(name: str, arguments: tuple[str, ...], schema: Schema) -> Field:
    if len(arguments) != 1:
        raise ExpressionError(f"{name}() takes one field name, but got {len(arguments)} arguments")
    field = schema.fields.get(arguments[0])
    if field is None:
        raise ExpressionError(f"{name}({arguments[0]}): schema '{schema.name}' has no field '{arguments[0]}'")
    return field


def _text_feature(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    field = _field(name, arguments, schema)
    if not field.index:
        raise ExpressionError(f"{name}({field.name}): the field is not indexed; add 'index' to its indexing statement")
    if name == "bm25" and not field.bm25:
        raise ExpressionError(f"bm25({field.name}): the field needs 'index: enable-bm25'")
    return Feature(name, arguments), SCALAR


def _match_feature(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    field = _field(name, arguments, schema)
    if not (field.index or field.attribute):
        raise ExpressionError(f"{name}({field.name}): the field is neither indexed nor an attribute")
    return Feature(name, arguments), SCALAR


def _attribute(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    field = _field(name, arguments[:1], schema)
    if len(arguments) > 2:
        raise ExpressionError(f"{name}() takes a field name, and an index or key, but got {len(arguments)} arguments")
    if not field.attribute:
        raise ExpressionError(f"attribute({field.name}): the field needs 'attribute' in its indexing statement")
    if field.type.kind == "tensor" and field.type.tensor is not None:
        return Feature(name, arguments), field.type.tensor
    if len(arguments) == 2 and field.type.kind == "array" and not arguments[1].isdigit():
        raise ExpressionError(f"attribute({field.name},{arguments[1]}): an array is read by a whole number from 0")
    if len(arguments) == 2 and field.type.kind not in ("array", "weightedset"):
        arguments = arguments[:1]
    return Feature(name, arguments), SCALAR


def _check_output(feature: Feature, schema: Schema) -> None:
    """Raises ``ExpressionError`` for an output that a string, a bool or a term does not have here."""
    if feature.name == "term":
        if feature.output != "weight":
            raise ExpressionError(
                f"the rank feature '{feature}' is not supported by the local engine: of a term, only its weight is"
            )
        return
    field = schema.fields[feature.arguments[0]]
    several = field.type.kind in ("array", "weightedset")
    value = feature.output in ("", "value")
    text = (field.type.element or field.type).kind in ("string", "raw") and (not several or len(feature.arguments) == 2)
    if (text and value) or (feature.output and field.type.kind in ("bool", "tensor")):
        raise ExpressionError(
            f"the rank feature '{feature}' is not supported by the local engine: the field is a {field.type}, "
            "only numbers and tensors have a value in ranking there"
        )


def _closest(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    """(f) or (f,label): of a tensor field with one mapped and one indexed dimension."""
    if len(arguments) not in (1, 2):
        raise ExpressionError(f"{name}() takes a field and, if you like, a label")
    _tensor_field(name, arguments[0], schema)
    type = schema.fields[arguments[0]].type.tensor
    assert type is not None
    if len(type.mapped) != 1 or len(type.indexed) != 1:
        raise ExpressionError(f"{name}({arguments[0]}): {type} does not have one mapped and one indexed dimension")
    return Feature(name, arguments), TensorType(type.mapped, type.cell)


def _time_feature(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    field = _field(name, arguments, schema)
    if not field.attribute or field.type.kind not in ("int", "long"):
        raise ExpressionError(f"{name}({field.name}) is not supported by the local engine: it needs a whole number")
    return Feature(name, arguments), SCALAR


def _from_attribute(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    """tensorFromLabels and tensorFromWeightedSet: (attribute(f)) or (attribute(f),dimension)."""
    found = re.fullmatch(r"attribute\((\w+)\)", arguments[0]) if len(arguments) in (1, 2) else None
    if found is None:
        raise ExpressionError(
            f"{name}() takes attribute(field) and a dimension; another source is not supported by the local engine"
        )
    field = _field("attribute", (found[1],), schema)
    kinds = ("weightedset",) if name == "tensorFromWeightedSet" else ("array", "string", "int", "long")
    if not field.attribute or field.type.kind not in kinds or (field.type.element or field.type).kind in _FLOATS:
        raise ExpressionError(f"{name}(): '{field.name}' is a {field.type}, which has no labels")
    dimension = arguments[1] if len(arguments) == 2 else field.name
    return Feature(name, (field.name, dimension)), TensorType((Dimension(dimension),))


def _numbered(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    """(n): of the query's nth term."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        raise ExpressionError(f"{name}() takes the number of a query term, from 0")
    return Feature(name, arguments), SCALAR


def _numbered_match(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    """(field,n): of the query's nth term in an index; matches takes the field alone, too."""
    if name == "matches" and len(arguments) == 1:
        return _match_feature(name, arguments, schema)
    if len(arguments) != 2 or not arguments[1].isdigit():
        raise ExpressionError(f"{name}() takes a field and the number of a query term, from 0")
    check = _match_feature if name == "matches" else _positions
    return Feature(name, (check(name, arguments[:1], schema)[0].arguments[0], arguments[1])), SCALAR


def _positions(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    """Features of where words stand: an index that is no filter, and whose elements have no weights."""
    feature, type = _text_feature(name, arguments, schema)
    field = schema.fields[arguments[0]]
    if field.rank_filter or field.type.kind == "weightedset":
        raise ExpressionError(
            f"{name}({field.name}) is not supported by the local engine: no positions of filters or weighted sets"
        )
    return feature, type


def _neighbor(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    """closeness and distance: (field,f), (label,l), or (f) for (field,f)."""
    if len(arguments) == 1:
        arguments = ("field", *arguments)
    if len(arguments) != 2 or arguments[0] not in ("field", "label"):
        raise ExpressionError(f"{name}() takes (field,name) or (label,name)")
    if arguments[0] == "field":
        _tensor_field(name, arguments[1], schema)
    return Feature(name, arguments), SCALAR


def _raw_score(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    field = _field(name, arguments, schema)
    if not field.attribute:
        raise ExpressionError(f"{name}({field.name}): the field needs 'attribute' in its indexing statement")
    return Feature(name, arguments), SCALAR


def _tensor_field(name: str, field_name: str, schema: Schema) -> None:
    field = schema.fields.get(field_name)
    if field is None or field.type.kind != "tensor" or not field.attribute:
        raise ExpressionError(f"{name}(): schema '{schema.name}' has no tensor attribute '{field_name}'")


def _item_raw_score(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    if len(arguments) != 1:
        raise ExpressionError("itemRawScore() takes one label")
    return Feature(name, arguments), SCALAR


def _bare(name: str, arguments: tuple[str, ...], schema: Schema) -> tuple[Feature, TensorType]:
    if arguments:
        raise ExpressionError(f"{name} takes no arguments")
    return Feature(name), SCALAR


_FLOATS = ("float", "double", "bool")
_OUTPUTS = {
    "attribute": ("value", "weight", "contains", "count"),
    "elementCompleteness": ("completeness", "fieldCompleteness", "queryCompleteness", "elementWeight"),
    "fieldTermMatch": ("firstPosition", "lastPosition", "occurrences", "weight", "exactness"),
    "freshness": ("out", "logscale"),
    "queryCompleteness": ("hit", "miss"),
    "term": ("connectedness", "significance", "weight"),
}
_FEATURES: dict[str, Callable[[str, tuple[str, ...], Schema], tuple[Feature, TensorType]]] = {
    "age": _time_feature,
    "attribute": _attribute,
    "bm25": _text_feature,
    "closeness": _neighbor,
    "closest": _closest,
    "distance": _neighbor,
    "elementCompleteness": _positions,
    "fieldLength": _positions,
    "fieldTermMatch": _numbered_match,
    "freshness": _time_feature,
    "itemRawScore": _item_raw_score,
    "matchCount": _match_feature,
    "matches": _numbered_match,
    "now": _bare,
    "queryCompleteness": _positions,
    "queryTermCount": _bare,
    "rawScore": _raw_score,
    "tensorFromLabels": _from_attribute,
    "tensorFromWeightedSet": _from_attribute,
    "term": _numbered,
}
