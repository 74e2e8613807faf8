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
from clipsearch.engine.query.term_features import NAMES, TermFeatures
from clipsearch.engine.ranking import distances as metrics
from clipsearch.engine.ranking.bm25 import K1, B, idf, score
from clipsearch.engine.ranking.source import BatchTensor, BatchValue, Feature
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import QueryError

Numbers = NDArray[np.float64]
SPARSE_SHARE = 4  # BM25 of less than a row in so many is looked up row by row


class QueryFeatures:
    """What all batches of one query on one schema share; dense feature columns are computed once."""

    def __init__(self, matcher: Matcher, properties: dict[str, str]) -> None:
        self.matcher = matcher
        self.properties = properties
        self._dense: dict[str, Numbers] = {}
        self._sparse: dict[str, tuple[NDArray[np.int64], Numbers]] = {}  # ascending rows, and their scores

    def bm25(self, field: str, rows: NDArray[np.int64]) -> Numbers:
        """BM25 of live ``rows`` (n,)."""
        known = self._sparse.get(field)
        if known is not None and len(known[0]):
            place = np.minimum(known[0].searchsorted(rows), len(known[0]) - 1)
            if np.array_equal(known[0][place], rows):
                return known[1][place]
        if field not in self._dense:
            if len(rows) * SPARSE_SHARE < self.matcher.size:
                scores = self._bm25_of(field, rows)
                if len(rows) > 1 and bool((rows[1:] > rows[:-1]).all()):
                    self._sparse[field] = rows, scores
                return scores
            self._dense[field] = self._bm25_of_all(field)
        return self._dense[field][rows]

    def _bm25_of(self, field: str, rows: NDArray[np.int64]) -> Numbers:
        """BM25 of ``rows``: the same numbers as for all, added in the same order."""
        scores, terms = np.zeros(len(rows)), self.terms(field)
        if not terms or not len(rows):
            return scores
        snapshot = self.matcher.snapshot
        lengths = snapshot.generation.texts[field].lengths.view(snapshot.size)[rows]
        weights = np.array([self.weight(term) for term in terms])[:, np.newaxis]
        frequencies = np.array([term.found[field].frequencies_of(rows) for term in terms])  # (terms, rows)
        shares = score(frequencies, lengths, self._average(field), weights, *self._shape(field))
        for term, share in zip(terms, shares, strict=True):  # not sum(): it may add in another order
            scores += share if term.scope is None else np.where(term.scope[rows], share, 0.0)
        return scores

    def _average(self, field: str) -> float:
        return self._property(field, "averageFieldLength", self.matcher.snapshot.average_length(field))

    def _shape(self, field: str) -> tuple[float, float]:
        return self._property(field, "k1", K1), self._property(field, "b", B)

    def _bm25_of_all(self, field: str) -> Numbers:
        """BM25 of every row, (size,), by the terms' postings."""
        snapshot = self.matcher.snapshot
        scores = np.zeros(snapshot.size)
        lengths = snapshot.generation.texts[field].lengths.view(snapshot.size)
        average, (k1, b) = self._average(field), self._shape(field)
        for term in self.terms(field):
            weight = self.weight(term)
            rows, frequencies = term.postings[field]
            if term.scope is not None:
                inside = term.scope[rows]
                rows, frequencies = rows[inside], frequencies[inside]
            scores[rows] += score(frequencies, lengths[rows], average, weight, k1, b)
        return scores

    def weight(self, term: TermMatch) -> float:
        """The term's idf, or the significance that the query gives it."""
        given = term.node.options.significance
        return idf(term.count, self.matcher.snapshot.documents) if given is None else given

    def _property(self, field: str, name: str, default: float) -> float:
        text = self.properties.get(f"bm25({field}).{name}", default)
        try:
            return float(text)
        except ValueError as error:
            raise QueryError(f"the rank property bm25({field}).{name} is '{text}', not a number", code=3) from error

    def terms(self, field: str) -> list[TermMatch]:
        """The ranked terms that searched ``field``'s index."""
        found = [t for t in self.matcher.terms if field in t.found and t.node.options.ranked]
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
        if name in NAMES or (name == "attribute" and self._is_special(feature)):
            return TermFeatures(self).value(feature)
        if name == "bm25":
            return self.query.bm25(arguments[0], self.rows)
        if name in ("closeness", "distance"):
            return self._neighbor(feature)
        if name == "attribute":
            return self._attribute(arguments[0])
        if name == "query":
            return self._input(arguments[0])
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
        return np.asarray(np.max([item.closeness(self.rows) for item in items], axis=0))

    def _is_special(self, feature: Feature) -> bool:
        """Whether it is not just the number or tensor of a field."""
        column = self.query.matcher.snapshot.generation.columns.get(feature.arguments[0])
        several = column is not None and not isinstance(column, NumberColumn)
        return several or feature.output not in ("", "value")

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
