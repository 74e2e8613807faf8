"""Vespa's document selection language: ``image.label == "harbour" and not image.width < 200``.

A selection is compiled once to a function of one document, which is selected only when the whole is true.
Source: Vespa's document selector language reference and its C++ evaluator (``document/select``), whose rules for
missing values, arrays and variables are in ``selected_values.py``. ``id.bucket``, ``id.gid``, imported fields and
variables outside of field paths are refused by name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import LarkError, UnexpectedInput

from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.selected_values import (
    FUNCTIONS,
    INVALID,
    NO,
    YES,
    Elements,
    Results,
    both,
    calculate,
    combined,
    compare,
    either,
    negated,
    single,
)
from clipsearch.engine.package.model import Field, Schema
from clipsearch.errors import DocumentError

Fields = Mapping[str, Any]
Test = Callable[[DocumentId, Fields], Results]
Value = Callable[[DocumentId, Fields], Any]

_ID_PARTS: dict[str, Callable[[DocumentId], Any]] = {
    "scheme": lambda doc: "id",
    "namespace": lambda doc: doc.namespace,
    "type": lambda doc: doc.type,
    "specific": lambda doc: doc.user,
    "user": lambda doc: INVALID if doc.number is None else (doc.number + (1 << 63)) % (1 << 64) - (1 << 63),
    "group": lambda doc: INVALID if doc.group is None else doc.group,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
MAX_DEPTH = 100  # of nested expressions
MAX_LENGTH = 1 << 20
_REFUSED = "is not supported by the local engine's document selection"


class Selection:
    """A compiled selection; ``matches`` tells whether a document is selected, ``fields`` what it must know of it."""

    def __init__(self, text: str, test: Test, fields: frozenset[str]) -> None:
        self.text = text
        self.fields = fields
        self._test = test

    def matches(self, doc: DocumentId, fields: Fields) -> bool:
        """Whether the document is selected: an undecidable comparison is not true.

        Raises ``DocumentError`` (400): a division by zero, or a regular expression that would take too long.
        """
        return combined(self._test(doc, fields)) is True


def compile_selection(text: str, schemas: Mapping[str, Schema]) -> Selection:
    """``text`` compiled against ``schemas``. Raises ``DocumentError`` (400) that quotes what is wrong."""
    if len(text) > MAX_LENGTH:
        raise DocumentError(f"The document selection is longer than {MAX_LENGTH} characters")
    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        raise DocumentError(
            f"Could not parse document selection '{text}' at column {error.column}: {_near(text, error)} {_REFUSED}"
        ) from error
    except LarkError as error:
        raise DocumentError(f"Could not parse document selection '{text}'") from error
    compiler = _Compiler(schemas)
    return Selection(text, compiler.test(tree), frozenset(compiler.fields))


@lru_cache(maxsize=1)
def _grammar() -> Lark:
    return Lark(Path(__file__).with_name("selection.lark").read_text("utf-8"), parser="lalr")


def _near(text: str, error: UnexpectedInput) -> str:
    if getattr(getattr(error, "token", None), "type", "") == "$END":
        return "ending here"
    position = getattr(error, "pos_in_stream", None)
    rest = text[position:].split() if position is not None and position >= 0 else []
    return f"'{rest[0]}'" if rest else "ending here"


class _Compiler:
    """Compiles parse trees against ``schemas``; ``fields`` collects the names of fields that are read."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self.fields: set[str] = set()

    def test(self, node: Any, depth: int = 0) -> Test:
        """``node`` as a condition."""
        _check(depth)
        match node:
            case Tree(data="disjunction", children=parts):
                return _any([self.test(part, depth + 1) for part in parts if not isinstance(part, Token)])
            case Tree(data="conjunction", children=parts):
                return _all([self.test(part, depth + 1) for part in parts if not isinstance(part, Token)])
            case Tree(data="negate", children=[_, inner]):
                return _not(self.test(inner, depth + 1))
            case Tree(data="compare", children=[left, operator, right]):
                return _comparison(self.value(left, depth + 1), str(operator), self.value(right, depth + 1))
            case Tree(data="true"):
                return lambda doc, fields: YES
            case Tree(data="false"):
                return lambda doc, fields: NO
            case Tree(data="name", children=[name]):
                wanted = self._type(str(name))
                return lambda doc, fields: single(doc.type == wanted)
            case Tree(data="chain", children=[Tree(data="name"), *trailers]) if trailers[-1].data != "call":
                value = self.value(node, depth)
                return lambda doc, fields: compare(value(doc, fields), "!=", None)
        raise DocumentError(f"'{_text(node)}' alone {_REFUSED}: expected a comparison, a document type or a field")

    def value(self, node: Any, depth: int) -> Value:
        """``node`` as a value."""
        _check(depth)
        match node:
            case Tree(data="sum" | "product" | "modulo", children=[first, *rest]):
                return self._arithmetic(first, rest, depth + 1)
            case Tree(data="chain", children=[atom, *trailers]):
                return self._chain(atom, trailers, depth + 1)
            case Tree(data="now"):
                return lambda doc, fields: int(time.time())
            case Tree(data="id"):
                return lambda doc, fields: doc.text
            case Tree(data="minus", children=[_, number]):
                constant = -_constant(number)
            case Tree(data="plus", children=[_, number]):
                constant = _constant(number)
            case Tree(data="string" | "hex" | "float" | "integer" | "null" | "true" | "false"):
                constant = _constant(node)
            case _:
                raise DocumentError(f"'{_text(node)}' {_REFUSED} as a value")
        return lambda doc, fields: constant

    def _arithmetic(self, first: Any, rest: list[Any], depth: int) -> Value:
        start = self.value(first, depth)
        steps = [(str(rest[at]), self.value(rest[at + 1], depth)) for at in range(0, len(rest), 2)]

        def value(doc: DocumentId, fields: Fields) -> Any:
            total = start(doc, fields)
            for operator, operand in steps:
                total = calculate(total, operator, operand(doc, fields))
            return total

        return value

    def _chain(self, atom: Any, trailers: list[Any], depth: int) -> Value:
        """A field path, or a part of the id, and functions of it."""
        path = [trailer for trailer in trailers if trailer.data != "call"]
        calls = trailers[len(path) :]
        if any(trailer.data != "call" for trailer in calls):
            raise DocumentError(f"'{_text(atom)}': a function call in the middle of a field path {_REFUSED}")
        if atom.data == "name":
            value = self._field(str(atom.children[0]), path)
        elif atom.data == "id" and len(path) == 1 and path[0].data == "step":
            value = _id_part(str(path[0].children[0]))
        elif not path:
            value = self.value(atom, depth)
        else:
            raise DocumentError(f"'{_text(path[0])}' after '{_text(atom)}' {_REFUSED}")
        for call in calls:
            value = _called(str(call.children[0]), value)
        return value

    def _type(self, name: str) -> str:
        if name not in self._schemas:
            raise DocumentError(f"Document type '{name}' not found, only '{', '.join(sorted(self._schemas))}'")
        return name

    def _field(self, doctype: str, path: list[Any]) -> Value:
        schema = self._schemas[self._type(doctype)]
        if not path or path[0].data != "step":
            raise DocumentError(f"'{doctype}' {_REFUSED} as a value: expected a field of it")
        name = str(path[0].children[0])
        field = schema.fields.get(name)
        if field is None:
            raise DocumentError(f"Field '{name}' does not exist in document type '{doctype}'")
        self.fields.add(name)
        read = _reader(field, path[1:])
        return lambda doc, fields: read(fields.get(name)) if doc.type == doctype else INVALID


