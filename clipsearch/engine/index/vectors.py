"""Tensor attributes: dense vectors or blocks with labels, for ranking and for nearest-neighbour searches.

Cells lie in memory as ``vector_cells`` keeps them (bfloat16: two bytes), restored ones in a memory map of their
file. A field with an HNSW index, from 20,000 vectors on, has codes that find the nearest ones without reading the rest
(``vector_neighbors``); nobody outside this file notices which way was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.files import PartFiles
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.vector_blocks import BlockColumn, closest_tensors
from clipsearch.engine.index.vector_cells import Scorer, VectorRows
from clipsearch.engine.index.vector_neighbors import NeighborIndex
from clipsearch.engine.package.model import Field
from clipsearch.engine.ranking.source import BatchTensor
from clipsearch.engine.tensors import value as values
from clipsearch.engine.tensors.value import Tensor

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]

GATHER_SHARE = 4  # up to a row in so many is gathered, above it all are scanned where they lie
EXACT_SHARE = 0.11  # where a filter lets no more rows through they are all measured: a tenth of them, exactly


class TensorColumn:
    """One tensor attribute of each row, append-only; a row may have none."""

    def __init__(self, field: Field) -> None:
        assert field.type.tensor is not None
        self.type = field.type.tensor
        self.dense = not self.type.mapped
        self._blocks = None if self.dense else BlockColumn(self.type)
        width = int(np.prod(self.type.shape, dtype=np.int64))
        self._vectors = VectorRows(width, self.type.cell) if self._blocks is None else self._blocks.vectors
        self._present = GrowableArray(np.bool_)
        self._complete = True  # no row has none
        self._saved = 0
        metric = field.distance_metric or "euclidean"
        self._neighbors: NeighborIndex | None = None
        if field.hnsw and NeighborIndex.suits(metric, width):
            self._neighbors = NeighborIndex(metric, self._vectors)

    def append(self, row: int, value: Tensor | None) -> None:
        """Adds the next row's tensor, of this column's type."""
        if value is not None and value.type != self.type:
            raise ValueError(f"expected {self.type}, but got {value.type}")
        if self._blocks is not None:
            self._blocks.append(row, value)
        else:
            self._vectors.append(None if value is None else values.cast(np.asarray(value.cells), self.type.cell))
        self._complete &= value is not None
        self._present.append(value is not None)
        self._appended()

    def extend(self, first_row: int, tensors: Sequence[FieldValue | None]) -> None:
        """Adds the next rows' tensors, as ``append`` does one by one; nothing when one is of another type."""
        for tensor in tensors:
            if tensor is not None and (not isinstance(tensor, Tensor) or tensor.type != self.type):
                raise ValueError(f"expected {self.type}, but got {getattr(tensor, 'type', type(tensor).__name__)}")
        given = cast("Sequence[Tensor | None]", tensors)
        if self._blocks is not None:
            for row, value in enumerate(given, first_row):
                self._blocks.append(row, value)
        elif len(given):
            cells = np.zeros((len(given), self._vectors.width), values.DTYPES[self.type.cell])
            for position, value in enumerate(given):
                if value is not None:
                    cells[position] = np.asarray(value.cells).reshape(-1)
            self._vectors.extend(values.cast(cells, self.type.cell))
        present = [tensor is not None for tensor in given]
        self._complete &= all(present)
        self._present.extend(present)
        self._appended()

    def _appended(self) -> None:
        if self._neighbors is not None:
            self._neighbors.appended()

    def present(self, size: int) -> Mask:
        """Which of the first ``size`` rows have a tensor."""
        return self._present.view(size)

    def with_tensor(self, size: int, allowed: Mask) -> Mask:
        """Which of the ``allowed`` (size,) rows have a tensor."""
        return allowed if self._complete else allowed & self.present(size)

    def settle(self) -> None:
        """Waits for work in the background, so that a measurement or test sees the state it leads to."""
        if self._neighbors is not None:
            self._neighbors.settle()

    # ---- distances

    def distances(self, size: int, rows: Rows | None, scorer: Scorer) -> Numbers:
        """Internal distances of ``rows`` (n,), or of the first ``size`` rows when None; infinity without a tensor.

        Of a tensor with labels: of its closest block.
        """
        if rows is not None and len(rows) * GATHER_SHARE > size:
            return self.distances(size, None, scorer)[rows]
        if self._blocks is not None:
            return self._blocks.distances(size, rows, scorer)
        present = self.present(size)
        if rows is not None:
            return np.where(present[rows], self._vectors.distances(rows, scorer), np.inf)
        found = self._vectors.scan(size, scorer)
        if not present.all():
            found[~present] = np.inf
        return found

    def nearest(self, size: int, allowed: Mask, wanted: int, scorer: Scorer) -> tuple[Rows, Numbers] | None:
        """Ascending rows, with internal distances, that hold the ``wanted`` nearest of the ``allowed`` (size,) rows.

        The codes' way: recall is above 0.99. None when measuring every allowed row is the way to take.
        """
        count = int(np.count_nonzero(allowed))
        if self._neighbors is None or count <= EXACT_SHARE * size or count < 16 * wanted:
            return None
        share = count / size
        if self._blocks is None:
            return _ascending(self._neighbors.nearest(scorer, wanted, size, lambda rows: allowed[rows], share))
        blocks = self._blocks
        flat_size = blocks.count(size)
        owners = blocks.owners.view(flat_size)
        found = self._neighbors.nearest(scorer, wanted, flat_size, lambda rows: allowed[owners[rows]], share, owners)
        if found is None:
            return None
        rows = np.unique(owners[found[0]]).astype(np.int64)
        return rows, blocks.distances(size, rows, scorer)

    def closest(self, rows: Rows, scorer: Scorer) -> tuple[list[Tensor], Numbers]:
        """The value of ``closest`` for ``rows``: 1 under the label of the closest block; with its distance.

        Source: Vespa's ``closest_feature.cpp``; the first of equally close blocks, nothing for a row without any.
        """
        assert self._blocks is not None
        labels, distances = self._blocks.closest(rows, scorer)
        return closest_tensors(self.type, labels), distances

    # ---- values

    def batch(self, rows: Rows) -> BatchTensor:
        """The tensors of ``rows`` for ranking; empty (dense: zero) where a row has none."""
        if self._blocks is not None:
            return BatchTensor(self.type, self._blocks.tensors(rows))
        cells: NDArray[Any] = self._vectors.take(rows)
        return BatchTensor(self.type, cells.reshape(len(rows), *self.type.shape))

    def copy_rows(self, rows: NDArray[Any], target: TensorColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0."""
        if self._blocks is not None and target._blocks is not None:
            self._blocks.copy_rows(rows, target._blocks)
        else:
            self._vectors.copy_rows(rows, target._vectors)
        present = self._present.view()[rows]
        target._complete = bool(present.all())
        target._present.extend(present)
        target._appended()

    # ---- files

    def save(self, files: PartFiles) -> None:
        """Writes what was appended since the last save, and the codes made since."""
        size = self._present.size
        files.append("present", self._present.view(size)[self._saved :].copy())
        if self._blocks is not None:
            self._blocks.save(files)
        else:
            for piece in self._vectors.unsaved(size):
                files.append("cells", piece)
        if self._neighbors is not None:
            self._neighbors.save(files)
        self._saved = size

    def restore(self, files: PartFiles, rows: int) -> None:
        """Becomes what was saved, on an empty column; cells stay in their file, mapped into memory.

        Raises ``ValueError`` when the files do not hold ``rows`` rows.
        """
        present = files.array("present", np.bool_)
        if len(present) != rows:
            raise ValueError(f"{len(present)} of {rows} rows")
        if self._blocks is not None:
            self._blocks.restore(files, rows)
        else:
            cells = files.mapped("cells", self._vectors.dtype)
            if len(cells) != rows * self._vectors.width:
                raise ValueError(f"{len(cells)} cells for {rows} rows of {self._vectors.width}")
            self._vectors.adopt(cells)
        self._complete = bool(present.all())
        self._present.extend(present)
        self._saved = rows
        if self._neighbors is not None:
            self._neighbors.restore(files)
            self._neighbors.appended()


def _ascending(found: tuple[Rows, Numbers] | None) -> tuple[Rows, Numbers] | None:
    if found is None or not (found[0][1:] < found[0][:-1]).any():
        return found
    order = np.argsort(found[0])
    return found[0][order], found[1][order]
