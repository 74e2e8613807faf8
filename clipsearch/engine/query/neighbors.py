"""The nearestNeighbor operator: which rows it produces, and distances of any row to its query.

``approximate: true`` on an HNSW field gives exactly the ``targetHits`` nearest under the filter: measured on every row
of small fields and under narrow filters, else found by way of codes with a recall above 0.99. Otherwise Vespa's exact
iterator is followed: in document order, each row not farther than the worst of the ``targetHits`` best so far is
produced, so more rows than that match. In a field with a mapped dimension a document is as near as its closest
subspace. Source: ``nearest_neighbor_blueprint.cpp``.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.index import Snapshot
from clipsearch.engine.index.vector_cells import Scorer
from clipsearch.engine.index.vectors import GATHER_SHARE, TensorColumn
from clipsearch.engine.package.model import Field, Schema
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.top import best_of
from clipsearch.engine.ranking import distances as metrics
from clipsearch.engine.tensors.value import Tensor, cast
from clipsearch.errors import QueryError

MIN_TARGET_HITS = 100  # what totalTargetHits is raised to on one node
_CHUNK = 4096


@dataclass(eq=False, slots=True)
class Neighbors:
    """The outcome of one item: produced ``rows`` with internal ``distances``; ``all_distances`` when all are known."""

    node: q.NearestNeighbor
    metric: str
    query: NDArray[Any]
    column: TensorColumn
    size: int
    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    all_distances: NDArray[np.float64] | None

    def internal(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Internal distances of any ``rows`` (n,); infinity without a tensor."""
        position, produced = self._places(rows)
        if produced.all():
            return self.distances[position]
        if self.all_distances is None:
            scorer = Scorer(self.metric, self.query)
            if len(rows) * GATHER_SHARE <= self.size:
                return self.column.distances(self.size, rows, scorer)
            self.all_distances = self.column.distances(self.size, None, scorer)
        return self.all_distances[rows]

    def closest(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """The value of ``closest`` for ``rows`` of a field with a mapped dimension: the winning label with 1."""
        return self.column.closest(rows, Scorer(self.metric, self.query))[0]

    def closeness(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """``closeness`` of any ``rows``, computed on the fly for rows that the item did not produce."""
        return self._finish(self.internal(rows), metrics.missing_raw_score(self.metric), closeness=True)

    def distance(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """``distance`` of any ``rows``."""
        return self._finish(self.internal(rows), metrics.NO_DISTANCE, closeness=False)

    def raw_score(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Closeness of the rows that the item produced; 0 for every other."""
        found = np.zeros(len(rows))
        position, produced = self._places(rows)
        found[produced] = self._finish(self.distances[position[produced]], 0.0, closeness=True)
        return found

    def _places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where each of ``rows`` (n,) is among the produced, and whether it is."""
        if not len(self.rows):
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
        position = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return position, self.rows[position] == rows

    def _finish(self, internal: NDArray[np.float64], missing: float, *, closeness: bool) -> NDArray[np.float64]:
        known = np.isfinite(internal)
        inner = np.where(known, internal, 0.0)
        convert = metrics.raw_score_from_internal if closeness else metrics.distance_from_internal
        found: NDArray[np.float64] = np.where(known, convert(self.metric, inner, self.query), missing)
        return found


def closest_of(items: Sequence[Neighbors], rows: NDArray[np.int64]) -> list[Tensor]:
    """The value of ``closest`` for ``rows`` under several ``items`` of one field: the nearest of any, first item first.

    Source: Vespa's ``closest_feature.cpp``.
    """
    found = [item.column.closest(rows, Scorer(item.metric, item.query)) for item in items]
    best = np.argmin([distances for _, distances in found], axis=0)
    return [found[item][0][position] for position, item in enumerate(best.tolist())]


def find_neighbors(
    node: q.NearestNeighbor,
    schema: Schema,
    snapshot: Snapshot,
    inputs: Mapping[str, Tensor],
    allowed: NDArray[np.bool_],
) -> Neighbors:
    """The nearest of ``allowed`` (size,) rows. Raises ``QueryError``, as Vespa's NearestNeighborSearcher does."""
    field, query = _check(node, schema, inputs)
    column = snapshot.generation.tensors[node.field]
    metric = field.distance_metric or "euclidean"
    cells = cast(np.asarray(query.cells), column.type.cell).reshape(-1)
    allowed = column.with_tensor(snapshot.size, allowed)
    scorer = Scorer(metric, cells)
    wanted = node.target_hits if node.target_hits > 0 else max(MIN_TARGET_HITS, node.total_target_hits)
    approximate = node.approximate and field.hnsw
    nearest = column.nearest(snapshot.size, allowed, wanted, scorer) if approximate else None
    every: NDArray[np.float64] | None = None
    if nearest is not None:
        candidates, found = nearest
    else:
        candidates = np.flatnonzero(allowed)
        if len(candidates) * GATHER_SHARE > snapshot.size:
            every = column.distances(snapshot.size, None, scorer)
            found = every[candidates]
        else:
            found = column.distances(snapshot.size, candidates, scorer)
    limit = np.inf
    if node.distance_threshold is not None:
        limit = metrics.internal_threshold(metric, node.distance_threshold, cells)
    near = found <= limit if limit < np.inf else found < np.inf
    if not near.all():
        candidates, found = candidates[near], found[near]
    lids = snapshot.lids[candidates]
    chosen = best_of(-found, lids, wanted) if approximate else _exact_iterator(found, lids, wanted, limit)
    chosen.sort()
    return Neighbors(node, metric, cells, column, snapshot.size, candidates[chosen], found[chosen], every)


def _exact_iterator(
    found: NDArray[np.float64], lids: NDArray[np.int64], wanted: int, limit: float
) -> NDArray[np.int64]:
    """Indexes that Vespa's exact iterator emits: in lid order, each not above the worst of the best so far."""
    order = np.argsort(lids, kind="stable")
    heap: list[float] = []  # negated: the worst of the best is first
    emitted: list[int] = []
    threshold = limit
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        for index in chunk[found[chunk] <= threshold]:
            distance = float(found[index])
            if distance > threshold:
                continue
            emitted.append(int(index))
            if len(heap) < wanted:
                heapq.heappush(heap, -distance)
            else:
                heapq.heappushpop(heap, -distance)
            if len(heap) == wanted:
                threshold = min(limit, -heap[0])
    return np.array(emitted, np.int64)


def _check(node: q.NearestNeighbor, schema: Schema, inputs: Mapping[str, Tensor]) -> tuple[Field, Tensor]:
    field = schema.fields.get(node.field)
    if field is None:
        raise QueryError(f"Could not create query from YQL: Field '{node.field}' does not exist.")
    if node.target_hits <= 0 and node.total_target_hits <= 0:
        raise QueryError(f"{node} must have either targetHits or totalTargetHits set", code=3)
    if not field.attribute:
        raise QueryError(f"{node} field is not an attribute", code=3)
    if field.type.tensor is None:
        raise QueryError(f"{node} field is not a tensor", code=3)
    query = inputs.get(node.tensor)
    if query is None:
        raise QueryError(
            f"{node} requires a tensor rank feature named 'query({node.tensor})' but this is not present", code=3
        )
    mine, theirs = field.type.tensor, query.type
    if len(mine.indexed) != 1 or len(mine.mapped) > 1:
        raise QueryError(f"{node} field type {mine} is not supported by nearest neighbor searcher", code=3)
    if theirs.dimensions != mine.indexed:
        raise QueryError(f"{node} field type {mine} does not match query type {theirs}", code=3)
    return field, query
