"""Rank profiles with their inheritance resolved.

Source: Vespa's ``RankProfile``: inputs, functions, constants and properties are merged, a child's winning; each phase,
its counts and the feature lists are the child's own, else those of the one parent that has any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from clipsearch.engine.package.model import Function, Input, Phase, RankProfile
from clipsearch.engine.package.syntax import ProfileSyntax, Setting
from clipsearch.engine.tensors.types import parse_type
from clipsearch.errors import ExpressionError, PackageError

DEFAULT_KEEP_RANK_COUNT = 10_000
# Settings about threads and the graph walk: they change speed, or the surplus of an approximate search.
_HARMLESS = frozenset(
    ["num-threads-per-search", "min-hits-per-thread", "num-search-partitions", "termwise-limit", "strict"]
) | {
    "ignore-default-rank-features",
    "post-filter-threshold",
    "approximate-threshold",
    "target-hits-max-adjustment-factor",
    "filter-first-threshold",
    "filter-first-exploration",
    "exploration-slack",
}
_PHASE_NAMES = ("first-phase", "second-phase", "global-phase")
_COUNTS = {
    "first-phase": frozenset(["keep-rank-count", "total-keep-rank-count", "rank-score-drop-limit"]),
    "second-phase": frozenset(["rerank-count", "total-rerank-count", "rank-score-drop-limit"]),
    "global-phase": frozenset(["rerank-count", "rank-score-drop-limit"]),
}
_HARMLESS_PROPERTY = re.compile(  # steers how much work is done, not what is answered
    r"vespa\.matching\.(?:numthreadspersearch|minhitsperthread|numsearchpartitions|termwise_limit|global_filter\.|nns\.)"
)
_BM25_PROPERTY = re.compile(r"bm25\([^()]+\)\.(?:k1|b|averageFieldLength)")
K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Parts:
    """A profile with each setting apart, None where neither it nor a parent has one."""

    profile: RankProfile
    expressions: Mapping[str, str]
    counts: Mapping[tuple[str, str], float]
    features: Mapping[str, tuple[str, ...]]


def resolve_profiles(
    syntaxes: Mapping[str, ProfileSyntax], inherited: Mapping[str, ProfileSyntax] | None = None
) -> dict[str, RankProfile]:
    """Every profile of one schema, "default" and "unranked" always among them. Raises ``PackageError``.

    ``inherited``: profiles of the schemas that this one inherits, which a profile of the same name replaces.
    """
    return _Resolver(syntaxes, inherited or {}).resolve()


class _Resolver:
    def __init__(self, own: Mapping[str, ProfileSyntax], inherited: Mapping[str, ProfileSyntax]) -> None:
        self.own, self.inherited = own, inherited
        self.done: dict[tuple[str, bool], _Parts] = {}

    def resolve(self) -> dict[str, RankProfile]:
        names = dict.fromkeys([*self.inherited, *self.own, "default", "unranked"])
        return {name: _assemble(self._parts(name, False, ())) for name in names}

    def _parts(self, name: str, above: bool, path: tuple[tuple[str, bool], ...]) -> _Parts:
        """``above``: look the name up in the inherited schemas, as a profile that inherits its own name does."""
        syntax = None if above else self.own.get(name)
        if syntax is None:
            syntax, above = self.inherited.get(name), True
        if syntax is None:
            return _builtin(name)
        key = (name, above)
        if key in path:
            chain = " -> ".join([each for each, _ in path] + [name])
            raise PackageError(f"rank profiles inherit each other: {chain}", file=syntax.file, line=syntax.line)
        if key not in self.done:
            parents = [self._parent(syntax, each, above, (*path, key)) for each in syntax.inherits]
            self.done[key] = _merge(syntax, parents)
        return self.done[key]

    def _parent(self, syntax: ProfileSyntax, name: str, above: bool, path: tuple[tuple[str, bool], ...]) -> _Parts:
        own_name = name == syntax.name
        known = (not above and not own_name and name in self.own) or name in self.inherited
        if not known and name not in ("default", "unranked"):
            message = f"rank profile '{syntax.name}' inherits '{name}', which does not exist"
            raise PackageError(message, file=syntax.file, line=syntax.line)
        if own_name and name not in self.inherited:
            return _builtin(name)
        return self._parts(name, above or own_name, path)


def _builtin(name: str) -> _Parts:
    expressions = {"first-phase": "0"} if name == "unranked" else {}
    return _Parts(RankProfile(name), expressions, {}, {})


def _merge(syntax: ProfileSyntax, parents: list[_Parts]) -> _Parts:
    for setting in syntax.settings:
        if setting.word not in _HARMLESS:
            raise _refused(syntax, setting)
    _check_texts(syntax)
    profiles = [parent.profile for parent in parents]
    functions = {each.name: Function(each.name, each.arguments, each.expression) for each in syntax.functions.values()}
    profile = RankProfile(
        syntax.name,
        inputs=_merged([p.inputs for p in profiles], {each[0]: _input(syntax, each) for each in syntax.inputs}),
        functions=_merged([p.functions for p in profiles], functions),
        constants=_merged([p.constants for p in profiles], syntax.constants),
        properties=_merged([p.properties for p in profiles], syntax.properties),
        file=syntax.file,
        line=syntax.line,
    )
    own = {name: phase.expression for name, phase in syntax.phases.items() if phase.expression is not None}
    return _Parts(
        profile,
        _unique(syntax, parents, lambda p: p.expressions, own),
        _unique(syntax, parents, lambda p: p.counts, _counts(syntax)),
        _unique(syntax, parents, lambda p: p.features, _features(syntax, parents)),
    )


def _check_texts(syntax: ProfileSyntax) -> None:
    """Refuses expressions that lie in files, and properties that steer Vespa's matching or ranking elsewhere."""
    expressions = {name: phase.expression for name, phase in syntax.phases.items()}
    expressions |= {f"function '{each.name}'": each.expression for each in syntax.functions.values()}
    for where, expression in expressions.items():
        if expression is not None and expression.startswith("file:"):
            message = f"{where} of '{syntax.name}': an expression in a file is not supported by the local engine"
            raise PackageError(message, file=syntax.file, line=syntax.line)
    for name, value in syntax.properties.items():
        message = ""
        if not property_is_allowed(name):
            message = f"rank property '{name}' of '{syntax.name}' is not supported by the local engine"
        elif _BM25_PROPERTY.fullmatch(name) and not _is_number(value):
            message = f"rank property '{name}' of '{syntax.name}' is '{value}', not a number"
        if message:
            raise PackageError(message, file=syntax.file, line=syntax.line)


