"""Tensor attributes: dense rows for ranking and exact nearest-neighbour scans, tensors with labels as they are.

bfloat16 cells are kept as float32 that hold truncated values (4 bytes a cell). ``TensorColumn`` is the place where an
approximate index can stand in front of the exact scan without anyone else noticing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.growable import BlockedRows, GrowableArray
from clipsearch.engine.package.model import Field
from clipsearch.engine.ranking.source import BatchTensor
from clipsearch.engine.tensors.value import DTYPES, Tensor, cast

DistanceFunction = Callable[[NDArray[Any]], NDArray[np.float64]]
"""(rows, cells) of the attribute's values -> (rows,) float64 internal distances to one query."""

GATHER_SHARE = 8  # up to a row in so many is gathered, above it the blocks are scanned where they lie


class TensorColumn:
    """One tensor attribute of each row, append-only; a row may have none."""

    def __init__(self, field: Field) -> None:
        assert field.type.tensor is not None
        self.type = field.type.tensor
        self.dense = not self.type.mapped
        width = int(np.prod(self.type.shape, dtype=np.int64))
        self._rows = BlockedRows(width, DTYPES[self.type.cell])
        self._present = GrowableArray(np.bool_)
        self._tensors: list[Tensor | None] = []

    def append(self, row: int, value: Tensor | None) -> None:
        """Adds the next row's tensor, of this column's type."""
        if value is not None and value.type != self.type:
            raise ValueError(f"expected {self.type}, but got {value.type}")
        if self.dense:
            cells = None if value is None else cast(np.asarray(value.cells), self.type.cell).reshape(-1)
            self._rows.append(cells)
        else:
            self._tensors.append(value)
        self._present.append(value is not None)

    def present(self, size: int) -> NDArray[np.bool_]:
        """Which of the first ``size`` rows have a tensor."""
        return self._present.view(size)

    def distances(self, size: int, rows: NDArray[np.int64] | None, distance: DistanceFunction) -> NDArray[np.float64]:
        """Distances of ``rows`` (n,), or of the first ``size`` rows when None; infinity where there is no tensor."""
        present = self.present(size)
        if rows is not None and len(rows) * GATHER_SHARE <= size:
            found = distance(self._rows.take(rows))
            return np.where(present[rows], found, np.inf)
        found = np.empty(size, np.float64)
        for start, block in self._rows.blocks(size):
            found[start : start + len(block)] = distance(block)
        found[~present] = np.inf
        return found if rows is None else found[rows]

    def copy_rows(self, rows: NDArray[Any], target: TensorColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0."""
        if self.dense:
            step = self._rows.rows_per_block
            for start in range(0, len(rows), step):
                for cells in self._rows.take(rows[start : start + step]):
                    target._rows.append(cells)
        else:
            target._tensors = [self._tensors[row] for row in rows]
        target._present.extend(self._present.view()[rows])

    def batch(self, rows: NDArray[np.int64]) -> BatchTensor:
        """The tensors of ``rows`` for ranking; empty (dense: zero) where a row has none."""
        if self.dense:
            return BatchTensor(self.type, self._rows.take(rows).reshape(len(rows), *self.type.shape))
        empty = Tensor(self.type, np.empty((0, *self.type.shape), DTYPES[self.type.cell]))
        return BatchTensor(self.type, [self._tensors[row] or empty for row in rows])
