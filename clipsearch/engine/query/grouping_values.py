"""Grouping expressions over the matching rows: one value of each, or several, as flat arrays.

Whole numbers are 64 bits and divide to whole numbers, as in Vespa; time functions take seconds since 1970 in UTC.
Source: ``searchlib/expression``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import NumberColumn, StringColumn
from clipsearch.engine.query.grouping import Expression
from clipsearch.engine.query.matching import Matcher
from clipsearch.errors import QueryError

LOWEST, HIGHEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """``data`` (m,) of ``kind`` long, double, bool, string or a bucket, and the hit that each belongs to.

    ``owner`` (m,) ascends; ``several``: a hit may have none or many. Buckets are object arrays of (low, high), or None.
    """

    owner: NDArray[np.int64]
    data: NDArray[Any]
    kind: str
    several: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The matching rows of one schema, and their scores as far as they are asked for."""

    matcher: Matcher
    rows: NDArray[np.int64]


class Table:
    """All matching hits, those of the first schema first; ``scores``: computes their relevance, (n,)."""

    def __init__(self, shares: Sequence[Share], scores: Callable[[], NDArray[np.float64]]) -> None:
        self.shares = shares
        self.size = sum(len(share.rows) for share in shares)
        self._compute = scores
        self._known: dict[str, Values] = {}

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """The relevance of each hit."""
        return self._compute()

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The order of equally relevant hits: that of their documents."""
        found, offset = [np.empty(0, np.int64)], 0
        for share in self.shares:
            places = np.empty(len(share.rows), np.int64)
            places[np.argsort(share.matcher.snapshot.lids[share.rows], kind="stable")] = np.arange(len(share.rows))
            found.append(places + offset)
            offset += len(share.rows)
        return np.concatenate(found)

    def values(self, expression: Expression) -> Values:
        """``expression`` of every hit. Raises ``QueryError`` for what is not supported."""
        key = f"{expression.kind} {expression}"
        if key not in self._known:
            self._known[key] = self._evaluate(expression)
        return self._known[key]

    def _single(self, data: NDArray[Any], kind: str) -> Values:
        return Values(np.arange(self.size), data, kind)

    def _evaluate(self, expression: Expression) -> Values:
        if expression.kind == "attribute":
            return self._attribute(expression.name)
        if expression.kind == "constant":
            value = expression.value
            kind = "string" if isinstance(value, str) else "long" if isinstance(value, int) else "double"
            return self._single(np.full(self.size, value, object if kind == "string" else None), kind)
        name, arguments = expression.name, expression.arguments
        if name == "relevance":
            return self._single(self.scores, "double")
        if name == "now":
            return self._single(np.full(self.size, int(datetime.now(UTC).timestamp()), np.int64), "long")
        if name == "predefined":
            return _predefined(self.values(arguments[0]), arguments[1:])
        given = [self.values(argument) for argument in arguments]
        function = _FUNCTIONS.get(name) or (_MATH.get(name.removeprefix("math.")) if name.startswith("math.") else None)
        if name.startswith("time.") and name.removeprefix("time.") in _TIME and len(given) == 1:
            return _timed(given[0], _TIME[name.removeprefix("time.")])
        if function is None or not given:
            raise QueryError(f"grouping expression '{name}' is not supported by the local engine")
        if name == "size":
            return self._single(np.bincount(given[0].owner, minlength=self.size).astype(np.int64), "long")
        return function(name, _aligned(expression, given))

    def _attribute(self, name: str) -> Values:
        found, kinds, offset = [], set(), 0
        for share in self.shares:
            part = _column(share, name)
            found.append(Values(part.owner + offset, part.data, part.kind, part.several))
            kinds.add(part.kind)
            offset += len(share.rows)
        if not found:
            return self._single(np.empty(0, object), "string")
        if len(kinds) > 1:
            raise QueryError(f"grouping: '{name}' is of different types in the schemas that are searched")
        owner, data = (np.concatenate([getattr(part, which) for part in found]) for which in ("owner", "data"))
        return Values(owner, data, found[0].kind, any(part.several for part in found))


def _column(share: Share, name: str) -> Values:
    matcher, rows = share.matcher, share.rows
    column = matcher.snapshot.generation.columns.get(name)
    if column is None:
        raise QueryError(f"grouping: '{name}' is not an attribute of '{matcher.schema.name}'")
    if isinstance(column, NumberColumn):
        data = column.values(matcher.size)[rows]
        kind = "bool" if column.kind == "bool" else "long" if column.integer else "double"
        return Values(np.arange(len(rows)), data.astype(np.int64 if kind != "double" else np.float64), kind)
    owners, held = column.flat(matcher.size)
    if isinstance(column, StringColumn) and column.single:
        return Values(np.arange(len(rows)), _words(column, held[rows]), "string")
    places = np.full(matcher.size, -1)
    places[rows] = np.arange(len(rows))
    inside = places[owners] >= 0
    owner, entries = places[owners[inside]], held[inside]
    if isinstance(column, StringColumn):
        return Values(owner, _words(column, entries), "string", True)
    double = entries.dtype.kind == "f"
    return Values(owner, entries.astype(np.float64 if double else np.int64), "double" if double else "long", True)


def _words(column: StringColumn, codes: NDArray[np.int32]) -> NDArray[Any]:
    used, inverse = np.unique(codes, return_inverse=True)
    words = np.array([column.words[int(code)] for code in used] or [""], object)
    return words[inverse]


def _aligned(expression: Expression, given: list[Values]) -> list[Values]:
    """``given`` with equal owners: single values go with each of several ones."""
    several = [values for values in given if values.several]
    if not several:
        return given
    if len(several) > 1:
        raise QueryError(f"grouping: '{expression}' of two fields with several values is not supported")
    owner = several[0].owner
    return [v if v.several else Values(owner, v.data[owner], v.kind, True) for v in given]


def _predefined(values: Values, buckets: Sequence[Expression]) -> Values:
    kinds = {"string" if isinstance(b.value, str) else type(b.value).__name__ for e in buckets for b in e.arguments}
    if not buckets or any(bucket.kind != "bucket" for bucket in buckets):
        raise QueryError("grouping: predefined() takes an expression and buckets")
    strings = "string" in kinds or "str" in kinds
    if strings != (values.kind == "string"):
        raise QueryError("grouping: the buckets of predefined() are of another type than its expression")
    bounds = [bound.value for bucket in buckets for bound in bucket.arguments]
    whole = all(isinstance(bound, int) or (isinstance(bound, float) and math.isinf(bound)) for bound in bounds)
    ranges = np.empty(len(buckets) + 1, object)  # the last is None: in no bucket
    chosen = np.full(len(values.data), len(buckets))
    for number, bucket in enumerate(buckets):
        ranges[number] = low, high = _range(bucket, whole)
        inside = (chosen == len(buckets)) & (values.data >= low) & (values.data < high)
        chosen[inside.astype(bool)] = number
    kind = "string_bucket" if strings else "long_bucket" if whole else "double_bucket"
    return Values(values.owner, ranges[chosen], kind, values.several)


def _range(bucket: Expression, whole: bool) -> tuple[Any, Any]:
    """The bucket as its first value and the first behind it."""
    bounds = []
    for bound, after in zip(bucket.arguments, (not bucket.value[0], bucket.value[1]), strict=True):
        value = bound.value
        if isinstance(value, str):
            bounds.append(value + " " * after)
        elif whole:
            value = LOWEST if value == -math.inf else HIGHEST if value == math.inf else value
            bounds.append(min(value + after, HIGHEST))
        else:
            bounds.append(math.nextafter(value, math.inf) if after else float(value))
    return bounds[0], bounds[1]


def _numeric(name: str, given: list[Values]) -> list[Values]:
    if any(values.kind not in ("long", "double", "bool") for values in given):
        raise QueryError(f"grouping: {name}() takes numbers")
    return given


def _arithmetic(name: str, given: list[Values]) -> Values:
    """add, sub, mul, div, mod, min, max of two or more, avg, neg; whole numbers stay whole."""
    _numeric(name, given)
    if (name == "neg") != (len(given) == 1):
        raise QueryError(f"grouping: {name}() takes {'one argument' if name == 'neg' else 'two arguments or more'}")
    whole = all(values.kind != "double" for values in given)
    found = given[0].data if whole else given[0].data.astype(np.float64)
    with np.errstate(all="ignore"):
        if name == "neg":
            found = -found
        for values in given[1:]:
            found = _pair(name, found, values.data, whole)
        if name == "avg":
            found = found / len(given)
    kind = "double" if found.dtype.kind == "f" else "long"
    return Values(given[0].owner, found, kind, given[0].several)


def _pair(name: str, left: NDArray[Any], right: NDArray[Any], whole: bool) -> NDArray[Any]:
    if name in ("div", "mod"):
        if not whole:
            return np.asarray(left / right if name == "div" else np.fmod(left, right))
        safe = np.where(right == 0, 1, right)
        quotient = np.trunc(left / safe).astype(np.int64) if name == "div" else np.fmod(left, safe)
        return np.where(right == 0, 0, quotient)
    operate = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
    return np.asarray(operate.get(name, np.add)(left, right))


def _bits(name: str, given: list[Values]) -> Values:
    _numeric(name, given)
    operate = {"and": np.bitwise_and, "or": np.bitwise_or}[name]
    found = given[0].data.astype(np.int64)
    for values in given[1:]:
        found = operate(found, values.data.astype(np.int64))
    return Values(given[0].owner, found, "long", given[0].several)


def _fixed_width(name: str, given: list[Values]) -> Values:
    values, width = _numeric(name, given)
    size = width.data[0].item() if len(width.data) else 1
    whole = values.kind != "double"
    size = int(min(size, HIGHEST)) if whole else float(size)
    if size <= 0:
        raise QueryError("grouping: the width of fixedwidth() must be positive")
    low = np.floor_divide(values.data, size).tolist()
    data = np.empty(len(low), object)
    if whole:  # down and up to what 64 bits hold
        data[:] = [(max(start * size, LOWEST), min((start + 1) * size, HIGHEST)) for start in low]
    else:
        data[:] = [(start * size, (start + 1) * size) for start in low]
    return Values(values.owner, data, "long_bucket" if whole else "double_bucket", values.several)


def _mathematical(name: str, given: list[Values]) -> Values:
    function, count = _NUMPY[name.removeprefix("math.")]
    if len(_numeric(name, given)) != count:
        raise QueryError(f"grouping: {name}() takes {count} arguments")
    with np.errstate(all="ignore"):
        found = np.asarray(function(*(values.data.astype(np.float64) for values in given)))
    return Values(given[0].owner, found, "double", given[0].several)


def _timed(values: Values, part: Callable[[datetime], Any]) -> Values:
    _numeric("time", [values])
    moments = values.data.astype(np.float64)
    try:
        found = [part(datetime.fromtimestamp(moment, UTC)) for moment in moments.tolist()]
    except (ValueError, OverflowError, OSError):
        raise QueryError("grouping: a time function of a number that is no time in seconds is not supported") from None
    text = bool(found) and isinstance(found[0], str)
    return Values(
        values.owner, np.array(found, object if text else np.int64), "string" if text else "long", values.several
    )


def _converted(name: str, given: list[Values]) -> Values:
    """tolong, todouble, tostring, strlen, and strcat and cat of strings."""
    values = given[0]
    if name in ("strcat", "cat"):
        words = ["".join(parts) for parts in zip(*(map(text_of, v.data.tolist()) for v in given), strict=True)]
        return Values(values.owner, np.array(words or [], object), "string", values.several)
    if len(given) != 1 or (values.kind == "string" and name in ("tolong", "todouble")):
        raise QueryError(f"grouping: {name}() of this is not supported by the local engine")
    if name == "tostring":
        texts = [text_of(value) for value in values.data.tolist()]
        return Values(values.owner, np.array(texts, object), "string", values.several)
    if name == "strlen":
        lengths = [len(text_of(value).encode()) for value in values.data.tolist()]
        return Values(values.owner, np.array(lengths, np.int64), "long", values.several)
    data = np.trunc(values.data).astype(np.int64) if name == "tolong" else values.data.astype(np.float64)
    return Values(values.owner, data, "long" if name == "tolong" else "double", values.several)


def text_of(value: Any) -> str:
    """A value as Java writes it: doubles as ``1.0`` and ``1.0E10``, booleans in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return np.format_float_positional(value, trim="0")
    mantissa, exponent = np.format_float_scientific(value, trim="0").split("e")
    return f"{mantissa}E{int(exponent)}"


