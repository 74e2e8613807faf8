"""Grouping: counts of documents by the values of an attribute, as the UI's facets need them.

Supported: ``all(group(field) max(n) order(-count()) each(output(count())))``, nested ``all(...)`` around several of
them, and ``as(label)``. Every other grouping expression is refused by name. Source: Vespa's grouping reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipsearch.errors import QueryError

_TOKEN = re.compile(r"\s*([A-Za-z_][\w.]*|-?\d+|[(){}\-,;]|'[^']*'|\"[^\"]*\"|.)", re.DOTALL)
_COUNT = re.compile(r"output\(count\(\)(?:as\((\w+)\))?\)")


@dataclass(frozen=True, slots=True)
class Grouping:
    """Count documents by ``field``; ``order`` "", "count" or "-count"; ``maximum`` 0: all groups."""

    field: str
    output: str = "count()"
    order: str = ""
    maximum: int = 0
    label: str = ""


def parse_groupings(text: str) -> tuple[Grouping, ...]:
    """The groupings after ``|``; "" has none. Raises ``QueryError`` naming what is not supported."""
    found: list[Grouping] = []
    for step in text.split("|")[1:]:
        compact = "".join(token for token in _TOKEN.findall(step) if token.strip())
        if re.match(r"\s*\{", step):
            raise QueryError("grouping continuations are not supported by the local engine")
        if compact:
            found += _statement(compact)
    return tuple(found)


def _arguments(text: str) -> list[tuple[str, str]]:
    """``a(x)b(y)`` as [("a", "x"), ("b", "y")]."""
    calls: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        name = re.compile(r"\w+").match(text, position)
        if name is None or text[name.end() : name.end() + 1] != "(":
            raise QueryError(f"grouping: cannot parse '{text[position : position + 40]}'")
        depth, end = 0, name.end()
        while end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
        if depth:
            raise QueryError("grouping: a parenthesis is not closed")
        calls.append((name[0], text[name.end() + 1 : end - 1]))
        position = end + (text[end : end + 1] == ",")
    return calls


def _statement(text: str) -> list[Grouping]:
    calls = _arguments(text)
    if len(calls) != 1 or calls[0][0] != "all":
        raise QueryError(f"grouping: expected all(...), not supported by the local engine: '{text[:60]}'")
    inner = _arguments(calls[0][1])
    if inner and all(name == "all" for name, _ in inner):
        return [grouping for name, body in inner for grouping in _statement(f"{name}({body})")]
    return [_group(inner)]


def _group(calls: list[tuple[str, str]]) -> Grouping:
    field = output = order = label = ""
    maximum = 0
    for name, body in calls:
        if name == "group" and re.fullmatch(r"[A-Za-z_][\w.]*", body):
            field = body
        elif name == "max" and body.isdigit():
            maximum = int(body)
        elif name == "order" and body in ("count()", "-count()"):
            order = body[:-2]
        elif name == "as":
            label = body
        elif name == "each" and (found := _COUNT.fullmatch(body)):
            output = found[1] or "count()"
        else:
            raise QueryError(f"grouping expression '{name}({body})' is not supported by the local engine")
    if not field or not output:
        raise QueryError("grouping: the local engine supports all(group(field) each(output(count()))) only")
    return Grouping(field, output, order, maximum, label)
