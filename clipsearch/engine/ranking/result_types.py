"""Static types of tensor operations, checked when a profile is deployed.

Source: Vespa's ``eval/value_type.cpp``: int8 and bfloat16 cells become float in arithmetic, a scalar takes no part in
the choice of cell type, and a result without dimensions is a double.
"""

from __future__ import annotations

from collections.abc import Iterable

from clipsearch.engine.tensors.types import SCALAR, Dimension, TensorType
from clipsearch.errors import ExpressionError


def _decay(cell: str) -> str:
    return "float" if cell in ("bfloat16", "int8") else cell


def _unify(left: TensorType, right: TensorType) -> str:
    if not left.dimensions:
        return right.cell if right.dimensions else "double"
    if not right.dimensions or left.cell == right.cell:
        return left.cell
    return "double" if "double" in (left.cell, right.cell) else "float"


def make(dimensions: Iterable[Dimension], cell: str) -> TensorType:
    """The type with ``dimensions`` in name order; a scalar double when there are none."""
    ordered = tuple(sorted(dimensions))
    return TensorType(ordered, cell) if ordered else SCALAR


def _united(left: TensorType, right: TensorType, what: str) -> dict[str, Dimension]:
    dimensions = {d.name: d for d in left.dimensions}
    for dimension in right.dimensions:
        if dimensions.setdefault(dimension.name, dimension) != dimension:
            raise ExpressionError(f"cannot {what} {left} and {right}: dimension '{dimension.name}' differs")
    return dimensions


def join_type(left: TensorType, right: TensorType) -> TensorType:
    """Union of the dimensions. Raises ``ExpressionError`` when a shared dimension differs."""
    return make(_united(left, right, "join").values(), _decay(_unify(left, right)))


def merge_type(left: TensorType, right: TensorType) -> TensorType:
    """The same dimensions on both sides. Raises ``ExpressionError`` otherwise."""
    if left.dimensions != right.dimensions:
        raise ExpressionError(f"cannot merge {left} and {right}: their dimensions must be the same")
    return make(left.dimensions, _decay(_unify(left, right)))


def map_type(type: TensorType) -> TensorType:
    """The same dimensions; small cells become float."""
    return make(type.dimensions, _decay(type.cell))


def reduce_type(type: TensorType, dimensions: tuple[str, ...]) -> TensorType:
    """``type`` without ``dimensions``, or a scalar when none are named. Raises when one is not there."""
    known = {d.name for d in type.dimensions}
    for name in dimensions:
        if name not in known:
            raise ExpressionError(f"cannot reduce {type} over '{name}': it has no such dimension")
    gone = dimensions or known
    return make((d for d in type.dimensions if d.name not in gone), _decay(type.cell))


def rename_type(type: TensorType, names: dict[str, str]) -> TensorType:
    """``type`` with dimensions renamed. Raises when a name is missing or a result name is doubled."""
    missing = names.keys() - {d.name for d in type.dimensions}
    renamed = [Dimension(names.get(d.name, d.name), d.size) for d in type.dimensions]
    if missing or len({d.name for d in renamed}) != len(renamed):
        raise ExpressionError(f"cannot rename {names} in {type}")
    return make(renamed, type.cell)


def concat_type(left: TensorType, right: TensorType, name: str) -> TensorType:
    """Union of the dimensions; sizes along ``name`` add up, a side without it counts 1."""
    size = 0
    rest = []
    for type in (left, right):
        along = next((d for d in type.dimensions if d.name == name), Dimension(name, 1))
        if along.size is None:
            raise ExpressionError(f"cannot concatenate {left} and {right} along the mapped dimension '{name}'")
        size += along.size
        rest.append(TensorType(tuple(d for d in type.dimensions if d.name != name), type.cell))
    dimensions = _united(rest[0], rest[1], "concatenate")
    return make([*dimensions.values(), Dimension(name, size)], _unify(left, right))


def slice_type(type: TensorType, dimensions: Iterable[str]) -> TensorType:
    """``type`` without the sliced dimensions; cells keep their type."""
    gone = set(dimensions)
    return make((d for d in type.dimensions if d.name not in gone), type.cell)


def cast_type(type: TensorType, cell: str) -> TensorType:
    """``type`` with another cell type."""
    return make(type.dimensions, cell)


def unpack_type(type: TensorType, cell: str) -> TensorType:
    """int8 cells to bits: the last indexed dimension is eight times as long."""
    if type.cell != "int8" or not type.indexed:
        raise ExpressionError(f"unpack_bits() needs int8 cells and an indexed dimension, not {type}")
    last = type.indexed[-1]
    longer = Dimension(last.name, (last.size or 0) * 8)
    return make([longer if d == last else d for d in type.dimensions], cell)


def subspace_type(type: TensorType) -> TensorType:
    """The dense part of ``type``: what map_subspaces hands to its function."""
    return make(type.indexed, type.cell)


def map_subspaces_type(type: TensorType, inner: TensorType) -> TensorType:
    """Mapped dimensions of ``type`` around the dense result ``inner``."""
    if inner.mapped or {d.name for d in inner.dimensions} & {d.name for d in type.mapped}:
        raise ExpressionError(f"map_subspaces() over {type} cannot make {inner} of each subspace")
    cell = inner.cell if inner.dimensions else _decay(type.cell)
    return make([*type.mapped, *inner.dimensions], cell)
