"""Tensor operations over a batch of candidates: join, merge, reduce, slice, concat and the like.

Cells are computed in float64 and then rounded to the result's cell type, as Vespa does between operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.ranking.batch import Batch, Environment, Ints, as_blocks, per_candidate
from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import DTYPES, cast
from clipsearch.errors import ExpressionError

MOST_CELLS = 1 << 26
Cells = NDArray[Any]
Function = Callable[..., Any]


def wide(cells: Cells) -> NDArray[np.float64]:
    """``cells`` as float64."""
    return cells.astype(np.float64, copy=False)


def align(cells: Cells, dimensions: tuple[str, ...], result: tuple[str, ...]) -> Cells:
    """(S, *dims) viewed with size 1 in each of the result's indexed dimensions that it does not have."""
    sizes = dict(zip(dimensions, cells.shape[1:], strict=True))
    return cells.reshape(len(cells), *(sizes.get(name, 1) for name in result))


def indexed(type: TensorType) -> tuple[str, ...]:
    """Names of the indexed dimensions."""
    return tuple(d.name for d in type.indexed)


def mapped(type: TensorType) -> tuple[str, ...]:
    """Names of the mapped dimensions."""
    return tuple(d.name for d in type.mapped)


def _check_size(cells: int) -> None:
    if cells > MOST_CELLS:
        raise ExpressionError(
            f"a tensor expression makes {cells} cells over all candidates; the local engine allows {MOST_CELLS}. "
            "Reduce before joining, or use it on fewer candidates, in the second phase"
        )


def _codes(columns: list[Ints], base: int) -> Ints:
    """One number per block from its columns (rows first), by mixed radix."""
    code = columns[0]
    for column in columns[1:]:
        code = code * base + column
    return code


def _keys(batch: Batch, columns: list[int], use_rows: bool, base: int) -> Ints:
    parts: list[Ints] = [batch.rows] if use_rows and batch.rows is not None else []
    if batch.labels is not None:
        parts += [batch.labels[:, c] for c in columns]
    return _codes(parts, base)


def match(left: Batch, right: Batch, shared: list[tuple[int, int]], base: int) -> tuple[Ints, Ints]:
    """Pairs of blocks (indices into left, into right) of one candidate whose shared labels agree."""
    use_rows = left.rows is not None and right.rows is not None
    if not shared and not use_rows:
        _check_size(len(left.cells) * len(right.cells))
        return (
            np.repeat(np.arange(len(left.cells)), len(right.cells)),
            np.tile(np.arange(len(right.cells)), len(left.cells)),
        )
    left_keys = _keys(left, [a for a, _ in shared], use_rows, base)
    right_keys = _keys(right, [b for _, b in shared], use_rows, base)
    order = np.argsort(right_keys, kind="stable")
    ordered = right_keys[order]
    low, high = (np.searchsorted(ordered, left_keys, side) for side in ("left", "right"))
    counts = high - low
    _check_size(int(counts.sum()))
    starts = np.repeat(low - (np.cumsum(counts) - counts), counts)
    return np.repeat(np.arange(len(left_keys)), counts), order[starts + np.arange(int(counts.sum()))]


def pair(
    left: Batch, right: Batch, types: tuple[TensorType, TensorType, TensorType], base: int
) -> tuple[Cells, Cells, Ints | None, Ints | None]:
    """Cells of both sides brought block to block, with the result's labels and rows; types: left, right, result."""
    if left.labels is None and right.labels is None:
        return left.cells, right.cells, None, None
    left, right = as_blocks(left), as_blocks(right)
    names = [mapped(type) for type in types]
    shared = [(names[0].index(n), names[1].index(n)) for n in names[0] if n in names[1]]
    i, j = match(left, right, shared, base)
    columns = []
    for name in names[2]:
        side, at, own = (left, i, names[0]) if name in names[0] else (right, j, names[1])
        columns.append(side.labels[at, own.index(name)] if side.labels is not None else at)
    rows = left.rows[i] if left.rows is not None else right.rows[j] if right.rows is not None else None
    return left.cells[i], right.cells[j], np.stack(columns, axis=1), rows


