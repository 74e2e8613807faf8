"""Vespa's tensor types: ``tensor<bfloat16>(patch{},x[512])``.

Source: Vespa's tensor user guide and ``TensorType``; dimensions are sorted by name in the canonical form, which
omits the cell type when it is double.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipsearch.errors import ExpressionError

CELL_TYPES = ("double", "float", "bfloat16", "int8")
_TYPE = re.compile(r"\s*tensor\s*(?:<\s*(\w+)\s*>)?\s*\(([^()]*)\)\s*")
_DIMENSION = re.compile(r"\s*([A-Za-z_][\w]*)\s*(?:(\{\s*\})|\[\s*(\d+)\s*\])\s*")


@dataclass(frozen=True, slots=True, order=True)
class Dimension:
    """``name{}`` (mapped, ``size`` None) or ``name[size]`` (indexed)."""

    name: str
    size: int | None = None

    @property
    def mapped(self) -> bool:
        """Whether labels, not positions, address this dimension."""
        return self.size is None

    def __str__(self) -> str:
        return f"{self.name}{{}}" if self.size is None else f"{self.name}[{self.size}]"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A cell type and dimensions in name order; no dimensions: a scalar double."""

    dimensions: tuple[Dimension, ...] = ()
    cell: str = "double"

    @property
    def indexed(self) -> tuple[Dimension, ...]:
        """The indexed dimensions, in name order."""
        return tuple(d for d in self.dimensions if not d.mapped)

    @property
    def mapped(self) -> tuple[Dimension, ...]:
        """The mapped dimensions, in name order."""
        return tuple(d for d in self.dimensions if d.mapped)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the indexed dimensions, in name order."""
        return tuple(d.size for d in self.dimensions if d.size is not None)

    def __str__(self) -> str:
        cell = "" if self.cell == "double" else f"<{self.cell}>"
        return f"tensor{cell}({','.join(str(d) for d in self.dimensions)})"


SCALAR = TensorType()


def parse_type(text: str) -> TensorType:
    """``text`` as a type. Raises ``ExpressionError`` that quotes what is wrong."""
    written = as_written(text)
    return TensorType(tuple(sorted(written.dimensions, key=lambda d: d.name)), written.cell)


def as_written(text: str) -> TensorType:
    """``text`` as a type whose dimensions stay in the order in which they are written, as a literal's arrays are.

    Raises ``ExpressionError`` that quotes what is wrong.
    """
    if text.strip() == "double":
        return SCALAR
    match = _TYPE.fullmatch(text)
    if match is None:
        raise ExpressionError(f"'{text}' is not a tensor type: expected e.g. tensor<float>(x[512])")
    cell = match[1] or "double"
    if cell not in CELL_TYPES:
        raise ExpressionError(f"'{text}': unknown cell type '{cell}', expected one of {', '.join(CELL_TYPES)}")
    dimensions = []
    for part in match[2].split(",") if match[2].strip() else []:
        found = _DIMENSION.fullmatch(part)
        if found is None or found[3] == "0":
            raise ExpressionError(f"'{text}': '{part.strip()}' is not a dimension: expected e.g. x[512] or patch{{}}")
        dimensions.append(Dimension(found[1], int(found[3]) if found[3] else None))
    if len({d.name for d in dimensions}) != len(dimensions):
        raise ExpressionError(f"'{text}': a dimension is named twice")
    return TensorType(tuple(dimensions), cell)
