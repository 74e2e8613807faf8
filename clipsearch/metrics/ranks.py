"""Where each query's first relevant item stands; hits@k, recall@k and MRR@k from it, exact under ties.

Where scores tie, the order of the tied items is arbitrary; every figure here is its expectation over all such orders,
so that a model that gives one score to everything is worth chance and not whatever the sort happens to do.
Relevance is said by groups: an item is relevant to a query when both carry the same group number. That covers
classification (group = class), caption to image and image to caption (group = image).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class FirstRanks:
    """Where each query's best relevant item stands; three (Q,) int64 arrays.

    ``above``: items with a higher score. ``tied_others``: irrelevant items with the same score. ``tied_relevant``:
    relevant items with that score, itself included; 0 for a query that has no relevant item.
    """

    above: NDArray[np.int64]
    tied_others: NDArray[np.int64]
    tied_relevant: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.above)


def first_ranks(scores: Floats, relevant: NDArray[np.bool_]) -> FirstRanks:
    """Stand of the best relevant item of each row; ``scores`` (Q, N), ``relevant`` (Q, N) bool."""
    if scores.shape != relevant.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and relevant {relevant.shape} must be one (queries, items) shape")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: nothing can be ranked")
    best = np.max(scores, axis=1, where=relevant, initial=-np.inf)[:, None]
    tied = scores == best
    return FirstRanks(
        above=(scores > best).sum(axis=1, dtype=np.int64),
        tied_others=(tied & ~relevant).sum(axis=1, dtype=np.int64),
        tied_relevant=(tied & relevant).sum(axis=1, dtype=np.int64),
    )


def retrieval_ranks(
    queries: Floats, items: Floats, query_groups: Integers, item_groups: Integers, chunk: int = 512
) -> FirstRanks:
    """Rank all ``items`` (N, D) for each of ``queries`` (Q, D) by dot product; relevance is equality of groups.

    ``query_groups`` (Q,), ``item_groups`` (N,). Works in chunks of queries: memory is chunk x N.
    """
    parts = [
        first_ranks(queries[i : i + chunk] @ items.T, query_groups[i : i + chunk, None] == item_groups[None, :])
        for i in range(0, len(queries), chunk)
    ] or [first_ranks(np.zeros((0, len(items))), np.zeros((0, len(items)), bool))]
    return FirstRanks(
        above=np.concatenate([part.above for part in parts]),
        tied_others=np.concatenate([part.tied_others for part in parts]),
        tied_relevant=np.concatenate([part.tied_relevant for part in parts]),
    )


def position_probabilities(ranks: FirstRanks, k: int) -> NDArray[np.float64]:
    """(Q, k): the probability that the first relevant item stands at position 1 ... k, over all orders of ties."""
    others = ranks.tied_others.astype(np.float64)
    relevant = ranks.tied_relevant.astype(np.float64)
    probabilities = np.zeros((len(ranks), k))
    not_yet = (relevant > 0).astype(np.float64)  # probability that no relevant item came before this position
    for position in range(k):
        drawn = position - ranks.above  # how many of the tied items stand before this position
        left = others + relevant - drawn
        here = not_yet * np.where(drawn >= 0, relevant / np.maximum(left, relevant + (relevant == 0)), 0.0)
        probabilities[:, position] = here
        not_yet = not_yet - here
    return probabilities


def hits_at(ranks: FirstRanks, k: int) -> float:
    """Share of queries with at least one relevant item among the first ``k`` (the field's tables call it R@k)."""
    return float(position_probabilities(ranks, k).sum(axis=1).mean()) if len(ranks) else 0.0


def mrr_at(ranks: FirstRanks, k: int) -> float:
    """Mean reciprocal rank of the first relevant item; 0 for a query that has none among the first ``k``."""
    if not len(ranks):
        return 0.0
    return float((position_probabilities(ranks, k) @ (1.0 / np.arange(1, k + 1))).mean())


def recall_at(scores: Floats, relevant: NDArray[np.bool_], k: int) -> float:
    """Mean share of a query's relevant items that stand among the first ``k``; queries without any are left out.

    ``scores`` (Q, N), ``relevant`` (Q, N) bool. Equal to ``hits_at`` where each query has one relevant item.
    """
    shares = []
    for row, wanted in zip(scores, relevant, strict=True):
        if wanted.any():
            ordered = np.sort(row)
            above = len(row) - np.searchsorted(ordered, row[wanted], side="right")
            tied = len(row) - above - np.searchsorted(ordered, row[wanted], side="left")
            shares.append(float(np.clip((k - above) / tied, 0.0, 1.0).mean()))
    return float(np.mean(shares)) if shares else 0.0
