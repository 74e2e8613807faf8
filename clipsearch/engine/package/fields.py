"""One field's syntax to a ``Field``: its type, its indexing statements, its match and index settings.

Source: Vespa's schema reference, and the order of its indexing processors where a default depends on several settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from clipsearch.engine.embedding import Embedder
from clipsearch.engine.package.indexing import Indexing, Scope, infer, inputs_of, parse_indexing, parse_source, uses
from clipsearch.engine.package.model import Field, FieldType
from clipsearch.engine.package.syntax import FieldSyntax, Setting, TypeSyntax
from clipsearch.engine.tensors.types import parse_type
from clipsearch.errors import ExpressionError, PackageError

SCALARS = frozenset(["string", "byte", "int", "long", "float", "double", "bool", "raw"])
METRICS = frozenset(["euclidean", "angular", "prenormalized-angular", "dotproduct", "hamming", "geodegrees"])
STEMMING = frozenset(["none", "best", "shortest", "multiple"])
_RESERVED = frozenset(["index", "index_bundle", "select-input", "where", "documentid", "sddocname", "attribute"])
# Settings that change speed or memory in Vespa, never an answer.
_HARMLESS = frozenset(["fast-access", "fast-rank", "paged", "mutable", "id", "dense-posting-list-threshold"])
_NO_EFFECT = frozenset([("bolding", "off"), ("bolding", "false"), ("summary", "full"), ("summary", "static")])


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
        allowed = SCALARS - {"raw", "bool"} if syntax.name == "array" else {"string", "byte", "int", "long"}
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
        if self.base in ("byte", "int", "long") and indexing.index:
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
            source="" if indexing.source is None else str(indexing.source),
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
        try:
            return parse_indexing(text, self.syntax.name, self.syntax.in_document)
        except ExpressionError as error:
            raise self.fail(str(error), self.syntax.indexing_line) from error

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
        elif word == "dictionary":
            self._dictionary(setting)
        elif word not in _HARMLESS and (word, *setting.values) not in _NO_EFFECT:
            raise self._unsupported(setting)

    def _dictionary(self, setting: Setting) -> None:
        """Which structure a dictionary is changes no answer; its case must be that of matching."""
        for value in setting.values or tuple(each.word for each in setting.settings):
            cased = {"cased": True, "uncased": False}.get(value, self.cased_match)
            if value not in ("btree", "hash", "cased", "uncased") or cased != self.cased_match:
                raise self._unsupported(setting)

    @property
    def cased_match(self) -> bool:
        """Whether ``match`` says cased, before or after."""
        return any(each.word == "cased" for each in _inner(self.syntax.settings, "match"))

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
        inputs = inputs_of(indexing.source) if indexing.source is not None else set()
        if built.in_document and inputs - {built.name}:
            raise self.fail("a document field takes its own value: put the field outside the document")
        if not built.in_document and indexing.source is not None and uses(indexing.source, "now"):
            raise self.fail(
                "'now' outside of the document is not supported by the local engine, which keeps fed values only: "
                "put the field into the document"
            )
        shown = built.attribute or built.index or built.summary
        if shown and not built.in_document and not built.language and not inputs:
            raise self.fail("a field outside the document needs 'input <field>' in its indexing")

    def _check_tensor(self, built: Field) -> None:
        tensor = built.type.tensor
        if tensor is None or not built.index:
            return
        if len(tensor.indexed) != 1 or len(tensor.mapped) > 1:
            raise self.fail(f"{tensor} cannot have an index: only one indexed dimension, with at most one mapped, can")
        if not built.attribute:
            raise self.fail("a tensor with an index must also be an attribute")


def check_sources(fields: Mapping[str, Field], embedders: Mapping[str, Embedder], file: str) -> None:
    """Raises ``PackageError`` when an indexing statement takes what is no document field, or its type does not fit."""
    for built in (each for each in fields.values() if each.source):
        source = parse_source(built.source)
        problem = ""
        for name in sorted(inputs_of(source)):
            if name not in fields or not fields[name].in_document:
                problem = f"'input {name}' is not a document field"
        try:
            if not problem:
                made = infer(source, None, Scope(fields, embedders, built.type))
                if made != built.type:
                    problem = f"the result of '{source}', {made}, does not fit {built.type}"
        except ExpressionError as error:
            problem = str(error)
        if problem:
            raise PackageError(f"field '{built.name}': {problem}", file=file, line=built.line)


def _inner(settings: tuple[Setting, ...], word: str) -> Iterator[Setting]:
    for setting in settings:
        if setting.word == word:
            yield from setting.settings or (Setting(value, setting.line) for value in setting.values)