def join(
    left: Batch, right: Batch, types: tuple[TensorType, TensorType, TensorType], f: Function, env: Environment
) -> Batch:
    """``f`` of each pair of cells whose addresses agree in the shared dimensions."""
    a, b, labels, rows = pair(left, right, types, len(env.labels) + 1)
    result = indexed(types[2])
    shape = (np.broadcast_shapes((len(a),), (len(b),))[0], *types[2].shape)
    _check_size(math.prod(shape))
    cells = f(wide(align(a, indexed(types[0]), result)), wide(align(b, indexed(types[1]), result)))
    return Batch(cast(np.broadcast_to(cells, shape), types[2].cell), labels, rows)


def merge(left: Batch, right: Batch, type: TensorType, f: Function, env: Environment) -> Batch:
    """``f`` where both have the cell, else the cell of the one that has it. Dimensions are the same."""
    if left.rows is not None or right.rows is not None:
        left, right = per_candidate(left, env.count), per_candidate(right, env.count)
    assert left.labels is not None
    assert right.labels is not None
    width = left.labels.shape[1]
    i, j = match(left, right, [(c, c) for c in range(width)], len(env.labels) + 1)
    rest_left = np.setdiff1d(np.arange(len(left.cells)), i)
    rest_right = np.setdiff1d(np.arange(len(right.cells)), j)
    both = np.asarray(f(wide(left.cells[i]), wide(right.cells[j])))
    cells = np.concatenate([both, wide(left.cells[rest_left]), wide(right.cells[rest_right])])
    labels = np.concatenate([left.labels[i], left.labels[rest_left], right.labels[rest_right]])
    rows = None
    if left.rows is not None and right.rows is not None:
        rows = np.concatenate([left.rows[i], left.rows[rest_left], right.rows[rest_right]])
    return Batch(cast(cells, type.cell), labels, rows)


_REDUCERS: dict[str, Any] = {
    "sum": np.sum,
    "avg": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "median": np.median,
}
_GROUPED: dict[str, tuple[Any, float]] = {
    "sum": (np.add, 0.0),
    "max": (np.maximum, -np.inf),
    "min": (np.minimum, np.inf),
    "prod": (np.multiply, 1.0),
}


def reduce(value: Batch, type: TensorType, result: TensorType, aggregator: str, env: Environment) -> Batch:
    """Cells aggregated over the dimensions that ``result`` lacks; over no cells at all the result is 0."""
    kept = {d.name for d in result.dimensions}
    axes = tuple(i + 1 for i, d in enumerate(type.indexed) if d.name not in kept)
    columns = [i for i, d in enumerate(type.mapped) if d.name in kept]
    if len(columns) == len(type.mapped):
        cells = _aggregate(wide(value.cells), aggregator, axes)
        return Batch(cast(cells, result.cell), value.labels, value.rows)
    assert value.labels is not None
    groups, first, size = _groups(value, columns, env)
    cells = _aggregate_groups(wide(value.cells), aggregator, axes, groups, size)
    if first is None:
        return Batch(cast(cells, result.cell))
    rows = value.rows[first] if value.rows is not None else None
    return Batch(cast(cells, result.cell), value.labels[first][:, columns], rows)


def _aggregate(cells: NDArray[np.float64], aggregator: str, axes: tuple[int, ...]) -> Cells:
    if not axes:
        return np.ones_like(cells) if aggregator == "count" else cells
    if aggregator == "count":
        lost = int(np.prod([cells.shape[a] for a in axes]))
        kept = [size for a, size in enumerate(cells.shape) if a not in axes]
        return np.full(kept, float(lost))
    return np.asarray(_REDUCERS[aggregator](cells, axis=axes))


def _groups(value: Batch, columns: list[int], env: Environment) -> tuple[Ints, Ints | None, int]:
    """Group of each block, the first block of each group (None: the groups are the candidates), and their number."""
    assert value.labels is not None
    if not columns:
        if value.rows is None:
            return np.zeros(len(value.cells), np.int64), None, 1
        return value.rows, None, env.count
    if not len(value.cells):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    keys = _keys(value, columns, True, len(env.labels) + 1)
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    return groups.reshape(-1), first, len(first)


