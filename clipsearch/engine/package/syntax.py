"""Schema text to plain syntax nodes: what is written, where, and nothing yet about what it means."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lark import Lark, Token, Tree, UnexpectedInput

from clipsearch.engine.grammars import lalr
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import PackageError

# Constructs that Vespa knows and the local engine does not: they are named as such, not called a mistake.
UNSUPPORTED = frozenset(
    ["struct", "struct-field", "annotation", "import", "onnx-model", "index", "rank", "rank-type", "alias", "sorting"]
) | {"match-phase", "diversity", "mutate", "model", "significance", "weakand", "weight", "rank-profile"}
_PIECE = re.compile(r"\"[^\"]*\"|#.*|[\w-]+|[{};:]")


# lark's trees hold trees and tokens alike; which it is, the grammar says.
Node: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Setting:
    """``word``, ``word: value, value`` or ``word { settings }``."""

    word: str
    line: int
    values: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeSyntax:
    """A type as written: ``name`` is "tensor(...)" in full for tensors."""

    name: str
    arguments: tuple[TypeSyntax, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldSyntax:
    """One ``field`` block; ``indexing`` is its statements' text, None when there is none, from ``indexing_line`` on."""

    name: str
    type: TypeSyntax
    line: int
    indexing: str | None
    settings: tuple[Setting, ...]
    in_document: bool
    indexing_line: int = 0


@dataclass(frozen=True, slots=True)
class SummarySyntax:
    """One ``document-summary`` block: (output name, settings) pairs in ``fields``."""

    name: str
    line: int
    inherits: tuple[str, ...]
    fields: tuple[Setting, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class FunctionSyntax:
    """One ``function``; ``expression`` is its text without comments."""

    name: str
    arguments: tuple[str, ...]
    expression: str


@dataclass(frozen=True, slots=True)
class PhaseSyntax:
    """One phase block; ``expression`` None when only settings are given."""

    expression: str | None
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class ConstantSyntax:
    """A constant whose value lies in a file of the package; ``type`` is "" when none is given."""

    name: str
    line: int
    type: str
    settings: tuple[Setting, ...]


@dataclass(slots=True)
class ProfileSyntax:
    """One ``rank-profile`` block; ``features`` maps match/summary to (inherited profile or "", feature list)."""

    name: str
    file: str
    line: int
    inherits: tuple[str, ...]
    inputs: list[tuple[str, str, str, int]] = field(default_factory=list)
    constants: dict[str, str | Tensor] = field(default_factory=dict)
    functions: dict[str, FunctionSyntax] = field(default_factory=dict)
    phases: dict[str, PhaseSyntax] = field(default_factory=dict)
    features: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)
    constant_files: list[ConstantSyntax] = field(default_factory=list)


@dataclass(slots=True)
class SchemaSyntax:
    """One .sd file."""

    name: str
    file: str
    line: int
    inherits: tuple[str, ...]
    document: str | None = None
    document_inherits: tuple[str, ...] = ()
    fields: list[FieldSyntax] = field(default_factory=list)
    fieldsets: list[tuple[str, int, tuple[Setting, ...]]] = field(default_factory=list)
    summaries: list[SummarySyntax] = field(default_factory=list)
    profiles: list[ProfileSyntax] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    document_settings: list[Setting] = field(default_factory=list)
    constant_files: list[ConstantSyntax] = field(default_factory=list)


@functools.cache
def _parser() -> Lark:
    return lalr(Path(__file__).with_name("schema.lark"), start=["schema_file", "profile_file"])


def parse_schema(text: str, file: str) -> SchemaSyntax:
    """The schema in ``text``. Raises ``PackageError`` with file, line and what could not be read."""
    tree = _parse(text, file, "schema_file")
    name, inherits, *items = tree.children
    schema = SchemaSyntax(_name(name), file, _line(name), _names(inherits))
    for item in items:
        _add(schema, item, file)
    return schema


def parse_profile(text: str, file: str) -> ProfileSyntax:
    """The one rank profile of a .profile file. Raises ``PackageError``.

    As Vespa's parser, it takes nothing, not even a comment, before "rank-profile".
    """
    if not re.match(r"[ \t]*(?:rank-profile|model)\b", text):
        raise PackageError(
            "the file must begin with 'rank-profile': Vespa takes no comment or empty line before it", file=file, line=1
        )
    return _profile(_parse(text, file, "profile_file").children[0], file)


def _parse(text: str, file: str, start: str) -> Node:
    try:
        return _parser().parse(text, start=start)
    except UnexpectedInput as error:
        raise _refusal(error, text, file) from None