_Function = Callable[[str, list[Values]], Values]
_FUNCTIONS: dict[str, _Function] = dict.fromkeys(
    ("add", "sub", "mul", "div", "mod", "min", "max", "avg", "neg"), _arithmetic
)
_FUNCTIONS |= dict.fromkeys(("and", "or"), _bits)
_FUNCTIONS |= dict.fromkeys(("tolong", "todouble", "tostring", "strlen", "strcat", "cat", "size"), _converted)
_FUNCTIONS["fixedwidth"] = _fixed_width
_NUMPY: dict[str, tuple[Any, int]] = {
    "exp": (np.exp, 1), "log": (np.log, 1), "log1p": (np.log1p, 1), "log10": (np.log10, 1), "sin": (np.sin, 1),
    "asin": (np.arcsin, 1), "cos": (np.cos, 1), "acos": (np.arccos, 1), "tan": (np.tan, 1), "atan": (np.arctan, 1),
    "sqrt": (np.sqrt, 1), "sinh": (np.sinh, 1), "asinh": (np.arcsinh, 1), "cosh": (np.cosh, 1),
    "acosh": (np.arccosh, 1), "tanh": (np.tanh, 1), "atanh": (np.arctanh, 1), "floor": (np.floor, 1),
    "cbrt": (np.cbrt, 1), "pow": (np.power, 2), "hypot": (np.hypot, 2),
}  # fmt: skip
_MATH: dict[str, _Function] = dict.fromkeys(_NUMPY, _mathematical)
_TIME: dict[str, Callable[[datetime], Any]] = {
    "date": lambda t: f"{t.year}-{t.month}-{t.day}",
    "dayofmonth": lambda t: t.day,
    "dayofweek": lambda t: t.isoweekday() % 7,
    "dayofyear": lambda t: t.timetuple().tm_yday - 1,
    "hourofday": lambda t: t.hour,
    "minuteofhour": lambda t: t.minute,
    "monthofyear": lambda t: t.month,
    "secondofminute": lambda t: t.second,
    "year": lambda t: t.year,
}
