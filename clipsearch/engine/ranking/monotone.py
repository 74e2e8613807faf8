"""Whether a first phase rises with one feature, so that only the documents with the most of it need to be scored.

The expression is followed with every other feature at the value that it has for all documents in question. What is
recognised: quotients of linear functions of the feature (``bm25``, ``bm25 / (1 + bm25)``, ``2 * bm25 + 3``), sums and
products of parts that rise together, rising functions of them (``log``, ``sqrt``, ``tanh``...), and conditions that are
decided. Anything else is not known to rise; the caller then scores everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from clipsearch.engine.package.model import RankProfile, Schema
from clipsearch.engine.ranking.features import raw_feature
from clipsearch.engine.ranking.functions import OPERATORS, UNARY
from clipsearch.engine.ranking.nodes import Binary, Boolean, Call, If, Node, Number, Paren, Reference, Unary
from clipsearch.engine.ranking.parser import parse_expression
from clipsearch.engine.ranking.resolver import substitute
from clipsearch.engine.ranking.source import Feature
from clipsearch.errors import ExpressionError

_RISING = {"exp", "tanh", "atan", "erf", "sigmoid", "relu", "sinh"}
_RISING_ABOVE_ZERO = {"log", "log10", "sqrt", "square"}
_MAX_DEPTH = 60


class _UnknownError(Exception):
    """The expression is not of a kind that is followed."""


@dataclass(frozen=True, slots=True)
class _Ratio:
    """``(a x + b) / (c x + d)`` for the feature x > 0, without a pole there; a constant has a = c = 0 and d = 1."""

    a: float
    b: float
    c: float = 0.0
    d: float = 1.0

    @property
    def constant(self) -> bool:
        return self.a == 0 and self.c == 0

    @property
    def slope(self) -> float:
        """The sign of the derivative, up to a positive factor."""
        return self.a * self.d - self.b * self.c

    @property
    def range(self) -> tuple[float, float]:
        start = self.b / self.d
        end = self.a / self.c if self.c else math.copysign(math.inf, self.slope) if self.slope else start
        return min(start, end), max(start, end)


@dataclass(frozen=True, slots=True)
class _Curve:
    """A function that does not fall (``slope`` 1) or does not rise (-1), with values in [``low``, ``high``]."""

    slope: float
    low: float
    high: float

    @property
    def range(self) -> tuple[float, float]:
        return self.low, self.high


_Value = _Ratio | _Curve


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Node:
    return parse_expression(text, "cpp")


def rises(profile: RankProfile, schema: Schema, field: str, known: Mapping[Feature, float]) -> bool:
    """Whether the first phase never falls, and somewhere rises, as bm25(``field``) grows from just above 0.

    ``known``: the features that are constant, with their values. False also means: it could not be told.
    """
    if profile.first_phase is None:
        return False
    follow = _Follower(profile, schema, Feature("bm25", (field,)), known)
    try:
        value = follow(_parsed(profile.first_phase.expression))
    except (_UnknownError, ExpressionError, RecursionError, ArithmeticError, ValueError):
        return False
    return value.slope > 0


class _Follower:
    """Follows one expression."""

    def __init__(self, profile: RankProfile, schema: Schema, variable: Feature, known: Mapping[Feature, float]) -> None:
        self.profile, self.schema, self.variable, self.known = profile, schema, variable, known
        self._depth = 0

    def __call__(self, node: Node) -> _Value:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnknownError
        handler = _HANDLERS.get(type(node))
        if handler is None:
            raise _UnknownError
        value = handler(self, node)
        self._depth -= 1
        return value

    def constant(self, node: Node) -> float:
        value = self(node)
        if not (isinstance(value, _Ratio) and value.constant):
            raise _UnknownError
        return value.b


def _number(follow: _Follower, node: Number) -> _Value:
    return _fixed(node.value)


def _boolean(follow: _Follower, node: Boolean) -> _Value:
    return _fixed(float(node.value))


def _paren(follow: _Follower, node: Paren) -> _Value:
    return follow(node.inner)


def _reference(follow: _Follower, node: Reference) -> _Value:
    """A function, constant or feature, in the order in which ``ProfileResolver`` finds them."""
    profile, arguments = follow.profile, node.arguments or ()
    if node.name == "rankingExpression" and len(arguments) == 1:
        return _reference(follow, Reference(str(arguments[0])))
    function = profile.functions.get(node.name)
    if function is not None:
        body = _parsed(function.expression)
        bound: dict[str, Node] = {
            parameter: argument if isinstance(argument, (Reference, Number)) else Paren(argument)
            for parameter, argument in zip(function.arguments, arguments, strict=True)
        }
        return follow(substitute(body, bound) if bound else body)
    name = str(arguments[0]) if node.name == "constant" and len(arguments) == 1 else node.name
    if (name != node.name or node.arguments is None) and name in profile.constants:
        return _fixed(float(str(profile.constants[name])))
    if node.name == "query" and len(arguments) == 1 and not node.output:
        feature = Feature("query", (str(arguments[0]),))
    else:
        feature, _ = raw_feature(node, follow.schema)
    if feature == follow.variable:
        return _Ratio(1.0, 0.0)
    if feature not in follow.known:
        raise _UnknownError
    return _fixed(follow.known[feature])


def _unary(follow: _Follower, node: Unary) -> _Value:
    value = follow(node.operand)
    if isinstance(value, _Ratio) and value.constant:
        return _fixed(float(UNARY[node.operator](value.b)))
    if node.operator != "-":
        raise _UnknownError
    return _scaled(value, -1.0)


def _binary(follow: _Follower, node: Binary) -> _Value:
    left, right = follow(node.left), follow(node.right)
    if isinstance(left, _Ratio) and isinstance(right, _Ratio) and left.constant and right.constant:
        return _fixed(float(OPERATORS[node.operator](left.b, right.b)))
    if node.operator in _ARITHMETIC:
        return _ARITHMETIC[node.operator](left, right)
    return _fixed(_compared(node.operator, left, right))


def _compared(operator: str, left: _Value, right: _Value) -> float:
    """A comparison of something that varies with a constant that it never crosses."""
    if operator in ("<", "<="):
        operator, left, right = (">" if operator == "<" else ">="), right, left
    if operator not in (">", ">="):
        raise _UnknownError
    (low, high), (bottom, top) = left.range, right.range
    # a strictly monotone ratio does not take the values at the ends of its range, because x is above 0
    strict = isinstance(left, _Ratio) and isinstance(right, _Ratio)
    if low > top or (low == top and (operator == ">=" or strict)):
        return 1.0
    if high < bottom or (high == bottom and (operator == ">" or strict)):
        return 0.0
    raise _UnknownError


def _if(follow: _Follower, node: If) -> _Value:
    return follow(node.yes if follow.constant(node.condition) != 0 else node.no)


def _call(follow: _Follower, node: Call) -> _Value:
    values = [follow(argument) for argument in node.arguments]
    first = values[0]
    if len(values) == 2 and node.name in ("min", "max") and first.slope >= 0 and values[1].slope >= 0:
        pick = min if node.name == "min" else max
        low, high = (pick(first.range[end], values[1].range[end]) for end in (0, 1))
        return _Curve(max(first.slope, values[1].slope), low, high)
    if len(values) != 1:
        raise _UnknownError
    if isinstance(first, _Ratio) and first.constant:
        return _fixed(float(UNARY[node.name](first.b)))
    if node.name not in _RISING and not (node.name in _RISING_ABOVE_ZERO and first.range[0] >= 0):
        raise _UnknownError
    return _Curve(first.slope, *(_at(UNARY[node.name], end) for end in first.range))


def _at(function: Callable[[Any], Any], value: float) -> float:
    with np.errstate(all="ignore"):
        return float(function(value))


def _fixed(value: float) -> _Ratio:
    if not math.isfinite(value):
        raise _UnknownError
    return _Ratio(0.0, value)


def _scaled(value: _Value, factor: float) -> _Value:
    if factor == 0:
        return _fixed(0.0)
    if isinstance(value, _Ratio):
        return _Ratio(value.a * factor, value.b * factor, value.c, value.d)
    ends = sorted((value.low * factor, value.high * factor))
    return _Curve(math.copysign(value.slope, value.slope * factor), ends[0], ends[1])


def _sum(left: _Value, right: _Value) -> _Value:
    if isinstance(left, _Ratio) and isinstance(right, _Ratio):
        if right.constant:
            return _Ratio(left.a + right.b * left.c, left.b + right.b * left.d, left.c, left.d)
        if left.constant:
            return _sum(right, left)
        if (left.c, left.d) == (right.c, right.d):
            return _Ratio(left.a + right.a, left.b + right.b, left.c, left.d)
    if left.slope * right.slope < 0:
        raise _UnknownError
    low, high = left.range[0] + right.range[0], left.range[1] + right.range[1]
    return _Curve(left.slope or right.slope, low, high)


def _difference(left: _Value, right: _Value) -> _Value:
    return _sum(left, _scaled(right, -1.0))


def _product(left: _Value, right: _Value) -> _Value:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, _Ratio) and one.constant:
            return _scaled(other, one.b)
    if left.slope * right.slope <= 0 or left.range[0] < 0 or right.range[0] < 0:
        raise _UnknownError
    return _Curve(left.slope, left.range[0] * right.range[0], math.inf)


def _quotient(left: _Value, right: _Value) -> _Value:
    if not isinstance(right, _Ratio):
        raise _UnknownError
    if right.constant:
        return _scaled(left, 1.0 / right.b)
    if not isinstance(left, _Ratio):
        raise _UnknownError
    if left.constant:
        return _without_pole(left.b * right.c, left.b * right.d, right.a, right.b)
    if (left.c, left.d) != (right.c, right.d):
        raise _UnknownError
    return _without_pole(left.a, left.b, right.a, right.b)


def _without_pole(a: float, b: float, c: float, d: float) -> _Ratio:
    if d == 0 or c * d < 0:
        raise _UnknownError
    return _Ratio(a, b, c, d)


_ARITHMETIC: dict[str, Callable[[_Value, _Value], _Value]] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
    "/": _quotient,
}
_HANDLERS: dict[type, Callable[[_Follower, Any], _Value]] = {
    Number: _number,
    Boolean: _boolean,
    Paren: _paren,
    Reference: _reference,
    Unary: _unary,
    Binary: _binary,
    If: _if,
    Call: _call,
}
