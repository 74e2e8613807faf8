"""``tensor{x:1,k:a}``: one position or label of some dimensions, fixed or computed per candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.ranking.batch import Batch, Environment, Ints, Value, per_candidate
from clipsearch.engine.ranking.operations import indexed, mapped
from clipsearch.engine.tensors.types import TensorType


def slice_batch(
    value: Batch, type: TensorType, result: TensorType, at: dict[str, str | Value], env: Environment
) -> Batch:
    """``at``: dimension to label text, or to a scalar (float or (n,)) that is truncated to a position or label.

    What is not there is 0 in a dense result, and absent in a mapped one.
    """
    varying = any(not isinstance(label, str) and np.ndim(label) > 0 for label in at.values())
    if varying:
        value = per_candidate(value, env.count)
    value = _filter_labels(value, type, at, env)
    value = _take_positions(value, type, at, env)
    if value.labels is None or result.mapped:
        return value
    return _densify(value, result, env)


def _filter_labels(value: Batch, type: TensorType, at: dict[str, Any], env: Environment) -> Batch:
    if value.labels is None:
        return value
    keep = np.ones(len(value.cells), np.bool_)
    names = mapped(type)
    for column, name in enumerate(names):
        if name in at:
            keep &= value.labels[:, column] == _label_numbers(at[name], value, env)
    columns = [i for i, name in enumerate(names) if name not in at]
    rows = value.rows[keep] if value.rows is not None else None
    return Batch(value.cells[keep], value.labels[keep][:, columns], rows)


def _label_numbers(label: Any, value: Batch, env: Environment) -> Any:
    if isinstance(label, str):
        return env.labels.number(label)
    whole = _positions(label)
    if np.ndim(whole) == 0:
        return env.labels.number(str(int(whole)))
    numbers = np.array([env.labels.number(str(int(one))) for one in np.asarray(whole)], np.int64)
    return numbers[value.rows]


def _positions(label: Any) -> Ints:
    finite = np.nan_to_num(np.asarray(label, np.float64), nan=-1.0, posinf=-1.0, neginf=-1.0)
    return np.trunc(np.clip(finite, -(2.0**53), 2.0**53)).astype(np.int64)


def _take_positions(value: Batch, type: TensorType, at: dict[str, Any], env: Environment) -> Batch:
    cells: NDArray[Any] = value.cells
    owners = value.rows if value.labels is not None else None
    for axis, name in reversed(list(enumerate(indexed(type), start=1))):
        if name in at:
            position = int(at[name]) if isinstance(at[name], str) else _positions(at[name])
            cells = _take(cells, axis, position, owners, env)
    return Batch(cells, value.labels, value.rows)


def _take(cells: NDArray[Any], axis: int, position: Any, owners: Ints | None, env: Environment) -> NDArray[Any]:
    size = cells.shape[axis]
    if np.ndim(position) == 0:
        inside = 0 <= int(position) < size
        taken = np.take(cells, int(position) if inside else 0, axis=axis)
        return taken if inside else np.zeros_like(taken)
    if owners is not None:
        position = position[owners]
    elif len(cells) == 1:
        cells = np.broadcast_to(cells, (env.count, *cells.shape[1:]))
    inside = (position >= 0) & (position < size)
    shape = (-1,) + (1,) * (cells.ndim - 1)
    places = np.where(inside, position, 0).reshape(shape)
    taken = np.take_along_axis(cells, places, axis=axis).squeeze(axis)
    return np.where(inside.reshape(shape[:-1]), taken, np.zeros((), cells.dtype))


def _densify(value: Batch, result: TensorType, env: Environment) -> Batch:
    """All mapped dimensions are gone: at most one block a candidate is left; none is zeros."""
    size = 1 if value.rows is None else env.count
    cells = np.zeros((size, *result.shape), value.cells.dtype)
    cells[value.rows if value.rows is not None else np.zeros(len(value.cells), np.int64)] = value.cells
    return Batch(cells)
