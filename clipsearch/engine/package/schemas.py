"""Parsed schema files to ``Schema`` objects: inheritance between schemas resolved, references between parts checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from clipsearch.engine.embedding import Embedder
from clipsearch.engine.package.constants import read_constant
from clipsearch.engine.package.fields import STEMMING, build_field, check_sources
from clipsearch.engine.package.model import Field, RankProfile, Schema, SummaryClass
from clipsearch.engine.package.profiles import resolve_profiles
from clipsearch.engine.package.syntax import (
    ProfileSyntax,
    SchemaSyntax,
    Setting,
    SummarySyntax,
    parse_profile,
    parse_schema,
)
from clipsearch.engine.tensors import Tensor
from clipsearch.errors import PackageError

# What a summary class may hold besides the schema's own fields.
_BUILTIN_SOURCES = frozenset(["documentid", "sddocname"])


@dataclass(slots=True)
class _Loaded:
    """One schema's own parts, with those that it inherits below them."""

    fields: dict[str, Field]
    fieldsets: dict[str, tuple[str, ...]]
    summaries: dict[str, SummarySyntax]
    summary_files: dict[str, str]
    profiles: dict[str, ProfileSyntax]
    inherited_profiles: dict[str, ProfileSyntax] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)


def load_schemas(files: Mapping[str, bytes], embedders: Mapping[str, Embedder] | None = None) -> dict[str, Schema]:
    """Every ``schemas/*.sd`` with its ``schemas/<name>/*.profile`` files, by name. Raises ``PackageError``.

    ``embedders``: those of services.xml, which ``embed`` in an indexing statement may name.
    """
    syntaxes: dict[str, SchemaSyntax] = {}
    for path in sorted(files):
        if not re.fullmatch(r"(?:schemas|searchdefinitions)/[^/]+\.sd", path):
            continue
        syntax = parse_schema(_text(files, path), path)
        if syntax.name != PurePosixPath(path).stem:
            raise PackageError(
                f"the file of schema '{syntax.name}' must be named '{syntax.name}.sd'", file=path, line=1
            )
        if syntax.document not in (None, syntax.name):
            message = f"the document of schema '{syntax.name}' must have its name, not '{syntax.document}'"
            raise PackageError(message, file=path, line=syntax.line)
        syntax.profiles += _profile_files(files, PurePosixPath(path).with_suffix(""))
        syntaxes[syntax.name] = syntax
    _refuse_stray_profiles(files, syntaxes)
    loader = _Loader(syntaxes, embedders or {}, files)
    return {name: loader.schema(name) for name in syntaxes}


def _profile_files(files: Mapping[str, bytes], folder: PurePosixPath) -> list[ProfileSyntax]:
    paths = sorted(path for path in files if path.startswith(f"{folder}/") and path.endswith(".profile"))
    return [parse_profile(_text(files, path), path) for path in paths]


def _refuse_stray_profiles(files: Mapping[str, bytes], syntaxes: Mapping[str, SchemaSyntax]) -> None:
    for path in sorted(files):
        match = re.match(r"schemas/([^/]+)/.+\.profile$", path)
        if match is not None and match[1] not in syntaxes:
            raise PackageError(f"there is no schema '{match[1]}' for this rank profile", file=path)


def _text(files: Mapping[str, bytes], path: str) -> str:
    try:
        return files[path].decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackageError(f"not UTF-8 text: {error}", file=path) from error


