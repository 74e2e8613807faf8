"""Groups of the matching hits, as JSON in Vespa's form.

Without ``order`` groups come by the best relevance of their hits, and equal ones by their id. A list of groups or hits
without ``max`` is cut to ``grouping.defaultMaxGroups`` or ``defaultMaxHits`` (10), as in Vespa. Lists that are cut have
no ``continuation`` to the rest. Sources: Vespa's ``RequestBuilder``, ``ResultBuilder`` and ``JsonRenderer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.patterns import compile_pattern
from clipsearch.engine.query.grouping import Expression, Operation
from clipsearch.engine.query.grouping_values import Table, Values, text_of
from clipsearch.errors import QueryError

Json = dict[str, Any]
Hits = NDArray[np.int64]
RenderHits = Callable[[Hits, str], list[Json]]
"""(hits of the table, summary class) -> the hits as JSON."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a list without ``max`` is cut to; -1: not at all. ``unbounded``: whether that is allowed for groups."""

    groups: int = 10
    hits: int = 10
    unbounded: bool = False


def read_limits(values: Mapping[str, Any]) -> Limits:
    """The request's limits. Raises ``QueryError``, as Vespa does for a list without any limit."""
    found = []
    for name in ("grouping.defaultMaxGroups", "grouping.defaultMaxHits"):
        text = str(values.get(name, 10))
        try:
            found.append(int(text))
        except ValueError as error:
            raise QueryError(f"Could not set '{name}' to '{text}': it is not a whole number", code=3) from error
    return Limits(found[0], found[1], "grouping.globalMaxGroups" in values)


