"""Append-only numpy storage that readers can view without a lock.

Rows are never changed once written, so a view of the first ``n`` rows stays true while a writer appends behind it;
when the storage grows, older views keep the older memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class GrowableArray:
    """A one-dimensional array with amortised O(1) append."""

    __slots__ = ("_data", "size")

    def __init__(self, dtype: Any, capacity: int = 16) -> None:
        self._data: NDArray[Any] = np.zeros(capacity, dtype)
        self.size = 0

    def _reserve(self, size: int) -> None:
        if size > self._data.size:
            grown = np.zeros(max(size, self._data.size * 2), self._data.dtype)
            grown[: self.size] = self._data[: self.size]
            self._data = grown

    def append(self, value: Any) -> None:
        """Adds one value."""
        self._reserve(self.size + 1)
        self._data[self.size] = value
        self.size += 1

    def extend(self, values: Any) -> None:
        """Adds the values of a sequence or array."""
        count = len(values)
        self._reserve(self.size + count)
        self._data[self.size : self.size + count] = values
        self.size += count

    def adopt(self, values: NDArray[Any]) -> None:
        """Makes ``values``, writable and of this dtype, the content of this empty array, not copied."""
        self._data, self.size = values, len(values)

    def view(self, size: int | None = None) -> NDArray[Any]:
        """The first ``size`` values (all by default), not copied."""
        return self._data[: self.size if size is None else size]


class BlockedRows:
    """A two-dimensional array in blocks of a fixed number of rows, so that growing copies and over-allocates nothing.

    ``dtype``: any; about 32 MiB a block. Memory is touched only as rows come. The first rows may be a given array,
    such as a memory map of a file.
    """

    def __init__(self, width: int, dtype: Any) -> None:
        self.width, self.dtype = width, np.dtype(dtype)
        self.rows_per_block = max(64, (32 << 20) // max(1, width * self.dtype.itemsize))
        self._first: NDArray[Any] = np.zeros((0, width), self.dtype)
        self._blocks: list[NDArray[Any]] = []
        self.size = 0

    def adopt(self, rows: NDArray[Any]) -> None:
        """Makes ``rows`` (n, width), not copied and never written to, the first rows of this empty array."""
        assert not self.size
        self._first, self.size = rows, len(rows)

    def append(self, row: NDArray[Any] | None) -> None:
        """Adds one row (width,); None adds zeros."""
        position = (self.size - len(self._first)) % self.rows_per_block
        if position == 0:
            self._blocks.append(np.zeros((self.rows_per_block, self.width), self.dtype))
        if row is not None:
            self._blocks[-1][position] = row
        self.size += 1

    def extend(self, rows: NDArray[Any]) -> None:
        """Adds ``rows`` (n, width)."""
        done = 0
        while done < len(rows):
            position = (self.size - len(self._first)) % self.rows_per_block
            if position == 0:
                self._blocks.append(np.zeros((self.rows_per_block, self.width), self.dtype))
            part = rows[done : done + self.rows_per_block - position]
            self._blocks[-1][position : position + len(part)] = part
            self.size += len(part)
            done += len(part)

    def blocks(self, size: int, start: int = 0) -> Iterator[tuple[int, NDArray[Any]]]:
        """The rows from ``start`` to ``size`` as (first row number, (rows, width) view) pairs."""
        first = len(self._first)
        if start < min(size, first):
            yield start, self._first[start:size]
            start = first
        while start < size:
            number, position = divmod(start - first, self.rows_per_block)
            block = self._blocks[number][position : position + size - start]
            yield start, block
            start += len(block)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of ``rows`` (n,) in that order, (n, width); ascending rows are fastest."""
        if len(rows) and int(rows.max()) < len(self._first):
            return self._first.take(rows, axis=0)
        order = None
        if np.any(rows[1:] < rows[:-1]):
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
        taken = np.empty((len(rows), self.width), self.dtype)
        first = len(self._first)
        starts = [0, *range(first, self.size, self.rows_per_block)]
        ends = np.searchsorted(rows, [*starts[1:], self.size])
        begin = 0
        for number, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
            if end > begin:
                block = self._first if number == 0 else self._blocks[number - 1]
                block.take(rows[begin:end] - start, axis=0, out=taken[begin:end], mode="clip")
            begin = end
        if order is None:
            return taken
        placed = np.empty_like(taken)
        placed[order] = taken
        return placed
