"""Values of the fields outside the document: Vespa computes them while feeding, so nobody feeds them.

Source: Vespa's ``BinarizeExpression`` and ``PackBitsExpression``. Which pipelines exist is decided when the package is
loaded (``fields.py``); here they are only run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import Schema
from clipsearch.engine.tensors import Tensor
from clipsearch.engine.tensors.types import Dimension, TensorType


def with_synthetic(schema: Schema, fields: Mapping[str, FieldValue]) -> Mapping[str, FieldValue]:
    """``fields`` of one document and what its schema computes from them; a field without a source value is left out."""
    synthetic = [field for field in schema.fields.values() if field.source and not field.in_document]
    if not synthetic:
        return fields
    result = dict(fields)
    for field in synthetic:
        source, *steps = field.source.split(" | ")
        value = fields.get(source.removeprefix("input "))
        if value is not None:
            result[field.name] = _run(value, steps)
    return result


def _run(value: FieldValue, steps: list[str]) -> FieldValue:
    for step in steps:
        if isinstance(value, Tensor):
            word, _, argument = step.partition(" ")
            value = _pack_bits(value) if word == "pack_bits" else _binarize(value, float(argument or 0))
    return value


def _binarize(value: Tensor, threshold: float) -> Tensor:
    """1 for each cell above ``threshold``, else 0, in the same cell type."""
    return Tensor(value.type, (value.cells > threshold).astype(value.cells.dtype), value.labels)


def _pack_bits(value: Tensor) -> Tensor:
    """Eight cells of the last dimension to one int8, the first in the highest bit; a cell above 0 is 1."""
    packed = np.packbits(value.cells > 0, axis=-1, bitorder="big").view(np.int8)
    last = value.type.indexed[-1].name
    dimensions = (Dimension(d.name, packed.shape[-1]) if d.name == last else d for d in value.type.dimensions)
    return Tensor(TensorType(tuple(dimensions), "int8"), packed, value.labels)
