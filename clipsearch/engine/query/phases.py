"""From matching rows to the hits of one page: first phase, second phase, global phase, or sorting by attributes.

Source: Vespa's ``match_thread.cpp``, ``hitcollector`` and ``GlobalPhaseRanker``; rescaling is in ``ranking.rescale``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import NumberColumn, StringColumn
from clipsearch.engine.index.index import Snapshot
from clipsearch.engine.package.model import RankProfile
from clipsearch.engine.query.clock import Clock
from clipsearch.engine.query.features import Batch, QueryFeatures
from clipsearch.engine.query.top import best_of
from clipsearch.engine.query.yql import Sort
from clipsearch.engine.ranking.rescale import keep_above, rescale, sanitize
from clipsearch.errors import QueryError

if TYPE_CHECKING:
    from clipsearch.engine.ranking import RankProgram

Scores = NDArray[np.float64]
RowNumbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Hits in order: ``rows`` and ``scores`` (n,), ``first_phase`` their first scores; ``total``: all that matched.

    ``places``: where the rows were in the batch of the first phase, None: not known.
    """

    rows: RowNumbers
    scores: Scores
    first_phase: Scores
    total: int
    places: NDArray[np.int64] | None = None

    def cut(self, start: int, end: int) -> Ranked:
        """The hits from ``start`` to ``end``."""
        part = slice(start, end)
        places = None if self.places is None else self.places[part]
        return Ranked(self.rows[part], self.scores[part], self.first_phase[part], self.total, places)

    def ordered(self, order: NDArray[Any], scores: Scores) -> Ranked:
        """These hits with other ``scores``, in ``order``."""
        places = None if self.places is None else self.places[order]
        return Ranked(self.rows[order], scores[order], self.first_phase[order], self.total, places)


def rank(
    features: QueryFeatures,
    program: RankProgram,
    rows: RowNumbers,
    wanted: int,
    rerank_counts: Mapping[str, int],
    clock: Clock,
) -> Ranked:
    """The best ``wanted`` of the matching ``rows`` by the profile's phases.

    ``rerank_counts``: the query's own ``second`` and ``global`` counts, where it sets them.
    """
    profile = program.profile
    second, third = depths(profile, rerank_counts)
    with clock.step("first phase"):
        scores = first_phase(features, program, rows)
        if profile.first_phase is not None and profile.first_phase.drop_limit is not None:
            kept = keep_above(scores, profile.first_phase.drop_limit)
            rows, scores = rows[kept], scores[kept]
        lids = features.matcher.snapshot.lids[rows]
        best = best_of(scores, lids, max(wanted, second, third))
        if len(best) > profile.keep_rank_count:
            scores = _keep(scores, best[: profile.keep_rank_count])
            best = best_of(scores, lids, len(best))
    hits = Ranked(rows[best], scores[best], scores[best], len(rows))
    return rerank(features, program, hits, second, third, clock).cut(0, wanted)


def depths(profile: RankProfile, rerank_counts: Mapping[str, int]) -> tuple[int, int]:
    """How many hits the second and the global phase see."""
    second = rerank_counts.get("second", profile.second_phase.rerank_count) if profile.second_phase else 0
    third = rerank_counts.get("global", profile.global_phase.rerank_count) if profile.global_phase else 0
    return second, third


def rerank(
    features: QueryFeatures, program: RankProgram, hits: Ranked, second: int, third: int, clock: Clock
) -> Ranked:
    """The best ``hits`` of the first phase after the second and the global phase."""
    if second:
        with clock.step("second phase"):
            hits = _second_phase(features, program, hits, second)
    if third:
        with clock.step("global phase"):
            hits = _global_phase(features, program, hits, third)
    return hits


def first_phase(features: QueryFeatures, program: RankProgram, rows: RowNumbers) -> Scores:
    """First-phase scores of ``rows`` (n,), as Vespa keeps them; a profile without a first phase has nativeRank's."""
    profile = program.profile
    if profile.first_phase is None and (profile.name == "unranked" or features.nothing_ranks):
        return np.zeros(len(rows))
    return sanitize(program.first_phase(Batch(features, rows), len(rows)))


