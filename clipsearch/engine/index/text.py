"""The full-text index of one field: the term numbers of each row, postings over them, exact counts of live documents.

Appending a row (one version of one document) only adds its term numbers to ``tokens``. Postings come from sealed
segments, which are built when enough has been appended, and merged into larger ones as their number grows; the few
rows after the last segment are searched in their tokens. Document frequencies and the sum of lengths count live rows
only, so BM25 is exact after every update and removal (Vespa's drifts until it flushes; see ARCHITECTURE.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.files import PartFiles
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.linguistics import stem, terms, tokenize
from clipsearch.engine.index.postings import MAX_ROWS, MAX_TOKENS, Frequencies, Rows, Segment
from clipsearch.engine.package.model import Field

ELEMENT_GAP = -1  # between the elements of an array: no phrase spans it
NO_TERM = -2  # the number of a term that no document has
TAIL_TOKENS = 4_096  # searched without postings; about 10 us a term
SEAL_TOKENS = 1 << 18  # sealed by the writer, so that a search after a long feed need not
CACHED_WORDS = 1 << 18
KNOWN_TERMS = 256  # of one snapshot
MERGE_RATIO = 8  # a segment up to so many times the size of what is new is built again with it: few stay


@dataclass(frozen=True, slots=True, eq=False)
class TextSnapshot:
    """A field's postings as of one moment; nothing in it changes.

    ``segments`` cover the rows up to ``sealed``; ``counts``: live document frequencies of their terms; ``numbers`` may
    know terms that came later. ``live`` (size,): of the rows.
    """

    numbers: dict[str, int]
    segments: tuple[Segment, ...]
    sealed: int
    counts: NDArray[np.int32]
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int32]
    live: NDArray[np.bool_]
    _entries: dict[str, tuple[int, tuple[Rows, Frequencies], int]] = field(default_factory=dict)
    _few: dict[bytes, list[list[int]]] = field(default_factory=dict)

    def number(self, term: str) -> int:
        """The term's number, ``NO_TERM`` when no document ever had it."""
        return self.numbers.get(term, NO_TERM)

    def entry(self, term: str) -> tuple[int, tuple[Rows, Frequencies], int]:
        """The term's number, its rows and frequencies after the last segment, and its live document frequency.

        They are kept, for the words that came last would be looked through each time.
        """
        found = self._entries.get(term)
        if found is None:
            number = self.number(term)
            tail = self.tail(number)
            found = number, tail, self.count(number, tail[0]) if number >= 0 else 0
            if len(self._entries) >= KNOWN_TERMS:
                self._entries.clear()
            self._entries[term] = found
        return found

    def postings(self, term: str) -> tuple[Rows, Frequencies, int]:
        """Ascending rows, frequencies and live document frequency of ``term`` (dead rows are still listed)."""
        number = self.number(term)
        if number < 0:
            return np.empty(0, np.int32), np.empty(0, np.uint16), 0
        tail = self.tail(number)
        parts = [*(segment.postings(number) for segment in self.segments), tail]
        count = self.count(number, tail[0])
        if len(parts) == 2 and not len(tail[0]):
            return *parts[0], count
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([found for _, found in parts]), count

    def count(self, number: int, tail_rows: Rows) -> int:
        """The live document frequency of a term; ``tail_rows``: its rows after the last segment."""
        sealed = int(self.counts[number]) if number < len(self.counts) else 0
        return sealed + int(np.count_nonzero(self.live[tail_rows])) if len(tail_rows) else sealed

    def tail(self, number: int) -> tuple[Rows, Frequencies]:
        """Rows and frequencies of a term after the last segment."""
        start = self.offsets[self.sealed]
        hits = np.flatnonzero(self.tokens[start : self.offsets[-1]] == number)
        if not len(hits):
            return np.empty(0, np.int32), np.empty(0, np.uint16)
        owners = self.offsets[self.sealed :].searchsorted(hits + start, side="right") - 1 + self.sealed
        rows, counts = np.unique(owners, return_counts=True)
        return rows.astype(np.int32), np.minimum(counts, 65_535).astype(np.uint16)

    def counts_in(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often a term is in each of a few ``rows``: counted in their tokens, which the next term finds again."""
        key = rows.tobytes()
        found = self._few.get(key)
        if found is None:
            if len(self._few) > 100:
                self._few.clear()
            bounds = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
            found = self._few[key] = [self.tokens[start:end].tolist() for start, end in bounds]
        return np.array([tokens.count(number) for tokens in found], np.int64)


class TextIndex:
    """Postings of one ``index`` field (string, array<string> or weightedset<string>).

    Not locked: the ``Index`` that owns it serialises everything but reading ``lengths`` and ``token_rows``.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.stemming = field.stemming != "none"
        self.exact = field.match in ("word", "exact")
        self._numbers: dict[str, int] = {}
        self._words: dict[str, int] = {}  # token before stemming -> its term's number
        self._tokens = GrowableArray(np.int32, 1024)
        self._offsets = GrowableArray(np.int64)
        self._offsets.append(0)
        self.lengths = GrowableArray(np.int32)  # tokens of each row, gaps not counted
        self.total_length = 0  # of live rows
        self._segments: list[Segment] = []
        self._sealed_tokens = 0
        self._counts = np.zeros(0, np.int32)  # of sealed rows, less those that were forgotten and settled
        self._forgotten: list[int] = []
        self._saved = [0, 0, 0]  # rows, tokens, words
        self._forgotten_since_save: list[int] = []

    def terms(self, text: str) -> list[str]:
        """``text`` as this field's terms."""
        if self.exact:
            return [text if self.field.cased else text.lower()] if text else []
        return terms(text, self.stemming, accents=not self.field.normalizing)

    # ---- writing

    def append(self, row: int, value: FieldValue | None) -> None:
        """Indexes the next row; ``row`` must be the number of rows before."""
        self.extend(row, (value,))

    def extend(self, first_row: int, values: Sequence[FieldValue | None]) -> None:
        """Indexes the next rows; ``first_row`` must be the number of rows before."""
        tokens: list[int] = []
        before = self._tokens.size
        ends, lengths = [], []
        for value in values:
            start = len(tokens)
            gaps = self._add_tokens(value, tokens)
            ends.append(before + len(tokens))
            lengths.append(len(tokens) - start - gaps)
        self._tokens.extend(tokens)
        self._offsets.extend(ends)
        self.lengths.extend(lengths)
        self.total_length += sum(lengths)
        if self._tokens.size - self._sealed_tokens > SEAL_TOKENS:
            self._seal()

    def _add_tokens(self, value: FieldValue | None, tokens: list[int]) -> int:
        """Appends the term numbers of one row's ``value`` to ``tokens``; returns how many gaps are among them."""
        if not isinstance(value, (list, tuple, dict)):
            if value is not None:
                self._add_text(str(value), tokens)
            return 0
        start, gaps = len(tokens), 0
        for element in value:
            if len(tokens) > start:
                tokens.append(ELEMENT_GAP)
                gaps += 1
            self._add_text(str(element), tokens)
        return gaps

    def _add_text(self, text: str, tokens: list[int]) -> None:
        if self.exact:
            tokens.extend(self._number(term) for term in self.terms(text))
            return
        words = tokenize(text, accents=not self.field.normalizing)
        known = self._words
        try:
            tokens.extend([known[word] for word in words])
        except KeyError:
            tokens.extend([self._word(word) for word in words])

    def _word(self, word: str) -> int:
        """The number of the term of a normalised token."""
        number = self._words.get(word)
        if number is None:
            if len(self._words) >= CACHED_WORDS:
                self._words.clear()
            number = self._words[word] = self._number(stem(word) if self.stemming else word)
        return number

    def _number(self, term: str) -> int:
        return self._numbers.setdefault(term, len(self._numbers))

    def forget(self, row: int) -> None:
        """Takes a dead row out of the counts; its postings stay until the index is compacted."""
        self.total_length -= int(self.lengths.view()[row])
        self._forgotten.append(row)
        self._forgotten_since_save.append(row)

    # ---- reading

    def snapshot(self, live: NDArray[np.bool_]) -> TextSnapshot:
        """The postings now; ``live`` (rows,) will not change."""
        if self._tokens.size - self._sealed_tokens > TAIL_TOKENS:
            self._seal()
        self._settle()
        return TextSnapshot(
            self._numbers,
            tuple(self._segments),
            self._sealed,
            self._counts,
            self._tokens.view(),
            self._offsets.view(),
            self.lengths.view(),
            live,
        )

    @property
    def _sealed(self) -> int:
        return self._segments[-1].end if self._segments else 0

    def _seal(self) -> None:
        """Puts all rows into segments; the last ones are built again together while they are of like size."""
        offsets, rows = self._offsets.view(), self.lengths.size
        while self._sealed < rows:
            first = self._sealed
            end = self._cut(first, rows)
            while self._segments:
                last = self._segments[-1]
                together = offsets[end] - offsets[last.first]
                full = end - last.first > MAX_ROWS or together > MAX_TOKENS
                if full or last.tokens > MERGE_RATIO * (together - last.tokens):
                    break
                first = last.first
                self._count(last, -1)
                del self._segments[-1]
            part = offsets[first : end + 1]
            tokens = self._tokens.view()[part[0] : part[-1]]
            self._segments.append(Segment(first, part, tokens, len(self._numbers)))
            self._count(self._segments[-1], 1)
        self._sealed_tokens = self._tokens.size

    def _cut(self, first: int, rows: int) -> int:
        """Where a segment that starts at ``first`` ends: at ``rows``, or when it is full."""
        offsets = self._offsets.view()
        full = int(offsets[first:].searchsorted(offsets[first] + MAX_TOKENS, side="right")) - 1 + first
        return min(rows, first + MAX_ROWS, max(full, first + 1))

    def _count(self, segment: Segment, sign: int) -> None:
        """Adds a segment's document frequencies; snapshots keep the array that they have."""
        found = np.diff(segment.starts)
        counts = np.zeros(max(len(found), len(self._counts)), np.int32)
        counts[: len(self._counts)] = self._counts
        counts[: len(found)] += sign * found
        self._counts = counts

    def _settle(self) -> None:
        """Takes the terms of forgotten sealed rows out of the counts."""
        sealed = self._sealed
        rows = [row for row in self._forgotten if row < sealed]
        if not rows:
            return
        self._forgotten = [row for row in self._forgotten if row >= sealed]
        tokens, owners = self.token_rows(np.array(rows, np.int64))
        pairs = np.unique(owners[tokens >= 0] << 32 | tokens[tokens >= 0])
        counts = self._counts.copy()
        np.subtract.at(counts, pairs & 0xFFFF_FFFF, 1)
        self._counts = counts

    def number(self, term: str) -> int:
        """The term's number in ``token_rows``, or ``NO_TERM`` when no document ever had it."""
        return self._numbers.get(term, NO_TERM)

    def single(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of ``rows`` (n,) have one element, or none: their tokens stand without a gap."""
        offsets = self._offsets.view()
        return np.asarray(offsets[rows + 1] - offsets[rows] == self.lengths.view()[rows])

    def token_rows(self, rows: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The term numbers of ``rows`` one after the other, and for each the index into ``rows``.

        A gap is put after each row, so that positions of two rows never touch.
        """
        offsets, tokens = self._offsets.view(), self._tokens.view()
        starts, sizes = offsets[rows], offsets[rows + 1] - offsets[rows] + 1
        owner = np.repeat(np.arange(len(rows)), sizes)
        ends = np.cumsum(sizes)
        positions = np.arange(len(owner)) + np.repeat(starts - (ends - sizes), sizes)
        positions[ends - 1] = 0
        found = tokens[positions] if len(tokens) else np.empty(len(owner), np.int32)
        found[ends - 1] = ELEMENT_GAP
        return found, owner

    # ---- compaction and persistence

    def copy_rows(self, rows: NDArray[Any], target: TextIndex) -> None:
        """Gives the empty ``target`` the ascending live ``rows`` of this index, renumbered from 0, and their terms."""
        tokens, owner = self.token_rows(rows)
        ends = np.flatnonzero(np.diff(owner, append=len(rows)))  # the gap that token_rows puts after each row
        tokens = np.delete(tokens, ends)
        words = list(self._numbers)
        held = np.flatnonzero(np.bincount(tokens[tokens >= 0], minlength=len(words)))
        numbers = np.full(len(words) + 1, ELEMENT_GAP, np.int32)  # the last is what a gap, -1, becomes
        numbers[held] = np.arange(len(held))
        target._numbers = {words[number]: place for place, number in enumerate(held)}
        target._tokens.extend(numbers[tokens])
        target._offsets.extend(ends - np.arange(len(ends)))
        target.lengths.extend(self.lengths.view()[rows])
        target.total_length = int(target.lengths.view().sum())

    def save(self, files: PartFiles) -> None:
        """Writes what was appended or forgotten since the last save; postings are built again from the tokens."""
        rows, tokens, words = self._saved
        new = [word.encode("utf-8", "surrogatepass") for word in list(self._numbers)[words:]]
        files.append("words", np.frombuffer(b"".join(new), np.uint8))
        files.append("word_sizes", np.array([len(word) for word in new], np.int32))
        files.append("tokens", self._tokens.view()[tokens:])
        files.append("ends", self._offsets.view()[rows + 1 :])
        files.append("lengths", self.lengths.view()[rows:])
        files.append("forgotten", np.array(self._forgotten_since_save, np.int32))
        self._saved = [self.lengths.size, self._tokens.size, len(self._numbers)]
        self._forgotten_since_save = []

    def restore(self, files: PartFiles, rows: int) -> None:
        """Be what was saved, with ``rows`` rows. Raises ``ValueError`` when the files do not fit together."""
        text, sizes = files.array("words", np.uint8).tobytes(), files.array("word_sizes", np.int32)
        tokens, ends = files.array("tokens", np.int32), files.array("ends", np.int64)
        lengths, forgotten = files.array("lengths", np.int32), files.array("forgotten", np.int32)
        offsets = np.concatenate([np.zeros(1, np.int64), ends])
        sound = len(ends) == len(lengths) == rows and offsets[-1] == len(tokens) and sizes.sum() == len(text)
        sound = sound and bool((np.diff(offsets) >= 0).all()) and bool((tokens < len(sizes)).all())
        if not sound or (len(forgotten) and not 0 <= forgotten.min() <= forgotten.max() < rows):
            raise ValueError(f"the text index of '{self.field.name}' is not as it was saved")
        start = 0
        for number, size in enumerate(sizes.tolist()):
            self._numbers[text[start : start + size].decode("utf-8", "surrogatepass")] = number
            start += size
        self._tokens.adopt(tokens)
        self._offsets.adopt(offsets)
        self.lengths.adopt(lengths)
        self.total_length = int(lengths.sum(dtype=np.int64)) - int(lengths[forgotten].sum(dtype=np.int64))
        self._forgotten = forgotten.tolist()
        self._saved = [rows, len(tokens), len(self._numbers)]
