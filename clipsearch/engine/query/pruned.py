"""The best hits of a text query without scoring all that match: the same hits, scores and count as the general path.

For a query that is an ``or`` or ``weakAnd`` of terms in one text index, perhaps beside nearestNeighbor operators and
under filters, and a first phase that rises with bm25 of that index (``ranking.monotone``): every row's bm25 is summed
in whole steps, from impacts that are kept for frequent terms, and the rows that may be among the best are chosen by the
maxima of blocks. These, and the rows that the nearestNeighbor operators produced, are then scored as the general path
does. Sums are too large by less than a step a term, and off by a small known share; what is chosen allows for both.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.index import Snapshot, is_text
from clipsearch.engine.index.postings import MAX_WEIGHT, STEP, Impacts, most_steps
from clipsearch.engine.package.model import Field, Schema
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.clock import Clock
from clipsearch.engine.query.features import Batch, QueryFeatures
from clipsearch.engine.query.matching import Mask, Matcher
from clipsearch.engine.query.phases import Ranked, depths, first_phase, rerank
from clipsearch.engine.query.top import best_of
from clipsearch.engine.ranking import RankProgram
from clipsearch.engine.ranking.monotone import rises
from clipsearch.engine.ranking.source import BatchValue, Feature

BLOCKS = (64, 32, 16, 8, 4, 2, 1)
_FILTERS = {
    q.And, q.Or, q.Not, q.Constant, q.Word, q.Phrase, q.Number, q.Boolean, q.In, q.Regex, q.WeightedTokens
}  # fmt: skip
_ROUNDING = 1e-9  # of doubles
_scratch = threading.local()
RowNumbers = NDArray[np.int64]


@dataclass(slots=True)
class _Plan:
    """A query in parts: each of ``terms`` and each of the rows ``produced`` matches, if all ``filters`` do."""

    terms: list[q.Term] = field(default_factory=list)
    produced: list[q.NearestNeighbor] = field(default_factory=list)
    filters: list[q.Node] = field(default_factory=list)


class Pruned:
    """One query over one snapshot; ``rank`` is None where the general path has to answer."""

    def __init__(self, matcher: Matcher, program: RankProgram, properties: dict[str, str], clock: Clock) -> None:
        self.matcher, self.program, self.clock = matcher, program, clock
        self.features = QueryFeatures(matcher, properties)
        self.snapshot: Snapshot = matcher.snapshot

    def rank(self, root: q.Node, wanted: int, rerank_counts: Mapping[str, int]) -> Ranked | None:
        """The best ``wanted`` hits; None when the query or the profile is not of the kind that can be pruned."""
        profile = self.program.profile
        second, third = depths(profile, rerank_counts)
        count = max(wanted, second, third)
        if profile.first_phase is None or profile.first_phase.drop_limit is not None or count > profile.keep_rank_count:
            return None
        plan = _Plan()
        if not _take_apart(root, self.matcher.schema, plan):
            return None
        text = self._text_field(plan)
        if text is None or not self._rises(text, plan):
            return None
        with self.clock.step("match"):
            allowed = self._filter(plan.filters)
            produced = self._neighbors(plan, allowed)
            summed = self._impacts(plan, text)
            if summed is None:
                return None
            scores, error = summed
            matched = self._matched(scores, allowed)
            total, left = self._without(scores, matched, produced)
        with self.clock.step("first phase"):
            chosen, bound = _select(scores, left, count, error, len(plan.terms))
            hits = self._best(_merged(chosen, produced), count, total, bound, text)
        if hits is None:
            return None
        return rerank(self.features, self.program, hits, second, third, self.clock).cut(0, wanted)

    # ---- what can be pruned

    def _text_field(self, plan: _Plan) -> Field | None:
        """The one text index that all terms search, when they all rank by the usual BM25."""
        names = {term.field for term in plan.terms}
        fields = self.matcher.fields(names.pop()) if len(names) == 1 else []
        if len(fields) != 1 or not is_text(fields[0]):
            return None
        prefix = f"bm25({fields[0].name})."
        return None if any(name.startswith(prefix) for name in self.features.properties) else fields[0]

    def _rises(self, text: Field, plan: _Plan) -> bool:
        """Whether the first phase rises with bm25 of rows that no nearestNeighbor operator produced."""
        near = {node.field for node in plan.produced}
        labels = {node.label for node in plan.produced}
        batch = Batch(self.features, np.empty(0, np.int64))
        known: list[tuple[Feature, float | None]] = []
        for feature in self.program.features:
            if feature.name in ("rawScore", "itemRawScore"):
                known.append((feature, 0.0))
            elif feature.name in ("closeness", "distance"):
                if feature.arguments[-1] not in (labels if feature.arguments[0] == "label" else near):
                    known.append((feature, _number(batch.value(feature))))  # else it differs in every row
            elif feature.name == "query":
                known.append((feature, _number(batch.value(feature))))
        memo = self.program.rising
        key = (text.name, tuple(known))
        found = memo.get(key)  # looked up once: another query may clear it meanwhile
        if found is None:
            if len(memo) > 1000:
                memo.clear()
            held = {feature: value for feature, value in known if value is not None}
            found = memo[key] = rises(self.program.profile, self.matcher.schema, text.name, held)
        return found

    # ---- the steps

    def _filter(self, filters: list[q.Node]) -> Mask | None:
        allowed: Mask | None = None
        for node in filters:
            mask = self.matcher.match(node, None)
            allowed = mask if allowed is None else allowed & mask
        return allowed

    def _impacts(self, plan: _Plan, text: Field) -> tuple[Impacts, float] | None:
        """What bm25 of each row is in steps, padded to whole blocks; and the largest relative error besides rounding.

        None: a weight that the query gives a term is so large that steps do not fit.
        """
        terms = [self.matcher.look_up(node, text) for node in plan.terms]
        weights = [self.features.weight(term) for term in terms]
        if max(weights) > MAX_WEIGHT:
            return None
        narrow = most_steps(sum(weights)) + len(terms) < np.iinfo(np.uint16).max
        size = -(-max(self.snapshot.size, 1) // BLOCKS[0]) * BLOCKS[0]
        scores = _sums(size, np.uint16 if narrow else np.uint32)
        average, error = self.snapshot.average_length(text.name) or 1.0, 0.0
        for term, weight in zip(terms, weights, strict=True):
            error = max(error, term.found[text.name].add_impacts(scores, weight, average))
        return scores, error * 1.1 + _ROUNDING

    def _neighbors(self, plan: _Plan, allowed: Mask | None) -> RowNumbers:
        """The ascending rows that nearestNeighbor operators produce."""
        found = [self.matcher.nearest(node, allowed) for node in plan.produced]
        if len(found) == 1:
            return found[0].rows
        return np.unique(np.concatenate([np.empty(0, np.int64), *(each.rows for each in found)]))

    def _matched(self, scores: Impacts, allowed: Mask | None) -> int:
        """How many rows the terms match; ``scores`` become 0 in all others."""
        size, snapshot = self.snapshot.size, self.snapshot
        masks = [mask for mask in (allowed, None if snapshot.documents == size else snapshot.live) if mask is not None]
        for mask in masks:
            np.multiply(scores[:size], mask, scores[:size])
        return int(np.count_nonzero(scores))

    def _without(self, scores: Impacts, matched: int, produced: RowNumbers) -> tuple[int, int]:
        """How many rows match, and how many of them were not ``produced``; ``scores`` become 0 in those that were."""
        if not len(produced):
            return matched, matched
        left = matched - int(np.count_nonzero(scores[produced]))
        scores[produced] = 0
        return left + len(produced), left

    def _best(self, rows: RowNumbers, count: int, total: int, bound: float, text: Field) -> Ranked | None:
        """The ``count`` best of candidate ``rows``; None when another row could be as good as the last of them."""
        scores = first_phase(self.features, self.program, rows)
        best = best_of(scores, self.snapshot.lids[rows], count)
        if bound > 0 and len(best):
            outside = self.program.first_phase(_Outside(Batch(self.features, rows[:1]), text.name, bound), 1)
            if not scores[best[-1]] > outside[0]:
                return None
        return Ranked(rows[best], scores[best], scores[best], total, best if self.features.keeps(rows) else None)


@dataclass(frozen=True, slots=True)
class _Outside:
    """The features of a row that was not chosen: at most ``bm25``, and not produced by any operator."""

    batch: Batch
    text: str
    bm25: float

    def value(self, feature: Feature) -> BatchValue:
        """The feature's value for the one row."""
        if feature.name == "bm25" and feature.arguments == (self.text,):
            return np.array([self.bm25])
        return 0.0 if feature.name in ("rawScore", "itemRawScore") else self.batch.value(feature)


