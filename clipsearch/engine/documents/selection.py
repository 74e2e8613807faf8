"""Vespa's document selection language: ``image.label == "harbour" and not image.width < 200``.

A selection is compiled once to a function of one document. As in Vespa, logic is three-valued: a comparison with a
field that has no value is neither true nor false, and a document is selected only when the whole is true.
Source: Vespa's document selector language reference. Arithmetic, functions on values, map and struct access, and
imported fields are refused by name.
"""

from __future__ import annotations

import fnmatch
import operator
import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import LarkError, UnexpectedInput

from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.package.model import Schema
from clipsearch.engine.patterns import compile_pattern
from clipsearch.errors import DocumentError, ExpressionError

Verdict = bool | None
Test = Callable[[DocumentId, Mapping[str, Any]], Verdict]
Value = Callable[[DocumentId, Mapping[str, Any]], Any]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ID_PARTS: dict[str, Callable[[DocumentId], Any]] = {
    "namespace": lambda doc: doc.namespace,
    "type": lambda doc: doc.type,
    "specific": lambda doc: doc.user,
    "user": lambda doc: doc.number,
    "group": lambda doc: doc.group,
}
MAX_DEPTH = 100  # of nested expressions
_REFUSED = "is not supported by the local engine's document selection"


class Selection:
    """A compiled selection; ``matches`` tells whether a document is selected."""

    def __init__(self, text: str, test: Test) -> None:
        self.text = text
        self._test = test

    def matches(self, doc: DocumentId, fields: Mapping[str, Any]) -> bool:
        """Whether the document is selected: an undecidable comparison is not true."""
        return self._test(doc, fields) is True


def compile_selection(text: str, schemas: Mapping[str, Schema]) -> Selection:
    """``text`` compiled against ``schemas``. Raises ``DocumentError`` (400) that quotes what is wrong."""
    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        raise DocumentError(
            f"Could not parse document selection '{text}' at column {error.column}: {_near(text, error)} {_REFUSED}"
        ) from error
    except LarkError as error:
        raise DocumentError(f"Could not parse document selection '{text}'") from error
    return Selection(text, _compile(tree, schemas))


@lru_cache(maxsize=1)
def _grammar() -> Lark:
    return Lark(Path(__file__).with_name("selection.lark").read_text("utf-8"), parser="lalr")


def _near(text: str, error: UnexpectedInput) -> str:
    if getattr(getattr(error, "token", None), "type", "") == "$END":
        return "ending here"
    position = getattr(error, "pos_in_stream", None)
    rest = text[position:].split() if position is not None and position >= 0 else []
    return f"'{rest[0]}'" if rest else "ending here"


def _compile(node: Any, schemas: Mapping[str, Schema], depth: int = 0) -> Test:
    if depth > MAX_DEPTH:
        raise DocumentError("The document selection is nested too deeply")
    match node:
        case Tree(data="disjunction", children=parts):
            return _any([_compile(part, schemas, depth + 1) for part in parts if not isinstance(part, Token)])
        case Tree(data="conjunction", children=parts):
            return _all([_compile(part, schemas, depth + 1) for part in parts if not isinstance(part, Token)])
        case Tree(data="negate", children=[_, inner]):
            return _not(_compile(inner, schemas, depth + 1))
        case Tree(data="comparison", children=[left, op, right]):
            return _comparison(_value(left, schemas), str(op), _value(right, schemas))
        case Tree(data="always"):
            return lambda doc, fields: True
        case Tree(data="never"):
            return lambda doc, fields: False
        case Tree(data="doctype", children=[name]):
            wanted = _known_type(str(name), schemas)
            return lambda doc, fields: doc.type == wanted
    raise DocumentError(f"'{node}' {_REFUSED}")


def _any(tests: list[Test]) -> Test:
    def test(doc: DocumentId, fields: Mapping[str, Any]) -> Verdict:
        verdicts = [part(doc, fields) for part in tests]
        return True if True in verdicts else None if None in verdicts else False

    return test


