"""Tensors with mapped dimensions, flat: the dense blocks of all rows one after the other, beside their labels.

``tensor<bfloat16>(patch{},x[512])`` with nine patches a document is nine vectors in a row, so that distances to all
patches of many documents are one scan, and the closest of each document one reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import orjson
from numpy.typing import NDArray

from clipsearch.engine.index.files import PartFiles
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.vector_cells import Scorer, VectorRows
from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import DTYPES, Labels, Tensor, cast

Rows = NDArray[np.int64]


class BlockColumn:
    """The blocks of each row's tensor, append-only. ``vectors``: all blocks, flat; ``owners``: the row of each."""

    def __init__(self, type: TensorType) -> None:
        self.type = type
        self.vectors = VectorRows(int(np.prod(type.shape, dtype=np.int64)), type.cell)
        self.owners = GrowableArray(np.int32)
        self._codes = GrowableArray(np.int32)
        self._starts = GrowableArray(np.int64)
        self._starts.append(0)
        self._numbers: dict[Labels, int] = {}
        self._labels: list[Labels] = []
        self._saved_rows = self._saved_labels = 0

    def append(self, row: int, value: Tensor | None) -> None:
        """Adds the next row's blocks; None adds none."""
        if value is not None:
            cells = cast(np.asarray(value.cells), self.type.cell).reshape(len(value.labels), self.vectors.width)
            codes = [self._number(labels) for labels in value.labels]
            self.vectors.extend(cells)
            self._codes.extend(codes)
            self.owners.extend([row] * len(codes))
        self._starts.append(len(self.vectors))

    def _number(self, labels: Labels) -> int:
        number = self._numbers.get(labels)
        if number is None:
            number = self._numbers[labels] = len(self._labels)
            self._labels.append(labels)
        return number

    def count(self, size: int) -> int:
        """How many blocks the first ``size`` rows have."""
        return int(self._starts.view(size + 1)[-1])

    def blocks_of(self, rows: Rows) -> tuple[Rows, Rows]:
        """Flat numbers of the blocks of ``rows`` (n,), in order, and where each row's begin among them, (n + 1,)."""
        starts = self._starts.view()
        counts = starts[rows + 1] - starts[rows]
        begins = np.concatenate([[0], np.cumsum(counts)])
        flat = np.arange(begins[-1]) + np.repeat(starts[rows] - begins[:-1], counts)
        return flat, begins

    def distances(self, size: int, rows: Rows | None, scorer: Scorer) -> NDArray[np.float64]:
        """Internal distance of the closest block of ``rows``, or of the first ``size`` rows; infinity without any."""
        if rows is None:
            begins = self._starts.view(size + 1)
            return _least(self.vectors.scan(int(begins[-1]), scorer), begins)
        flat, begins = self.blocks_of(rows)
        return _least(self.vectors.distances(flat, scorer), begins)

    def closest(self, rows: Rows, scorer: Scorer) -> tuple[list[Labels | None], NDArray[np.float64]]:
        """Labels of the closest block of each row, the first of equals, None without any; and its distance."""
        flat, begins = self.blocks_of(rows)
        distances = self.vectors.distances(flat, scorer)
        least = _least(distances, begins)
        counts = np.diff(begins)
        at_least = np.flatnonzero(distances == np.repeat(least, counts))
        owner, first = np.unique(np.repeat(np.arange(len(rows)), counts)[at_least], return_index=True)
        labels: list[Labels | None] = [None] * len(rows)
        codes = self._codes.view()[flat[at_least[first]]]
        for position, code in zip(owner.tolist(), codes.tolist(), strict=True):
            labels[position] = self._labels[code]
        return labels, least

    def tensors(self, rows: Rows) -> list[Tensor]:
        """The tensor of each of ``rows``; empty where a row has none."""
        flat, begins = self.blocks_of(rows)
        cells = self.vectors.take(flat).reshape(len(flat), *self.type.shape)
        labels = [self._labels[code] for code in self._codes.view()[flat].tolist()]
        ends = begins.tolist()
        return [Tensor(self.type, cells[start:end], tuple(labels[start:end])) for start, end in pairwise(ends)]

    def copy_rows(self, rows: Rows, target: BlockColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0."""
        flat, begins = self.blocks_of(rows)
        self.vectors.copy_rows(flat, target.vectors)
        used, codes = np.unique(self._codes.view()[flat], return_inverse=True)
        for code in used.tolist():
            target._number(self._labels[code])
        target._codes.extend(codes)
        target.owners.extend(np.repeat(np.arange(len(rows)), np.diff(begins)))
        target._starts.extend(begins[1:])

    # ---- files

    def save(self, files: PartFiles) -> None:
        """Writes what was appended since."""
        size = self._starts.size - 1
        starts = self._starts.view()
        files.append("starts", starts[self._saved_rows + 1 : size + 1].astype(np.int64))
        files.append("labels", self._codes.view()[int(starts[self._saved_rows]) :].copy())
        for piece in self.vectors.unsaved(len(self.vectors)):
            files.append("cells", piece)
        lines = b"".join(orjson.dumps(labels) + b"\n" for labels in self._labels[self._saved_labels :])
        files.append("names", np.frombuffer(lines, np.uint8))
        self._saved_rows, self._saved_labels = size, len(self._labels)

    def restore(self, files: PartFiles, rows: int) -> None:
        """Becomes what was saved, on an empty column. Raises ``ValueError``: the files do not fit together."""
        starts = files.array("starts", np.int64)
        codes = files.array("labels", np.int32)
        cells = files.mapped("cells", self.vectors.dtype)
        names = [tuple(orjson.loads(line)) for line in files.array("names", np.uint8).tobytes().splitlines()]
        count = int(starts[-1]) if len(starts) else 0
        if len(starts) != rows or len(codes) != count or len(cells) != count * self.vectors.width:
            raise ValueError(f"{len(starts)} of {rows} rows, {len(codes)} and {len(cells)} cells for {count} blocks")
        self._starts.extend(starts)
        self._codes.extend(codes)
        self.owners.extend(np.repeat(np.arange(rows, dtype=np.int32), np.diff(self._starts.view())))
        self.vectors.adopt(cells)
        for labels in names:
            self._number(labels)
        self._saved_rows, self._saved_labels = rows, len(names)


def closest_tensors(type: TensorType, labels: Sequence[Labels | None]) -> list[Tensor]:
    """The value of ``closest`` for each of ``labels``: of ``type``'s mapped dimensions, 1 under the label if any."""
    mapped, one = TensorType(type.mapped, type.cell), np.ones(1, DTYPES[type.cell])
    empty = Tensor(mapped, one[:0])
    return [empty if label is None else Tensor(mapped, one, (label,)) for label in labels]


def _least(values: NDArray[np.float64], begins: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """The least of ``values`` between each pair of ``begins``; infinity of none."""
    begins = np.asarray(begins)
    found = np.full(len(begins) - 1, np.inf)
    some = np.flatnonzero(begins[1:] > begins[:-1])
    if len(some):
        found[some] = np.minimum.reduceat(values, begins[some])
    return found