class Grouper:
    """Makes the groups of one request; ``render_hits`` gives hits their fields."""

    def __init__(self, table: Table, render_hits: RenderHits, limits: Limits) -> None:
        self.table, self.render_hits, self.limits = table, render_hits, limits

    def root(self, operation: Operation, number: int) -> Json:
        """The root group of ``operation``."""
        group: Json = {"id": f"group:root:{number}", "relevance": 1.0, "continuation": {"this": ""}}
        pending = _Pending()
        self._fill(group, operation, np.arange(self.table.size), pending)
        return group

    def _fill(self, group: Json, operation: Operation, hits: Hits, pending: _Pending) -> None:
        """Adds to ``group`` what ``operation`` makes of its ``hits``."""
        if operation.each and pending.group is not None:
            self._add_list(group, operation, hits, pending)
            return
        pending = pending.copy()
        if operation.each:
            self._add_hits(group, operation, hits, pending)
            return
        if operation.group is not None:
            if pending.group is not None:
                raise QueryError("grouping: Can not group list of groups.")
            pending.group, pending.label = operation.group, str(operation.group)
        if operation.filter is not None:
            pending.filter = operation.filter
        if operation.maximum is not None:
            if pending.group is None:
                hits = self._best(hits, operation.maximum)
            else:
                pending.maximum = operation.maximum
        pending.order += operation.order
        if operation.outputs:
            self._add_outputs(group, operation.outputs, hits, pending.group)
        for child in operation.children:
            self._fill(group, child, hits, pending)

    def _best(self, hits: Hits, count: int) -> Hits:
        if count < 0 or count >= len(hits):
            return hits
        return hits[np.sort(self._by_score(hits)[:count])]

    def _by_score(self, hits: Hits) -> Hits:
        return np.lexsort((self.table.places[hits], -self.table.scores[hits]))

    def _add_hits(self, group: Json, operation: Operation, hits: Hits, pending: _Pending) -> None:
        """A list of the group's hits, best first."""
        for output in operation.outputs:
            maximum = self.limits.hits if pending.hits is None else pending.hits
            order = self._by_score(hits)
            best = hits[order if maximum < 0 else order[:maximum]]
            label = operation.label or "hits"
            summary = str(output.arguments[0].value) if output.arguments else ""
            shown = {"id": f"hitlist:{label}", "relevance": 1.0, "label": label}
            group.setdefault("children", []).append({**shown, "children": self.render_hits(best, summary)})

    def _add_list(self, group: Json, operation: Operation, hits: Hits, pending: _Pending) -> None:
        """A list of groups of ``hits``."""
        assert pending.group is not None
        label = operation.label or pending.label
        children = group.setdefault("children", [])
        if any(child["label"] == label for child in children):
            raise QueryError(f"grouping: Can not use group list label '{label}' for multiple siblings.")
        if pending.filter is not None:
            hits = self._filtered(pending.filter, hits)
        parts = _split(self.table.values(pending.group), hits)
        ranked = self._ordered(parts, pending.order)
        maximum = self.limits.groups if pending.maximum is None else pending.maximum
        if maximum < 0 and not self.limits.unbounded:
            raise QueryError(
                "Cannot return unbounded number of groups when 'grouping.globalMaxGroups' is enabled: give the group "
                "list a max()"
            )
        shown = ranked if maximum < 0 else ranked[:maximum]
        made = []
        for place, part in enumerate(shown):
            relevance = (len(shown) - place) / len(shown) if pending.order else self._rank(part)
            made.append(self._group(part, relevance, operation))
        if not operation.outputs and not any(child.get("children") or child.get("fields") for child in made):
            return
        children.append({"id": f"grouplist:{label}", "relevance": 1.0, "label": label, "children": made})

    def _filtered(self, regex: Expression, hits: Hits) -> Hits:
        """Those of ``hits`` whose value the whole pattern matches (``RegexPredicateNode``)."""
        pattern, of = regex.arguments
        values = self.table.values(of)
        if values.several:
            raise QueryError(f"grouping: filter by '{of}' of several values is not supported by the local engine")
        compiled = compile_pattern(f"^(?:{pattern.value})$")
        return np.array([hit for hit in hits.tolist() if compiled.search(text_of(values.data[hit]))], np.int64)

    def _group(self, part: _Part, relevance: float, operation: Operation) -> Json:
        group: Json = {"id": f"group:{part.kind}", "relevance": _finite(relevance)}
        if part.kind.endswith("_bucket"):
            ends = [text_of(end) for end in part.key]
            group["id"] += ":" + ":".join(ends)
            group["limits"] = dict(zip(("from", "to"), ends, strict=True))
        elif part.kind != "null":
            value = text_of(bool(part.key) if part.kind == "bool" else part.key)
            group["id"] += f":{value}"
            group["value"] = value
        if operation.outputs:
            self._add_outputs(group, operation.outputs, part.hits, None)
        inner = _Pending(hits=operation.maximum)
        if operation.group is not None:
            inner = _Pending(operation.group, str(operation.group), operation.maximum, list(operation.order))
            inner.filter = operation.filter
        for child in operation.children:
            self._fill(group, child, part.hits, inner)
        return group

    def _add_outputs(
        self, group: Json, outputs: Sequence[Expression], hits: Hits, of_groups: Expression | None
    ) -> None:
        fields = group.setdefault("fields", {})
        for output in outputs:
            label = output.label or str(output)
            if label in fields:
                raise QueryError(f"grouping: Can not use output label '{label}' for multiple siblings.")
            if of_groups is not None:
                fields[label] = len(_split(self.table.values(of_groups), hits))
            else:
                fields[label] = _finite(self.aggregate(output, hits))

    def aggregate(self, expression: Expression, hits: Hits) -> Any:
        """An expression of aggregators over ``hits``."""
        if expression.kind == "constant":
            return expression.value
        if expression.name == "count" and expression.aggregator:
            return len(hits)
        if expression.aggregator and expression.arguments:
            return _aggregated(expression.name, _of(self.table.values(expression.arguments[0]), hits))
        if expression.kind != "call" or expression.name not in _COMBINED:
            raise QueryError(f"grouping: ordering by '{expression}' is not supported by the local engine")
        values = [self.aggregate(argument, hits) for argument in expression.arguments]
        if any(isinstance(value, str) for value in values):
            raise QueryError(f"grouping: '{expression}' takes numbers")
        found = values[0]
        for value in values[1:]:
            found = _COMBINED[expression.name](found, value)
        return -found if expression.name == "neg" else found

    def _ordered(self, parts: list[_Part], order: list[tuple[Expression, bool]]) -> list[_Part]:
        """By ``order``; equal ones, and all without it, by the best hit; then by id (``parts`` are in that order)."""
        keys = [tuple(self.aggregate(expression, part.hits) for expression, _ in order) for part in parts]
        if len(set(keys)) < len(keys) or not order:
            ranks = [self._rank(part) for part in parts]
            parts = [parts[place] for place in sorted(range(len(parts)), key=lambda place: -ranks[place])]
        for expression, ascending in reversed(order):
            places = {id(part): self.aggregate(expression, part.hits) for part in parts}
            parts = sorted(parts, key=lambda part: places[id(part)], reverse=not ascending)
        return parts

    def _rank(self, part: _Part) -> float:
        scores = self.table.scores[part.hits]
        return float(scores.max()) if len(scores) else 0.0


