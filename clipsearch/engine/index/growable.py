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

    def view(self, size: int | None = None) -> NDArray[Any]:
        """The first ``size`` values (all by default), not copied."""
        return self._data[: self.size if size is None else size]


class BlockedRows:
    """A two-dimensional array in blocks of a fixed number of rows, so that growing copies and over-allocates nothing.

    ``dtype`` float32 (bfloat16 too: truncated values), float64 or int8; about 32 MiB a block: fewer
    calls into BLAS, whose threads wait for each other at the end of each. Memory is touched only as rows come.
    """

    def __init__(self, width: int, dtype: Any) -> None:
        self.width, self.dtype = width, np.dtype(dtype)
        self.rows_per_block = max(64, (32 << 20) // max(1, width * self.dtype.itemsize))
        self._blocks: list[NDArray[Any]] = []
        self.size = 0

    def append(self, row: NDArray[Any] | None) -> None:
        """Adds one row (width,); None adds zeros."""
        position = self.size % self.rows_per_block
        if position == 0:
            self._blocks.append(np.zeros((self.rows_per_block, self.width), self.dtype))
        if row is not None:
            self._blocks[-1][position] = row
        self.size += 1

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """The first ``size`` rows as (first row number, (rows, width) view) pairs."""
        for start in range(0, size, self.rows_per_block):
            yield start, self._blocks[start // self.rows_per_block][: size - start]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of ``rows`` (n,) in that order, (n, width)."""
        taken = np.empty((len(rows), self.width), self.dtype)
        number, position = np.divmod(rows, self.rows_per_block)
        for block in np.unique(number):
            inside = number == block
            taken[inside] = self._blocks[block][position[inside]]
        return taken
