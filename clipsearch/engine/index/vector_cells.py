"""Vectors as they are kept in memory, and their distances to one query.

bfloat16 cells are kept as the upper 16 bits of a float32 (uint16), every other cell type as itself. Distances are
computed over pieces that stay in the processor's cache: widening to float32 costs less than reading twice the memory.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.growable import BlockedRows
from clipsearch.engine.ranking import distances as metrics
from clipsearch.engine.tensors.value import DTYPES

_PIECE = 128 * 1024  # cells widened at a time
_HIGH, _SHIFT = np.uint32(0xFFFF0000), np.uint32(16)
_scratch = threading.local()


def stored_dtype(cell: str) -> Any:
    """The numpy dtype in which cells of a tensor's cell type are kept."""
    return np.uint16 if cell == "bfloat16" else DTYPES[cell]


def store(values: NDArray[Any], cell: str) -> NDArray[Any]:
    """Cells of dtype ``DTYPES[cell]`` (bfloat16: float32 already truncated) in the dtype they are kept in."""
    if cell != "bfloat16":
        return values
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> _SHIFT).astype(np.uint16)


def widen(kept: NDArray[Any]) -> NDArray[Any]:
    """Kept cells in the dtype that ranking reads: uint16 becomes float32, others stay as they are."""
    if kept.dtype != np.uint16:
        return kept
    wide = kept.astype(np.uint32)
    wide <<= _SHIFT
    return wide.view(np.float32)


def _buffer(cells: int) -> NDArray[np.uint32]:
    """Scratch memory of this thread: a new one for each query would cost its page faults."""
    held: NDArray[np.uint32] | None = getattr(_scratch, "buffer", None)
    if held is None or held.size < cells:
        held = _scratch.buffer = np.empty(max(cells, _PIECE), np.uint32)
    return held[:cells]


class Scorer:
    """Internal distances of kept vectors to one query (width,), which is in the attribute's cell type already.

    Inner products and squared differences of bfloat16 and float cells are summed in float32, as Vespa's kernels do.
    """

    def __init__(self, metric: str, query: NDArray[Any]) -> None:
        self.metric, self.query = metric, query
        self._norm = metrics.squared_norm(query) if metric == "prenormalized-angular" else 0.0
        self._inner = metric in ("prenormalized-angular", "dotproduct") and query.dtype == np.float32
        self._halves = (np.ascontiguousarray(query[0::2]), np.ascontiguousarray(query[1::2]))
        self._by_halves = sys.byteorder == "little" and query.size % 2 == 0

    def __call__(self, kept: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64 of (n, width) kept vectors."""
        found = np.empty(len(kept))
        step = max(1, _PIECE // max(1, self.query.size))
        with np.errstate(invalid="ignore", over="ignore"):  # cells may be infinite or no numbers
            for start in range(0, len(kept), step):
                found[start : start + step] = self._piece(kept[start : start + step])
        return found

    def _piece(self, kept: NDArray[Any]) -> NDArray[Any]:
        if self._inner:
            dots = self._dots(kept).astype(np.float64)
            return -dots if self.metric == "dotproduct" else self._norm - dots
        if self.metric == "euclidean" and self.query.dtype == np.float32:
            difference = widen(kept) - self.query
            squares: NDArray[Any] = np.einsum("ij,ij->i", difference, difference)
            return squares
        return metrics.internal(self.metric, self.query, widen(kept))

    def _dots(self, kept: NDArray[Any]) -> NDArray[np.float32]:
        """Inner products; the bfloat16 cells at odd positions become float32 by a mask, the others by a shift."""
        if kept.dtype != np.uint16 or not self._by_halves or not kept.flags.c_contiguous:
            plain: NDArray[np.float32] = metrics.row_dots(widen(kept), self.query)
            return plain
        pairs = kept.view(np.uint32)
        wide = _buffer(pairs.size).reshape(pairs.shape)
        floats = wide.view(np.float32)
        np.left_shift(pairs, _SHIFT, out=wide)
        dots: NDArray[np.float32] = metrics.row_dots(floats, self._halves[0])
        np.bitwise_and(pairs, _HIGH, out=wide)
        dots += metrics.row_dots(floats, self._halves[1])
        return dots


class VectorRows:
    """Vectors of one width and cell type, append-only; readers need no lock for the rows that they know of."""

    def __init__(self, width: int, cell: str) -> None:
        self.width, self.cell = width, cell
        self.dtype = np.dtype(stored_dtype(cell))
        self._rows = BlockedRows(width, self.dtype)
        self._saved = 0

    def __len__(self) -> int:
        return self._rows.size

    def append(self, cells: NDArray[Any] | None) -> None:
        """Adds one vector of dtype ``DTYPES[cell]``; None adds zeros."""
        self._rows.append(None if cells is None else store(cells.reshape(-1), self.cell))

    def extend(self, cells: NDArray[Any]) -> None:
        """Adds vectors (n, width) of dtype ``DTYPES[cell]``."""
        self._rows.extend(store(cells, self.cell))

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of ``rows`` (n,) as (n, width) of dtype ``DTYPES[cell]``."""
        return widen(self._rows.take(rows))

    def copy_rows(self, rows: NDArray[Any], target: VectorRows) -> None:
        """Appends ``rows`` to ``target``, a piece at a time."""
        step = self._rows.rows_per_block
        for start in range(0, len(rows), step):
            target._rows.extend(self._rows.take(rows[start : start + step]))

    def distances(self, rows: NDArray[np.int64], scorer: Scorer) -> NDArray[np.float64]:
        """(n,) internal distances of ``rows`` (n,)."""
        step = max(1, 8 * _PIECE // max(1, self.width))
        if len(rows) <= step:
            return scorer(self._rows.take(rows))
        return np.concatenate([scorer(self._rows.take(rows[i : i + step])) for i in range(0, len(rows), step)])

    def scan(self, size: int, scorer: Scorer, start: int = 0) -> NDArray[np.float64]:
        """Internal distances of the rows from ``start`` to ``size``."""
        found = np.empty(max(0, size - start))
        for first, block in self._rows.blocks(size, start):
            found[first - start : first - start + len(block)] = scorer(block)
        return found

    def unsaved(self, size: int) -> list[NDArray[Any]]:
        """The rows up to ``size`` that no call gave before, in pieces as they are kept."""
        pieces = [block for _, block in self._rows.blocks(size, self._saved)]
        self._saved = size
        return pieces

    def adopt(self, kept: NDArray[Any]) -> None:
        """Makes the kept cells of a file (n * width,) the first rows of this empty store."""
        self._rows.adopt(np.asarray(kept).reshape(-1, self.width))
        self._saved = self._rows.size
