"""One field's syntax to a ``Field``: its type, its indexing statements, its match and index settings.

Source: Vespa's schema reference, and the order of its indexing processors where a default depends on several settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from clipsearch.engine.package.model import Field, FieldType
from clipsearch.engine.package.syntax import FieldSyntax, Setting, TypeSyntax
from clipsearch.engine.tensors.types import parse_type
from clipsearch.errors import ExpressionError, PackageError

SCALARS = frozenset(["string", "int", "long", "float", "double", "bool", "raw"])
METRICS = frozenset(["euclidean", "angular", "prenormalized-angular", "dotproduct", "hamming", "geodegrees"])
STEMMING = frozenset(["none", "best", "shortest", "multiple"])
_RESERVED = frozenset(["index", "index_bundle", "select-input", "where", "documentid", "sddocname", "attribute"])
# Settings that change speed or memory in Vespa, never an answer.
_HARMLESS = frozenset(["fast-access", "fast-rank", "paged", "mutable", "id", "dense-posting-list-threshold"])
_NO_EFFECT = frozenset(
    [("bolding", "off"), ("bolding", "false"), ("summary", "full"), ("summary", "static"), ("dictionary", "btree")]
) | {("dictionary", "hash")}


@dataclass(slots=True)
class Indexing:
    """What indexing statements ask for. ``pipeline`` is the source of a field outside the document, as written."""

    attribute: bool = False
    index: bool = False
    summary: bool = False
    language: str = ""
    inputs: list[str] = field(default_factory=list)
    pipeline: str = ""


def build_type(syntax: TypeSyntax, file: str, line: int) -> FieldType:
    """The type as the engine holds it. Raises ``PackageError`` for a type that it does not have."""
    if syntax.name.startswith("tensor"):
        try:
            return FieldType("tensor", tensor=parse_type(syntax.name))
        except (ExpressionError, ValueError) as error:
            raise PackageError(str(error), file=file, line=line) from error
    if syntax.name in SCALARS and not syntax.arguments:
        return FieldType(syntax.name)
    if syntax.name in ("array", "weightedset") and len(syntax.arguments) == 1:
        element = build_type(syntax.arguments[0], file, line)
        allowed = SCALARS - {"raw", "bool"} if syntax.name == "array" else {"string", "int", "long"}
        if element.kind in allowed:
            return FieldType(syntax.name, element)
        raise PackageError(f"'{syntax.name}<{element}>' is not supported by the local engine", file=file, line=line)
    raise PackageError(f"field type '{syntax.name}' is not supported by the local engine", file=file, line=line)


def build_field(syntax: FieldSyntax, file: str, stemming: str) -> Field:
    """``syntax`` as a checked ``Field``. ``stemming`` is the schema's own setting. Raises ``PackageError``."""
    return _Builder(syntax, file, stemming).build()