class _Loader:
    def __init__(
        self, syntaxes: Mapping[str, SchemaSyntax], embedders: Mapping[str, Embedder], files: Mapping[str, bytes]
    ) -> None:
        self.syntaxes = syntaxes
        self.embedders = embedders
        self.files = files
        self.loaded: dict[str, _Loaded] = {}

    def schema(self, name: str) -> Schema:
        syntax, loaded = self.syntaxes[name], self._load(name, ())
        if syntax.document is None and not loaded.fields:
            raise PackageError(f"schema '{name}' has no document", file=syntax.file, line=syntax.line)
        check_sources(loaded.fields, self.embedders, syntax.file)
        self._check_fieldsets(syntax, loaded)
        profiles = resolve_profiles(loaded.profiles, loaded.inherited_profiles)
        for profile in profiles.values():
            _check_profile(profile, loaded.fields)
        return Schema(name, loaded.fields, loaded.fieldsets, _summaries(loaded), profiles, self.embedders)

    def _load(self, name: str, path: tuple[str, ...]) -> _Loaded:
        if name in self.loaded:
            return self.loaded[name]
        syntax = self.syntaxes[name]
        loaded = _Loaded({}, {}, {}, {}, {})
        for parent in dict.fromkeys((*syntax.inherits, *syntax.document_inherits)):
            if parent in (*path, name):
                raise PackageError(f"schema '{name}' inherits itself", file=syntax.file, line=syntax.line)
            if parent not in self.syntaxes:
                message = f"schema '{name}' inherits '{parent}', which is not in the application"
                raise PackageError(message, file=syntax.file, line=syntax.line)
            if parent not in syntax.document_inherits:
                message = f"schema '{name}' inherits '{parent}', but its document does not inherit '{parent}'s document"
                raise PackageError(message, file=syntax.file, line=syntax.line)
            _inherit(loaded, self._load(parent, (*path, name)), everything=parent in syntax.inherits)
        _add_constants(loaded, syntax, self.files)
        _add_own(loaded, syntax)
        self.loaded[name] = loaded
        return loaded

    def _check_fieldsets(self, syntax: SchemaSyntax, loaded: _Loaded) -> None:
        lines = {name: line for name, line, _ in syntax.fieldsets}
        for name, members in loaded.fieldsets.items():
            for member in members:
                if member not in loaded.fields:
                    message = f"fieldset '{name}': field '{member}' does not exist"
                    raise PackageError(message, file=syntax.file, line=lines.get(name, syntax.line))


def _inherit(loaded: _Loaded, parent: _Loaded, everything: bool) -> None:
    """A document inherits the document's fields; a schema all the rest too."""
    loaded.fields.update((n, f) for n, f in parent.fields.items() if everything or f.in_document)
    loaded.summaries.update(parent.summaries)
    loaded.summary_files.update(parent.summary_files)
    loaded.inherited_profiles.update({**parent.inherited_profiles, **parent.profiles})
    if everything:
        loaded.constants.update(parent.constants)
        loaded.fieldsets.update(parent.fieldsets)


def _add_constants(loaded: _Loaded, syntax: SchemaSyntax, files: Mapping[str, bytes]) -> None:
    """Reads the constants in files; every profile of the schema sees the schema's."""
    loaded.constants.update((each.name, read_constant(each, files, syntax.file)) for each in syntax.constant_files)
    for profile in syntax.profiles:
        own = {each.name: read_constant(each, files, profile.file) for each in profile.constant_files}
        profile.constants = {**loaded.constants, **profile.constants, **own}


def _add_own(loaded: _Loaded, syntax: SchemaSyntax) -> None:
    stemming = _schema_settings(syntax)
    for each in syntax.fields:
        if each.name in loaded.fields:
            raise PackageError(f"field '{each.name}' is defined twice", file=syntax.file, line=each.line)
        loaded.fields[each.name] = build_field(each, syntax.file, stemming)
    for name, line, settings in syntax.fieldsets:
        loaded.fieldsets[name] = _members(syntax, name, line, settings)
    for summary in syntax.summaries:
        loaded.summaries[summary.name] = summary
        loaded.summary_files[summary.name] = syntax.file
    for profile in syntax.profiles:
        if profile.name in loaded.profiles:
            raise PackageError(f"rank profile '{profile.name}' is defined twice", file=profile.file, line=profile.line)
        loaded.profiles[profile.name] = profile


def _schema_settings(syntax: SchemaSyntax) -> str:
    """The schema's default stemming."""
    stemming = "best"
    for setting in syntax.document_settings:
        if setting.word != "compression":  # how Vespa stores documents
            message = f"'{setting.word}' in document '{syntax.name}' is not supported by the local engine"
            raise PackageError(message, file=syntax.file, line=setting.line)
    for setting in syntax.settings:
        if setting.word == "stemming" and setting.values and setting.values[0] in STEMMING:
            stemming = setting.values[0]
        elif (setting.word, setting.values) != ("raw-as-base64-in-summary", ("true",)):
            message = f"'{setting.word}: {', '.join(setting.values)}' is not supported by the local engine"
            raise PackageError(message, file=syntax.file, line=setting.line)
    return stemming


