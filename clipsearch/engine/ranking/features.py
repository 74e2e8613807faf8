"""The raw rank features that the local engine has, and those of Vespa's that it refuses, with what to do instead.

Source: Vespa's rank feature reference. The query room computes the values; here arguments and types are checked.
"""

from __future__ import annotations

from collections.abc import Callable

from clipsearch.engine.package.model import Field, Schema
from clipsearch.engine.ranking.nodes import Reference, Text
from clipsearch.engine.ranking.source import Feature
from clipsearch.engine.tensors.types import SCALAR, TensorType
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
    "elementCompleteness": "use bm25(field) or matches(field) instead",
    "dotProduct": "feed a tensor field and write sum(query(q) * attribute(f))",
    "tensorFromLabels": "feed a tensor field instead",
    "tensorFromWeightedSet": "feed a tensor field instead",
    "matrix": "write the expression with tensors",
    "random": "scores would differ in each evaluation",
    "randomNormal": "scores would differ in each evaluation",
    "freshness": "write the decay as an expression of attribute(f) and now",
    "age": "write now - attribute(f)",
    "term": "use bm25(field), which weighs its terms",
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
    if node.output:
        raise ExpressionError(
            f"the rank feature '{node}' is not supported by the local engine: it has no outputs there"
        )
    arguments = tuple(a.value if isinstance(a, Text) else str(a) for a in node.arguments or ())
    return check(node.name, arguments, schema)


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
    field = _field(name, arguments, schema)
    if not field.attribute:
        raise ExpressionError(f"attribute({field.name}): the field needs 'attribute' in its indexing statement")
    if field.type.kind == "tensor" and field.type.tensor is not None:
        return Feature(name, arguments), field.type.tensor
    if field.type.kind not in ("int", "long", "float", "double", "bool", "byte"):
        raise ExpressionError(
            f"attribute({field.name}) is not supported by the local engine: the field is a {field.type}, "
            "only numbers and tensors have a value in ranking there"
        )
    return Feature(name, arguments), SCALAR


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
    _tensor_field(name, _field(name, arguments, schema).name, schema)
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


_FEATURES: dict[str, Callable[[str, tuple[str, ...], Schema], tuple[Feature, TensorType]]] = {
    "attribute": _attribute,
    "bm25": _text_feature,
    "closeness": _neighbor,
    "distance": _neighbor,
    "fieldLength": _text_feature,
    "itemRawScore": _item_raw_score,
    "matchCount": _match_feature,
    "matches": _match_feature,
    "now": _bare,
    "rawScore": _raw_score,
}
