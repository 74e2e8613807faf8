"""Vespa's grouping language: what stands after ``|`` in a query, as operations and expressions.

``all(group(colour) max(3) order(-count()) each(output(count())))``. Here the text is parsed and checked;
``grouping_values`` evaluates expressions over the matching rows, ``grouping_results`` makes the groups. Continuations,
filters but ``regex`` and a few functions are refused by name. Source: Vespa's reference and ``GroupingParser.jj``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from clipsearch.errors import QueryError

CACHED_LENGTH = 2_000  # longer ones are not the constant texts of a page
AGGREGATORS = ("count", "sum", "avg", "max", "min", "stddev", "summary", "xor")
_NAMES = {"+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod"}
_PRECEDENCE = {"+": 0, "-": 1, "/": 2, "%": 3, "*": 4}
_REFUSED = (
    "quantile", "first", "argmin", "argmax", "uca", "zcurve.x", "zcurve.y", "interpolatedlookup", "array.at", "md5",
    "xorbit", "debugwait", "docidnsspecific", "normalizesubject", "sort", "reverse", "toraw", "attribute", "xor",
    "geo.distance",
)  # fmt: skip
_SPLIT = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(\|)""")


@dataclass(frozen=True, slots=True)
class Expression:
    """A grouping expression; ``kind``: call, attribute, constant or bucket.

    ``name`` of a call or attribute, ``value`` of a constant (int, float, str); of a bucket ``arguments`` are its two
    bounds and ``value`` which of them are included. ``label``: what ``as`` gives it.
    """

    kind: str
    name: str = ""
    arguments: tuple[Expression, ...] = ()
    value: Any = None
    label: str = ""

    def __str__(self) -> str:
        if self.kind == "attribute":
            return self.name
        if self.kind == "bucket":
            low, high = self.value
            ends = "[" if low else "<", "]" if high else ">"
            return f"bucket{ends[0]}{self.arguments[0]}, {self.arguments[1]}{ends[1]}"
        if self.kind == "constant":
            infinite = self.value in (float("inf"), float("-inf"))
            name = "inf" if self.value == float("inf") else "-inf" if infinite else str(self.value)
            return f'"{self.value}"' if isinstance(self.value, str) else name
        return f"{self.name}({', '.join(map(str, self.arguments))})"

    def walk(self) -> Iterator[Expression]:
        """This expression and all inside it."""
        yield self
        for argument in self.arguments:
            yield from argument.walk()

    @property
    def aggregator(self) -> bool:
        """Whether it makes one value of many: avg, max and min do with one argument only."""
        if self.kind != "call" or self.name not in AGGREGATORS:
            return False
        return len(self.arguments) == 1 or self.name in ("count", "summary")


@dataclass(slots=True)
class Operation:
    """``all`` or ``each``. ``maximum`` None: not given, -1: no limit. ``order``: expression and whether ascending."""

    each: bool
    group: Expression | None = None
    maximum: int | None = None
    order: list[tuple[Expression, bool]] = field(default_factory=list)
    outputs: list[Expression] = field(default_factory=list)
    children: list[Operation] = field(default_factory=list)
    where: str = ""
    label: str = ""
    filter: Expression | None = None


def parse_groupings(text: str) -> tuple[Operation, ...]:
    """The groupings after ``|``; "" has none. Raises ``QueryError`` naming what is wrong or not supported.

    Recent texts are remembered, so what is returned must not be changed.
    """
    return _parsed(text) if len(text) < CACHED_LENGTH else _parsed.__wrapped__(text)


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[Operation, ...]:
    found: list[Operation] = []
    for step in _steps(text):
        if re.match(r"\s*\{", step):
            raise QueryError("grouping continuations are not supported by the local engine")
        if step.strip():
            found += parse_grouping(step)
    return tuple(found)


def _steps(text: str) -> list[str]:
    ends = [match.start() for match in _SPLIT.finditer(text) if match[1]]
    return [text[start + 1 : end] for start, end in pairwise([*ends, len(text)])]


def parse_grouping(text: str) -> list[Operation]:
    """The operations of one grouping. Raises ``QueryError``."""
    try:
        tree = _lark().parse(text)
    except UnexpectedInput as error:
        shown = error.get_context(text, 30).strip() if error.line > 0 else "it ends too early"
        raise QueryError(f"grouping: not supported by the local engine, or a syntax error: {shown}") from error
    operations = [_operation(child, {}) for child in tree.children if isinstance(child, Tree)]
    for operation in operations:
        _check(operation, 1)
    return operations


