"""Scalar operators and functions, on numpy arrays of any shape.

Source: Vespa's ``eval/operation.cpp`` (first and second phase) and ``rankingexpression.rule.Function`` (global phase).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from clipsearch.engine.tensors.value import as_int8

_POPCOUNT = np.array([bin(i).count("1") for i in range(256)], np.float64)
_erf = np.frompyfunc(math.erf, 1, 1)


def _approximately(a: Any, b: Any) -> Any:
    """Equal to 23 bits of precision (``vespalib::approx_equal``)."""
    one = np.float32(1.0)
    large = np.nextafter(np.float32(np.divide(b, a)), one) == one
    single = np.float32(a)
    small = single == np.nextafter(np.float32(b), single)
    return np.where(np.equal(a, b), True, np.where(np.abs(a) > 1.0, large, small))


def _bit(a: Any, b: Any) -> Any:
    value = as_int8(np.asarray(a)).view(np.uint8).astype(np.int64)
    place = np.nan_to_num(np.trunc(b), nan=-1.0, posinf=-1.0, neginf=-1.0).astype(np.int64)
    inside = (place >= 0) & (place < 8)
    return inside & ((value >> np.where(inside, place, 0)) & 1).astype(bool)


def _hamming(a: Any, b: Any) -> Any:
    return _POPCOUNT[(as_int8(np.asarray(a)) ^ as_int8(np.asarray(b))).view(np.uint8)]


def _max(a: Any, b: Any) -> Any:
    return np.where(np.less(a, b), b, a)


def _min(a: Any, b: Any) -> Any:
    return np.where(np.less(b, a), b, a)


def _truth(function: Callable[..., Any]) -> Callable[..., Any]:
    def as_number(*arguments: Any) -> Any:
        return np.asarray(function(*arguments), np.float64)

    return as_number


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
    "<": _truth(np.less),
    "<=": _truth(np.less_equal),
    ">": _truth(np.greater),
    ">=": _truth(np.greater_equal),
    "==": _truth(np.equal),
    "!=": _truth(np.not_equal),
    "~=": _truth(_approximately),
    "&&": _truth(lambda a, b: np.logical_and(np.not_equal(a, 0), np.not_equal(b, 0))),
    "||": _truth(lambda a, b: np.logical_or(np.not_equal(a, 0), np.not_equal(b, 0))),
}

UNARY: dict[str, Callable[[Any], Any]] = {
    "-": np.negative,
    "!": _truth(lambda a: np.equal(a, 0)),
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "elu": lambda a: np.where(np.less(a, 0), np.exp(a) - 1, a),
    "erf": lambda a: np.asarray(_erf(a), np.float64),
    "exp": np.exp,
    "fabs": np.abs,
    "floor": np.floor,
    "isNan": _truth(np.isnan),
    "log": np.log,
    "log10": np.log10,
    "relu": lambda a: _max(a, 0.0),
    "round": lambda a: np.floor(np.add(a, 0.5)),
    "sigmoid": lambda a: 1.0 / (1.0 + np.exp(np.negative(a))),
    "sign": lambda a: np.where(np.greater_equal(a, 0), 1.0, -1.0),
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "atan2": np.arctan2,
    "bit": _truth(_bit),
    "fmod": np.fmod,
    "hamming": _hamming,
    "ldexp": lambda a, b: np.multiply(a, np.exp2(np.trunc(b))),
    "max": _max,
    "min": _min,
    "pow": np.power,
}
