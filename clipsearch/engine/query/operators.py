"""Operators beyond and, or, not and words: ``equiv``, ``dotProduct``, ``wand`` and ``fuzzy``.

``dotProduct`` and ``wand`` score the rows that they match by the sum, over the tokens that a row has, of the token's
weight in the query times its weight in the row (1 in an array or a single value): their raw score. ``wand`` walks the
rows in document order and produces those that score more than the worst of its ``targetHits`` best so far, as Vespa's
parallel wand does. Sources: ``dot_product_search.cpp``, ``parallel_weak_and_search.cpp``, ``equiv_blueprint.cpp``.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import ManyNumbersColumn, NumberColumn, StringColumn
from clipsearch.engine.index.index import Snapshot
from clipsearch.engine.query import tree as q
from clipsearch.errors import QueryError

Mask = NDArray[np.bool_]
MAX_EDITS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Rows that an item with weights matched, and the raw score that it gave each."""

    node: q.WeightedTokens
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]

    def raw_score(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The raw score of ``rows`` (n,); 0 where the item did not match."""
        found = np.zeros(len(rows))
        if len(self.rows):
            place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            hit = self.rows[place] == rows
            found[hit] = self.scores[place[hit]]
        return found


def weigh(node: q.WeightedTokens, snapshot: Snapshot) -> Scored:
    """The live rows that ``node`` (dotProduct or wand) produces. Raises ``QueryError`` for a field it cannot use."""
    column = snapshot.generation.columns.get(node.field)
    if node.target_hits < 0:
        raise QueryError(f"'{node.operator}': targetHits must not be negative, but is {node.target_hits}", code=3)
    if column is None:
        raise QueryError(f"'{node.operator}' needs an attribute: '{node.field}' is none", code=3)
    size = snapshot.size
    owners, held, weights = _entries(node, column, size)
    scores = np.zeros(size)
    np.add.at(scores, owners, held * weights)
    matched = np.zeros(size, np.bool_)
    matched[owners] = True
    rows = np.flatnonzero(matched & snapshot.live)
    if node.operator == "WAND":
        rows = rows[scores[rows] > node.score_threshold]
        rows = np.sort(rows[_walk(scores[rows], snapshot.lids[rows], node.target_hits)])
    return Scored(node, rows, scores[rows])


def _entries(
    node: q.WeightedTokens, column: NumberColumn | ManyNumbersColumn | StringColumn, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Row, query weight and row weight of each value that is one of ``node``'s tokens."""
    if isinstance(column, StringColumn):
        rows, codes = column.flat(size)
        by_code = np.zeros(len(column.words) + 1)
        known = np.zeros(len(column.words) + 1, np.bool_)
        for token, weight in node.tokens.items():
            for code in column.codes(token):
                by_code[code], known[code] = weight, True
        chosen = known[codes]
        row_weights = column.weights(size)[chosen].astype(np.float64)
        return rows[chosen].astype(np.int64), by_code[codes[chosen]], row_weights
    wanted = {int(token): weight for token, weight in node.tokens.items() if re.fullmatch(r"-?\d{1,18}", token)}
    if isinstance(column, NumberColumn):
        rows = np.flatnonzero(~column.missing(size)).astype(np.int32)
        values = column.values(size)[rows]
    else:
        rows, values = column.flat(size)
    keys = np.array(sorted(wanted), np.int64)
    inside: Mask = np.isin(values, keys)
    given = np.array([wanted[int(key)] for key in keys], np.float64)
    place = np.searchsorted(keys, values[inside])
    found = given[place] if len(keys) else np.zeros(0)
    return rows[inside].astype(np.int64), found, np.ones(int(np.count_nonzero(inside)))


def _walk(scores: NDArray[np.float64], lids: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Indexes in document order of scores above the worst of the ``wanted`` best before them."""
    best: list[float] = []
    produced: list[int] = []
    for index in np.argsort(lids, kind="stable").tolist():
        score = float(scores[index])
        if len(best) < wanted:
            heapq.heappush(best, score)
        elif wanted and score > best[0]:
            heapq.heapreplace(best, score)
        else:
            continue
        produced.append(index)
    return np.array(produced, np.int64)


def fuzzy_test(node: q.Fuzzy, key: Callable[[str], str]) -> Callable[[str], bool]:
    """A test for keys of strings (``key``: what two strings are equal by). Raises ``QueryError`` for bad limits."""
    if not 0 < node.max_edits <= MAX_EDITS or node.prefix_length < 0:
        raise QueryError(f"fuzzy: maxEditDistance must be 1 to {MAX_EDITS} and prefixLength not negative", code=3)
    wanted = key(node.text)
    fixed, rest = wanted[: node.prefix_length], wanted[node.prefix_length :]

    def test(held: str) -> bool:
        if not held.startswith(fixed):
            return False
        return is_within(rest, held[len(fixed) :], node.max_edits, node.prefix)

    return test


def is_within(wanted: str, held: str, edits: int, prefix: bool = False) -> bool:
    """Whether ``held``, or with ``prefix`` some beginning of it, is at most ``edits`` edits from ``wanted``."""
    if not prefix and abs(len(wanted) - len(held)) > edits:
        return False
    if prefix:
        held = held[: len(wanted) + edits]
    row = list(range(len(wanted) + 1))
    nearest = row[-1]
    for number, character in enumerate(held, start=1):
        above, row = row, [number]
        for place, letter in enumerate(wanted):
            row.append(min(above[place] + (letter != character), above[place + 1] + 1, row[place] + 1))
        nearest = min(nearest, row[-1])
        if min(row) > edits:
            break
    else:
        return (nearest if prefix else row[-1]) <= edits
    return prefix and nearest <= edits