def _members(syntax: SchemaSyntax, name: str, line: int, settings: tuple[Setting, ...]) -> tuple[str, ...]:
    members: list[str] = []
    for setting in settings:
        if setting.word != "fields":
            message = f"fieldset '{name}': '{setting.word}' is not supported by the local engine"
            raise PackageError(message, file=syntax.file, line=setting.line)
        members += setting.values
    if not members:
        raise PackageError(f"fieldset '{name}' has no fields", file=syntax.file, line=line)
    return tuple(members)


def _summaries(loaded: _Loaded) -> dict[str, SummaryClass]:
    """ "default" holds every field with ``summary`` in its indexing; a class of that name adds to it."""
    default = {name: name for name, each in loaded.fields.items() if each.summary}
    result = {"default": SummaryClass("default", default)}
    for name in loaded.summaries:
        fields = _summary_fields(loaded, name, ())
        result[name] = SummaryClass(name, {**default, **fields} if name == "default" else fields)
    return result


def _summary_fields(loaded: _Loaded, name: str, path: tuple[str, ...]) -> dict[str, str]:
    syntax, file = loaded.summaries[name], loaded.summary_files[name]
    for setting in syntax.settings:
        if setting.word not in ("from-disk", "omit-summary-features"):
            message = f"'{setting.word}' in document-summary '{name}' is not supported by the local engine"
            raise PackageError(message, file=file, line=setting.line)
    fields: dict[str, str] = {}
    for parent in syntax.inherits:
        if parent == "default" and "default" not in loaded.summaries:
            fields.update((each, each) for each, built in loaded.fields.items() if built.summary)
        elif parent in loaded.summaries and parent not in (*path, name):
            fields.update(_summary_fields(loaded, parent, (*path, name)))
        else:
            message = f"document-summary '{name}' inherits '{parent}', which does not exist or inherits it"
            raise PackageError(message, file=file, line=syntax.line)
    for output in syntax.fields:
        fields[output.word] = _source(loaded, output, file)
    return fields


def _source(loaded: _Loaded, output: Setting, file: str) -> str:
    """The field that a summary field shows; it must be kept somewhere."""
    source = output.word
    for setting in output.settings:
        if setting.word == "source" and len(setting.values) == 1:
            source = setting.values[0]
        elif setting.word not in ("full", "static"):
            message = f"summary field '{output.word}': '{setting.word}' is not supported by the local engine"
            raise PackageError(message, file=file, line=setting.line)
    if source in _BUILTIN_SOURCES:
        return source
    if source not in loaded.fields:
        raise PackageError(f"summary field '{output.word}': there is no field '{source}'", file=file, line=output.line)
    built = loaded.fields[source]
    if not built.in_document and not built.summary and not built.attribute:
        message = f"summary field '{output.word}': field '{source}' needs summary or attribute in its indexing"
        raise PackageError(message, file=file, line=output.line)
    return source


def _check_profile(profile: RankProfile, fields: Mapping[str, Field]) -> None:
    """The features whose fields Vespa checks at deploy: bm25 needs enable-bm25, closeness and distance a tensor."""
    phases = (profile.first_phase, profile.second_phase, profile.global_phase)
    texts = [each.expression for each in phases if each] + [each.expression for each in profile.functions.values()]
    for text in (*texts, *profile.match_features, *profile.summary_features):
        for name in re.findall(r"\bbm25\(\s*(\w+)\s*\)", text):
            if name in fields and not fields[name].bm25:
                raise _profile_error(profile, f"bm25({name}) needs 'index: enable-bm25' in field '{name}'")
            if name not in fields and not _is_argument(profile, name):
                raise _profile_error(profile, f"bm25({name}): there is no field '{name}'")
        for feature, name in re.findall(r"\b(closeness|distance)\(\s*(?:field\s*,\s*)?(\w+)\s*\)", text):
            if name in fields and not (fields[name].type.kind == "tensor" and fields[name].attribute):
                raise _profile_error(profile, f"{feature}({name}) needs a tensor field with 'indexing: attribute'")


def _is_argument(profile: RankProfile, name: str) -> bool:
    return any(name in function.arguments for function in profile.functions.values())


def _profile_error(profile: RankProfile, message: str) -> PackageError:
    return PackageError(f"rank profile '{profile.name}': {message}", file=profile.file, line=profile.line)
