"""Several ranking measures at once, over queries with any number of relevant items, in bounded memory.

The expectation of each measure over all orders of tied items follows McSherry and Najork, "Computing information
retrieval performance measures efficiently in the presence of tied scores" (ECIR 2008): what counts of a relevant item
is how many items stand above it, how many share its score, and how many of both are relevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.metrics.ranks import FirstRanks, Floats, Integers, position_probabilities

CHUNK_BYTES = 64 << 20
"""Bytes of one block of scores; about three such blocks are alive at a time."""

CHUNK_PAIRS = 1 << 20
"""Pairs of a query and a relevant item in one block; each takes some 150 bytes."""


@dataclass(frozen=True, slots=True)
class _Lists:
    """Lists of numbers, one after the other: list i is ``values[starts[i]:starts[i + 1]]``."""

    starts: NDArray[np.int64]
    values: NDArray[np.int64]

    def pick(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The lists ``rows`` joined, and for each value the position in ``rows`` that it came from."""
        sizes = self.starts[rows + 1] - self.starts[rows]
        origin = np.repeat(np.arange(len(rows)), sizes)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.values[np.repeat(self.starts[rows], sizes) + within], origin


def _lists(rows: Integers, values: Integers, count: int) -> _Lists:
    """Lists from (row, value) pairs, each pair once; ``count`` lists, empty ones included."""
    pairs = np.unique(np.stack([np.asarray(rows, np.int64), np.asarray(values, np.int64)], axis=1), axis=0)
    starts = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=count))]).astype(np.int64)
    return _Lists(starts, pairs[:, 1])


