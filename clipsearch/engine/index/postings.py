"""Sealed postings: for each term the ascending rows that have it, over one range of rows; never changed once built.

For frequent terms a segment also keeps what they add to BM25, in whole ``STEP`` rounded up, as one uint16 for each row,
so that searching for them is one vectorised addition of little memory. These sums choose candidates only; scores are
computed in float64 (see ``query.pruned``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.ranking.bm25 import K1, score

Rows = NDArray[np.int32]
Frequencies = NDArray[np.uint16]
Impacts = NDArray[Any]  # uint16 or uint32: shares of BM25 in steps

MAX_ROWS = 1 << 18  # of a segment: building one sorts all its tokens at once, in some 60 ms
MAX_TOKENS = 1 << 22
MAX_FREQUENCY = 65_535
DENSE_SHARE = 20  # a term that one row in so many has is kept dense
MAX_DENSE = 48  # dense terms of a segment, 2 bytes a row each: at most 20 MB at 200,000 rows
MAX_COUNTED = 96  # columns of frequencies of a segment: at most 20 MB at 200,000 rows
COUNTED_SHARE = 100  # a term that one row in so many has gets a column of its frequencies, 1 byte a row
FEW = 256  # rows whose frequencies are bisected rather than read from such a column
MAX_DRIFT = 0.005  # of idf and average length since impacts were computed
STEP = 1 / 512  # of impacts: a row's sum is too large by less than one step a term
_MOST_PER_IDF = (1 + 2 * MAX_DRIFT) * (K1 + 1)  # of an impact, also of one kept from a larger idf
MAX_WEIGHT = (2**16 - 2) * STEP / _MOST_PER_IDF  # 57: the idf whose impacts fit 16 bits; Vespa's own is below 20
_ROW_BITS = 32


@dataclass(frozen=True, slots=True)
class _Impacts:
    """A term's share of BM25 in each row of the segment (dense), or of each posting, with its idf ``weight``."""

    values: NDArray[np.uint16]
    weight: float
    average: float


