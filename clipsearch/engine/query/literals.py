"""Constants of YQL's parse tree: strings, numbers, maps, arrays and ``@parameters``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lark import Token, Tree

from clipsearch.errors import QueryError

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def constant(node: Any, parameters: Mapping[str, str]) -> Any:
    """A literal of the parse tree as a Python value; numbers keep their text (``str`` with a digit)."""
    kind, children = node.data, [child for child in node.children if child is not None]
    if kind == "string":
        return unquote(children[0])
    if kind in ("number", "minus", "minus_number"):
        text = str(children[-1].children[0] if isinstance(children[-1], Tree) else children[-1])
        return Numeral(("-" if kind != "number" else "") + text.rstrip("lL"))
    if kind == "boolean":
        return {"true": True, "false": False}.get(str(children[0]).lower())
    if kind == "parameter":
        return resolve(children[0], parameters)
    if kind == "map":
        return {_key(pair.children[0]): constant(pair.children[1], parameters) for pair in children}
    if kind == "array":
        return [constant(child, parameters) for child in children]
    if kind == "name":
        return str(children[0])
    raise QueryError(f"expected a constant, but got '{kind}'")


class Numeral(str):
    """A number as it was written."""

    __slots__ = ()


def _key(token: Token) -> str:
    return unquote(token) if token.type == "STRING" else str(token)


def unquote(token: str) -> str:
    """A quoted string's content with its escapes resolved."""
    inside, found, position = str(token)[1:-1], [], 0
    while position < len(inside):
        character = inside[position]
        if character == "\\" and position + 1 < len(inside):
            position += 1
            character = inside[position]
            if character == "u":
                digits = inside[position + 1 : position + 5]
                if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
                    raise QueryError(f"not a unicode escape: \\u{digits}")
                found.append(chr(int(digits, 16)))
                position += 5
                continue
            character = _ESCAPES.get(character, character)
        found.append(character)
        position += 1
    return "".join(found)


def resolve(token: str, parameters: Mapping[str, str]) -> str:
    """The value of ``@name``."""
    name = str(token)[1:]
    if name not in parameters:
        raise QueryError(f"Can't resolve '{name}': the query has no parameter of that name")
    return parameters[name]


def is_integer(text: str) -> bool:
    """Whether ``text`` is an integer."""
    return text.lstrip("-").isdigit()


_KEY = r"""\s*(?:'([^']*)'|"([^"]*)"|([^'":,{}\[\]][^:]*?))\s*"""
_PAIR = re.compile(_KEY + r":\s*(-?\d+)\s*")
_NUMBERS = re.compile(r"\s*\[\s*(-?\d+)\s*,\s*(-?\d+)\s*\]\s*")
_MEMBER = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]*))\s*(?:,|$)""")


def parameter_list(text: str) -> list[Any]:
    """The values of ``in (@parameter)``: ``1, 2`` or ``a, 'b c', "d,e"``; those without quotes may be integers."""
    found: list[Any] = []
    position = 0
    while position < len(text):
        match = _MEMBER.match(text, position)
        if match is None:
            raise QueryError(f"Expected a value, and ',' or the end behind it, at position {position} of '{text}'")
        position = match.end()
        quoted = match[1] if match[1] is not None else match[2]
        bare = (match[3] or "").strip()
        if quoted is not None or bare:
            found.append(quoted if quoted is not None else int(bare) if is_integer(bare) else bare)
    return found


def parameter_weights(text: str) -> dict[str, Any] | list[Any]:
    """The tokens of ``weightedSet(field, @parameter)``: ``{a: 1, 'b c': 2}`` or ``[[11, 1], [37, 2]]``."""
    inside = text.strip()
    if inside[:1] not in ("[", "{"):
        raise QueryError(f"Expected a string starting by '[' or '{{', but was '{inside[:1]}'")
    if len(inside) < 2 or inside[-1] != {"[": "]", "{": "}"}[inside[0]]:
        raise QueryError(f"Expected an array or map ending by ']' or '}}': '{text}'")
    pattern, end, position = (_PAIR if inside[0] == "{" else _NUMBERS), len(inside) - 1, 1
    tokens: dict[str, Any] = {}
    while inside[position:end].strip():
        match = pattern.match(inside, position, end)
        if match is None or (match.end() < end and inside[match.end()] != ","):
            raise QueryError(f"Expected a token and its weight, an integer, at position {position} of '{inside}'")
        *keys, weight = match.groups()
        tokens[next(key for key in keys if key is not None)] = Numeral(weight)
        position = match.end() + 1
    return tokens


def one_of(node: Tree[Any], around: str, *functions: str) -> Tree[Any]:
    """``node``, which is no call, or one of ``functions``. Raises ``QueryError`` otherwise."""
    inner = node
    while inner.data == "annotated":
        inner = inner.children[1]
    if inner.data == "call" and inner.children[0] not in functions:
        expected = " or ".join(f"'{name}'" for name in functions)
        raise QueryError(f"{around}: Expected function {expected}, got '{inner.children[0]}'.")
    return node