def _refusal(error: UnexpectedInput, text: str, file: str) -> PackageError:
    lines = text.split("\n")
    line = error.line if error.line and error.line > 0 else len(lines)
    content = lines[line - 1]
    column = max(error.column - 1, 0)
    before = re.search(r"[\w-]*$", content[:column])
    word = (before[0] if before else "") + (re.match(r"[\w-]*", content[column:]) or [""])[0]
    first = re.match(r"\s*([\w-]+)", content)
    candidates = [(first[1], line)] if first is not None and first[1] != "rank-profile" else []
    if content[column : column + 1] == "$" and (named := re.search(r"[\w$-]*$", content[: column + 1])):
        message = f"the name '{named[0]}' is not supported by the local engine: '$' in a name is not"
        return PackageError(message, file=file, line=line)
    for construct, place in (*candidates, *_enclosing(lines[: line - 1])):
        if construct in UNSUPPORTED:
            return PackageError(f"'{construct}' is not supported by the local engine", file=file, line=place)
    if isinstance(token := getattr(error, "token", None), Token) and token.type == "$END":
        return PackageError("the file ends inside a block: a '}' is missing", file=file, line=len(lines))
    found = word or content[column : column + 1]
    return PackageError(f"'{found}' is not expected in '{content.strip()}'", file=file, line=line)


def _enclosing(lines: list[str]) -> list[tuple[str, int]]:
    """The blocks still open after ``lines``, innermost first: (first word, line)."""
    opened: list[tuple[str, int]] = []
    for number, text in enumerate(lines, 1):
        name = ""  # the first word since a block, a string or a separator
        for piece in _PIECE.findall(text):
            if piece == "{":
                opened.append((name, number))
            elif piece == "}":
                del opened[-1:]
            name = (name or piece) if piece[0] not in '{};:"#' else ""
    inside = [each for each in reversed(opened) if each[0] not in ("rank-profile", "index", "rank")]
    return inside + [each for each in opened if each[0] == "rank-profile"][1:]


def _add(schema: SchemaSyntax, item: Node, file: str) -> None:
    match item.data:
        case "document":
            if schema.document is not None:
                raise PackageError("a schema has one document", file=file, line=_line(item))
            name, inherits, *fields = item.children
            schema.document = _name(name) if name is not None else schema.name
            schema.document_inherits = _names(inherits)
            schema.fields += [_field(each, in_document=True) for each in fields if each.data == "field"]
            schema.document_settings += _settings(each for each in fields if each.data != "field")
        case "field":
            schema.fields.append(_field(item, in_document=False))
        case "fieldset":
            name, *settings = item.children
            schema.fieldsets.append((_name(name), _line(name), _settings(settings)))
        case "document_summary":
            schema.summaries.append(_summary(item))
        case "rank_profile":
            schema.profiles.append(_profile(item, file))
        case "constant_file":
            schema.constant_files.append(_constant_file(item))
        case _:
            schema.settings.append(_setting(item))


def _field(tree: Node, in_document: bool) -> FieldSyntax:
    name, kind, *items = tree.children
    written = [item for item in items if isinstance(item, Token)]
    indexing = [_body(item) for item in written]
    settings = _settings(item for item in items if isinstance(item, Tree))
    statements = " ; ".join(indexing) if indexing else None
    line = _line(written[0]) if written else 0
    return FieldSyntax(_name(name), _type(kind), _line(name), statements, settings, in_document, line)


def _type(tree: Node) -> TypeSyntax:
    if tree.data == "tensor_type":
        return TypeSyntax(str(tree.children[0]))
    name, *arguments = tree.children
    return TypeSyntax(_name(name), tuple(_type(each) for each in arguments if each is not None))


def _summary(tree: Node) -> SummarySyntax:
    name, inherits, *items = tree.children
    fields = []
    for item in (each for each in items if each.data == "summary"):
        output, _, *settings = item.children
        fields.append(Setting(_name(output), _line(output), settings=_settings(settings)))
    settings = _settings(each for each in items if each.data != "summary")
    return SummarySyntax(_name(name), _line(name), _names(inherits), tuple(fields), settings)


def _profile(tree: Node, file: str) -> ProfileSyntax:
    name, inherits, *items = tree.children
    profile = ProfileSyntax(_name(name), file, _line(name), _names(inherits))
    for item in items:
        if isinstance(item, Token):
            _add_text(profile, item)
        elif item.data == "function":
            _add_function(profile, item)
        elif item.data == "inputs":
            profile.inputs += [_input(each) for each in item.children]
        elif item.data == "constants":
            for constant in item.children:
                _add_constant(profile, constant)
        elif item.data == "constant_file":
            profile.constant_files.append(_constant_file(item))
        elif item.data == "phase":
            expressions = [_body(each) for each in item.children[1:] if isinstance(each, Token)]
            settings = _settings(each for each in item.children[1:] if isinstance(each, Tree))
            profile.phases[str(item.children[0])] = PhaseSyntax(expressions[-1] if expressions else None, settings)
        else:
            profile.settings.append(_setting(item))
    return profile


