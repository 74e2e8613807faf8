"""Tensors as JSON answers, as literal text, and as the bytes that the store keeps.

Source of the JSON forms: Vespa's ``presentation.format.tensors`` (short, long, their ``-value`` twins and hex).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import DTYPES, Labels, Tensor
from clipsearch.errors import ExpressionError

FORMS = ("short", "long", "short-value", "long-value", "hex", "hex-value")


def render(tensor: Tensor, form: str = "short") -> Any:
    """``tensor`` as a JSON-able value in one of ``FORMS``; cells that are not finite are None, except in hex.

    Raises ``ExpressionError`` for another form.
    """
    if form not in FORMS:
        raise ExpressionError(f"'{form}' is not a tensor format: expected one of {', '.join(FORMS)}")
    kind, _, bare = form.partition("-")
    key, content = ("cells", _cells(tensor)) if kind == "long" else _short(tensor, as_hex=kind == "hex")
    return content if bare else {"type": str(tensor.type), key: content}


def _short(tensor: Tensor, *, as_hex: bool) -> tuple[str, Any]:
    mapped = tensor.type.mapped
    write = to_hex if as_hex else _numbers
    if not mapped:
        values = tensor.cells if tensor.type.dimensions else tensor.cells.reshape(1)
        return "values", write(values, tensor.type.cell)
    if not tensor.type.indexed:
        if len(mapped) > 1:
            return "cells", _cells(tensor)
        values = _numbers(tensor.cells, tensor.type.cell)
        return "cells", {labels[0]: value for labels, value in zip(tensor.labels, values, strict=True)}
    if len(mapped) == 1:
        return "blocks", {labels[0]: write(block, tensor.type.cell) for labels, block in tensor.blocks()}
    return "blocks", [
        {"address": _address(tensor.type, labels, ()), "values": write(block, tensor.type.cell)}
        for labels, block in tensor.blocks()
    ]


def _cells(tensor: Tensor) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    whole = tensor.type.cell == "int8"
    for labels, block in tensor.blocks():
        for index, value in np.ndenumerate(block):
            number = int(value) if whole else float(value)
            cell = number if np.isfinite(number) else None
            found.append({"address": _address(tensor.type, labels, index), "value": cell})
    return found


def _address(type: TensorType, labels: Labels, index: tuple[int, ...]) -> dict[str, str]:
    by_name = dict(zip((d.name for d in type.mapped), labels, strict=True))
    by_name.update(zip((d.name for d in type.indexed), map(str, index), strict=False))
    return {d.name: by_name[d.name] for d in type.dimensions if d.name in by_name}


def _numbers(cells: NDArray[Any], cell: str) -> Any:
    if cell == "int8":
        return cells.tolist()
    wide = cells.astype(np.float64)
    if np.isfinite(wide).all():
        return wide.tolist()
    objects = wide.astype(object)
    objects[~np.isfinite(wide)] = None
    return objects.tolist()


def to_hex(cells: NDArray[Any], cell: str) -> str:
    """``cells`` in order as one string of upper-case hex digits, big-endian."""
    return _raw(cells, cell, ">").hex().upper()


def _raw(cells: NDArray[Any], cell: str, order: str) -> bytes:
    if cell == "bfloat16":
        return (cells.view(np.uint32) >> np.uint32(16)).astype(f"{order}u2").tobytes()
    return cells.astype(np.dtype(DTYPES[cell]).newbyteorder(order)).tobytes()


def to_bytes(tensor: Tensor) -> bytes:
    """``tensor`` for the store: little-endian cells; with mapped dimensions, the labels as JSON in front.

    Stable across releases: ``from_bytes`` with the same type reads it back exactly.
    """
    raw = _raw(np.ascontiguousarray(tensor.cells), tensor.type.cell, "<")
    if not tensor.type.mapped:
        return raw
    labels = orjson.dumps(tensor.labels)
    return struct.pack("<I", len(labels)) + labels + raw


def from_bytes(data: bytes, type: TensorType) -> Tensor:
    """What ``to_bytes`` wrote. Raises ``ExpressionError`` when the bytes do not fit ``type``."""
    labels: tuple[Labels, ...] = ()
    shape = type.shape
    try:
        if type.mapped:
            (length,) = struct.unpack_from("<I", data)
            labels = tuple(tuple(item) for item in orjson.loads(data[4 : 4 + length]))
            if len(data) < 4 + length:
                raise ValueError("the labels are cut off")
            data = data[4 + length :]
            shape = (len(labels), *shape)
        if type.cell == "bfloat16":
            cells: NDArray[Any] = np.frombuffer(data, "<u2").astype(np.uint32)
            return Tensor(type, (cells << np.uint32(16)).view(np.float32).reshape(shape), labels)
        little = np.dtype(DTYPES[type.cell]).newbyteorder("<")
        return Tensor(type, np.frombuffer(data, little).reshape(shape), labels)
    except (ValueError, struct.error) as error:
        raise ExpressionError(f"{len(data)} stored bytes are not a tensor of type {type}: {error}") from error
