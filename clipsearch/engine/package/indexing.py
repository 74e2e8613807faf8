"""Indexing statements (``input captions | embed clip | attribute | index``): text to nodes, and their types.

Source: Vespa's indexing language reference and its expression classes. What a node does is in ``synthetic.py``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from lark import Lark, Token, Tree, UnexpectedInput, UnexpectedToken

from clipsearch.engine.embedding import Embedder, choose, unpacked
from clipsearch.engine.grammars import lalr
from clipsearch.engine.package.model import Field, FieldType
from clipsearch.engine.patterns import compile_pattern
from clipsearch.engine.tensors.types import Dimension, TensorType
from clipsearch.errors import ExpressionError

OUTPUTS = frozenset(["attribute", "index", "summary"])
STRING = FieldType("string")
_NUMBERS = frozenset(["int", "long", "float", "double"])
_SCALARS = _NUMBERS | {"string", "bool"}
_SOURCES = frozenset(["input", "constant", "now", "cat", "choice"])
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
MAX_DEPTH = 50  # of parentheses and for_each in one another
Tokens: TypeAlias = Any  # lark's trees hold trees and tokens alike; which it is, the grammar says


@dataclass(frozen=True, slots=True)
class Node:
    """One expression: ``op`` is its word; values, names and numbers are ``args``; ``parts`` are inside it."""

    op: str
    args: tuple[str | int | float | bool, ...] = ()
    parts: tuple[Node, ...] = ()

    def __str__(self) -> str:
        if self.op == "constant":
            return _literal(self.args[0])
        if self.op == "this":
            return "_"
        if self.op == "pipe":
            return " | ".join(f"({each})" if each.op == "pipe" else str(each) for each in self.parts)
        if self.op in ("cat", "choice"):
            return (" . " if self.op == "cat" else " || ").join(
                f"({each})" if each.op in ("pipe", "cat", "choice") else str(each) for each in self.parts
            )
        if self.op == "for_each":
            return f"for_each {{ {self.parts[0]} }}"
        plain = self.op not in ("split", "join")
        return " ".join([self.op, *(str(each) if plain else _literal(each) for each in self.args)])


@dataclass(slots=True)
class Indexing:
    """What a field's indexing asks for. ``source``: the expression that makes its value; None: the value as fed."""

    attribute: bool = False
    index: bool = False
    summary: bool = False
    language: str = ""
    source: Node | None = None
    written: bool = field(default=False, repr=False)


@functools.cache
def _parser() -> Lark:
    return lalr(Path(__file__).with_name("indexing.lark"))


@functools.lru_cache(maxsize=1024)
def parse_source(text: str) -> Node:
    """The expression of a ``Field.source``."""
    return _statements(text)[0]


def parse_indexing(text: str, name: str, in_document: bool) -> Indexing:
    """The statements of field ``name``. Raises ``ExpressionError`` that names what is wrong or not supported."""
    result = Indexing()
    for statement in _statements(text):
        _take(statement.parts if statement.op == "pipe" else (statement,), name, in_document, result)
    return result


def _take(parts: tuple[Node, ...], name: str, in_document: bool, result: Indexing) -> None:
    """Takes one statement in."""
    if any(part.op == "set_language" for part in parts):
        parts = _language(parts, result)
    first = next((place for place, part in enumerate(parts) if part.op in OUTPUTS), len(parts))
    made, outputs = parts[:first], parts[first:]
    for part in outputs:
        if part.op not in OUTPUTS:
            raise ExpressionError(
                f"'{part}' after '{outputs[0]}' assigns conflicting values to '{name}': put it before"
            )
        if part.args and part.args[0] != name:
            raise ExpressionError(f"'{part}' writes another field: give that field its own 'input {name}'")
        setattr(result, part.op, True)
    if not outputs:
        return
    if made and made[0].op not in _SOURCES:
        if not in_document:
            raise ExpressionError("a field outside the document needs 'input <field>' in its indexing")
        made = (Node("input", (name,)), *made)
    own = Node("input", (name,))
    made = tuple(own if part == Node("input") else part for part in made)
    source = made[0] if len(made) == 1 else Node("pipe", parts=made) if made else None
    source = None if source == own else source
    if result.written and result.source != source:
        raise ExpressionError(f"its statements assign conflicting values to '{name}'")
    result.source, result.written = source, True