def _add_text(profile: ProfileSyntax, token: Token) -> None:
    """``match-features``, ``summary-features`` and ``rank-properties``; ``rank-features`` only widens a debug dump."""
    if token.type == "RANK_PROPERTIES":
        for pair in filter(None, (line.strip() for line in _body(token).split("\n"))):
            key, separator, value = pair.partition(":")
            if not separator:
                raise PackageError(
                    f"rank-properties: '{pair}' is not 'name: value'", file=profile.file, line=_line(token)
                )
            profile.properties[key.strip().strip("\"'")] = value.strip().strip("\"'")
        return
    head = re.match(r"(\w+)-features(?:\s+inherits\s+([\w-]+))?", token)
    if head is not None and head[1] != "rank":
        profile.features[head[1]] = (head[2] or "", split_features(_body(token)))


def _add_constant(profile: ProfileSyntax, tree: Node) -> None:
    name, kind, value = tree.children
    type_ = str(kind.children[0]) if kind is not None else ""
    if value.type == "CONSTANT_PATH":
        path = Setting("file", _line(name), (value.partition(":")[2].strip().strip("\"'"),))
        profile.constant_files.append(ConstantSyntax(_argument(name), _line(name), type_, (path,)))
    else:
        profile.constants[_argument(name)] = f"{type_}:{value}" if type_.startswith("tensor") else str(value)


def _constant_file(tree: Node) -> ConstantSyntax:
    name, *items = tree.children
    kinds = [str(item.children[1]) for item in items if item.data == "constant_type"]
    settings = _settings(item for item in items if item.data != "constant_type")
    return ConstantSyntax(_argument(name), _line(name), "".join(kinds), settings)


def _add_function(profile: ProfileSyntax, tree: Node) -> None:
    _, name, parameters, expression = tree.children
    if _name(name) in profile.functions:
        raise PackageError(f"function '{_name(name)}' is defined twice", file=profile.file, line=_line(name))
    profile.functions[_name(name)] = FunctionSyntax(_name(name), _names(parameters), _body(expression))


def _input(tree: Node) -> tuple[str, str, str, int]:
    name, kind, literal = tree.children
    return _argument(name), str(kind.children[0]) if kind else "double", str(literal or ""), _line(name)


def split_features(text: str) -> tuple[str, ...]:
    """A feature list, separated by white space, in canonical form: no white space inside a feature, no repeats."""
    features, depth, current = [], 0, ""
    for character in text + " ":
        if character.isspace():
            if depth == 0 and current:
                features.append(current)
                current = ""
            continue
        depth += {"(": 1, ")": -1}.get(character, 0)
        current += character
    if current:
        features.append(current)
    return tuple(dict.fromkeys(features))


def _body(token: Token) -> str:
    """The text after "word:" or inside "word { }", without comments."""
    text = re.sub(r"\"[^\"\n]*\"|#[^\n]*", lambda m: m[0] if m[0].startswith('"') else "", str(token))
    head = re.match(r"[\w-]+(?:\s+inherits\s+[\w-]+)?\s*", text)
    text = text[head.end() :] if head else text
    return (text[1 : text.rindex("}")] if text.startswith("{") else text[1:]).strip()


def _argument(token: Token) -> str:
    """``name`` of both ``query(name)`` and ``name``."""
    return re.sub(r"^\w+\s*\(\s*|\s*\)$", "", str(token)) if "(" in token else str(token)


def _settings(trees: Iterable[Any]) -> tuple[Setting, ...]:
    return tuple(_setting(tree) for tree in trees)


def _setting(tree: Node) -> Setting:
    word, *rest = tree.children
    if tree.data == "block":
        return Setting(str(word), _line(word), settings=_settings(rest))
    values = (str(each.children[0]).strip("\"'") for each in rest if each is not None)
    return Setting(str(word), _line(word), tuple(values))


def _name(tree: Node) -> str:
    return str(tree.children[0])


def _names(tree: Node | None) -> tuple[str, ...]:
    return tuple(_name(each) for each in tree.children) if tree is not None else ()


def _line(node: Node | Token) -> int:
    while isinstance(node, Tree):
        node = next(child for child in node.children if child is not None)
    return node.line or 0
