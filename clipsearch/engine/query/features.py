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
_KEPT = ("bm25", "rawScore", "itemRawScore")  # of a row the same in every phase
SPARSE_SHARE = 4  # BM25 of less than a row in so many is looked up row by row


class QueryFeatures:
    """What all batches of one query on one schema share; dense feature columns are computed once."""

    def __init__(self, matcher: Matcher, properties: dict[str, str]) -> None:
        self.matcher = matcher
        self.properties = properties
        self._dense: dict[str, Numbers] = {}
        self._kept_rows: NDArray[np.int64] | None = None  # ascending
        self._kept: dict[Feature, Numbers] = {}
        self._counted: dict[str, tuple[NDArray[np.int64], dict[int, NDArray[np.int64]]]] = {}

    @property
    def nothing_ranks(self) -> bool:
        """Whether Vespa's nativeRank is 0 in every row: no item of the query, once matched, is ranked by."""
        matcher = self.matcher
        if matcher.neighbors or matcher.scored:
            return False
        return not any(term.node.options.ranked for term in matcher.terms)

    def bm25(self, field: str, rows: NDArray[np.int64]) -> Numbers:
        """BM25 of live ``rows`` (n,)."""
        if field not in self._dense:
            if len(rows) * SPARSE_SHARE < self.matcher.size:
                return self._bm25_of(field, rows)
            self._dense[field] = self._bm25_of_all(field)
        return self._dense[field][rows]

    def keeps(self, rows: NDArray[np.int64]) -> bool:
        """Whether ``rows`` are those, in that order, whose values are kept."""
        return self._kept_rows is rows

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Where ``rows`` (n,) are among the rows whose values are kept; None: not all of them are."""
        kept = self._kept_rows
        if kept is None:
            return None
        place = np.minimum(kept.searchsorted(rows), len(kept) - 1)
        return place if np.array_equal(kept[place], rows) else None

    def kept(self, feature: Feature) -> Numbers | None:
        """The values of ``feature`` in the rows that are kept."""
        return self._kept.get(feature)

    def keep(self, feature: Feature, rows: NDArray[np.int64], values: BatchValue) -> None:
        """Keeps ``values`` of ``feature`` for later phases, when ``rows`` are the ascending ones of the first batch."""
        if self._kept_rows is None and len(rows) > 1 and bool((rows[1:] > rows[:-1]).all()):
            self._kept_rows = rows
        if self._kept_rows is rows and isinstance(values, np.ndarray) and values.shape == rows.shape:
            self._kept[feature] = values

    def _bm25_of(self, field: str, rows: NDArray[np.int64]) -> Numbers:
        """BM25 of ``rows``: the same numbers as for all, added in the same order."""
        scores, terms = np.zeros(len(rows)), self.terms(field)
        if not terms or not len(rows):
            return scores
        snapshot = self.matcher.snapshot
        lengths = snapshot.generation.texts[field].lengths.view(snapshot.size)[rows]
        weights = np.array([self.weight(term) for term in terms])[:, np.newaxis]
        counts = [term.found[field].frequencies_of(rows) for term in terms]
        self._counted.setdefault(field, (rows, {id(term): each for term, each in zip(terms, counts, strict=True)}))
        shares = score(np.array(counts), lengths, self._average(field), weights, *self._shape(field))
        for term, share in zip(terms, shares, strict=True):  # not sum(): it may add in another order
            scores += share if term.scope is None else np.where(term.scope[rows], share, 0.0)
        return scores

    def frequencies(self, field: str, term: TermMatch, batch: Batch) -> NDArray[np.int64]:
        """How often ``term`` is in ``field`` of each row of ``batch``: looked up once where BM25 has asked for it."""
        rows, counts = self._counted.get(field, (None, {}))
        found = counts.get(id(term))
        if found is not None and rows is batch.rows:
            return found
        if found is not None and rows is self._kept_rows:
            places = batch.places()
            if places is not None:
                return found[places]
        return term.found[field].frequencies_of(batch.rows)

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
        """The term's idf, by the frequency or the significance that the query gives it, if it does."""
        options = term.node.options
        given = options.significance if options.frequency is None else idf(*options.frequency)
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

    def __init__(
        self,
        query: QueryFeatures,
        rows: NDArray[np.int64],
        first_phase: Numbers | None = None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        """``places``: of ``rows`` among those whose values are kept, where the caller knows them."""
        self.query, self.rows, self.first_phase = query, rows, first_phase
        self._places, self._looked = places, places is not None

    def value(self, feature: Feature) -> BatchValue:
        """Values of ``feature`` for each row. Raises ``QueryError`` for one that is not implemented."""
        if feature.name not in _KEPT:
            return self._value(feature)
        kept = self.query.kept(feature)
        if kept is not None:
            places = self.places()
            if places is not None:
                return kept[places]
        values = self._value(feature)
        self.query.keep(feature, self.rows, values)
        return values

    def places(self) -> NDArray[np.int64] | None:
        """Where the rows are among those whose values are kept; None: not all of them are."""
        if not self._looked:
            self._looked, self._places = True, self.query.places(self.rows)
        return self._places

    def _value(self, feature: Feature) -> BatchValue:
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