def _language(parts: tuple[Node, ...], result: Indexing) -> tuple[Node, ...]:
    """Takes ``"en" | set_language`` out; the constant stays when it is the field's value too."""
    constant = parts[0].args[0] if parts[0].op == "constant" else None
    if not isinstance(constant, str) or parts[1:2] != (Node("set_language"),):
        raise ExpressionError("set_language is supported only as '\"en\" | set_language' by the local engine")
    if constant.split("-")[0] != "en":
        raise ExpressionError(f"language '{constant}' is not supported by the local engine: only English is")
    result.language = constant
    return (parts[0], *parts[2:])


# ---- text to nodes


def _statements(text: str) -> list[Node]:
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        place = getattr(error, "pos_in_stream", None)
        at = place if place is not None and place >= 0 else len(text)
        found = re.search(r"[\w-]*\s*$", text[:at]) if isinstance(error, UnexpectedToken) else None
        word = (found[0] if found else "").strip() or text[at : at + 1]
        message = f"'{word}' in indexing '{' '.join(text.split())}' is not supported by the local engine"
        raise ExpressionError(message) from None
    return [_node(each) for each in tree.children if each is not None]


def _node(tree: Tokens, depth: int = 0) -> Node:
    children, deeper = tree.children, depth + 1
    if depth > MAX_DEPTH * 3:  # a pair of parentheses is up to three nodes
        raise ExpressionError(f"its indexing is nested deeper than {MAX_DEPTH} levels")
    match tree.data:
        case "string":
            return Node("constant", (_unquoted(children[0]),))
        case "number":
            return Node("constant", (_number(children[0]),))
        case "boolean":
            return Node("constant", (children[0] == "true",))
        case "this":
            return Node("this")
        case "for_each":
            return Node("for_each", parts=(_node(children[1], deeper),))
        case "call":
            return _call(children)
        case "statement":
            parts = tuple(_node(each, deeper) for each in children)
            return parts[0] if len(parts) == 1 else Node("pipe", parts=parts)
    return Node(str(tree.data), parts=tuple(_node(each, deeper) for each in children))


def _call(children: list[Tree[Token] | Token]) -> Node:
    word, arguments = str(children[0]), [each.children[0] for each in children[1:] if isinstance(each, Tree)]
    if word == "passthrough":
        word = "summary"
    if word not in OUTPUTS and word not in _ARGUMENTS:
        raise ExpressionError(f"indexing '{word}' is not supported by the local engine")
    patterns = _ARGUMENTS.get(word, (r"\w*",))
    given = tuple(_argument(each) for each in arguments if isinstance(each, Token))
    fits = len(given) <= len(patterns) and all(
        re.fullmatch(pattern, str(given[place]) if place < len(given) else "", re.DOTALL)
        for place, pattern in enumerate(patterns)
    )
    if not fits:
        shown = " ".join([word, *(str(each) for each in arguments)])
        raise ExpressionError(f"indexing '{shown}' is not supported by the local engine: its arguments do not fit")
    return Node(word, given)


# A pattern for each argument; one that matches "" may be left out.
_WORD, _REAL = r"[A-Za-z_][\w-]*", r"(?:-?\d+(?:\.\d+)?(?:e-?\d+)?)?"
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(["lowercase", "trim", "normalize", "to_string", "to_int", "to_long", "to_float"], ()),
    **dict.fromkeys(["to_double", "to_bool", "to_array", "pack_bits", "now", "set_language"], ()),
    "input": (rf"(?:{_WORD})?",),
    "split": (r".+",),
    "join": (r".*",),
    "substring": (r"\d{1,9}", r"\d{1,9}"),
    "binarize": (_REAL,),
    "embed": (rf"(?:{_WORD})?", rf"(?:{_WORD})?"),
}


def _argument(token: Token) -> str | int | float:
    return _unquoted(token) if token.type == "STRING" else _number(token) if token.type == "NUMBER" else str(token)


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token[1:-1], flags=re.DOTALL)


