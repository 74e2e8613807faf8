"""What a document selection compares: values, and the verdicts of comparing them.

As in Vespa's C++ (``document/select/value.h``): a value may be missing (``None``) or impossible (``INVALID``), a
comparison with something impossible or of another kind is neither true nor false, and an array gives one result for
each kind of result among its elements. Results keep the variables (``$x``) under which they hold, so that
``a[$x] == 1 and b[$x] == 2`` speaks of one position.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping
from hashlib import md5
from struct import pack
from typing import Any

from clipsearch.engine.patterns import compile_pattern
from clipsearch.errors import DocumentError, ExpressionError

Verdict = bool | None  # None: neither
Variables = Mapping[str, Any]
Results = list[tuple[Variables, Verdict]]
INVALID = object()
_NONE: Variables = {}
NEITHER: Results = [(_NONE, None)]
YES: Results = [(_NONE, True)]
NO: Results = [(_NONE, False)]


class Elements(list[tuple[Variables, Any]]):
    """The values of an array or of a weighted set's keys, each with the variables that lead to it."""


def single(verdict: Verdict) -> Results:
    """One result that holds whatever the variables are."""
    return NEITHER if verdict is None else YES if verdict else NO


def combined(results: Results) -> Verdict:
    """True when any is, else false when any is (or there are none)."""
    verdicts = [verdict for _, verdict in results]
    return True if True in verdicts else None if verdicts and False not in verdicts else False


def negated(results: Results) -> Results:
    """Each result turned round; neither stays neither."""
    return [(names, None if verdict is None else not verdict) for names, verdict in results]


def _and(first: Verdict, second: Verdict) -> Verdict:
    return False if first is False or second is False else True if first and second else None


def _or(first: Verdict, second: Verdict) -> Verdict:
    return True if first or second else None if first is None or second is None else False


def both(first: Results, second: Results) -> Results:
    """Every pair of results whose variables agree, joined by and."""
    return _joined(first, second, _and)


def either(first: Results, second: Results) -> Results:
    """Every pair of results whose variables agree, joined by or."""
    return _joined(first, second, _or)


def _joined(first: Results, second: Results, join: Callable[[Verdict, Verdict], Verdict]) -> Results:
    return [
        ({**names, **others}, join(one, other))
        for names, one in first
        for others, other in second
        if all(others.get(name, value) == value for name, value in names.items())
    ]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _equal(first: Any, second: Any) -> Results:
    if first is INVALID:
        return NEITHER
    if first is None:
        return NEITHER if second is INVALID else single(second is None)
    if second is None:
        return NO
    if isinstance(first, str):
        return single(first == second) if isinstance(second, str) else NEITHER
    return single(first == second) if _number(second) else NEITHER


def _less(first: Any, second: Any) -> Results:
    if isinstance(first, str):
        return single(first.encode() < second.encode()) if isinstance(second, str) else NEITHER
    return single(first < second) if _number(first) and _number(second) else NEITHER


def _ordered(compare: Callable[[Any, Any], Results]) -> Callable[[Any, Any], Results]:
    return lambda first, second: NEITHER if first is None else compare(first, second)


def _regex(first: Any, second: Any) -> Results:
    if not isinstance(first, str) or not isinstance(second, str):
        return NEITHER
    try:
        return single(compile_pattern(second).search(first))
    except ExpressionError as error:
        raise DocumentError(f"document selection: {error}") from error


def _glob(first: Any, second: Any) -> Results:
    if not isinstance(second, str):
        return _equal(first, second)
    if not isinstance(first, str):
        return NEITHER
    return single(fnmatch.fnmatchcase(first, second.replace("[", "[[]")))


_SCALAR: dict[str, Callable[[Any, Any], Results]] = {
    "==": _equal,
    "!=": lambda first, second: negated(_equal(first, second)),
    "<": _less,
    ">": _ordered(lambda first, second: both(negated(_less(first, second)), negated(_equal(first, second)))),
    ">=": _ordered(lambda first, second: negated(_less(first, second))),
    "<=": _ordered(lambda first, second: either(_less(first, second), _equal(first, second))),
    "=~": _regex,
    "=": _glob,
}


def compare(first: Any, operator: str, second: Any) -> Results:
    """``first operator second``; the operators are ``== != < <= > >= = =~``."""
    plain = _SCALAR[operator]
    if not isinstance(first, Elements):
        return NEITHER if isinstance(second, Elements) and first is not None else plain(first, second)
    if isinstance(second, Elements):
        if len(first) != len(second):
            return plain(len(first), len(second)) if operator not in ("=", "=~") else NO
        for (_, one), (_, other) in zip(first, second, strict=True):
            verdict = combined(plain(one, other))
            if verdict is not True:
                return single(verdict)
        return YES
    found = [(names, combined(plain(value, second))) for names, value in first]
    kinds = {verdict for names, verdict in found if not names}
    return [(names, verdict) for names, verdict in found if names] + [(_NONE, verdict) for verdict in kinds]


def _wrap(value: int) -> int:
    """``value`` as a signed 64-bit integer."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _divided(first: int, second: int) -> int:
    quotient = abs(first) // abs(second)
    return quotient if (first < 0) == (second < 0) else -quotient


_WHOLE: dict[str, Callable[[int, int], int]] = {
    "+": lambda first, second: first + second,
    "-": lambda first, second: first - second,
    "*": lambda first, second: first * second,
    "/": _divided,
    "%": lambda first, second: first - second * _divided(first, second),
}


def calculate(first: Any, operator: str, second: Any) -> Any:
    """``first operator second`` for ``+ - * / %``; ``INVALID`` where it has no meaning. Raises ``DocumentError``."""
    if isinstance(first, str) and isinstance(second, str):
        return first + second if operator == "+" else INVALID
    if not _number(first) or not _number(second):
        return INVALID
    whole = isinstance(first, int) and isinstance(second, int)
    if operator == "%" and not whole:
        return INVALID
    if operator in "/%" and second == 0:
        raise DocumentError("document selection: Division by zero")
    if whole:
        return _wrap(_WHOLE[operator](first, second))
    try:
        return float(first / second if operator == "/" else _WHOLE[operator](first, second))
    except OverflowError:
        return math.inf


def _hash(value: Any) -> Any:
    if isinstance(value, str):
        data = value.encode()
    elif _number(value):
        data = pack("<q" if isinstance(value, int) else "<d", value)
    else:
        return INVALID
    return int.from_bytes(md5(data, usedforsecurity=False).digest()[:8], "little", signed=True)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "lowercase": lambda value: value.lower() if isinstance(value, str) else INVALID,
    "hash": _hash,
    "abs": lambda value: _wrap(abs(value)) if isinstance(value, int) else abs(value) if _number(value) else INVALID,
}
