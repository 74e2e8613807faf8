"""YQL text to a statement: what to select, from where, the tree of conditions, order and page.

``parse`` is cached by text, which is constant in well-made clients; ``build`` fills in ``@parameters`` and makes the
query tree (``where.py``). Source: Vespa's query language reference and ``yqlplus.g4``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lark import Tree
from lark.exceptions import UnexpectedInput

from clipsearch.engine.grammars import lalr
from clipsearch.engine.query.grouping import Operation, parse_groupings
from clipsearch.engine.query.literals import constant
from clipsearch.engine.query.tree import Node
from clipsearch.engine.query.where import Context, build_where
from clipsearch.errors import QueryError

_GRAMMAR = lalr(Path(__file__).with_name("yql.lark"))
_SKIP = re.compile(
    r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?P<comment>//[^\n]*|\#[^\n]*|/\*.*?\*/)|(?P<pipe>\|)""", re.DOTALL
)
CACHED_LENGTH = 2_000  # about 100 KiB as a tree; longer statements are lists of values, not constant text
_PREFIX = "Could not create query from YQL: "


@dataclass(frozen=True, slots=True)
class Sort:
    """One ``order by`` term; ``field`` may be ``[rank]`` or ``[relevance]``."""

    field: str
    descending: bool
    function: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed select statement; ``fields`` empty: ``*``; ``sources`` empty: all; None: not given."""

    fields: tuple[str, ...]
    sources: tuple[str, ...]
    root: Node | None
    order: tuple[Sort, ...]
    limit: int | None
    offset: int | None
    timeout: str
    groupings: tuple[Operation, ...]


@lru_cache(maxsize=256)
def _parse(text: str) -> tuple[Tree[Any], str]:
    """The statement's parse tree without comments, and the text of its groupings."""
    kept: list[str] = []
    start, pipe = 0, -1
    for found in _SKIP.finditer(text):
        if found["comment"]:
            kept.append(text[start : found.start()] + " ")
            start = found.end()
        elif found["pipe"] and pipe < 0:
            kept.append(text[start : found.start()])
            pipe = sum(map(len, kept))
            start = found.start()
    clean = "".join([*kept, text[start:]])
    statement, groupings = (clean, "") if pipe < 0 else (clean[:pipe], clean[pipe:])
    try:
        return _GRAMMAR.parse(statement), groupings.strip().rstrip(";")
    except UnexpectedInput as error:
        where = f"line {error.line}, column {error.column}" if error.line > 0 else "the end"
        shown = "unexpected end of the query" if error.line <= 0 else error.get_context(statement, 30).strip()
        raise QueryError(f"{_PREFIX}query:L{error.line}: syntax error at {where}: {shown}") from error
    except RecursionError as error:
        raise QueryError(f"{_PREFIX}the query is nested too deeply") from error


def parse_yql(text: str, context: Context) -> Statement:
    """``text`` with the parameters of ``context`` filled in.

    Raises ``QueryError`` (code 4) for malformed YQL, and naming what the local engine does not support.
    """
    tree, groupings = _parse(text) if len(text) < CACHED_LENGTH else _parse.__wrapped__(text)
    fields, sources, where, order, limit, offset, timeout = tree.children
    try:
        return Statement(
            fields=tuple(str(name) for name in fields.children),
            sources=_sources(sources),
            root=None if where is None else build_where(where, context),
            order=tuple(_sort(item, context) for item in order.children) if order is not None else (),
            limit=_number(limit, context.parameters),
            offset=_number(offset, context.parameters),
            timeout="" if timeout is None else str(timeout.children[0]),
            groupings=parse_groupings(groupings),
        )
    except QueryError as error:
        if str(error).startswith(_PREFIX) or error.code != 4:
            raise
        raise QueryError(_PREFIX + str(error), code=error.code, status=error.status) from error
    except (ValueError, TypeError) as error:
        raise QueryError(f"{_PREFIX}an annotation or argument has another type than expected: {error}") from error
    except RecursionError as error:
        raise QueryError(f"{_PREFIX}the query is nested too deeply") from error


def _sources(tree: Tree[Any]) -> tuple[str, ...]:
    names = []
    for source in tree.children:
        name = "".join(str(token) for token in source.children if token is not None)
        names.append(name.removesuffix(".*"))
    return tuple(names)


def _sort(item: Tree[Any], context: Context) -> Sort:
    annotations, field, direction = item.children
    options = constant(annotations, context.parameters) if annotations is not None else {}
    token: Any = field.children[0]
    name = str(token)
    if token.type == "STRING":
        name = name[1:-1]
    elif name in ("rank", "relevance"):
        name = f"[{name}]"
    return Sort(name, direction is not None and str(direction).lower() == "desc", str(options.get("function", "")))


def _number(tree: Tree[Any] | None, parameters: Mapping[str, str]) -> int | None:
    if tree is None:
        return None
    text = str(tree.children[0])
    if text.startswith("@"):
        if text[1:] not in parameters:
            raise QueryError(f"Unresolved parameter '{text[1:]}' in YQL")
        text = parameters[text[1:]]
    try:
        return int(text)
    except ValueError as error:
        raise QueryError(f"'{text}' is not an integer: limit and offset need one") from error
