"""Calls in expressions: which name is a scalar function, a tensor function, a shorthand of others, or a feature.

Shorthands expand to what Vespa's own composite functions expand to (``com.yahoo.tensor.functions``).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from clipsearch.engine.ranking.functions import BINARY, UNARY
from clipsearch.engine.ranking.nodes import (
    Binary,
    Call,
    Generate,
    If,
    Lambda,
    Node,
    Number,
    Paren,
    Reference,
    TensorCall,
    Tuple,
)
from clipsearch.engine.tensors.types import CELL_TYPES, Dimension, TensorType
from clipsearch.errors import ExpressionError

AGGREGATORS = ("avg", "count", "max", "median", "min", "prod", "sum")
_A, _B = Reference("a"), Reference("b")
REFUSED = {
    "random": "random tensors differ in each evaluation",
    "range": "use a generated tensor instead, e.g. tensor(x[3])(x)",
    "diag": "use a generated tensor instead, e.g. tensor(x[3],y[3])(x==y)",
    "fill": "use a generated tensor instead, e.g. tensor(x[3])(1.0)",
    "foreach": "write out its terms",
}


def build_call(name: str, arguments: tuple[Node, ...]) -> Node:
    """The node for ``name(arguments)``: an unknown name is a reference, which the compiler checks.

    Raises ``ExpressionError``: a wrong number or kind of arguments, or a function that is not supported.
    """
    if name == "if":
        _expect(name, arguments, 3, 4)
        return If(*arguments[:4])
    if name in AGGREGATORS and not (name in BINARY and len(arguments) == 2):
        if name in BINARY:
            raise ExpressionError(f"{name}() takes two arguments; to aggregate write reduce(t, {name})")
        _at_least(name, arguments, 1)
        return TensorCall("reduce", arguments[:1], (name, *_names(name, arguments[1:])))
    if name in UNARY:
        _expect(name, arguments, 1)
        return Call(name, arguments)
    if name in BINARY:
        _expect(name, arguments, 2)
        return Call(name, arguments)
    builder = _TENSOR_CALLS.get(name)
    if builder is not None:
        return builder(name, arguments)
    if name in REFUSED:
        raise ExpressionError(f"{name}() is not supported by the local engine: {REFUSED[name]}")
    return Reference(name, arguments)


def literal_cells(type: TensorType, written: Any) -> tuple[tuple[tuple[str, ...], Node], ...]:
    """(address, value) of each cell of a literal's array (nested list) or braces (dict), in order.

    Raises ``ExpressionError``: a cell outside ``type``.
    """
    if isinstance(written, list):
        return _array_cells(type, written)
    mapped = [d.name for d in type.mapped]
    cells: list[tuple[tuple[str, ...], Node]] = []
    for address, value in written.items():
        place = dict(address)
        if "" in place:
            names = mapped or [d.name for d in type.dimensions]
            if len(names) != 1:
                raise ExpressionError(f"a label alone does not name a cell of {type}: write {{dimension:label}}")
            place = {names[0]: place[""]}
        if isinstance(value, list):
            block = _array_cells(TensorType(type.indexed), value)
            cells += [(_ordered(type, place, index), node) for index, node in block]
        else:
            cells.append((_ordered(type, place, ()), value))
    return tuple(cells)


def _ordered(type: TensorType, place: dict[str, Any], index: tuple[str, ...]) -> tuple[str, ...]:
    found = {**place, **dict(zip((d.name for d in type.indexed), index, strict=False))}
    if found.keys() != {d.name for d in type.dimensions} or not all(isinstance(v, str) for v in found.values()):
        raise ExpressionError(f"the address {found} does not name a cell of {type}")
    for dimension in type.indexed:
        if not found[dimension.name].isdigit() or int(found[dimension.name]) >= (dimension.size or 0):
            raise ExpressionError(f"cell address ({found[dimension.name]}) is not within the bounds of {type}")
    return tuple(found[d.name] for d in type.dimensions)


def _array_cells(type: TensorType, written: list[Any]) -> tuple[tuple[tuple[str, ...], Node], ...]:
    if type.mapped:
        raise ExpressionError(f"{type} has mapped dimensions: write its cells as {{label: ...}}")
    flat: list[Node] = []

    def collect(part: Any) -> None:
        if isinstance(part, list):
            for item in part:
                collect(item)
        else:
            flat.append(part)

    collect(written)
    places = list(product(*(map(str, range(size)) for size in type.shape)))
    if len(flat) != len(places):
        raise ExpressionError(f"{type} has {len(places)} cells, but {len(flat)} values are written")
    return tuple(zip(places, flat, strict=True))


def _expect(name: str, arguments: tuple[Node, ...], *counts: int) -> None:
    if len(arguments) not in counts:
        wanted = " or ".join(map(str, counts))
        raise ExpressionError(f"{name}() takes {wanted} arguments, but got {len(arguments)}")


def _at_least(name: str, arguments: tuple[Node, ...], count: int) -> None:
    if len(arguments) < count:
        raise ExpressionError(f"{name}() takes at least {count} arguments, but got {len(arguments)}")


def _name(function: str, node: Node) -> str:
    if isinstance(node, Reference) and node.arguments is None:
        return node.name
    raise ExpressionError(f"{function}(): expected a name, but got '{node}'")


def _names(function: str, nodes: tuple[Node, ...]) -> tuple[str, ...]:
    return tuple(_name(function, node) for node in nodes)


def _lambda(function: str, node: Node, parameters: int) -> Lambda:
    if isinstance(node, Lambda) and len(node.parameters) == parameters:
        return node
    shape = ",".join("ab"[:parameters])
    raise ExpressionError(f"{function}(): expected f({shape})(expression), but got '{node}'")


def _binary(operator: str) -> Lambda:
    return Lambda(("a", "b"), Binary(operator, _A, _B))


def _join(left: Node, right: Node, operator: str) -> TensorCall:
    return TensorCall("join", (left, right), (), _binary(operator))


def _map(operand: Node, body: Node) -> TensorCall:
    return TensorCall("map", (operand,), (), Lambda(("a",), body))


def _reduce(operand: Node, aggregator: str, dimensions: tuple[str, ...]) -> TensorCall:
    return TensorCall("reduce", (operand,), (aggregator, *dimensions))


_SQUARE = Binary("*", _A, _A)
_SQRT = Call("sqrt", (_A,))


def _build_reduce(name: str, arguments: tuple[Node, ...]) -> Node:
    _at_least(name, arguments, 2)
    names = _names(name, arguments[1:])
    if names[0] not in AGGREGATORS:
        raise ExpressionError(f"reduce(): '{names[0]}' is not one of {', '.join(AGGREGATORS)}")
    return _reduce(arguments[0], names[0], names[1:])


def _build_with_lambda(name: str, arguments: tuple[Node, ...]) -> Node:
    operands = 2 if name in ("join", "merge") else 1
    _expect(name, arguments, operands + 1)
    return TensorCall(name, arguments[:-1], (), _lambda(name, arguments[-1], operands))


def _build_rename(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 3)
    sides = []
    for side in arguments[1:]:
        items = side.items if isinstance(side, Tuple) else (side.inner if isinstance(side, Paren) else side,)
        sides.append(_names(name, items))
    if len(sides[0]) != len(sides[1]):
        raise ExpressionError("rename(): the same number of dimensions is needed on both sides")
    return TensorCall(name, arguments[:1], sides[0] + sides[1])


def _build_named(name: str, arguments: tuple[Node, ...]) -> Node:
    """concat(a,b,dimension), cell_cast(t,type), cell_order(t,max)."""
    _expect(name, arguments, 3 if name == "concat" else 2)
    word = _name(name, arguments[-1])
    allowed = {"cell_cast": CELL_TYPES, "cell_order": ("max", "min")}.get(name)
    if allowed and word not in allowed:
        raise ExpressionError(f"{name}(): '{word}' is not one of {', '.join(allowed)}")
    return TensorCall(name, arguments[:-1], (word,))


def _build_unpack(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 1, 2, 3)
    cell, order = (*_names(name, arguments[1:]), *("float", "big")[len(arguments) - 1 :])
    if cell not in CELL_TYPES or order not in ("big", "little"):
        raise ExpressionError(f"unpack_bits(): '{cell},{order}' is not a cell type and big or little")
    return TensorCall(name, arguments[:1], (cell, order))


def _build_matmul(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 3)
    return _reduce(_join(arguments[0], arguments[1], "*"), "sum", _names(name, arguments[2:]))


def _build_xw_plus_b(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 4)
    x, w, b, dimension = arguments
    return _join(_build_matmul(name, (x, w, dimension)), b, "+")


def _build_cosine(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 3)
    left, right = arguments[:2]
    dots = [_build_matmul(name, (x, y, arguments[2])) for x, y in ((left, right), (left, left), (right, right))]
    return _join(dots[0], _map(_join(dots[1], dots[2], "*"), _SQRT), "/")


def _build_euclidean(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 3)
    squares = _map(_join(arguments[0], arguments[1], "-"), _SQUARE)
    return _map(_reduce(squares, "sum", _names(name, arguments[2:])), _SQRT)


def _build_normalize(name: str, arguments: tuple[Node, ...]) -> Node:
    _at_least(name, arguments, 2)
    tensor, dimensions = arguments[0], _names(name, arguments[1:])
    if name == "l1_normalize":
        return _join(tensor, _reduce(tensor, "sum", dimensions), "/")
    if name == "l2_normalize":
        return _join(tensor, _map(_reduce(_map(tensor, _SQUARE), "sum", dimensions), _SQRT), "/")
    powers = _map(tensor, Call("exp", (_A,)))
    return _join(powers, _reduce(powers, "sum", dimensions), "/")


def _build_extreme(name: str, arguments: tuple[Node, ...]) -> Node:
    _at_least(name, arguments, 1)
    return _join(arguments[0], _reduce(arguments[0], name[3:], _names(name, arguments[1:])), "==")


def _build_expand(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 2)
    one = Generate(TensorType((Dimension(_name(name, arguments[1]), 1),), "int8"), Number(1.0, "1.0"))
    return _join(one, arguments[0], "*")


def _build_top(name: str, arguments: tuple[Node, ...]) -> Node:
    _expect(name, arguments, 2)
    best = _join(TensorCall("cell_order", arguments[1:], ("max",)), arguments[0], "<")
    identity = Lambda(("s",), Reference("s"))
    return _join(arguments[1], TensorCall("filter_subspaces", (best,), (), identity), "*")


_TENSOR_CALLS: dict[str, Callable[[str, tuple[Node, ...]], Node]] = {
    "reduce": _build_reduce,
    "map": _build_with_lambda,
    "join": _build_with_lambda,
    "merge": _build_with_lambda,
    "map_subspaces": _build_with_lambda,
    "filter_subspaces": _build_with_lambda,
    "rename": _build_rename,
    "concat": _build_named,
    "cell_cast": _build_named,
    "cell_order": _build_named,
    "unpack_bits": _build_unpack,
    "matmul": _build_matmul,
    "xw_plus_b": _build_xw_plus_b,
    "cosine_similarity": _build_cosine,
    "euclidean_distance": _build_euclidean,
    "l1_normalize": _build_normalize,
    "l2_normalize": _build_normalize,
    "softmax": _build_normalize,
    "argmax": _build_extreme,
    "argmin": _build_extreme,
    "expand": _build_expand,
    "top": _build_top,
}
