"""Ranking expression text to a syntax tree.

Vespa has two evaluators that bind operators differently: C++ (first and second phase: ``2*3%4`` is 2) and Java
(global phase: it is 6). Source: ``eval/operator_nodes.h`` and ``rankingexpression.rule.Operator``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, VisitError

from clipsearch.engine.grammars import lalr
from clipsearch.engine.ranking.calls import build_call, literal_cells
from clipsearch.engine.ranking.nodes import (
    Binary,
    Boolean,
    Cells,
    Generate,
    Lambda,
    Membership,
    Node,
    Number,
    Paren,
    Reference,
    Slice,
    Text,
    Tuple,
    Unary,
)
from clipsearch.engine.tensors.types import as_written, parse_type
from clipsearch.errors import ExpressionError

CPP = {"||": 1, "&&": 2, "in": 10, "^": 103}
CPP |= dict.fromkeys(("==", "!=", "~=", "<", "<=", ">", ">="), 10)
CPP |= {"+": 101, "-": 101, "*": 102, "/": 102, "%": 102}
JAVA = {"||": 0, "&&": 1, "in": 2, ">=": 3, ">": 4, "<=": 5, "<": 6, "~=": 7, "!=": 8, "==": 9}
JAVA |= {"+": 10, "-": 11, "*": 12, "/": 13, "%": 14, "^": 15}
DIALECTS = {"cpp": CPP, "java": JAVA}
_MAX_LENGTH = 100_000
_MAX_NESTING = 100


def parse_expression(text: str, dialect: str = "cpp") -> Node:
    """``text`` as a tree; ``dialect`` is "cpp" (first and second phase) or "java" (global phase).

    Raises ``ExpressionError`` with line and column of what cannot be parsed.
    """
    if len(text) > _MAX_LENGTH or _nesting(text) > _MAX_NESTING:
        raise ExpressionError(
            f"the expression '{text[:60]}...' is too long or too deeply nested for the local engine "
            f"({_MAX_LENGTH} characters, {_MAX_NESTING} levels)"
        )
    return _parse(text, dialect)


@lru_cache(maxsize=2048)
def _parse(text: str, dialect: str) -> Node:
    try:
        node: Node = _Builder(DIALECTS[dialect]).transform(_lark().parse(text))
    except UnexpectedInput as error:
        raise ExpressionError(f"Could not parse '{text}': {_describe(error)}") from error
    except VisitError as error:
        if isinstance(error.orig_exc, ExpressionError):
            raise ExpressionError(f"Could not parse '{text}': {error.orig_exc}") from error
        raise
    return node


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return max(deepest, len(max(re.findall(r"[-!\s]+", text) or [""], key=len)) // 4)


@lru_cache(maxsize=1)
def _lark() -> Lark:
    return lalr(Path(__file__).with_name("grammar.lark"))


def _describe(error: UnexpectedInput) -> str:
    if isinstance(error, UnexpectedEOF) or (
        not isinstance(error, UnexpectedCharacters) and getattr(error, "token", Token("", "")).type == "$END"
    ):
        return "the expression ends too early"
    found = error.char if isinstance(error, UnexpectedCharacters) else getattr(error, "token", "")
    return f"unexpected '{found}' at line {error.line}, column {error.column}"


_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class _Builder(Transformer[Any, Any]):
    """Lark's tree to nodes; each method gets the children of the rule of its name."""

    def __init__(self, precedence: dict[str, int]) -> None:
        super().__init__()
        self.precedence = precedence

    def start(self, items: list[Any]) -> Node:
        return items[0]  # type: ignore[no-any-return]  # lark's children are untyped

    def chain(self, items: list[Any]) -> Node:
        """Operator precedence climbing over a flat chain; only ``^`` associates to the right."""
        operands: list[Node] = [items[0]]
        operators: list[str] = []

        def apply() -> None:
            right, operator = operands.pop(), operators.pop()
            operands.append(Binary(operator, operands.pop(), right))

        for operator, value in items[1:]:
            level = self.precedence[operator]
            while operators and (self.precedence[operators[-1]], operator != "^") > (level, False):
                apply()
            if operator == "in":
                operands.append(Membership(operands.pop(), value))
            else:
                operators.append(operator)
                operands.append(value)
        while operators:
            apply()
        return operands[0]

    def binary(self, items: list[Any]) -> tuple[str, Node]:
        return str(items[0]), items[1]

    def operator(self, items: list[Any]) -> str:
        return str(items[0])

    def membership(self, items: list[Any]) -> tuple[str, tuple[Node, ...]]:
        return "in", tuple(item for item in items[1:] if item is not None)

    def negative(self, items: list[Any]) -> Node:
        return Unary("-", items[1])

    def negation(self, items: list[Any]) -> Node:
        return Unary("!", items[1])

    def number(self, items: list[Any]) -> Node:
        text = str(items[0])
        if text.isdigit() and (len(text) > 19 or int(text) >= 1 << 63):
            raise ExpressionError(f"'{text[:40]}' is no 64-bit integer: write it with a point, as {text[:5]}...0")
        return Number(float(text), text)

    def string(self, items: list[Any]) -> Node:
        return Text(_unquote(items[0]))

    def true(self, items: list[Any]) -> Node:
        return Boolean(True)

    def false(self, items: list[Any]) -> Node:
        return Boolean(False)

    def name(self, items: list[Any]) -> Node:
        text = str(items[0])
        if text[0] == "$" and len(text) > 1:  # shorthand for an input of the query
            return Reference("query", (Reference(text[1:]),))
        return Reference(text)

    def call(self, items: list[Any]) -> Node:
        return build_call(str(items[0]), items[1] or ())

    def name_output(self, items: list[Any]) -> Node:
        return Reference(str(items[0]), None, items[1])

    def call_output(self, items: list[Any]) -> Node:
        return Reference(str(items[0]), items[1] or (), items[2])

    def outputs(self, items: list[Any]) -> str:
        return ".".join(map(str, items))

    def arguments(self, items: list[Any]) -> tuple[Node, ...]:
        return tuple(items)

    def function(self, items: list[Any]) -> Node:
        parameters = tuple(str(item) for item in items[1] or ())
        return Lambda(parameters, items[2])

    def paren(self, items: list[Any]) -> Node:
        return Paren(items[0])

    def dimensions(self, items: list[Any]) -> Node:
        return Tuple(tuple(items))

    def generate(self, items: list[Any]) -> Node:
        return Generate(parse_type(str(items[0])), items[1])

    def literal(self, items: list[Any]) -> Node:
        type, written = parse_type(str(items[0])), as_written(str(items[0]))
        cells = literal_cells(written, items[1])
        if written != type:  # a literal's arrays are in the order in which its dimensions are written
            order = [written.dimensions.index(dimension) for dimension in type.dimensions]
            cells = tuple((tuple(address[at] for at in order), value) for address, value in cells)
            if not type.mapped:
                cells = tuple(sorted(cells, key=lambda cell: [int(index) for index in cell[0]]))
        return Cells(type, cells)

    def array(self, items: list[Any]) -> list[Any]:
        return [item for item in items if item is not None]

    def cells(self, items: list[Any]) -> dict[Any, Any]:
        return dict(item for item in items if item is not None)

    def addressed(self, items: list[Any]) -> tuple[Any, Any]:
        return items[0], items[1]

    def scalar_cell(self, items: list[Any]) -> tuple[Any, Any]:
        return (), items[0]

    def full_address(self, items: list[Any]) -> tuple[tuple[str, str], ...]:
        return tuple(item for item in items if item is not None)

    def short_address(self, items: list[Any]) -> tuple[tuple[str, str], ...]:
        return (("", items[0]),)

    def coordinate(self, items: list[Any]) -> Any:
        return str(items[0]), items[1]

    def slice(self, items: list[Any]) -> Node:
        return Slice(items[0], tuple(items[1:]))

    def index(self, items: list[Any]) -> Node:
        whole = isinstance(items[1], Number) and items[1].text.isdigit()  # f[1.7] is f[1], found when it is evaluated
        label = items[1].text if whole else items[1]
        return Slice(items[0], (("", label),), brackets=True)

    def named_entry(self, items: list[Any]) -> Any:
        return str(items[0]), _slice_label(items[1])

    def short_entry(self, items: list[Any]) -> Any:
        return "", _slice_label(items[0])

    def static_label(self, items: list[Any]) -> str:
        return "".join(map(str, items))

    def string_label(self, items: list[Any]) -> str:
        return _unquote(items[0])

    def dynamic_label(self, items: list[Any]) -> Node:
        return items[0]  # type: ignore[no-any-return]  # lark's children are untyped


def _slice_label(node: Node) -> str | Node:
    """The label that a bare word, number or string is; anything else is computed."""
    if isinstance(node, Reference) and node.arguments is None and not node.output:
        return node.name
    if isinstance(node, Number):
        return node.text
    if isinstance(node, Unary) and node.operator == "-" and isinstance(node.operand, Number):
        return f"-{node.operand.text}"
    if isinstance(node, Text):
        return node.value
    if isinstance(node, Boolean):
        return str(node)
    return node.inner if isinstance(node, Paren) else node


def _unquote(text: str) -> str:
    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", _unescape, text[1:-1], flags=re.DOTALL)


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) == 3 else _ESCAPES.get(escape, escape)