class _Builder:
    def __init__(self, syntax: FieldSyntax, file: str, stemming: str) -> None:
        self.syntax = syntax
        self.file = file
        self.type = build_type(syntax.type, file, syntax.line)
        self.values: dict[str, str | bool | int] = {"stemming": stemming, "normalizing": True}

    def fail(self, message: str, line: int = 0) -> PackageError:
        return PackageError(f"field '{self.syntax.name}': {message}", file=self.file, line=line or self.syntax.line)

    def build(self) -> Field:
        if self.syntax.name.lower() in _RESERVED:
            raise self.fail(f"'{self.syntax.name}' is a reserved name")
        indexing = self._indexing(self.syntax.indexing or "")
        for setting in self.syntax.settings:
            self._setting(setting)
        if self.base in ("int", "long") and indexing.index:
            indexing.index, indexing.attribute = False, True  # Vespa: numbers have no index, the attribute serves
        if "match" not in self.values:
            self.values["match"] = "text" if indexing.index or not indexing.attribute else "word"
        built = Field(
            name=self.syntax.name,
            type=self.type,
            attribute=indexing.attribute,
            index=indexing.index,
            summary=indexing.summary,
            hnsw=indexing.index and self.type.kind == "tensor",
            in_document=self.syntax.in_document,
            language=indexing.language,
            source=indexing.pipeline,
            line=self.syntax.line,
            **self.values,  # type: ignore[arg-type]  # keys and types are those that _setting put in
        )
        self._check(built, indexing)
        return built

    @property
    def base(self) -> str:
        """The kind of the values themselves: of the elements, for arrays and weighted sets."""
        return self.type.element.kind if self.type.element else self.type.kind

    def _indexing(self, text: str) -> Indexing:
        result = Indexing()
        for statement in _split(text, ";"):
            steps = _split(statement, "|")
            transforms = [step for step in steps if self._step(step, steps, result)]
            if transforms and not self.syntax.in_document:
                result.pipeline = " | ".join(transforms)
            elif any(not step.startswith(("input ", '"')) for step in transforms):
                raise self.fail(f"'{transforms[-1]}' is supported only in a field outside the document")
        return result

    def _step(self, step: str, steps: list[str], result: Indexing) -> bool:
        """Take one step of a statement in; returns whether it is part of the value's source."""
        word, _, argument = step.partition(" ")
        if word in ("attribute", "index", "summary"):
            if argument and argument.strip() != self.syntax.name:
                raise self.fail(f"'{step}' writes another field: give that field its own 'input {self.syntax.name}'")
            setattr(result, word, True)
            return False
        if word == "set_language":
            constant = re.fullmatch(r'"([\w-]*)"', steps[0])
            if constant is None or steps.index(step) != 1:
                raise self.fail("set_language is supported only as '\"en\" | set_language'")
            if constant[1].split("-")[0] != "en":
                raise self.fail(f"language '{constant[1]}' is not supported by the local engine: only English is")
            result.language = constant[1]
            return False
        if word == "input" and re.fullmatch(r"\w+", argument.strip()):
            result.inputs.append(argument.strip())
            return True
        if step.startswith('"'):
            if steps[1:2] != ["set_language"]:
                raise self.fail(f"constant {step} is supported only before set_language")
            return False
        if re.fullmatch(r"pack_bits|binarize(\s+-?[\d.]+)?", step):
            return True
        raise self.fail(f"indexing '{word}' is not supported by the local engine")

    def _setting(self, setting: Setting) -> None:
        word = setting.word
        if word in ("attribute", "index", "match", "rank"):
            inner = setting.settings or tuple(Setting(value, setting.line) for value in setting.values)
            if setting.settings == () and len(setting.values) == 1 and word == "index":
                inner = (Setting(setting.values[0], setting.line),)
            for each in inner:
                getattr(self, f"_{word}")(each)
        elif word == "stemming" and setting.values[:1] and setting.values[0] in STEMMING:
            self.values["stemming"] = setting.values[0]
        elif word == "normalizing" and setting.values in (("none",), ("accent",)):
            self.values["normalizing"] = setting.values[0] != "none"
        elif word not in _HARMLESS and (word, *setting.values) not in _NO_EFFECT:
            raise self._unsupported(setting)

    def _unsupported(self, setting: Setting, inside: str = "") -> PackageError:
        text = setting.word + (f": {', '.join(setting.values)}" if setting.values else "")
        return self.fail(f"{inside}'{text}' is not supported by the local engine", setting.line)

    def _attribute(self, setting: Setting) -> None:
        if setting.word == "fast-search":
            self.values["fast_search"] = True
        elif setting.word == "distance-metric":
            metric = setting.values[0] if setting.values else ""
            if metric not in METRICS:
                raise self.fail(f"unknown distance metric '{metric}'", setting.line)
            self.values["distance_metric"] = metric
        elif setting.word not in _HARMLESS:
            raise self._unsupported(setting, "attribute setting ")

    def _index(self, setting: Setting) -> None:
        if setting.word == "enable-bm25":
            self.values["bm25"] = True
        elif setting.word == "hnsw":
            for each in setting.settings:
                self._hnsw(each)
        elif setting.word == "stemming" and setting.values and setting.values[0] in STEMMING:
            self.values["stemming"] = setting.values[0]
        elif setting.word not in _HARMLESS:
            raise self._unsupported(setting, "index setting ")

    def _hnsw(self, setting: Setting) -> None:
        names = {"max-links-per-node": "hnsw_max_links", "neighbors-to-explore-at-insert": "hnsw_explore_at_insert"}
        if setting.word in names and setting.values and re.fullmatch(r"[0-9]{1,9}", setting.values[0]):
            self.values[names[setting.word]] = int(setting.values[0])
        elif setting.word != "multi-threaded-indexing":
            raise self._unsupported(setting, "hnsw setting ")

    def _match(self, setting: Setting) -> None:
        if setting.word in ("text", "token", "word", "exact"):
            self.values["match"] = "text" if setting.word == "token" else setting.word
            if setting.word == "exact":
                self.values["rank_filter"] = True
        elif setting.word in ("cased", "uncased"):
            self.values["cased"] = setting.word == "cased"
        else:
            raise self._unsupported(setting, "match setting ")

    def _rank(self, setting: Setting) -> None:
        if setting.word == "filter":
            self.values["rank_filter"] = True
        elif setting.word != "normal":
            raise self._unsupported(setting, "rank setting ")

    def _check(self, built: Field, indexing: Indexing) -> None:
        if built.type.kind == "tensor":
            self._check_tensor(built)
        elif built.index and self.base != "string":
            raise self.fail(f"type {built.type} cannot have an index: use attribute")
        elif built.distance_metric or any(s.word == "hnsw" for s in _inner(self.syntax.settings, "index")):
            raise self.fail("distance-metric and hnsw are for tensor fields")
        if built.bm25 and not (built.index and self.base == "string"):
            raise self.fail("enable-bm25 needs a string field with 'indexing: index'")
        if built.type.kind == "weightedset" and built.index:
            raise self.fail("a weightedset with an index is not supported by the local engine: use attribute")
        if built.in_document and any(name != built.name for name in indexing.inputs):
            raise self.fail("a document field takes its own value: put the field outside the document")
        if not built.in_document and not built.language and not indexing.inputs:
            raise self.fail("a field outside the document needs 'input <field>' in its indexing")

    def _check_tensor(self, built: Field) -> None:
        tensor = built.type.tensor
        if tensor is None or not built.index:
            return
        if len(tensor.indexed) != 1 or len(tensor.mapped) > 1:
            raise self.fail(f"{tensor} cannot have an index: only one indexed dimension, with at most one mapped, can")
        if not built.attribute:
            raise self.fail("a tensor with an index must also be an attribute")