def _all(tests: list[Test]) -> Test:
    def test(doc: DocumentId, fields: Mapping[str, Any]) -> Verdict:
        verdicts = [part(doc, fields) for part in tests]
        return False if False in verdicts else None if None in verdicts else True

    return test


def _not(inner: Test) -> Test:
    def test(doc: DocumentId, fields: Mapping[str, Any]) -> Verdict:
        verdict = inner(doc, fields)
        return None if verdict is None else not verdict

    return test


def _value(node: Any, schemas: Mapping[str, Schema]) -> Value:
    match node:
        case Tree(data="string", children=[text]):
            constant: Any = re.sub(r"\\(.)", _unescape, str(text)[1:-1])
        case Tree(data="number", children=[text]):
            constant = _number(str(text))
        case Tree(data="true" | "false" | "always" | "never" as name):
            constant = name in ("true", "always")
        case Tree(data="null"):
            constant = None
        case Tree(data="now"):
            return lambda doc, fields: int(time.time())
        case Tree(data="id"):
            return lambda doc, fields: str(doc)
        case Tree(data="id_part", children=[_, part]):
            return _id_part(str(part))
        case Tree(data="field", children=[doctype, name]):
            return _field(_known_type(str(doctype), schemas), str(name), schemas)
        case _:
            raise DocumentError(f"'{node}' {_REFUSED}")
    return lambda doc, fields: constant


def _number(text: str) -> float:
    return float(text) if any(c in text for c in ".eE") else int(text)


def _unescape(match: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}.get(match[1], match[1])


def _known_type(name: str, schemas: Mapping[str, Schema]) -> str:
    if name not in schemas:
        raise DocumentError(f"Document type '{name}' not found, only '{', '.join(sorted(schemas))}'")
    return name


def _id_part(part: str) -> Value:
    read = _ID_PARTS.get(part)
    if read is None:
        raise DocumentError(f"'id.{part}' {_REFUSED}: expected id.{', id.'.join(_ID_PARTS)}")
    return lambda doc, fields: read(doc)


def _field(doctype: str, name: str, schemas: Mapping[str, Schema]) -> Value:
    field = schemas[doctype].fields.get(name)
    if field is None:
        raise DocumentError(f"Field '{name}' does not exist in document type '{doctype}'")
    if field.type.kind in ("tensor", "raw"):
        raise DocumentError(f"comparing '{doctype}.{name}' of type {field.type} {_REFUSED}")
    return lambda doc, fields: fields.get(name) if doc.type == doctype else _OTHER_TYPE


_OTHER_TYPE = object()


def _comparison(left: Value, op: str, right: Value) -> Test:
    def test(doc: DocumentId, fields: Mapping[str, Any]) -> Verdict:
        first, second = left(doc, fields), right(doc, fields)
        if first is _OTHER_TYPE or second is _OTHER_TYPE:
            return None
        verdicts = [_compare(one, op, other) for one in _each(first) for other in _each(second)]
        return True if True in verdicts else None if None in verdicts else False

    return test


def _each(value: Any) -> list[Any]:
    """The elements of an array or the keys of a weighted set; anything else alone."""
    return list(value) if isinstance(value, (list, dict)) else [value]


def _compare(first: Any, op: str, second: Any) -> Verdict:
    if first is None or second is None:
        if op in ("==", "="):
            return first is second
        return first is not second if op == "!=" else None
    if op in ("=", "=~"):
        return _pattern(first, op, second)
    if isinstance(first, str) != isinstance(second, str):
        return None
    return _COMPARE[op](first, second)


def _pattern(first: Any, op: str, second: Any) -> Verdict:
    if not isinstance(first, str) or not isinstance(second, str):
        return first == second if op == "=" else None
    if op == "=~":
        try:
            return compile_pattern(second).search(first)
        except ExpressionError as error:
            raise DocumentError(f"document selection: {error}") from error
    return fnmatch.fnmatchcase(first, second.replace("[", "[[]"))