def _literal(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _number(token: str) -> int | float:
    text = token.rstrip("Lf")
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else float(text)


# ---- types


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression sees: the schema's fields, the embedders, and the type that it must make (None: any)."""

    fields: Mapping[str, Field]
    embedders: Mapping[str, Embedder]
    target: FieldType | None


def inputs_of(node: Node) -> set[str]:
    """The fields that ``node`` reads."""
    own = {str(node.args[0])} if node.op == "input" and node.args else set()
    return own.union(*(inputs_of(each) for each in node.parts))


def uses(node: Node, op: str) -> bool:
    """Whether ``op`` is anywhere in ``node``."""
    return node.op == op or any(uses(each, op) for each in node.parts)


def has_embed(node: Node) -> bool:
    """Whether ``node`` runs an embedder."""
    return uses(node, "embed")


def embed_target(after: tuple[Node, ...], target: FieldType | None) -> FieldType | None:
    """The type that ``embed`` makes when the expressions ``after`` it turn that into ``target``."""
    packs = any(each.op == "pack_bits" for each in after)
    if packs and target is not None and target.tensor is not None and len(target.tensor.indexed) == 1:
        return FieldType("tensor", tensor=unpacked(target.tensor))
    return target


def infer(node: Node, given: FieldType | None, scope: Scope) -> FieldType:
    """The type of ``node`` for the current value's type ``given``. Raises ``ExpressionError``."""
    match node.op:
        case "pipe":
            for place, part in enumerate(node.parts):
                given = infer(part, given, replace(scope, target=embed_target(node.parts[place + 1 :], scope.target)))
            assert given is not None
            return given
        case "constant":
            return FieldType({str: "string", bool: "bool", int: "int", float: "double"}[type(node.args[0])])
        case "now":
            return FieldType("long")
        case "input":
            return scope.fields[str(node.args[0])].type
        case "cat":
            return _cat([infer(part, given, scope) for part in node.parts])
        case "choice":
            types = [infer(part, given, scope) for part in node.parts]
            if len(set(types)) > 1:
                raise ExpressionError(f"the choices of '{node}' have different types: {', '.join(map(str, types))}")
            return types[0]
    if given is None:
        raise ExpressionError(f"'{node}' has no value to work on")
    return _step(node, given, scope)


def _cat(types: list[FieldType]) -> FieldType:
    if types[0].element is not None and all(each == types[0] for each in types):
        return types[0]
    for each in types:
        if each.kind not in ("string", "int", "long", "bool"):
            raise ExpressionError(f"concatenating {each} is not supported by the local engine")
    return STRING


def _step(node: Node, given: FieldType, scope: Scope) -> FieldType:
    match node.op:
        case "this":
            return given
        case "for_each":
            if given.element is None or given.kind != "array":
                raise ExpressionError(f"for_each over {given} is not supported by the local engine: only arrays are")
            return FieldType("array", infer(node.parts[0], given.element, replace(scope, target=None)))
        case "to_array":
            return FieldType("array", given)
        case "binarize" | "pack_bits":
            return _bits(node, given)
        case "embed":
            return _embed(node, given, scope)
    wanted, result = _STRING_STEPS.get(node.op, (_SCALARS, node.op.removeprefix("to_")))
    shown = str(given) if given.kind == "array" else given.kind
    if shown not in wanted:
        raise ExpressionError(f"'{node}' takes {' or '.join(sorted(wanted))}, not {given}")
    if node.op == "split":
        compile_pattern(str(node.args[0]))
        return FieldType("array", STRING)
    return FieldType(result)


_TEXT = frozenset(["string"])
_STRING_STEPS: Mapping[str, tuple[frozenset[str], str]] = {
    **dict.fromkeys(["lowercase", "trim", "normalize", "substring", "split"], (_TEXT, "string")),
    "join": (frozenset(["array<string>"]), "string"),
    "to_string": (frozenset(["string", "int", "long", "bool"]), "string"),
}


def _bits(node: Node, given: FieldType) -> FieldType:
    tensor = given.tensor
    if tensor is None:
        raise ExpressionError(f"'{node}' takes a tensor, not {given}")
    if node.op == "binarize":
        return given
    if len(tensor.indexed) != 1:
        raise ExpressionError(f"'{node}' takes a tensor with one indexed dimension, not {tensor}")
    dimensions = tuple(d if d.size is None else Dimension(d.name, -(-d.size // 8)) for d in tensor.dimensions)
    return FieldType("tensor", tensor=TensorType(dimensions, "int8"))


def _embed(node: Node, given: FieldType, scope: Scope) -> FieldType:
    choose(scope.embedders, str(node.args[0]) if node.args else "")
    if len(node.args) > 1:
        raise ExpressionError(f"'{node}': a dimension for embed is not supported by the local engine")
    target = scope.target.tensor if scope.target is not None else None
    if target is None or len(target.indexed) != 1 or len(target.mapped) > 1:
        raise ExpressionError(
            f"'{node}' makes a tensor with one indexed dimension, and at most one mapped, not {scope.target}"
        )
    wanted = "array<string>" if target.mapped else "string"
    if str(given) != wanted:
        raise ExpressionError(f"'{node}' to {target} takes {wanted}, not {given}")
    return FieldType("tensor", tensor=target)
