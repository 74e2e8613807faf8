"""Updates of parts of a tensor: ``modify`` cells or blocks, ``add`` and ``remove`` blocks of mapped dimensions.

Source: Vespa's document JSON format, "Tensor fields" under "Update". A cell or block that the tensor does not have is
left alone by ``modify``, unless ``"create": true``; then it starts from 0 (add) or 1 (multiply).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.tensors import Tensor, TensorType, cast, parse_feed
from clipsearch.errors import DocumentError

Change = Callable[[FieldValue | None], FieldValue | None]
Labels = tuple[str, ...]
Cell = tuple[Labels, tuple[int, ...], Any]  # block labels, index in the block (() for all of it), value(s)

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "replace": lambda old, new: new,
    "add": lambda old, new: old + new,
    "multiply": lambda old, new: old * new,
}
_START = {"replace": 0.0, "add": 0.0, "multiply": 1.0}


def tensor_change(kind: TensorType, op: str, operand: Any) -> Change:
    """What ``op`` (modify, add or remove) does to a tensor of type ``kind``. Raises ``DocumentError`` (400)."""
    if not isinstance(operand, Mapping):
        raise DocumentError(f"tensor {op} expects an object")
    if op == "modify":
        return _modify(kind, operand)
    if not kind.mapped:
        raise DocumentError(
            f"{'An add' if op == 'add' else 'A remove'} update can only be applied to tensors with at least one sparse "
            f"dimension, but the type is {kind}"
        )
    if op == "add":
        return _add(kind, parse_feed(operand, kind))
    return _remove(kind, operand)


def _blocks(value: FieldValue | None) -> dict[Labels, NDArray[Any]]:
    return {labels: np.array(block) for labels, block in value.blocks()} if isinstance(value, Tensor) else {}


def _tensor(kind: TensorType, blocks: Mapping[Labels, NDArray[Any]]) -> Tensor:
    """The tensor of ``blocks``, each (*shape)."""
    if not kind.mapped:
        return Tensor(kind, cast(blocks[()], kind.cell))
    cells = np.stack(list(blocks.values())) if blocks else np.zeros((0, *kind.shape))
    return Tensor(kind, cast(cells, kind.cell), tuple(blocks))


def _add(kind: TensorType, added: Tensor) -> Change:
    return lambda old: _tensor(kind, _blocks(old) | _blocks(added))


def _remove(kind: TensorType, operand: Mapping[str, Any]) -> Change:
    addresses = operand.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        raise DocumentError("Remove update does not contain tensor addresses")
    names = {dimension.name for dimension in kind.mapped}
    for address in addresses:
        if not isinstance(address, Mapping) or not address or not address.keys() <= names:
            raise DocumentError(f"tensor remove: {address} does not address mapped dimensions of {kind}")
    order = [dimension.name for dimension in kind.mapped]

    def change(old: FieldValue | None) -> FieldValue | None:
        if not isinstance(old, Tensor):
            return old
        kept = {
            labels: block
            for labels, block in old.blocks()
            if not any(_matches(dict(zip(order, labels, strict=True)), address) for address in addresses)
        }
        return _tensor(kind, kept)

    return change


def _matches(labels: Mapping[str, str], address: Mapping[str, Any]) -> bool:
    return all(labels[name] == str(label) for name, label in address.items())


def _modify(kind: TensorType, operand: Mapping[str, Any]) -> Change:
    unknown = operand.keys() - {"operation", "create", "cells", "blocks"}
    if unknown:
        raise DocumentError(f"Unknown JSON string '{min(unknown)}' in modify update")
    name = operand.get("operation")
    if not isinstance(name, str) or name not in _OPERATIONS:
        raise DocumentError(f"Unknown operation '{name}' in modify update, expected replace, add or multiply")
    if not isinstance(operand.get("create", False), bool):
        raise DocumentError("'create' in a modify update must be true or false")
    combine, start, create = _OPERATIONS[name], _START[name], operand.get("create", False) is True
    cells = _cells(kind, operand)

    def change(old: FieldValue | None) -> FieldValue | None:
        blocks = _blocks(old)
        if not blocks and not create:
            return old
        for labels, index, value in cells:
            if labels not in blocks:
                if not create:
                    continue
                blocks[labels] = np.full(kind.shape, start if not index else 0.0)
                if index:
                    blocks[labels][index] = start
            block = blocks[labels].astype(np.float64)
            block[index] = combine(block[index], value)
            blocks[labels] = block
        return _tensor(kind, blocks) if blocks else old

    return change


def _cells(kind: TensorType, operand: Mapping[str, Any]) -> list[Cell]:
    """The cells that a modify names, as (block, place in it, value)."""
    if "blocks" in operand and kind.mapped:
        given = parse_feed({"blocks": operand["blocks"]}, kind)
        return [(labels, (), block.astype(np.float64)) for labels, block in given.blocks()]
    cells = operand.get("cells")
    if isinstance(cells, Mapping) and len(kind.dimensions) == 1:
        (dimension,) = kind.dimensions
        cells = [{"address": {dimension.name: label}, "value": value} for label, value in cells.items()]
    if not isinstance(cells, list):
        raise DocumentError("tensor modify expects 'cells' (a list of address and value), or 'blocks'")
    return [_cell(kind, cell) for cell in cells]


def _cell(kind: TensorType, cell: Any) -> Cell:
    address = cell.get("address") if isinstance(cell, Mapping) else None
    if not isinstance(address, Mapping) or address.keys() != {d.name for d in kind.dimensions}:
        raise DocumentError(f"tensor modify: {cell} does not address one cell of {kind}")
    value = cell.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DocumentError(f"tensor modify: {cell} has no number as 'value'")
    labels = tuple(str(address[d.name]) for d in kind.mapped)
    return labels, _index(kind, [str(address[d.name]) for d in kind.indexed]), float(value)


def _index(kind: TensorType, texts: Sequence[str]) -> tuple[int, ...]:
    index = []
    for text, dimension in zip(texts, kind.indexed, strict=True):
        if not (text.isascii() and text.isdecimal()) or int(text) >= (dimension.size or 0):
            raise DocumentError(f"tensor modify: '{text}' is not an index of {dimension} in {kind}")
        index.append(int(text))
    return tuple(index)
