"""Rank features of the rows that a query matched, as ranking asks for them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import NumberColumn
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.matching import Matcher, TermMatch
from clipsearch.engine.query.neighbors import Neighbors
from clipsearch.engine.ranking import distances as metrics
from clipsearch.engine.ranking.bm25 import K1, B, idf, score
from clipsearch.engine.ranking.source import BatchTensor, BatchValue, Feature
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import QueryError

Numbers = NDArray[np.float64]


class QueryFeatures:
    """What all batches of one query on one schema share; dense feature columns are computed once."""

    def __init__(self, matcher: Matcher, properties: dict[str, str]) -> None:
        self.matcher = matcher
        self.properties = properties
        self._bm25: dict[str, Numbers] = {}

    def bm25(self, field: str) -> Numbers:
        """BM25 of every row, (size,)."""
        if field not in self._bm25:
            self._bm25[field] = self._compute_bm25(field)
        return self._bm25[field]

    def _compute_bm25(self, field: str) -> Numbers:
        snapshot = self.matcher.snapshot
        scores = np.zeros(snapshot.size)
        lengths = snapshot.generation.texts[field].lengths.view(snapshot.size)
        average = self._property(field, "averageFieldLength", snapshot.average_length(field))
        k1, b = self._property(field, "k1", K1), self._property(field, "b", B)
        for term in self.terms(field):
            rows, frequencies = term.postings[field]
            if term.scope is not None:
                inside = term.scope[rows]
                rows, frequencies = rows[inside], frequencies[inside]
            weight = term.node.options.significance
            weight = idf(term.count, snapshot.documents) if weight is None else weight
            scores[rows] += score(frequencies, lengths[rows], average, weight, k1, b)
        return scores

    def _property(self, field: str, name: str, default: float) -> float:
        text = self.properties.get(f"bm25({field}).{name}", default)
        try:
            return float(text)
        except ValueError as error:
            raise QueryError(f"the rank property bm25({field}).{name} is '{text}', not a number", code=3) from error

    def terms(self, field: str) -> list[TermMatch]:
        """The ranked terms that searched ``field``'s index."""
        found = [t for t in self.matcher.terms if field in t.postings and t.node.options.ranked]
        return [t for t in found if not isinstance(t.node, (q.In, q.WeightedTokens))]  # sets match, they do not rank

    def neighbors(self, feature: Feature) -> list[Neighbors]:
        """The nearestNeighbor items that ``feature`` is about: by field, or by label."""
        by_label = feature.name == "itemRawScore" or (len(feature.arguments) == 2 and feature.arguments[0] == "label")
        wanted = feature.arguments[-1]
        found = self.matcher.neighbors
        return [n for n in found if (n.node.label if by_label else n.node.field) == wanted]


class Batch:
    """``FeatureSource`` over ``rows`` (n,); ``first_phase``: their scores once they have any."""

    def __init__(self, query: QueryFeatures, rows: NDArray[np.int64], first_phase: Numbers | None = None) -> None:
        self.query, self.rows, self.first_phase = query, rows, first_phase

    def value(self, feature: Feature) -> BatchValue:
        """Values of ``feature`` for each row. Raises ``QueryError`` for one that is not implemented."""
        name, arguments = feature.name, feature.arguments
        if feature.output:
            raise QueryError(f"the rank feature '{feature}' is not supported by the local engine")
        if name == "bm25":
            return self.query.bm25(arguments[0])[self.rows]
        if name in ("closeness", "distance", "rawScore", "itemRawScore"):
            return self._neighbor(feature)
        if name == "attribute" and len(arguments) == 1:
            return self._attribute(arguments[0])
        if name == "query":
            return self._input(arguments[0])
        if name == "fieldLength":
            texts = self.query.matcher.snapshot.generation.texts
            return texts[arguments[0]].lengths.view()[self.rows].astype(np.float64)
        if name == "matches":
            return self._matches(arguments[0])
        if name == "matchCount":
            return self._match_count(arguments[0])
        if name == "firstPhase" and self.first_phase is not None:
            return self.first_phase
        if name == "now":
            return float(int(time.time()))
        raise QueryError(f"the rank feature '{feature}' is not supported by the local engine")

    def _neighbor(self, feature: Feature) -> BatchValue:
        items = self.query.neighbors(feature)
        if feature.name == "distance":
            if not items:
                return metrics.NO_DISTANCE
            return np.asarray(np.min([item.distance(self.rows) for item in items], axis=0))
        if not items:
            return 0.0
        if feature.name == "closeness":
            return np.asarray(np.max([item.closeness(self.rows) for item in items], axis=0))
        return np.asarray(np.max([item.raw_score(self.rows) for item in items], axis=0))

    def _attribute(self, name: str) -> BatchValue:
        snapshot = self.query.matcher.snapshot
        tensors = snapshot.generation.tensors.get(name)
        if tensors is not None:
            return tensors.batch(self.rows)
        column = snapshot.generation.columns.get(name)
        if not isinstance(column, NumberColumn):
            raise QueryError(f"the rank feature 'attribute({name})' is not supported: it is not a number or tensor")
        values = column.values(snapshot.size)[self.rows].astype(np.float64)
        missing: NDArray[Any] = column.missing(snapshot.size)[self.rows]
        return np.where(missing, np.nan, values)

    def _input(self, name: str) -> BatchValue:
        tensor: Tensor | None = self.query.matcher.inputs.get(name)
        if tensor is None:
            return 0.0
        if not tensor.type.dimensions:
            return float(tensor.cells)
        if tensor.type.mapped:
            return BatchTensor(tensor.type, [tensor])
        return BatchTensor(tensor.type, tensor.cells[np.newaxis])

    def _matches(self, field: str) -> Numbers:
        return (self._match_count(field) > 0).astype(np.float64)

    def _match_count(self, field: str) -> Numbers:
        found = np.zeros(len(self.rows))
        for term in self.query.matcher.terms:
            if field in term.fields:
                mask = term.mask
                if mask is None or field in term.postings:
                    mask = np.zeros(self.query.matcher.size, np.bool_)
                    mask[term.postings[field][0]] = True
                found += mask[self.rows] if term.scope is None else (mask & term.scope)[self.rows]
        return found