def _sums(size: int, dtype: Any) -> Impacts:
    """Zeros (size,), this thread's own until its next query: new memory for each would cost its page faults."""
    held: Impacts | None = getattr(_scratch, "sums", None)
    if held is None or held.dtype != dtype or len(held) < size:
        held = _scratch.sums = np.empty(size, dtype)
    found = held[:size]
    found.fill(0)
    return found


def _number(value: BatchValue) -> float | None:
    return value if isinstance(value, float) else None


def _take_apart(root: q.Node, schema: Schema, plan: _Plan) -> bool:
    """Fills ``plan`` with the parts of ``root``; False when it has others."""
    if isinstance(root, q.Not) and root.positive is not None:
        plan.filters.append(q.Not(None, root.negatives))
        return all(_is_filter(node, schema) for node in root.negatives) and _take_apart(root.positive, schema, plan)
    if isinstance(root, q.And):
        rest = [node for node in root.items if not _is_filter(node, schema)]
        plan.filters += [node for node in root.items if node not in rest]
        return len(rest) == 1 and _take_apart(rest[0], schema, plan)
    return _take_alternatives(root, plan) and bool(plan.terms)


def _take_alternatives(node: q.Node, plan: _Plan) -> bool:
    if isinstance(node, (q.Or, q.WeakAnd)):
        return all(_take_alternatives(item, plan) for item in node.items)
    if isinstance(node, q.NearestNeighbor):
        plan.produced.append(node)
        return True
    if isinstance(node, (q.Word, q.Phrase)) and node.options.ranked:
        plan.terms.append(node)
        return node.options.significance is None or node.options.significance > 0
    return False


