"""Vespa's tensor literal text as the same plain structure that tensor JSON decodes to.

``{{x:0}:1}`` becomes ``{"cells": [{"address": {"x": "0"}, "value": 1.0}]}``, ``{a:[1,2]}`` becomes
``{"a": [1.0, 2.0]}``, so that ``decode`` reads both. Source: Vespa's tensor literal form.
"""

from __future__ import annotations

import re
from typing import Any

from clipsearch.errors import ExpressionError

_TOKEN = re.compile(r"""\s*(?:([\[\]{}:,])|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\[\]{}:,\s"']+)|(\S))""")
_NUMBER = re.compile(r"([+-]?(?:NaN|Infinity|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?=[fFdD]?$)))[fFdD]?")
_MAX_DEPTH = 32


def parse_number(text: str) -> float:
    """``text`` as Java reads a float: digits (``1f`` and ``1d`` too), NaN or Infinity. Raises ``ExpressionError``."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ExpressionError(f"'{text}' is not a valid float")
    return float(found[1])


def parse_structure(text: str) -> Any:
    """``text`` (without a type) as lists, dicts and floats; quoted strings stay strings.

    Raises ``ExpressionError`` that names the position of what is malformed.
    """
    reader = _Reader(text)
    value = reader.value(0)
    reader.end()
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [(m.lastindex or 0, m[m.lastindex or 0], m.start()) for m in _TOKEN.finditer(text)]
        self.at = 0

    def peek(self) -> str:
        """The next punctuation, or "" for a word, a string or the end."""
        if self.at < len(self.tokens) and self.tokens[self.at][0] == 1:
            return self.tokens[self.at][1]
        return ""

    def fail(self, expected: str) -> ExpressionError:
        if self.at >= len(self.tokens):
            return ExpressionError(f"Malformed tensor string: expected {expected} at the end")
        _, token, position = self.tokens[self.at]
        return ExpressionError(f"At value position {position}: Expected {expected} but got '{token}'")

    def take(self, punctuation: str) -> None:
        if self.peek() != punctuation:
            raise self.fail(f"a '{punctuation}'")
        self.at += 1

    def word(self) -> tuple[int, str]:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] not in (2, 3, 4):
            raise self.fail("a value")
        kind, token, _ = self.tokens[self.at]
        self.at += 1
        return kind, re.sub(r"\\(.)", r"\1", token) if kind != 4 else token

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ExpressionError("the tensor literal is nested too deeply")
        if self.peek() == "[":
            return self.array(depth)
        if self.peek() == "{":
            return self.braces(depth)
        kind, token = self.word()
        return parse_number(token) if kind == 4 else token

    def array(self, depth: int) -> list[Any]:
        self.take("[")
        values: list[Any] = []
        while self.peek() != "]":
            if values:
                self.take(",")
            values.append(self.value(depth + 1))
        self.take("]")
        return values

    def braces(self, depth: int) -> Any:
        self.take("{")
        labelled: dict[str, Any] = {}
        addressed: list[tuple[dict[str, str], Any]] = []
        while self.peek() != "}":
            if labelled or addressed:
                self.take(",")
            if self.peek() == "{":
                address = self.address()
                self.take(":")
                addressed.append((address, self.value(depth + 1)))
                continue
            key = self.word()[1]
            if self.peek() == "}" and not labelled:
                self.take("}")
                return [parse_number(key)]  # {5.5}: the value of a tensor()
            self.take(":")
            labelled[key] = self.value(depth + 1)
        self.take("}")
        if addressed and labelled:
            raise ExpressionError("Malformed tensor string: labels and addresses cannot be mixed")
        return _addressed(addressed) if addressed else labelled

    def address(self) -> dict[str, str]:
        self.take("{")
        address: dict[str, str] = {}
        while self.peek() != "}":
            if address:
                self.take(",")
            dimension = self.word()[1]
            self.take(":")
            address[dimension] = self.word()[1]
        self.take("}")
        return address

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.fail("the end")


def _addressed(cells: list[tuple[dict[str, str], Any]]) -> dict[str, Any]:
    if isinstance(cells[0][1], float):
        return {"cells": [{"address": address, "value": value} for address, value in cells]}
    return {"blocks": [{"address": address, "values": value} for address, value in cells]}
