"""The full-text index of one field: numpy postings, term positions, and counts that deletes keep exact.

Each row (one version of one document) appends its term numbers to ``tokens``; each term has the ascending rows that
contain it with the term's frequency there. Document frequencies and the sum of lengths count live rows only, so BM25
is exact after every update and removal (Vespa's drifts until it flushes; see ARCHITECTURE.md).
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.linguistics import terms
from clipsearch.engine.package.model import Field

ELEMENT_GAP = -1  # between the elements of an array: no phrase spans it

Rows = NDArray[np.int32]
Frequencies = NDArray[np.uint16]


class _Postings:
    """Rows and frequencies of one term: a sealed numpy part and a short tail that still grows."""

    __slots__ = ("frequencies", "rows", "tail_frequencies", "tail_rows")

    def __init__(self) -> None:
        self.rows: Rows = np.empty(0, np.int32)
        self.frequencies: Frequencies = np.empty(0, np.uint16)
        self.tail_rows = array("i")
        self.tail_frequencies = array("H")

    def seal(self) -> None:
        """Moves the tail into the sealed part; earlier readers keep the arrays that they hold."""
        if self.tail_rows:
            self.rows = np.concatenate([self.rows, np.array(self.tail_rows, np.int32)])
            self.frequencies = np.concatenate([self.frequencies, np.array(self.tail_frequencies, np.uint16)])
            self.tail_rows, self.tail_frequencies = array("i"), array("H")


class TextIndex:
    """Postings of one ``index`` field (string, array<string> or weightedset<string>).

    Not locked: the ``Index`` that owns it serialises ``append``, ``forget`` and ``postings``.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.stemming = field.stemming != "none"
        self.exact = field.match in ("word", "exact")
        self._numbers: dict[str, int] = {}
        self._postings: list[_Postings] = []
        self._live_counts = GrowableArray(np.int32)
        self._tokens = GrowableArray(np.int32, 1024)
        self._offsets = GrowableArray(np.int64)
        self._offsets.append(0)
        self.lengths = GrowableArray(np.int32)  # tokens of each row, gaps not counted
        self.total_length = 0  # of live rows

    def terms(self, text: str) -> list[str]:
        """``text`` as this field's terms."""
        if self.exact:
            return [text if self.field.cased else text.lower()] if text else []
        return terms(text, self.stemming, accents=not self.field.normalizing)

    def append(self, row: int, value: FieldValue | None) -> None:
        """Indexes the next row; ``row`` must be the number of rows before."""
        elements: list[Any] = list(value) if isinstance(value, (list, tuple, dict)) else [value or ""]
        counts: dict[int, int] = {}
        tokens: list[int] = []
        for element in elements:
            if tokens:
                tokens.append(ELEMENT_GAP)
            for term in self.terms(str(element)):
                number = self._number(term)
                counts[number] = counts.get(number, 0) + 1
                tokens.append(number)
        for number, count in counts.items():
            postings = self._postings[number]
            postings.tail_rows.append(row)
            postings.tail_frequencies.append(min(count, 65_535))
            if len(postings.tail_rows) > 64 + len(postings.rows) // 4:
                postings.seal()
        self._tokens.extend(tokens)
        self._offsets.append(self._tokens.size)
        length = sum(counts.values())
        self.lengths.append(length)
        self.total_length += length
        if counts:
            self._live_counts.view()[list(counts)] += 1

    def _number(self, term: str) -> int:
        number = self._numbers.get(term)
        if number is None:
            number = self._numbers[term] = len(self._postings)
            self._postings.append(_Postings())
            self._live_counts.append(0)
        return number

    def forget(self, row: int) -> None:
        """Takes a dead row out of the counts; its postings stay until the index is compacted."""
        start, end = self._offsets.view()[row : row + 2]
        numbers = np.unique(self._tokens.view()[start:end])
        self._live_counts.view()[numbers[numbers != ELEMENT_GAP]] -= 1
        self.total_length -= int(self.lengths.view()[row])

    def postings(self, term: str) -> tuple[Rows, Frequencies, int]:
        """Ascending rows, frequencies and live document frequency of ``term`` (dead rows are still listed)."""
        number = self._numbers.get(term)
        if number is None:
            return np.empty(0, np.int32), np.empty(0, np.uint16), 0
        postings = self._postings[number]
        postings.seal()
        return postings.rows, postings.frequencies, int(self._live_counts.view()[number])

    def copy_rows(self, rows: NDArray[Any], target: TextIndex) -> None:
        """Gives the empty ``target`` the ascending live ``rows`` of this index, renumbered from 0, and their terms."""
        words, held = list(self._numbers), np.flatnonzero(self._live_counts.view())
        numbers = np.full(len(words) + 1, ELEMENT_GAP, np.int32)  # the last is what a gap, -1, becomes
        numbers[held] = np.arange(len(held))
        target._numbers = {words[number]: place for place, number in enumerate(held)}
        renumbered = np.full(len(self.lengths.view()), -1, np.int32)
        renumbered[rows] = np.arange(len(rows))
        for number in held:
            postings = self._postings[number]
            postings.seal()
            moved = renumbered[postings.rows]
            copy = _Postings()
            copy.rows, copy.frequencies = moved[moved >= 0], postings.frequencies[moved >= 0]
            target._postings.append(copy)
        target._live_counts.extend(self._live_counts.view()[held])
        tokens, owner = self.token_rows(rows)
        ends = np.flatnonzero(np.diff(owner, append=len(rows)))  # the gap that token_rows puts after each row
        target._tokens.extend(numbers[np.delete(tokens, ends)])
        target._offsets.extend(ends - np.arange(len(ends)))
        target.lengths.extend(self.lengths.view()[rows])
        target.total_length = self.total_length

    def number(self, term: str) -> int:
        """The term's number in ``token_rows``, or -2 when no document ever had it."""
        return self._numbers.get(term, -2)

    def token_rows(self, rows: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The term numbers of ``rows`` one after the other, and for each the index into ``rows``.

        A gap is put after each row, so that positions of two rows never touch.
        """
        offsets, tokens = self._offsets.view(), self._tokens.view()
        starts, sizes = offsets[rows], offsets[rows + 1] - offsets[rows] + 1
        owner = np.repeat(np.arange(len(rows)), sizes)
        first = np.cumsum(sizes) - sizes
        inside = np.arange(len(owner)) - first[owner]
        last = inside == sizes[owner] - 1
        positions = np.where(last, 0, starts[owner] + inside)
        found = tokens[positions] if len(tokens) else np.empty(len(owner), np.int32)
        return np.where(last, np.int32(ELEMENT_GAP), found).astype(np.int32), owner
