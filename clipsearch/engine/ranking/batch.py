"""Values of an expression for a batch of candidates, and the rows of blocks that tensor operations work on.

A scalar is a float, or (n,) float64. A dense tensor is a ``Batch`` of cells (n | 1, *shape). A tensor with mapped
dimensions keeps all candidates' dense blocks in one array: ``rows`` says whose block it is, ``labels`` (S, M) names
it, so that joins and reductions are array operations over all candidates at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.ranking.source import BatchTensor, FeatureSource
from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import DTYPES, Tensor, cast

Ints = NDArray[np.int64]
Value = Any  # float | (n,) float64 | Batch: the static type, known at compile time, says which


class LabelTable:
    """Numbers for the labels met in one evaluation."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.names: list[str] = []

    def number(self, label: str) -> int:
        """The number of ``label``, new if it was not met before."""
        found = self._ids.setdefault(label, len(self.names))
        if found == len(self.names):
            self.names.append(label)
        return found

    def __len__(self) -> int:
        return len(self.names)


@dataclass(slots=True)
class Batch:
    """Dense: ``cells`` (n | 1, *shape), no labels. Else ``cells`` (S, *shape), ``labels`` (S, M) numbers.

    ``rows``: (S,) candidate of each block, or None when all candidates share the value.
    """

    cells: NDArray[Any]
    labels: Ints | None = None
    rows: Ints | None = None


@dataclass(slots=True)
class Environment:
    """What an expression is evaluated in: ``count`` candidates, their features, and lambda parameters."""

    count: int
    source: FeatureSource | None = None
    locals: dict[str, Value] = field(default_factory=dict)
    memo: dict[Any, Value] = field(default_factory=dict)
    labels: LabelTable = field(default_factory=LabelTable)
    relevance: NDArray[np.float64] | None = None

    def with_locals(self, values: dict[str, Value]) -> Environment:
        """The same candidates with lambda parameters bound; no feature is remembered under them."""
        return Environment(self.count, self.source, {**self.locals, **values}, self.memo, self.labels, self.relevance)

    def inner(self, count: int, values: dict[str, Value]) -> Environment:
        """``count`` other candidates (blocks or positions) that see only ``values``."""
        return Environment(count, None, values, {}, self.labels)


def as_batch(value: Value) -> Batch:
    """A scalar as a dense batch without dimensions: cells (n | 1,)."""
    return value if isinstance(value, Batch) else Batch(np.atleast_1d(np.asarray(value, np.float64)))


def as_blocks(batch: Batch) -> Batch:
    """A dense batch with a block per candidate and no label columns; others unchanged."""
    if batch.labels is not None:
        return batch
    size = len(batch.cells)
    rows = np.arange(size) if size != 1 else None
    return Batch(batch.cells, np.zeros((size, 0), np.int64), rows)


def per_candidate(batch: Batch, count: int) -> Batch:
    """A mapped batch with ``rows``: a value that all candidates share is repeated."""
    if batch.labels is None or batch.rows is not None:
        return batch
    size = len(batch.cells)
    return Batch(
        np.tile(batch.cells, (count,) + (1,) * (batch.cells.ndim - 1)),
        np.tile(batch.labels, (count, 1)),
        np.repeat(np.arange(count), size),
    )


def as_scalar(batch: Batch) -> Value:
    """A dense batch without dimensions as a scalar."""
    wide = batch.cells.astype(np.float64, copy=False)
    return wide[0] if len(wide) == 1 else wide


def from_tensor(tensor: Tensor, labels: LabelTable) -> Value:
    """One tensor that all candidates share; bfloat16 is truncated here, as on its way to the content node."""
    cells = cast(tensor.cells, tensor.type.cell)
    if not tensor.type.dimensions:
        return float(cells)
    if not tensor.type.mapped:
        return Batch(cells[np.newaxis])
    numbers = [[labels.number(label) for label in block] for block in tensor.labels]
    return Batch(cells, np.array(numbers, np.int64).reshape(len(numbers), len(tensor.type.mapped)))


def no_blocks(type: TensorType, *, varying: bool = False) -> Batch:
    """A value of ``type`` without any block: no candidates, or a mapped tensor without cells."""
    rows = np.zeros(0, np.int64) if varying and type.mapped else None
    labels = np.zeros((0, len(type.mapped)), np.int64) if type.mapped else None
    return Batch(np.zeros((0, *type.shape), DTYPES[type.cell]), labels, rows)


def from_source(value: float | NDArray[np.float64] | BatchTensor, labels: LabelTable) -> Value:
    """A feature's value for the batch."""
    if not isinstance(value, BatchTensor):
        return value
    if not isinstance(value.values, list):
        return Batch(value.values)
    if not value.values:
        return no_blocks(value.type, varying=True)
    if len(value.values) == 1:
        return from_tensor(value.values[0], labels)
    found = [as_batch(from_tensor(tensor, labels)) for tensor in value.values]
    if not value.type.mapped:
        return Batch(np.concatenate([one.cells for one in found]))
    sizes = [len(one.cells) for one in found]
    return Batch(
        np.concatenate([one.cells for one in found]),
        np.concatenate([one.labels for one in found if one.labels is not None]),
        np.repeat(np.arange(len(found)), sizes),
    )


def to_tensors(value: Value, type: TensorType, environment: Environment) -> list[Tensor]:
    """The value of each candidate as a ``Tensor`` of ``type``."""
    batch = as_batch(value)
    if batch.labels is None:
        cells = np.broadcast_to(batch.cells, (environment.count, *batch.cells.shape[1:]))
        return [Tensor(type, cells[i]) for i in range(environment.count)]
    batch = per_candidate(batch, environment.count)
    names, tensors = environment.labels.names, []
    for i in range(environment.count):
        mine = np.flatnonzero(batch.rows == i)
        labels = tuple(tuple(names[j] for j in batch.labels[k]) for k in mine) if batch.labels is not None else ()
        tensors.append(Tensor(type, batch.cells[mine], labels))
    return tensors
