"""One tensor value: labels of its mapped dimensions, and an array of cells.

A dense tensor has no labels and ``cells`` of its type's shape; a tensor with mapped dimensions has one label tuple
per dense block and ``cells`` of shape (blocks, *shape). bfloat16 cells are float32 whose low half is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.tensors.types import TensorType

Labels = tuple[str, ...]
DTYPES: dict[str, Any] = {"double": np.float64, "float": np.float32, "bfloat16": np.float32, "int8": np.int8}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of ``type``.

    ``cells``: (*shape) without mapped dimensions, else (len(labels), *shape); float64, float32 (also bfloat16) or
    int8. ``labels``: one tuple per block, in the name order of the mapped dimensions; empty for dense tensors.
    """

    type: TensorType
    cells: NDArray[Any]
    labels: tuple[Labels, ...] = ()

    def __eq__(self, other: object) -> bool:
        """Same type, labels (in any order) and cells; NaN equals NaN."""
        if not isinstance(other, Tensor) or self.type != other.type or len(self.labels) != len(other.labels):
            return False
        if not self.type.mapped:
            return np.array_equal(self.cells, other.cells, equal_nan=self.cells.dtype != np.int8)
        mine, theirs = dict(self.blocks()), dict(other.blocks())
        return mine.keys() == theirs.keys() and all(
            np.array_equal(block, theirs[labels], equal_nan=block.dtype != np.int8) for labels, block in mine.items()
        )

    __hash__ = None  # type: ignore[assignment]  # mutable cells: Tensor is a value, not a key

    def blocks(self) -> Iterator[tuple[Labels, NDArray[Any]]]:
        """Each label tuple with its dense block (*shape); one pair with () for a dense tensor."""
        if not self.type.mapped:
            yield (), self.cells
            return
        yield from zip(self.labels, self.cells, strict=True)

    def __str__(self) -> str:
        from clipsearch.engine.tensors.literal import format_literal

        return format_literal(self)


def dtype_of(type_: TensorType) -> Any:
    """The numpy dtype that holds cells of ``type_`` (float32 for bfloat16)."""
    return DTYPES[type_.cell]


def truncate_bfloat16(values: NDArray[Any]) -> NDArray[np.float32]:
    """``values`` as float32 with the low 16 bits cleared: rounded toward zero, as Vespa converts to bfloat16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def as_int8(values: NDArray[Any]) -> NDArray[np.int8]:
    """``values`` toward zero into 32 bits (saturating, NaN to 0) and then the low byte, as Java casts to byte."""
    wide = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=2**31 - 1, neginf=-(2**31))
    return np.clip(np.trunc(wide), -(2**31), 2**31 - 1).astype(np.int64).astype(np.int8)


def cast(values: NDArray[Any], cell: str) -> NDArray[Any]:
    """``values`` in the dtype of cell type ``cell``, with its rounding."""
    if cell == "bfloat16":
        return truncate_bfloat16(values)
    if cell == "int8":
        return values if values.dtype == np.int8 else as_int8(values)
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[cell], copy=False)


def scalar(value: float) -> Tensor:
    """``value`` as a ``tensor()``."""
    return Tensor(TensorType(), np.asarray(value, np.float64))