@dataclass(slots=True)
class _Pending:
    """What the next ``each`` works on: groups by ``group``, or single hits."""

    group: Expression | None = None
    label: str = ""
    maximum: int | None = None
    order: list[tuple[Expression, bool]] = field(default_factory=list)
    hits: int | None = None
    filter: Expression | None = None

    def copy(self) -> _Pending:
        """The same, to be changed."""
        return _Pending(self.group, self.label, self.maximum, list(self.order), self.hits, self.filter)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One group: its key and ``kind``, and its hits (one that has the value twice is in it twice)."""

    key: Any
    kind: str
    hits: Hits


def _of(values: Values, hits: Hits) -> NDArray[Any]:
    """The values of ``hits``."""
    if not values.several:
        return values.data[hits]
    return values.data[_entries(values, hits)[0]]


def _entries(values: Values, hits: Hits) -> tuple[Hits, Hits]:
    """Which entries of ``values`` belong to ``hits``, and the hit of each."""
    starts, ends = np.searchsorted(values.owner, hits), np.searchsorted(values.owner, hits, "right")
    sizes = ends - starts
    first = np.cumsum(sizes) - sizes
    inside = np.arange(int(sizes.sum())) - np.repeat(first, sizes)
    return np.repeat(starts, sizes) + inside, np.repeat(hits, sizes)


def _split(values: Values, hits: Hits) -> list[_Part]:
    """``hits`` by the value of each, in the order of the values; what is in no bucket comes first."""
    data, owners = values.data[hits] if not values.several else None, hits
    if data is None:
        entries, owners = _entries(values, hits)
        data = values.data[entries]
    if not len(data):
        return []
    if data.dtype == object:
        held = data.tolist()
        keys: list[Any] = list(dict.fromkeys(held))
        numbers = {key: number for number, key in enumerate(keys)}
        codes = np.fromiter(map(numbers.__getitem__, held), np.int64, len(held))
    else:
        unique, codes = np.unique(data, return_inverse=True)
        keys = unique.tolist()
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(keys)))
    pieces = np.split(owners[order], ends[:-1])
    parts = [_Part(key, "null" if key is None else values.kind, piece) for key, piece in zip(keys, pieces, strict=True)]
    if data.dtype == object:
        parts.sort(key=lambda part: (part.key is not None, part.key) if part.key is not None else (False, ""))
    return parts


def _aggregated(name: str, data: NDArray[Any]) -> Any:
    text = data.dtype == object
    if text and name not in ("min", "max"):
        raise QueryError(f"grouping: {name}() of strings is not supported by the local engine")
    if not len(data):
        return "" if text else 0 if data.dtype.kind == "i" and name != "avg" else 0.0
    if name in ("min", "max"):
        return (min if name == "min" else max)(data.tolist())
    if name == "sum":
        return data.sum().item()
    if name == "avg":
        return float(data.astype(np.float64).sum() / len(data))
    if name == "stddev":
        numbers = data.astype(np.float64)
        mean = float(numbers.sum()) / len(numbers)
        return math.sqrt(max(float((numbers * numbers).sum()) / len(numbers) - mean * mean, 0.0))
    raise QueryError(f"grouping: {name}() is not supported by the local engine")


def _finite(value: Any) -> Any:
    """A value for JSON; what it has no number for is a string, as in Vespa."""
    return text_of(value) if isinstance(value, float) and not math.isfinite(value) else value


def _divided(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        return int(left / right) if right else 0
    return left / right if right else math.nan


_COMBINED: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _divided,
    "mod": lambda a, b: math.fmod(a, b) if b and math.isfinite(a) else math.nan if b else 0,
    "neg": lambda a, b: a,
    "min": min,
    "max": max,
}