def _is_filter(node: q.Node, schema: Schema) -> bool:
    """Whether ``node`` has nothing but terms in attributes that give no score."""
    for part in node.walk():
        if type(part) not in _FILTERS or getattr(part, "operator", "WEIGHTEDSET") != "WEIGHTEDSET":
            return False
        if isinstance(part, q.Term):
            found = schema.fields.get(part.field)
            if found is None or is_text(found):
                return False
    return True


def _select(scores: Impacts, left: int, count: int, error: float, terms: int) -> tuple[RowNumbers, float]:
    """Rows that have the ``count`` highest true scores, ascending, and the most that any other row can have.

    ``scores`` (rows,) in steps, of which ``left`` are above 0; ``error``: the most by which one is off, relatively,
    besides being less than ``terms`` steps too large.
    """
    if left <= count:
        return np.flatnonzero(scores), 0.0
    if count == 0:
        return np.empty(0, np.int64), np.inf
    size = next((size for size in BLOCKS if len(scores) // size >= 3 * count), 1)
    blocks = scores.reshape(size, -1)  # a block is a column: its maximum is found by vectorised comparisons of rows
    best = blocks.max(axis=0) if size > 1 else scores
    last = int(np.partition(best, len(best) - count)[len(best) - count])
    if last <= terms:
        return np.flatnonzero(scores), 0.0
    bound = (last - terms) * STEP * (1 - error)
    floor = scores.dtype.type(max(1, math.ceil(bound / STEP / (1 + error) * (1 - 1e-9))))
    columns = np.flatnonzero(best >= floor)
    if size == 1 or len(columns) * size * 8 > len(scores):
        return np.flatnonzero(scores >= floor), bound
    inside, column = np.nonzero(blocks[:, columns] >= floor)
    rows = inside * blocks.shape[1] + columns[column]
    rows.sort()
    return rows, bound


def _merged(chosen: RowNumbers, produced: RowNumbers) -> RowNumbers:
    """Two disjoint lists of ascending rows as one."""
    if not len(produced):
        return chosen
    rows = np.concatenate([chosen, produced])
    rows.sort()
    return rows