def property_is_allowed(name: str) -> bool:
    """Whether a rank property is a feature's own, or changes no answer; the others steer Vespa's matching."""
    return not name.startswith("vespa.") or _HARMLESS_PROPERTY.match(name) is not None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _input(syntax: ProfileSyntax, entry: tuple[str, str, str, int]) -> Input:
    name, kind, default, line = entry
    if kind == "string":
        raise PackageError(f"query({name}): string inputs are not supported", file=syntax.file, line=line)
    try:
        return Input(name, parse_type("double" if kind in ("double", "float", "long", "int") else kind), default)
    except (ExpressionError, ValueError) as error:
        raise PackageError(f"query({name}): {error}", file=syntax.file, line=line) from error


def _counts(syntax: ProfileSyntax) -> dict[tuple[str, str], float]:
    counts = {}
    for name, phase in syntax.phases.items():
        for setting in phase.settings:
            if setting.word not in _COUNTS[name] or len(setting.values) != 1:
                raise _refused(syntax, setting, name)
            value, whole = setting.values[0], setting.word != "rank-score-drop-limit"
            if not re.fullmatch(r"[0-9]{1,9}" if whole else r"-?[0-9]{1,30}(\.[0-9]{1,30})?", value):
                message = f"{setting.word}: '{value}' is not a number that fits"
                raise PackageError(message, file=syntax.file, line=setting.line)
            # On one node a total count is the node's own.
            counts[name, setting.word.removeprefix("total-")] = float(value)
    return counts


def _features(syntax: ProfileSyntax, parents: list[_Parts]) -> dict[str, tuple[str, ...]]:
    features = {}
    for kind, (parent, own) in syntax.features.items():
        above = [each.features.get(kind, ()) for each in parents if each.profile.name == parent]
        if parent and not above:
            message = f"{kind}-features inherits '{parent}', which rank profile '{syntax.name}' does not inherit"
            raise PackageError(message, file=syntax.file, line=syntax.line)
        features[kind] = tuple(dict.fromkeys([*(above[0] if above else ()), *own]))
    return features


def _refused(syntax: ProfileSyntax, setting: Setting, where: str = "rank profile") -> PackageError:
    message = f"'{setting.word}' in {where} of '{syntax.name}' is not supported by the local engine"
    return PackageError(message, file=syntax.file, line=setting.line)


def _merged(parents: list[Mapping[str, T]], own: Mapping[str, T]) -> dict[str, T]:
    result: dict[str, T] = {}
    for parent in parents:
        result.update(parent)
    return {**result, **own}


def _unique(
    syntax: ProfileSyntax, parents: list[_Parts], get: Callable[[_Parts], Mapping[K, T]], own: Mapping[K, T]
) -> dict[K, T]:
    """``own``, and what parents have besides; two parents that differ are an error, as in Vespa."""
    result: dict[K, T] = {}
    for parent in parents:
        for key, value in get(parent).items():
            if key not in own and result.setdefault(key, value) != value:
                message = f"rank profile '{syntax.name}' inherits two different values of {key}: set its own"
                raise PackageError(message, file=syntax.file, line=syntax.line)
    return {**result, **own}


def _assemble(parts: _Parts) -> RankProfile:
    phases: dict[str, Phase | None] = {}
    for name in _PHASE_NAMES:
        expression = parts.expressions.get(name)
        count = int(parts.counts.get((name, "rerank-count"), 100))
        limit = parts.counts.get((name, "rank-score-drop-limit"))
        phases[name] = None if expression is None else Phase(expression, count, limit)
    return replace(
        parts.profile,
        first_phase=phases["first-phase"],
        second_phase=phases["second-phase"],
        global_phase=phases["global-phase"],
        match_features=parts.features.get("match", ()),
        summary_features=parts.features.get("summary", ()),
        keep_rank_count=int(parts.counts.get(("first-phase", "keep-rank-count"), DEFAULT_KEEP_RANK_COUNT)),
    )