@lru_cache(maxsize=1)
def _lark() -> Lark:
    text = Path(__file__).with_name("grouping.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", maybe_placeholders=True)


def _operation(tree: Tree[Any], names: dict[str, Expression]) -> Operation:
    kind, *parts, label, where = tree.children
    if str(kind) == "all" and label is not None:
        raise QueryError("grouping: only each() takes a label: as() behind all() is a syntax error")
    made = Operation(str(kind) == "each", where="" if where is None else str(where), label=_label(label))
    names = dict(names)
    for part in parts:
        if part.data == "operation":
            made.children.append(_operation(part, names))
        else:
            _clause(made, part, names)
    return made


def _clause(made: Operation, part: Tree[Any], names: dict[str, Expression]) -> None:
    kind, content = str(part.data), part.children[0]
    contents: list[Any] = part.children
    if kind == "group":
        made.group = _expression(content, names)
    elif kind == "maximum":
        made.maximum = -1 if str(content) == "inf" else _whole(str(content))
    elif kind == "order":
        made.order += [_ordering(each.children[0], names) for each in contents]
    elif kind == "output":
        made.outputs += [_expression(argument, names) for argument in content.children]
    elif kind == "alias":
        names[str(content)] = _expression(part.children[1], names)
    elif kind == "where":
        made.where = str(content)
    elif kind == "filter":
        made.filter = _filter(_expression(content, names))


def _number(text: str) -> int | float:
    """A number as written. Raises ``QueryError`` for one that its 64 bits do not hold."""
    digits = text.rstrip("lLfFdD")
    number = int(digits) if digits.isdigit() and len(digits) < 20 else float(digits)
    if abs(number) >= 2**63 if digits.isdigit() else math.isinf(number):
        raise QueryError(f"grouping: '{text}' is not a number of 64 bits")
    return number


def _whole(text: str) -> int:
    return int(_number(text))


def _filter(made: Expression) -> Expression:
    """``regex("pattern", expression)``, which pyvespa's match evaluator asks for; other predicates are refused."""
    arguments = made.arguments
    if made.name != "regex" or len(arguments) != 2 or not isinstance(arguments[0].value, str):
        raise QueryError(f"grouping: filter({made}) is not supported by the local engine, filter(regex(...)) is")
    return made


def _ordering(tree: Tree[Any], names: dict[str, Expression]) -> tuple[Expression, bool]:
    made = _expression(tree, names)
    if made.kind == "call" and made.name == "neg":
        return made.arguments[0], False
    return made, True


def _label(tree: Tree[Any] | None) -> str:
    token: Any = None if tree is None else tree.children[0]
    return "" if token is None else _text(token)


def _text(token: Token) -> str:
    return re.sub(r"\\(.)", r"\1", str(token)[1:-1]) if token.type == "STRING" else str(token)


def _expression(tree: Tree[Any], names: dict[str, Expression]) -> Expression:
    before, chain, label = tree.children
    made = _chain(chain, names)
    if before is not None and str(before) == "-":
        negative = made.kind == "constant" and not isinstance(made.value, str)
        made = Expression("constant", value=-made.value) if negative else Expression("call", "neg", (made,))
    if label is None:
        return made
    return Expression(made.kind, made.name, made.arguments, made.value, _label(label))


def _chain(tree: Tree[Any], names: dict[str, Expression]) -> Expression:
    """Operators bind as in Vespa: ``*`` before ``%`` before ``/`` before ``-`` before ``+``."""
    stack = [("+", _value(tree.children[0], names))]

    def fold() -> None:
        sign, right = stack.pop()
        before, left = stack.pop()
        stack.append((before, Expression("call", _NAMES[sign], (left, right))))

    for sign_tree, value in zip(tree.children[1::2], tree.children[2::2], strict=True):
        sign = str(sign_tree.children[0])
        while len(stack) > 1 and _PRECEDENCE[stack[-1][0]] >= _PRECEDENCE[sign]:
            fold()
        stack.append((sign, _value(value, names)))
    while len(stack) > 1:
        fold()
    return stack[0][1]


