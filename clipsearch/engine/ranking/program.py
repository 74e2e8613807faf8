"""A rank profile as a program: all its phases and feature lists, compiled and type-checked once.

Source: Vespa's phased ranking guide. Scores are float64; candidates keep the source's order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.package.model import Phase, RankProfile, Schema
from clipsearch.engine.ranking.batch import Environment, to_tensors
from clipsearch.engine.ranking.compiler import Compiled
from clipsearch.engine.ranking.parser import parse_expression
from clipsearch.engine.ranking.resolver import ProfileResolver
from clipsearch.engine.ranking.source import BatchTensor, BatchValue, Feature, FeatureSource
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import ExpressionError, PackageError

CHUNK = 4096
Scores = NDArray[np.float64]
FeatureValues = list[float] | list[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class RankProgram:
    """What ``compile_profile`` makes of a profile.

    ``features``: raw features of the first and second phase; ``all_features``: of everything in the profile.
    ``match_features``, ``summary_features``: canonical names in the profile's order.
    """

    profile: RankProfile
    features: frozenset[Feature]
    all_features: frozenset[Feature]
    match_features: tuple[str, ...]
    summary_features: tuple[str, ...]
    _phases: dict[str, Compiled]
    _values: dict[str, Compiled]
    _tensors: bool
    rising: dict[Any, bool] = field(default_factory=dict)  # what ``monotone`` found, kept by the query room

    def first_phase(self, source: FeatureSource, n: int) -> Scores:
        """(n,) scores. Raises ``ExpressionError`` for a profile without first phase: that is Vespa's nativeRank."""
        if "first-phase" not in self._phases:
            raise ExpressionError(
                f"rank profile '{self.profile.name}' has no first-phase: Vespa would rank by nativeRank, which is not "
                "supported by the local engine. Add a first-phase, or query with another rank profile"
            )
        return self._in_chunks("first-phase", source, n)

    def second_phase(self, source: FeatureSource, n: int) -> Scores:
        """(n,) scores of the second phase, or of the first when the profile has no second."""
        if "second-phase" not in self._phases:
            return self.first_phase(source, n)
        return self._in_chunks("second-phase", source, n)

    def global_phase(self, source: FeatureSource, n: int, relevance: NDArray[Any]) -> Scores | None:
        """(n,) scores of the reranked hits in order, ``relevance`` (n,) are their present ones; None: no such phase."""
        if "global-phase" not in self._phases:
            return None
        now = np.asarray(relevance, np.float64)
        return self._score("global-phase", Environment(n, source, relevance=now))

    def match_values(self, source: FeatureSource, n: int) -> dict[str, FeatureValues]:
        """match-features by canonical name: n numbers, or n tensors."""
        return self._evaluate(self.match_features, Environment(n, source))

    def summary_values(self, source: FeatureSource, n: int) -> dict[str, FeatureValues]:
        """summary-features by canonical name: n numbers, or n tensors."""
        return self._evaluate(self.summary_features, Environment(n, source))

    def _in_chunks(self, phase: str, source: FeatureSource, n: int) -> Scores:
        """A few thousand candidates at a time when there are tensors, so that memory does not grow with the matches."""
        if n <= CHUNK or not self._tensors:
            return self._score(phase, Environment(n, source))
        scores = np.empty(n)
        values: dict[Feature, BatchValue] = {}
        for start in range(0, n, CHUNK):
            end = min(start + CHUNK, n)
            scores[start:end] = self._score(phase, Environment(end - start, _Chunk(source, values, n, start, end)))
        return scores

    def _score(self, phase: str, env: Environment) -> Scores:
        with np.errstate(all="ignore"):
            return _numbers(self._phases[phase].run(env), env.count)

    def _evaluate(self, names: tuple[str, ...], env: Environment) -> dict[str, FeatureValues]:
        values: dict[str, FeatureValues] = {}
        with np.errstate(all="ignore"):
            for name in names:
                compiled = self._values[name]
                value = compiled.run(env)
                if compiled.type.dimensions:
                    values[name] = to_tensors(value, compiled.type, env)
                else:
                    values[name] = _numbers(value, env.count).tolist()
        return values


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Candidates ``start`` to ``end`` of a source of ``n``; ``values`` keeps what the source gave for all of them."""

    source: FeatureSource
    values: dict[Feature, BatchValue]
    n: int
    start: int
    end: int

    def value(self, feature: Feature) -> BatchValue:
        if feature not in self.values:
            self.values[feature] = self.source.value(feature)
        value = self.values[feature]
        if isinstance(value, BatchTensor):
            shared = len(value.values) != self.n
            return value if shared else BatchTensor(value.type, value.values[self.start : self.end])
        return value[self.start : self.end] if isinstance(value, np.ndarray) and value.ndim else value


def _numbers(value: Any, n: int) -> Scores:
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and value.shape == (n,):
        return value
    return np.array(np.broadcast_to(np.asarray(value, np.float64), (n,)))


def compile_profile(profile: RankProfile, schema: Schema) -> RankProgram:
    """``profile`` of ``schema`` as a program.

    Raises ``PackageError`` that names schema, profile, phase and what cannot be used: an unknown feature or function, a
    type that does not fit, a phase that is not a number, a normaliser outside the global phase, nativeRank.
    """
    resolvers: dict[str, ProfileResolver] = {}
    phases = {}
    for name, phase in _phases(profile):
        resolvers[name] = ProfileResolver(profile, schema, name)
        phases[name] = _compile(resolvers[name], phase.expression, schema, scalar=True)
    lists = {}
    values: dict[str, Compiled] = {}
    for name, texts in (("match-features", profile.match_features), ("summary-features", profile.summary_features)):
        resolvers[name] = ProfileResolver(profile, schema, name)
        compiled = {_canonical(text, resolvers[name], schema): text for text in texts}
        values |= {key: _compile(resolvers[name], text, schema) for key, text in compiled.items()}
        lists[name] = tuple(compiled)
    used = {name: resolver.features for name, resolver in resolvers.items()}
    return RankProgram(
        profile=profile,
        features=frozenset(used.get("first-phase", set()) | used.get("second-phase", set())),
        all_features=frozenset().union(*used.values()),
        match_features=lists["match-features"],
        summary_features=lists["summary-features"],
        _phases=phases,
        _values=values,
        _tensors=any(resolver.uses_tensors for resolver in resolvers.values()),
    )


def _phases(profile: RankProfile) -> list[tuple[str, Phase]]:
    phases = [
        ("first-phase", profile.first_phase),
        ("second-phase", profile.second_phase),
        ("global-phase", profile.global_phase),
    ]
    return [(name, phase) for name, phase in phases if phase is not None]


def _canonical(text: str, resolver: ProfileResolver, schema: Schema) -> str:
    try:
        return str(parse_expression(text))
    except ExpressionError as error:
        raise _error(resolver, schema, error) from error


def _compile(resolver: ProfileResolver, expression: str, schema: Schema, *, scalar: bool = False) -> Compiled:
    try:
        compiled = resolver.compile(expression)
        if scalar and compiled.type.dimensions:
            raise ExpressionError(f"'{expression}' must be a number, but it is a {compiled.type}")
        return compiled
    except RecursionError as error:
        raise _error(resolver, schema, ExpressionError("the expression is too deeply nested")) from error
    except (ExpressionError, ValueError) as error:
        raise _error(resolver, schema, error) from error


def _error(resolver: ProfileResolver, schema: Schema, error: Exception) -> PackageError:
    profile = resolver.profile
    return PackageError(
        f"schema '{schema.name}', rank profile '{profile.name}', {resolver.phase}: {error}",
        file=profile.file,
        line=profile.line,
    )