@dataclass(frozen=True, slots=True)
class Relevance:
    """Which items are relevant to which queries, said through keys: an item is relevant to a query that has its key.

    Never (queries, items) in memory, even where everything is relevant to everything. For each query, no two of its
    keys share an item.
    """

    query_keys: _Lists
    key_items: _Lists

    @classmethod
    def by_group(cls, query_groups: Integers, item_groups: Integers) -> Relevance:
        """An item is relevant to a query when both carry the same number; (Q,) and (N,) non-negative."""
        keys = int(max(np.max(query_groups, initial=-1), np.max(item_groups, initial=-1))) + 1
        return cls(
            _lists(np.arange(len(query_groups)), query_groups, len(query_groups)),
            _lists(item_groups, np.arange(len(item_groups)), keys),
        )

    @classmethod
    def captions_to_images(cls, texts: Integers, owners: Integers) -> Relevance:
        """Caption m finds every image that carries the same text; ``texts`` and ``owners`` (M,): text and image."""
        keys = int(np.max(texts, initial=-1)) + 1
        return cls(_lists(np.arange(len(texts)), texts, len(texts)), _lists(texts, owners, keys))

    @classmethod
    def images_to_captions(cls, texts: Integers, owners: Integers, images: int) -> Relevance:
        """Image n finds every caption whose text it carries; ``texts`` and ``owners`` (M,), ``images`` their number."""
        keys = int(np.max(texts, initial=-1)) + 1
        return cls(_lists(owners, texts, images), _lists(texts, np.arange(len(texts)), keys))

    def __len__(self) -> int:
        return len(self.query_keys.starts) - 1

    def counts(self) -> NDArray[np.int64]:
        """(Q,): how many items are relevant to each query."""
        sizes = np.diff(self.key_items.starts)[self.query_keys.values]
        sums = np.concatenate([[0], np.cumsum(sizes)])
        return np.asarray(sums[self.query_keys.starts[1:]] - sums[self.query_keys.starts[:-1]], np.int64)

    def pairs(self, queries: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position in ``queries``, item) of all relevant items of these queries, sorted by query."""
        keys, origin = self.query_keys.pick(queries)
        items, key = self.key_items.pick(keys)
        return origin[key], items


@dataclass(frozen=True, slots=True)
class _Stands:
    """Where each relevant item stands; (P,) arrays, sorted by query and then by score, best first.

    ``above``: items with a higher score, of which ``relevant_above`` are relevant; ``tied``: items with its score,
    itself included, of which ``relevant_tied`` are relevant.
    """

    query: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    relevant_above: NDArray[np.int64]
    relevant_tied: NDArray[np.int64]


def _stands(scores: Floats, query: NDArray[np.int64], items: NDArray[np.int64]) -> _Stands:
    values = scores[query, items]
    order = np.lexsort((-values, query))
    query, values = query[order], values[order]
    edges = np.searchsorted(query, np.arange(len(scores) + 1))
    upper, lower = np.empty(len(query), np.int64), np.empty(len(query), np.int64)
    scores.sort(axis=1)
    for row in np.unique(query):
        span = slice(edges[row], edges[row + 1])
        upper[span] = np.searchsorted(scores[row], values[span], side="right")
        lower[span] = np.searchsorted(scores[row], values[span], side="left")
    fresh = np.ones(len(query), bool)
    fresh[1:] = (query[1:] != query[:-1]) | (values[1:] != values[:-1])
    runs = np.flatnonzero(fresh)
    run = np.cumsum(fresh) - 1
    return _Stands(
        query=query,
        above=scores.shape[1] - upper,
        tied=upper - lower,
        relevant_above=runs[run] - edges[query],
        relevant_tied=np.diff(np.append(runs, len(query)))[run],
    )


def measure_names(ks: Sequence[int]) -> tuple[str, ...]:
    """The measures of ``rank_all``: recall, precision, MRR and nDCG at each k, then mAP."""
    return (*(f"{name}@{k}" for name in ("recall", "precision", "mrr", "ndcg") for k in ks), "map")


def rank_all(
    queries: Floats, items: Floats, relevance: Relevance, ks: Sequence[int] = (1, 5, 10), chunk: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Rank all ``items`` (N, D) for each of ``queries`` (Q, D) by dot product; (Q,) values of each measure.

    ``recall@k``: 1 with a relevant item among the first k (what the field's tables call R@k); ``precision@k``: share of
    the first k that is relevant; ``mrr@k``; ``ndcg@k`` with binary gains and log2 discounts; ``map``: average precision
    over the whole ranking. All are expectations over the orders of ties. A query without relevant items has NaN.
    ``chunk``: queries at a time; 0 takes as many as ``CHUNK_BYTES`` allows. Raises ``ValueError`` for scores with NaN.
    """
    if len(queries) != len(relevance):
        raise ValueError(f"there are {len(queries)} queries, and relevance of {len(relevance)}")
    chunk = chunk or max(1, CHUNK_BYTES // (4 * max(1, len(items))))
    upto = np.cumsum(relevance.counts())
    tables = _Tables.of(len(items))
    values = {name: np.full(len(queries), np.nan) for name in measure_names(ks)}
    start = 0
    while start < len(queries):
        room = CHUNK_PAIRS + (upto[start - 1] if start else 0)
        end = min(start + chunk, max(start + 1, int(np.searchsorted(upto, room, side="right"))))
        scores = queries[start:end] @ items.T
        if np.isnan(scores).any():
            raise ValueError("scores hold NaN: nothing can be ranked")
        query, relevant = relevance.pairs(np.arange(start, start + len(scores)))
        for name, found in _measures(_stands(scores, query, relevant), len(scores), ks, tables).items():
            values[name][start : start + len(scores)] = found
        start += len(scores)
    return values


@dataclass(frozen=True, slots=True)
class _Tables:
    """Sums up to a position, (N + 1,): of 1 / position, and of nDCG's discounts 1 / log2(position + 1)."""

    harmonic: NDArray[np.float64]
    discounts: NDArray[np.float64]

    @classmethod
    def of(cls, items: int) -> _Tables:
        positions = np.arange(1, items + 1, dtype=np.float64)
        return cls(
            np.concatenate([[0.0], np.cumsum(1 / positions)]),
            np.concatenate([[0.0], np.cumsum(1 / np.log2(positions + 1))]),
        )


def _measures(stands: _Stands, queries: int, ks: Sequence[int], tables: _Tables) -> dict[str, NDArray[np.float64]]:
    relevant = np.bincount(stands.query, minlength=queries)
    known = relevant > 0
    share = np.where(known, 1.0 / np.maximum(relevant, 1), np.nan)

    def total(of_pairs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(stands.query, of_pairs, minlength=queries), np.float64)

    first = np.searchsorted(stands.query, np.flatnonzero(known))
    ranks = FirstRanks(stands.above[first], (stands.tied - stands.relevant_tied)[first], stands.relevant_tied[first])
    places = position_probabilities(ranks, max(ks))
    n, last = len(tables.harmonic) - 1, stands.above + stands.tied
    values: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        within = np.clip(k - stands.above, 0, stands.tied) / stands.tied
        gains = (tables.discounts[np.minimum(last, k)] - tables.discounts[np.minimum(stands.above, k)]) / stands.tied
        ideal = tables.discounts[np.minimum(np.minimum(relevant, k), n)]
        values[f"recall@{k}"] = _spread(places[:, :k].sum(axis=1), known)
        values[f"precision@{k}"] = np.where(known, total(within) / k, np.nan)
        values[f"mrr@{k}"] = _spread(places[:, :k] @ (1.0 / np.arange(1, k + 1)), known)
        values[f"ndcg@{k}"] = np.where(known, total(gains) / np.where(known, ideal, 1.0), np.nan)
    values["map"] = total(_precision_at_own_place(stands, tables)) * share
    return values


def _precision_at_own_place(stands: _Stands, tables: _Tables) -> NDArray[np.float64]:
    """Expected precision at the position of each relevant item, over the positions that its ties may take.

    Given that the item stands j-th of its n ties, of which r are relevant, (j - 1)(r - 1)/(n - 1) relevant ones are
    expected before it; the sum over j is closed with the harmonic numbers.
    """
    slope: NDArray[np.float64] = (stands.relevant_tied - 1) / np.maximum(stands.tied - 1, 1)
    harmonic = tables.harmonic[stands.above + stands.tied] - tables.harmonic[stands.above]
    level = stands.relevant_above + 1 - slope * (stands.above + 1)
    closed: NDArray[np.float64] = slope + level * harmonic / stands.tied
    return closed


def _spread(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    spread = np.full(len(known), np.nan)
    spread[known] = values
    return spread
