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


def number_text(name: str, value: Any) -> str:
    """``value``, which field ``name`` is compared with, as the text of a number; "" for an infinite one."""
    text = "" if value in ("Infinity", "-Infinity") else str(value).rstrip("lL")
    try:
        if text:
            float(text)
    except ValueError as error:
        raise QueryError(f"'{name}' is compared with '{value}', which is not a number: use contains") from error
    return text


def one_of(node: Tree[Any], around: str, *functions: str) -> Tree[Any]:
    """``node``, which is no call, or one of ``functions``. Raises ``QueryError`` otherwise."""
    inner = node
    while inner.data == "annotated":
        inner = inner.children[1]
    if inner.data == "call" and inner.children[0] not in functions:
        expected = " or ".join(f"'{name}'" for name in functions)
        raise QueryError(f"{around}: Expected function {expected}, got '{inner.children[0]}'.")
    return node


def node_text(node: Tree[Any]) -> str:
    """A node of the parse tree in an error's words."""
    return str(node.children[0] if node.children else node.data)
