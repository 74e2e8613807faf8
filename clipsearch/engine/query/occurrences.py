"""Where a looked-up term occurs in one field: all its rows, or how often it is in a few of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.postings import Impacts, in_steps, lookup
from clipsearch.engine.index.text import TextSnapshot
from clipsearch.engine.ranking.bm25 import score

Rows = NDArray[Any]
Postings = tuple[Rows, Rows]
FEW = 48  # rows whose tokens are searched rather than the term's postings


class Occurrences(Protocol):
    """One term in one field."""

    @property
    def count(self) -> int:
        """Its document frequency: live rows that have it."""
        ...

    def postings(self) -> Postings:
        """Ascending live rows, and how often each has it."""
        ...

    def frequencies_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each of the live ``rows`` (n,) has it."""
        ...

    def add_impacts(self, scores: Impacts, weight: float, average: float) -> float:
        """Adds to ``scores`` (size,) its share of BM25 in every row, dead ones too, ``in_steps``.

        ``weight``: its idf; ``average``: length of the field. Returns the relative error, beside that of the steps.
        """
        ...


class IndexTerm:
    """A term of the index itself, whose postings are gathered only when all of them are needed."""

    __slots__ = ("_postings", "_tail", "count", "number", "text")

    def __init__(self, text: TextSnapshot, term: str) -> None:
        self.text = text
        self.number, self._tail, self.count = text.entry(term)
        self._postings: Postings | None = None

    def postings(self) -> Postings:
        """Ascending live rows, and how often each has it."""
        if self._postings is None:
            parts = [segment.postings(self.number) for segment in self.text.segments] if self.number >= 0 else []
            parts = [part for part in (*parts, self._tail) if len(part[0])] or [self._tail]
            rows, found = parts[0]
            if len(parts) > 1:
                rows = np.concatenate([part[0] for part in parts])
                found = np.concatenate([part[1] for part in parts])
            if self.count != len(rows):
                alive = self.text.live[rows]
                rows, found = rows[alive], found[alive]
            self._postings = rows, found
        return self._postings

    def frequencies_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each of the live ``rows`` (n,) has it."""
        if len(rows) <= FEW:
            return self.text.counts_in(self.number, rows)
        segments = self.text.segments
        if len(segments) == 1 and not len(self._tail[0]) and rows.max() < segments[0].end:
            found = segments[0].counts_of(self.number, rows)
            if found is not None:
                return found
        if not (rows[1:] >= rows[:-1]).all():
            order = np.argsort(rows)
            found = np.empty(len(rows), np.int64)
            found[order] = self.frequencies_of(rows[order])
            return found
        ends = rows.searchsorted([segment.end for segment in segments]).tolist()
        parts, start = [], 0
        for segment, end in zip(segments, ends, strict=True):
            parts.append(segment.frequencies_of(self.number, rows[start:end]))
            start = end
        if start < len(rows):
            rest = rows[start:]
            parts.append(lookup(*self._tail, rest) if len(self._tail[0]) else np.zeros(len(rest), np.int64))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def add_impacts(self, scores: Impacts, weight: float, average: float) -> float:
        """Adds its impacts, those of frequent terms as one kept array."""
        if self.number < 0:
            return 0.0
        error = 0.0
        for segment in self.text.segments:
            error = max(error, segment.add_impacts(scores, self.number, weight, average, self.text.lengths))
        if len(self._tail[0]):
            _scatter(scores, *self._tail, self.text.lengths, weight, average)
        return error


class Listed:
    """Rows that were found otherwise: a phrase, or any of several terms; without ``lengths`` they have no impacts."""

    __slots__ = ("_found", "count", "lengths")

    def __init__(self, rows: Rows, frequencies: Rows, lengths: NDArray[np.int32]) -> None:
        self._found = rows, frequencies
        self.count, self.lengths = len(rows), lengths

    def postings(self) -> Postings:
        """Ascending live rows, and how often each has it."""
        return self._found

    def frequencies_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each of the live ``rows`` (n,) has it."""
        return lookup(*self._found, rows) if self.count else np.zeros(len(rows), np.int64)

    def add_impacts(self, scores: Impacts, weight: float, average: float) -> float:
        """Adds its impacts."""
        _scatter(scores, *self._found, self.lengths, weight, average)
        return 0.0


def _scatter(
    scores: Impacts,
    rows: Rows,
    frequencies: Rows,
    lengths: NDArray[np.int32],
    weight: float,
    average: float,
) -> None:
    impacts = in_steps(score(frequencies, lengths[rows], average, weight))
    np.add.at(scores, rows.astype(np.intp), impacts.astype(scores.dtype, copy=False))


class PostingLists(Mapping[str, Postings]):
    """Live postings by field, each gathered when it is asked for."""

    def __init__(self, found: Mapping[str, Occurrences]) -> None:
        self._found = found

    def __getitem__(self, field: str) -> Postings:
        return self._found[field].postings()

    def __contains__(self, field: object) -> bool:
        return field in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