def check_sources(fields: Mapping[str, Field], file: str) -> None:
    """Raises ``PackageError`` when a field outside the document takes what is no document field, or does not fit."""
    for built in fields.values():
        for name in re.findall(r"\binput (\w+)", built.source):
            if name not in fields or not fields[name].in_document:
                raise PackageError(
                    f"field '{built.name}': 'input {name}' is not a document field", file=file, line=built.line
                )
            _check_bits(built, fields[name], file)


def _check_bits(built: Field, source: Field, file: str) -> None:
    """The result of binarize and pack_bits must have the type of the field that it goes to."""
    given, wanted = source.type.tensor, built.type.tensor
    if "binarize" not in built.source and "pack_bits" not in built.source:
        if built.type != source.type:
            message = f"field '{built.name}': {source.type} from '{source.name}' does not fit {built.type}"
            raise PackageError(message, file=file, line=built.line)
        return
    packed = "pack_bits" in built.source
    fits = given is not None and wanted is not None and given.mapped == wanted.mapped
    if fits and given is not None and wanted is not None:
        factor = 8 if packed else 1
        sizes = [-(-size // factor) for size in given.shape[-1:]]
        fits = [*given.shape[:-1], *sizes] == list(wanted.shape) and wanted.cell == ("int8" if packed else given.cell)
    if not fits:
        message = f"field '{built.name}': the result of '{built.source}' does not fit {built.type}"
        raise PackageError(message, file=file, line=built.line)


def _inner(settings: tuple[Setting, ...], word: str) -> Iterator[Setting]:
    for setting in settings:
        if setting.word == word:
            yield from setting.settings or (Setting(value, setting.line) for value in setting.values)


def _split(text: str, separator: str) -> list[str]:
    """Parts between ``separator`` outside quotes, stripped, empty ones left out."""
    parts = re.findall(rf'(?:"[^"]*"|[^"{re.escape(separator)}])+', text)
    return [part for part in (" ".join(each.split()) for each in parts) if part]