def _value(tree: Tree[Any], names: dict[str, Expression]) -> Expression:
    kind = str(tree.data)
    children: list[Any] = tree.children
    if kind == "inner":
        return _expression(children[0], names)
    if kind == "number":
        return Expression("constant", value=_number(str(children[0])))
    if kind == "string":
        return Expression("constant", value=_text(children[0]))
    if kind == "bucket":
        return _bucket(tree)
    if kind == "variable":
        if children[1] is not None:
            names[str(children[0])] = _chain(children[1], names)
        if str(children[0]) not in names:
            raise QueryError(f"grouping: there is no alias '${children[0]}'")
        return names[str(children[0])]
    path = ".".join(str(name.children[0]) for name in children[0].children)
    if kind == "attribute":
        return Expression("attribute", path)
    arguments = () if children[1] is None else tuple(_expression(a, names) for a in children[1].children)
    if path == "attribute" and len(arguments) == 1 and arguments[0].kind == "attribute":
        return arguments[0]
    if path in _REFUSED:
        raise QueryError(f"grouping expression '{path}' is not supported by the local engine")
    if path == "predefined":
        _check_buckets(arguments[1:])
    if path == "summary":
        arguments = tuple(Expression("constant", value=argument.name or argument.value) for argument in arguments)
    return Expression("call", path, arguments)


def _bucket(tree: Tree[Any]) -> Expression:
    opening, low, high, closing = tree.children
    bounds = (_bound(low), _bound(low if high is None else high))
    return Expression("bucket", "bucket", bounds, (str(opening) != "<", str(closing) == "]" or high is None))


def _check_buckets(buckets: tuple[Expression, ...]) -> None:
    """Raises ``QueryError`` for bounds of several types, and for buckets that do not ascend."""
    names = {int: "LongValue", float: "DoubleValue", str: "StringValue"}
    kind, before = "", None
    for bucket in buckets:
        if bucket.kind != "bucket":
            raise QueryError(f"grouping: predefined takes buckets, but got '{bucket}'")
        low, high = (bound.value for bound in bucket.arguments)
        for value in (low, high):
            if value in (math.inf, -math.inf):
                continue
            kind = kind or names[type(value)]
            if names[type(value)] != kind:
                raise QueryError(f"Bucket type mismatch, expected '{kind}' got '{names[type(value)]}'.")
        if low == math.inf or high == -math.inf or (low == -math.inf and high == math.inf):
            raise QueryError(f"Bucket type mismatch, '{bucket}': infinity stands for one bound, of its own sign")
        if low != -math.inf and high != math.inf and high < low:
            raise QueryError("Bucket to-value can not be less than from-value.")
        if before is not None:
            last = before.arguments[1].value
            if last == math.inf or low == -math.inf or low < last:
                raise QueryError(f"Buckets must be monotonically increasing, got {before} before {bucket}.")
        before = bucket


def _bound(tree: Tree[Any]) -> Expression:
    children: list[Any] = tree.children
    *minus, token = children
    sign = -1 if minus and minus[0] is not None else 1
    if token.type == "NUMBER":
        return Expression("constant", value=sign * _number(str(token)))
    if token.type == "INFINITE":
        return Expression("constant", value=sign * float("inf"))
    return Expression("constant", value=_text(token))


def _check(operation: Operation, level: int) -> None:
    """Levels as in Vespa: 0 is a hit, 1 a group, 2 a list of groups."""
    if operation.each:
        level -= 1
    if level < 0:
        raise QueryError("grouping: each() needs something to be grouped by around it")
    if operation.group is not None:
        level += 1
        if any(part.aggregator for part in operation.group.walk()):
            raise QueryError(f"grouping: cannot group by '{operation.group}'")
        if level == 1:
            raise QueryError("grouping: cannot group single hits")
    if operation.order and level != 2:
        raise QueryError("grouping: order needs group in the same operation")
    for expression, _ in operation.order:
        if not any(part.aggregator for part in expression.walk()):
            raise QueryError(f"grouping: cannot order groups by '{expression}'")
    _check_outputs(operation, level)
    for child in operation.children:
        _check(child, level)


def _check_outputs(operation: Operation, level: int) -> None:
    for output in operation.outputs:
        if level == 0 and output.name != "summary":
            raise QueryError(f"grouping: '{output}' of a single hit is not supported by the local engine")
        if level > 0 and not output.aggregator:
            raise QueryError(f"grouping: the output '{output}' is not supported by the local engine")
        if level == 2 and output.name != "count":
            raise QueryError(f"grouping: '{output}' of a list of groups is not supported by the local engine")
    if operation.where not in ("", "true", "$query"):
        raise QueryError(f"grouping: where({operation.where}) is not supported by the local engine")
    if operation.where == "true":
        raise QueryError("grouping: where(true) is not supported by the local engine")