class Segment:
    """Postings of rows ``first`` to ``end``; term ``t`` has ``rows[starts[t]:starts[t + 1]]``."""

    __slots__ = ("_counts", "_dense", "_sparse", "end", "first", "frequencies", "rows", "starts", "tokens")

    def __init__(self, first: int, offsets: NDArray[np.int64], tokens: NDArray[np.int32], terms: int) -> None:
        """``offsets`` (rows + 1,): where each row's term numbers start in ``tokens``, of which negative ones are gaps.

        ``terms``: how many term numbers there are.
        """
        sizes = np.diff(offsets)
        self.first, self.end, self.tokens = first, first + len(sizes), len(tokens)
        keys = tokens.astype(np.int64)
        keys <<= _ROW_BITS
        keys |= np.repeat(np.arange(self.first, self.end), sizes)
        keys.sort()  # vectorised in numpy for plain integers, several times faster than an argsort
        keys = keys[np.searchsorted(keys, 0) :]
        heads = np.flatnonzero(np.diff(keys, prepend=-1))
        self.frequencies: Frequencies = np.minimum(np.diff(heads, append=len(keys)), MAX_FREQUENCY).astype(np.uint16)
        keys = keys[heads]
        self.rows: Rows = (keys & ((1 << _ROW_BITS) - 1)).astype(np.int32)
        self.starts = np.searchsorted(keys, np.arange(terms + 1) << _ROW_BITS).astype(np.int32)
        self._dense: dict[int, _Impacts] = {}
        self._sparse: dict[int, _Impacts] = {}
        self._counts: dict[int, NDArray[Any]] = {}

    def postings(self, number: int) -> tuple[Rows, Frequencies]:
        """Rows and frequencies of term ``number``."""
        if not 0 <= number < len(self.starts) - 1:
            return self.rows[:0], self.frequencies[:0]
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return self.rows[part], self.frequencies[part]

    def is_dense(self, count: int) -> bool:
        """Whether a term with ``count`` postings here is kept as a value for each row."""
        return count * DENSE_SHARE >= self.end - self.first

    def add_impacts(
        self, scores: Impacts, number: int, weight: float, average: float, lengths: NDArray[np.int32]
    ) -> float:
        """Adds to ``scores`` (rows,) what term ``number`` gives each row by BM25, as ``in_steps``.

        ``weight``: its idf; ``average``, ``lengths``: of the field, of all rows. Returns the largest relative error
        besides the rounding.
        """
        rows, frequencies = self.postings(number)
        if not len(rows):
            return 0.0
        dense = self.is_dense(len(rows))
        held = self._dense if dense else self._sparse
        known = held.get(number)
        drift = 1.0 if known is None else abs(weight / known.weight - 1) + abs(average / known.average - 1)
        if known is None or drift > MAX_DRIFT:
            values = in_steps(score(frequencies, lengths[rows], average, weight))
            if dense:
                impacts = np.zeros(self.end - self.first, np.uint16)
                impacts[rows - self.first] = values
                values = impacts
            known, drift = _Impacts(values, weight, average), 0.0
            held[number] = known
        if dense:
            _limit(held, MAX_DENSE)
            part = scores[self.first : self.end]
            np.add(part, known.values, part)
        else:
            np.add.at(scores, rows.astype(np.intp), known.values.astype(scores.dtype, copy=False))
        return drift

    def frequencies_of(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often term ``number`` is in each of ascending ``rows`` (n,) of this segment."""
        held, frequencies = self.postings(number)
        if not len(held) or not len(rows):
            return np.zeros(len(rows), np.int64)
        counts = self.counts_of(number, rows)
        if counts is not None:
            return counts
        if len(held) * 4 < len(rows):
            found = np.zeros(len(rows), np.int64)
            place = np.minimum(rows.searchsorted(held.astype(np.int64)), len(rows) - 1)
            inside = rows[place] == held
            found[place[inside]] = frequencies[inside]
            return found
        return lookup(held, frequencies, rows)

    def counts_of(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """``frequencies_of`` of many ``rows`` in any order, by a column of frequencies; None for a term without one."""
        held, frequencies = self.postings(number)
        if len(rows) <= FEW or not len(held) or len(held) * COUNTED_SHARE < self.end - self.first:
            return None
        inside = rows - self.first if self.first else rows
        return self._count_column(number, held, frequencies)[inside].astype(np.int64)

    def _count_column(self, number: int, rows: Rows, frequencies: Frequencies) -> NDArray[Any]:
        """The term's frequency in each row of the segment."""
        column = self._counts.get(number)
        if column is None:
            column = np.zeros(self.end - self.first, np.uint8 if frequencies.max() < 256 else np.uint16)
            column[rows - self.first] = frequencies
            self._counts[number] = column
            _limit(self._counts, MAX_COUNTED)
        return column


def in_steps(impacts: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Shares of BM25, not negative, in whole ``STEP``: the next whole number, so that no row that matches has 0."""
    found: NDArray[np.uint16] = (impacts * (1 / STEP)).astype(np.uint16)
    found += 1
    return found


def most_steps(weights: float) -> float:
    """More than ``in_steps`` gives any row, summed over terms whose idfs sum to ``weights``, but for 1 a term."""
    return weights * _MOST_PER_IDF / STEP


def lookup(held: NDArray[Any], frequencies: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.int64]:
    """Frequencies of ``rows`` (n,) in ascending, not empty postings; 0 for those that are not in them."""
    place = held.searchsorted(rows.astype(held.dtype))
    np.minimum(place, len(held) - 1, out=place)
    return np.where(held[place] == rows, frequencies[place], 0).astype(np.int64)


def _limit(held: dict[int, Any], most: int) -> None:
    """Drops the oldest entries beyond ``most``; other threads may be doing the same."""
    if len(held) > most:
        for number in list(held)[:-most]:
            held.pop(number, None)