def _keep(scores: Scores, kept: NDArray[np.int64]) -> Scores:
    """``scores`` with -inf for all but ``kept``, which is what keep-rank-count leaves of the others."""
    found = np.full(len(scores), -np.inf)
    found[kept] = scores[kept]
    return found


def _second_phase(features: QueryFeatures, program: RankProgram, hits: Ranked, count: int) -> Ranked:
    top, rest = hits.cut(0, count), hits.cut(count, len(hits.rows))
    batch = Batch(features, top.rows, top.scores)
    after = sanitize(program.second_phase(batch, len(top.rows)))
    scores = np.concatenate([after, rescale(top.scores, after, rest.scores)])
    order = np.lexsort((features.matcher.snapshot.lids[hits.rows], -scores))
    hits = hits.ordered(order, scores)
    limit = program.profile.second_phase.drop_limit if program.profile.second_phase else None
    return _drop(hits, limit)


def _global_phase(features: QueryFeatures, program: RankProgram, hits: Ranked, count: int) -> Ranked:
    top, rest = hits.cut(0, count), hits.cut(count, len(hits.rows))
    batch = Batch(features, top.rows, top.first_phase, top.places)
    after = program.global_phase(batch, len(top.rows), top.scores)
    if after is None:
        return hits
    scores = np.concatenate([after, rescale(top.scores, after, rest.scores)]) if len(rest.rows) else after
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    limit = program.profile.global_phase.drop_limit if program.profile.global_phase else None
    return _drop(hits.ordered(order, scores), limit)


def _drop(hits: Ranked, limit: float | None) -> Ranked:
    if limit is None:
        return hits
    kept = keep_above(hits.scores, limit)
    total = hits.total - int(np.count_nonzero(~kept))
    return Ranked(hits.rows[kept], hits.scores[kept], hits.first_phase[kept], total)


def sort(features: QueryFeatures, program: RankProgram, rows: RowNumbers, wanted: int, order: Sequence[Sort]) -> Ranked:
    """The first ``wanted`` of ``rows`` by attribute values; relevance is computed only when it is sorted by.

    Raises ``QueryError`` for a field that cannot be sorted by, and with a global phase.
    """
    if program.profile.global_phase is not None:
        raise QueryError("Sorting is not supported with global phase", code=4)
    snapshot = features.matcher.snapshot
    scores = np.zeros(len(rows))
    if any(item.field in ("[rank]", "[relevance]") for item in order):
        scores = first_phase(features, program, rows)
    keys: list[NDArray[Any]] = [snapshot.lids[rows]]
    for item in reversed(order):
        key, missing = _sort_key(item, snapshot, rows, scores)
        keys += [-key, missing] if item.descending else [key, ~missing]  # no value is below every value
    best = np.lexsort(keys)[:wanted]
    return Ranked(rows[best], scores[best], scores[best], len(rows))


def _sort_key(item: Sort, snapshot: Snapshot, rows: RowNumbers, scores: Scores) -> tuple[NDArray[Any], NDArray[Any]]:
    none = np.zeros(len(rows), np.bool_)
    if item.field in ("[rank]", "[relevance]"):
        return scores, none
    if item.function and item.function not in ("lowercase", "raw"):
        raise QueryError(f"the sort function '{item.function}' is not supported by the local engine")
    column = snapshot.generation.columns.get(item.field)
    if isinstance(column, NumberColumn):
        missing = column.missing(snapshot.size)[rows]
        values = column.values(snapshot.size)[rows]
        wide = values.astype(np.int64 if column.integer else np.float64)
        return np.where(missing, 0, wide), missing
    if isinstance(column, StringColumn) and column.single:
        codes = column.flat(snapshot.size)[1][rows]
        distinct, inverse = np.unique(codes, return_inverse=True)
        raw = item.function == "raw" or (column.cased and not item.function)
        words = [column.words[code] if raw else column.words[code].lower() for code in distinct]
        places = {word: place for place, word in enumerate(sorted(set(words)))}
        return np.array([places[word] for word in words] or [0], np.int64)[inverse], none
    raise QueryError(f"Could not create query from YQL: '{item.field}' is not an attribute that can be sorted by")
