"""Tensors as literal text, for messages and logs: ``tensor<float>(x[2]):[1.0, 2.0]``."""

from __future__ import annotations

import math
import re
from typing import Any

from numpy.typing import NDArray

from clipsearch.engine.tensors.value import Labels, Tensor

_PLAIN_LABEL = re.compile(r"[A-Za-z0-9_@$]+")


def format_literal(tensor: Tensor) -> str:
    """``tensor`` with its type in front; ``parse_literal`` reads it back."""
    type = tensor.type
    if not type.dimensions:
        return f"{type}:{{{_number(tensor.cells)}}}"
    if not type.mapped:
        return f"{type}:{_block(tensor.cells)}"
    names = [d.name for d in type.mapped]
    return f"{type}:{{{', '.join(f'{_labels(names, ls)}:{_block(block)}' for ls, block in tensor.blocks())}}}"


def _labels(names: list[str], labels: Labels) -> str:
    if len(labels) == 1:
        return _label(labels[0])
    return "{" + ",".join(f"{n}:{_label(label)}" for n, label in zip(names, labels, strict=True)) + "}"


def _label(label: str) -> str:
    if _PLAIN_LABEL.fullmatch(label):
        return label
    escaped = label.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _block(cells: NDArray[Any]) -> str:
    if cells.ndim == 0:
        return _number(cells)
    return "[" + ", ".join(_block(part) for part in cells) + "]"


def _number(cell: NDArray[Any]) -> str:
    value = cell.item()
    if math.isnan(value):
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return str(cell)
