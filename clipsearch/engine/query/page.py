"""What a request asks of the result: page, order, summary class, phases' depths."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from clipsearch.engine.package.model import Schema
from clipsearch.engine.package.profiles import property_is_allowed
from clipsearch.engine.query.grouping_results import Limits, read_limits
from clipsearch.engine.query.parameters import Values, integer, text
from clipsearch.engine.query.yql import Sort, Statement
from clipsearch.engine.tensors.encode import FORMS
from clipsearch.errors import QueryError

_PROPERTY_PREFIXES = ("ranking.properties.", "rankproperty.")
_FEATURES_OWN = re.compile(r"(?!vespa\.)\w+\(.*\)\.")
_RERANK_COUNTS = (
    ("second", "ranking.rerankCount"),
    ("second", "ranking.secondPhase.rerankCount"),
    ("global", "ranking.globalPhase.rerankCount"),
)
_SORTING = re.compile(r"([+-]?)(?:(raw|lowercase)\(([^(),\s]+)\)|([^(),\s]+))")
_LIMITS = "See https://docs.vespa.ai/en/reference/query-api-reference.html"


@dataclass(frozen=True, slots=True)
class Page:
    """What of the result is asked for; ``form``: of tensors."""

    hits: int
    offset: int
    summary: str
    form: str
    limits: Limits = field(default_factory=Limits)


def read_page(values: Values, statement: Statement) -> Page:
    """The page that the parameters and the statement ask for. Raises ``QueryError``."""
    hits, offset = integer(values, "hits", 10), integer(values, "offset", 0)
    if statement.offset is not None:
        offset = statement.offset
    if statement.limit is not None:
        hits = statement.limit - (statement.offset or 0)  # YQL's limit counts from the first hit, as in Vespa
    for name, value, default in (("hits", hits, 400), ("offset", offset, 1000)):
        limit = integer(values, f"max{name.capitalize()}", default)
        in_yql = (statement.limit if name == "hits" else statement.offset) is not None
        if value > limit:
            shown = f"{value} hits requested, " if name == "hits" else f"offset of {value} requested, "
            raise QueryError(f"{shown}configured limit: {limit}. {_LIMITS}", code=4 if in_yql else 3)
        if value < 0:
            raise QueryError(f"'{name}' must not be negative, but is {value}", code=3)
    form = text(values.get("presentation.format.tensors", "short"))
    if form not in FORMS:
        raise QueryError(f"Value '{form}' is not a tensor format: expected one of {', '.join(FORMS)}", code=3)
    return Page(hits, offset, text(values.get("presentation.summary", "")) or "default", form, read_limits(values))


def read_order(values: Values, statement: Statement) -> tuple[Sort, ...]:
    """``order by``, or ``ranking.sorting``: ``-year +title``. Raises ``QueryError`` for a sort function."""
    items = []
    for part in () if statement.order else text(values.get("ranking.sorting", "")).split():
        found = _SORTING.fullmatch(part)
        if found is None:
            raise QueryError(f"the sort function in '{part}' is not supported by the local engine", code=3)
        items.append(Sort(found[3] or found[4], found[1] == "-", found[2] or ""))
    return statement.order or tuple(items)


def read_properties(values: Values) -> dict[str, str]:
    """Rank properties that the request sets.

    Raises ``QueryError`` for one that steers Vespa's matching, and for a feature's own: Vespa's features read theirs
    when the profile is deployed (``Blueprint::setup``), so that what a request says would change nothing there.
    """
    found = {
        name.removeprefix(prefix): text(value)
        for name, value in values.items()
        if name.startswith(_PROPERTY_PREFIXES)
        for prefix in _PROPERTY_PREFIXES
        if name.startswith(prefix)
    }
    for name in found:
        if not property_is_allowed(name):
            raise QueryError(f"the rank property '{name}' is not supported by the local engine", code=3)
        if _FEATURES_OWN.match(name):
            message = "Vespa reads it from the profile only. Write it into the rank-properties of the rank profile"
            raise QueryError(f"the rank property '{name}' of a request is not supported: {message}", code=3)
    return found


def read_rerank_counts(values: Values) -> dict[str, int]:
    """How many hits the request wants reranked in the ``second`` and the ``global`` phase, where it says so."""
    counts: dict[str, int] = {}
    for phase, name in _RERANK_COUNTS:
        if name in values:
            count = integer(values, name, 0)
            if counts.setdefault(phase, count) != count:
                raise QueryError(f"'{name}' and 'ranking.rerankCount' must not differ", code=3)
    if any(count < 0 for count in counts.values()):
        raise QueryError("a rerank count must not be negative", code=3)
    return counts


def chosen_schemas(values: Values, statement: Statement, schemas: dict[str, Schema], cluster: str) -> list[Schema]:
    """The schemas to search: those of ``from`` and ``model.sources``, cut to ``model.restrict``."""
    asked = list(dict.fromkeys([*statement.sources, *_listed(values.get("model.sources"))]))
    for name in asked:
        if name not in schemas and name != cluster:
            valid = ", ".join([cluster, *schemas])
            raise QueryError(f"Could not resolve source ref '{name}'. Valid source refs are {valid}.", code=3)
    restricted = _listed(values.get("model.restrict"))
    for name in restricted:
        if name not in schemas:
            raise QueryError(f"model.restrict: there is no schema '{name}'", code=3)
    chosen = [name for name in asked if name in schemas]
    names = chosen if chosen and cluster not in asked else list(schemas)
    return [schemas[name] for name in names if not restricted or name in restricted]


def _listed(value: Any) -> list[str]:
    names = value if isinstance(value, list) else text(value or "").split(",")
    return [str(name).strip() for name in names if str(name).strip() not in ("", "*")]
