"""Rank features about the query's terms and where they stand, and of attributes with several values.

Positions are looked at for the rows of one batch only. Terms are those that rank (neither ``ranked: false`` nor
negated), numbered as they stand in the query. Sources: Vespa's ``searchlib/features`` (``element_completeness``,
``fieldtermmatch``, ``fieldlength``, ``querycompleteness``, ``matches``, ``attribute``, ``age``, ``freshness``,
``tensor_from_labels``, ``tensor_from_weighted_set``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import ManyNumbersColumn, NumberColumn, StringColumn
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.completeness import element_completeness
from clipsearch.engine.query.matching import TermMatch
from clipsearch.engine.query.neighbors import closest_of
from clipsearch.engine.query.places import Places
from clipsearch.engine.ranking.source import BatchTensor, BatchValue, Feature
from clipsearch.engine.tensors.types import Dimension, TensorType
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import QueryError

if TYPE_CHECKING:
    from clipsearch.engine.query.features import Batch

Numbers = NDArray[np.float64]
MAX_AGE, HALF_RESPONSE = 90 * 86400.0, 7 * 86400.0
NAMES = frozenset(
    (
        "age", "closest", "elementCompleteness", "fieldLength", "fieldTermMatch", "freshness", "itemRawScore",
        "matchCount", "matches", "queryCompleteness", "queryTermCount", "rawScore", "tensorFromLabels",
        "tensorFromWeightedSet", "term",
    )
)  # fmt: skip


def leaves(node: q.Node) -> Iterator[q.Node]:
    """The items of the tree that are terms to ranking, in order: words, sets, equivs, neighbours."""
    if isinstance(node, q.Not):
        if node.positive is not None:
            yield from leaves(node.positive)
    elif isinstance(node, (q.Term, q.Equiv, q.NearestNeighbor)):
        yield node
    else:
        for part in node.parts():
            yield from leaves(part)


def _is_ranked(leaf: q.Node) -> bool:
    if isinstance(leaf, q.Equiv):
        return any(isinstance(part, q.Term) and part.options.ranked for part in leaf.walk())
    return not isinstance(leaf, q.Term) or leaf.options.ranked


class TermFeatures:
    """The features of ``NAMES``, and attributes by index, key or output, for one batch of rows."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.query, self.rows = batch, batch.query, batch.rows
        self.matcher = batch.query.matcher
        self.snapshot = self.matcher.snapshot

    def of(self, rows: NDArray[np.int64]) -> TermFeatures:
        """The features of other ``rows`` of the same query."""
        return TermFeatures(type(self.batch)(self.query, rows))

    def value(self, feature: Feature) -> BatchValue:
        """Values of ``feature`` for each row. Raises ``QueryError`` for what cannot be told exactly."""
        arguments, output = feature.arguments, feature.output
        name = feature.name
        if name in ("rawScore", "itemRawScore"):
            return self._raw_score(feature)
        if name == "closest":
            return self._closest(arguments)
        if name in ("tensorFromLabels", "tensorFromWeightedSet"):
            return self._labels(arguments[0], arguments[1], name == "tensorFromWeightedSet")
        if name in ("age", "freshness"):
            age = self._age(arguments[0])
            return age if name == "age" else self._freshness(age, arguments[0], output)
        if name == "queryTermCount":
            return float(len(self._terms()))
        if name == "term":
            return self._weight(int(arguments[0]))
        if name == "attribute":
            return self._attribute(arguments, output)
        return self._of_field(name, arguments, output)

    def _of_field(self, name: str, arguments: tuple[str, ...], output: str) -> BatchValue:
        terms = self._numbered(int(arguments[1])) if len(arguments) == 2 else [t for _, t in self._terms()]
        if name == "elementCompleteness":
            return element_completeness(self, arguments[0], [term for term in terms if term is not None], output)
        matched = [
            self._matched(term, arguments[0]) for term in terms if term is not None and arguments[0] in term.fields
        ]
        count = np.sum(matched, axis=0, dtype=np.float64) if matched else np.zeros(len(self.rows))
        if name == "matches":
            return np.asarray(count > 0, np.float64)
        if name == "matchCount" or (name == "queryCompleteness" and output != "miss"):
            return np.asarray(count)
        if name == "queryCompleteness":
            return len(matched) - np.asarray(count)
        places = Places(self, arguments[0])
        if name == "fieldLength":
            return places.field_length([term for term in terms if term is not None])
        return places.term_match(terms[0] if terms else None, output or "firstPosition")

    def _terms(self) -> list[tuple[q.Node, TermMatch | None]]:
        """The query's ranked terms in order, each with what was looked up (None: neighbours)."""
        root = self.matcher.root
        if root is None:
            return [(term.node, term) for term in self.matcher.terms if term.node.options.ranked]
        known = {id(term.source or term.node): term for term in self.matcher.terms}
        return [(leaf, known.get(id(leaf))) for leaf in leaves(root) if _is_ranked(leaf)]

    def _numbered(self, number: int) -> list[TermMatch | None]:
        terms = self._terms()
        return [terms[number][1]] if number < len(terms) else []

    def _weight(self, number: int) -> float:
        terms = self._terms()
        if number >= len(terms):
            return 0.0
        leaf = terms[number][0]
        return float(leaf.options.weight) if isinstance(leaf, q.Term) else 100.0

    def _matched(self, term: TermMatch, field: str) -> NDArray[np.bool_]:
        if field in term.found:
            mask = np.asarray(term.found[field].frequencies_of(self.rows) > 0)
        else:
            mask = np.zeros(len(self.rows), np.bool_) if term.mask is None else term.mask[self.rows]
        return mask if term.scope is None else mask & term.scope[self.rows]

    def _raw_score(self, feature: Feature) -> BatchValue:
        by_label = feature.name == "itemRawScore"
        wanted = feature.arguments[0]
        scores = [item.raw_score(self.rows) for item in self.query.neighbors(feature)]
        for scored in self.matcher.scored:
            if wanted == (scored.node.options.label if by_label else scored.node.field):
                scores.append(scored.raw_score(self.rows))
        return np.asarray(np.sum(scores, axis=0)) if scores else 0.0

    def _closest(self, arguments: tuple[str, ...]) -> BatchValue:
        items = [item for item in self.matcher.neighbors if item.node.field == arguments[0]]
        if len(arguments) == 2:
            items = [item for item in items if item.node.label == arguments[1]]
        type = self.snapshot.generation.tensors[arguments[0]].type
        type = TensorType(type.mapped, type.cell)
        if not items:
            return BatchTensor(type, [Tensor(type, np.empty(0, np.float32))])
        return BatchTensor(type, closest_of(items, self.rows))

    def _labels(self, field: str, dimension: str, weighted: bool) -> BatchTensor:
        """A tensor of each row's values as labels, with their weights or 1."""
        column = self.snapshot.generation.columns[field]
        type = TensorType((Dimension(dimension),))
        found: list[dict[tuple[str, ...], float]] = [{} for _ in self.rows]
        for place, value, weight in _entries(column, self.rows, self.snapshot.size):
            found[place][str(value),] = float(weight) if weighted else 1.0
        return BatchTensor(type, [Tensor(type, np.array(list(c.values()), np.float64), tuple(c)) for c in found])

    def _age(self, field: str) -> Numbers:
        column = self.snapshot.generation.columns[field]
        assert isinstance(column, NumberColumn)
        missing = column.missing(self.snapshot.size)[self.rows]
        times = column.values(self.snapshot.size)[self.rows].astype(np.float64)
        return np.maximum(float(int(time.time())) - np.where(missing, -(2.0**63), times), 0.0)

    def _freshness(self, age: Numbers, field: str, output: str) -> Numbers:
        longest = max(self.number_property(f"freshness({field}).maxAge", MAX_AGE), 1.0)
        half = max(self.number_property(f"freshness({field}).halfResponse", HALF_RESPONSE), 1.0)
        if half >= longest / 2:
            half = longest / 2 - 1
        if output != "logscale":
            return np.maximum(1.0 - age / longest, 0.0)
        scale = half * half / (longest - 2 * half)
        most = math.log(longest + scale)
        with np.errstate(all="ignore"):
            return np.asarray((most - np.log(np.minimum(age, longest) + scale)) / (most - np.log(scale)))

    def number_property(self, name: str, default: float) -> float:
        """The rank property ``name``. Raises ``QueryError`` for one that is not a number."""
        text = self.query.properties.get(name, default)
        try:
            return float(text)
        except ValueError as error:
            raise QueryError(f"the rank property {name} is '{text}', not a number", code=3) from error

    def _attribute(self, arguments: tuple[str, ...], output: str) -> BatchValue:
        """attribute(f).count, attribute(array,n), attribute(set,key).weight and so on; 0 where there is nothing."""
        column = self.snapshot.generation.columns[arguments[0]]
        keyed = len(arguments) == 2
        single = isinstance(column, NumberColumn) or (isinstance(column, StringColumn) and column.single)
        if single:
            return 1.0 if output == "count" else 0.0
        found = np.zeros(len(self.rows))
        if not keyed:
            if output == "count":
                for place, _, _ in _entries(column, self.rows, self.snapshot.size):
                    found[place] += 1
            return found
        of_set = self.matcher.schema.fields[arguments[0]].type.kind == "weightedset"
        if (of_set and output == "count") or (not of_set and output not in ("", "value")):
            return 0.0
        seen = np.zeros(len(self.rows), np.int64)
        for place, value, weight in _entries(column, self.rows, self.snapshot.size):
            if of_set and str(value) == arguments[1]:
                found[place] = {"weight": weight, "contains": 1.0}.get(output, value)
            elif not of_set and seen[place] == int(arguments[1]):
                found[place] = value
            seen[place] += 1
        return found


def _entries(column: Any, rows: NDArray[np.int64], size: int) -> Iterator[tuple[int, Any, float]]:
    """(place in ``rows``, value, weight) of every value of ``rows``, in the order of the values."""
    if isinstance(column, NumberColumn):
        missing, values = column.missing(size), column.values(size)
        yield from ((place, values[row].item(), 1.0) for place, row in enumerate(rows) if not missing[row])
        return
    owners, held = column.flat(size)
    weights = column.weights(size) if isinstance(column, StringColumn) else None
    starts, ends = np.searchsorted(owners, rows), np.searchsorted(owners, rows, "right")
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        for entry in range(start, end):
            value = column.words[int(held[entry])] if isinstance(column, StringColumn) else held[entry].item()
            if not isinstance(column, ManyNumbersColumn) and column.single and value == "":
                continue
            yield place, value, 1.0 if weights is None else float(weights[entry])