def _aggregate_groups(
    cells: NDArray[np.float64], aggregator: str, axes: tuple[int, ...], groups: Ints, size: int
) -> Cells:
    if aggregator == "median":
        kept = [s for a, s in enumerate(cells.shape) if a and a not in axes]
        medians = np.zeros((size, *kept))
        for group in np.unique(groups):
            medians[group] = np.median(cells[groups == group], axis=(0, *axes))
        return medians
    counts = np.bincount(groups, minlength=size).astype(np.float64)
    lost = float(np.prod([cells.shape[a] for a in axes])) if axes else 1.0
    inner = "sum" if aggregator == "avg" else aggregator
    partial = _aggregate(cells, inner, axes)
    spread = counts.reshape(-1, *(1,) * (partial.ndim - 1))
    if aggregator == "count":
        return np.broadcast_to(spread * lost, (size, *partial.shape[1:]))
    ufunc, start = _GROUPED[inner]
    total = np.full((size, *partial.shape[1:]), start)
    ufunc.at(total, groups, partial)
    if aggregator == "avg":
        total = total / np.maximum(spread * lost, 1.0)
    return np.where(spread > 0, total, 0.0)


def rename(value: Batch, type: TensorType, result: TensorType, names: dict[str, str]) -> Batch:
    """Axes and label columns in the name order of the result."""
    axes = [names.get(n, n) for n in indexed(type)]
    order = [axes.index(n) + 1 for n in indexed(result)]
    cells = np.ascontiguousarray(value.cells.transpose(0, *order))
    if value.labels is None:
        return Batch(cells)
    columns = [names.get(n, n) for n in mapped(type)]
    return Batch(cells, value.labels[:, [columns.index(n) for n in mapped(result)]], value.rows)


def concat(
    left: Batch, right: Batch, types: tuple[TensorType, TensorType, TensorType], name: str, env: Environment
) -> Batch:
    """Cells of both sides one after the other along the indexed dimension ``name``."""
    a, b, labels, rows = pair(left, right, types, len(env.labels) + 1)
    result = types[2]
    axis = indexed(result).index(name)
    size = np.broadcast_shapes((len(a),), (len(b),))[0]
    parts = []
    for cells, type in ((a, types[0]), (b, types[1])):
        aligned = align(cells, indexed(type), indexed(result))
        shape = [size, *result.shape]
        shape[axis + 1] = aligned.shape[axis + 1]
        parts.append(np.broadcast_to(wide(aligned), shape))
    return Batch(cast(np.concatenate(parts, axis=axis + 1), result.cell), labels, rows)


def unpack_bits(value: Batch, type: TensorType, big: bool) -> Batch:
    """Each int8 cell as eight cells 0 or 1, ``big``: the highest bit first."""
    bits = np.unpackbits(np.ascontiguousarray(value.cells).view(np.uint8), axis=-1, bitorder="big" if big else "little")
    return Batch(bits.astype(DTYPES[type.cell]), value.labels, value.rows)


def filter_subspaces(value: Batch, keep: NDArray[np.bool_]) -> Batch:
    """Blocks where ``keep`` (S,) holds; a dense tensor's only block becomes zeros instead."""
    if value.labels is None:
        shape = (-1,) + (1,) * (value.cells.ndim - 1)
        return Batch(np.where(keep.reshape(shape), value.cells, np.zeros((), value.cells.dtype)))
    rows = value.rows[keep] if value.rows is not None else None
    return Batch(value.cells[keep], value.labels[keep], rows)


def cell_order(value: Batch, type: TensorType, largest_first: bool) -> Batch:
    """Each cell's place (from 0) among all cells of its candidate; NaN last, ties in cell order."""
    cells = wide(value.cells)
    signed = np.where(np.isnan(cells), np.inf, -cells if largest_first else cells)
    places = np.empty(cells.shape)
    if value.labels is None:
        flat = signed.reshape(len(cells), math.prod(type.shape))
        places.reshape(flat.shape)[:] = np.argsort(np.argsort(flat, axis=1, kind="stable"), axis=1)
    else:
        owners = value.rows if value.rows is not None else np.zeros(len(cells), np.int64)
        for owner in np.unique(owners):
            mine = owners == owner
            flat = signed[mine].reshape(-1)
            places[mine] = np.argsort(np.argsort(flat, kind="stable")).reshape(signed[mine].shape)
    return Batch(cast(places, type.cell), value.labels, value.rows)