def _check(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise DocumentError("The document selection is nested too deeply")


def _text(node: Any) -> str:
    """``node`` about as it was written, shortened."""
    tokens = node.scan_values(lambda value: isinstance(value, Token)) if isinstance(node, Tree) else [node]
    return " ".join(str(token) for token in tokens)[:80] or str(getattr(node, "data", node))


def _any(tests: list[Test]) -> Test:
    def test(doc: DocumentId, fields: Fields) -> Results:
        found = tests[0](doc, fields)
        for part in tests[1:]:
            found = YES if found is YES else either(found, part(doc, fields))
        return found

    return test


def _all(tests: list[Test]) -> Test:
    def test(doc: DocumentId, fields: Fields) -> Results:
        found = tests[0](doc, fields)
        for part in tests[1:]:
            found = NO if found is NO else both(found, part(doc, fields))
        return found

    return test


def _not(inner: Test) -> Test:
    return lambda doc, fields: negated(inner(doc, fields))


def _comparison(left: Value, operator: str, right: Value) -> Test:
    return lambda doc, fields: compare(left(doc, fields), operator, right(doc, fields))


def _called(name: str, value: Value) -> Value:
    function = FUNCTIONS.get(name)
    if function is None:
        raise DocumentError(f"No function '{name}' exists, only '{', '.join(FUNCTIONS)}'")
    return lambda doc, fields: function(value(doc, fields))


def _constant(node: Any) -> Any:
    text = str(node.children[0]) if node.children else ""
    match node.data:
        case "string":
            return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", _unescape, text[1:-1])
        case "float":
            return float(text.rstrip("fFdD"))
        case "hex":
            return (int(text, 16) + (1 << 63)) % (1 << 64) - (1 << 63)
        case "integer":
            if len(text) > 19 or int(text) >= 1 << 63:
                raise DocumentError(f"Not a valid signed 64-bit integer: {text[:80]}")
            return int(text)
        case "null":
            return None
    return int(node.data == "true")


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) == 3 else _ESCAPES.get(escape, escape)


def _id_part(part: str) -> Value:
    read = _ID_PARTS.get(part.lower())
    if read is None:
        raise DocumentError(f"'id.{part}' {_REFUSED}: expected id.{', id.'.join(_ID_PARTS)}")
    return lambda doc, fields: read(doc)


def _reader(field: Field, path: list[Any]) -> Callable[[Any], Any]:
    """What a selection sees of a field's value, or of the element that ``path`` leads to."""
    if not path:
        return _seen
    if len(path) > 1 or path[0].data != "lookup" or field.type.kind not in ("array", "weightedset"):
        raise DocumentError(f"the field path into '{field.name}' of type {field.type} {_REFUSED}")
    text = str(path[0].children[0])
    key = text[1:-1].strip()
    if (text[0] == "[") != (field.type.kind == "array"):
        raise DocumentError(f"'{text}' is no place in '{field.name}' of type {field.type}")
    if key.startswith("$"):
        return lambda value: _bound(key, value)
    if field.type.kind == "array":
        at = int(key[:18])
        return lambda value: value[at] if value is not None and at < len(value) else None
    label = key[1:-1].replace('\\"', '"') if key.startswith('"') else key
    return lambda value: None if value is None else value.get(label, value.get(_as_int(label)))


def _as_int(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _bound(variable: str, value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value or ())
    return Elements(({variable: key}, item) for key, item in items) or None


def _seen(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        if not value:
            return None
        return Elements(({}, item) for item in value) if len(value) > 1 else next(iter(value))
    return value if value is None or isinstance(value, (str, int, float)) else INVALID
