"""Tensors from what users write: feed JSON (strict), query inputs (lenient), literals with a type in front.

Source: Vespa's document JSON format (``TensorReader``) and ``Tensor.from``. A feed must give every cell of a dense
block; a query input may give fewer, which Vespa fills with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from clipsearch.engine.tensors.text import parse_number, parse_structure
from clipsearch.engine.tensors.types import TensorType, as_written, parse_type
from clipsearch.engine.tensors.value import DTYPES, Labels, Tensor, as_int8, truncate_bfloat16
from clipsearch.errors import ExpressionError

_HEX_DIGITS = {"double": 16, "float": 8, "bfloat16": 4, "int8": 2}
_HEX_DTYPES = {"double": ">f8", "float": ">f4", "bfloat16": ">u2", "int8": ">i1"}
_BARE_HEX = re.compile(r"[0-9a-fA-F]+")
_TYPED = re.compile(r"(tensor\s*(?:<\s*\w+\s*>)?\s*\([^()]*\))\s*:(.*)", re.DOTALL)
_SPECIAL = {"nan": "NaN", "+nan": "NaN", "-nan": "NaN", "inf": "Infinity", "+inf": "Infinity", "-inf": "-Infinity"}
_SPECIAL |= {"infinity": "Infinity", "+infinity": "Infinity", "-infinity": "-Infinity"}


def parse_literal(text: str, type: TensorType | None = None) -> Tensor:
    """A literal such as ``tensor<float>(x[3]):[1,2,3]``; the type in front may be left out when ``type`` is given.

    Raises ``ExpressionError``: malformed, or another type than ``type``.
    """
    match = _TYPED.fullmatch(text.strip())
    if match is not None:
        declared = parse_type(match[1])
        if type is not None and type != declared:
            raise ExpressionError(f"'{_shorten(text)}' is a {declared}, but a {type} is expected")
        return _in_name_order(_decode_text(match[2].strip(), as_written(match[1])), declared)
    if type is None:
        raise ExpressionError(f"'{_shorten(text)}': expected a type in front, e.g. tensor<float>(x[3]):[1,2,3]")
    return _decode_text(text.strip(), type)


def parse_query_input(value: Any, type: TensorType) -> Tensor:
    """The value of a query input: literal text, or decoded JSON (list, dict, number).

    Lenient as Vespa: missing cells of a dense block are 0; bfloat16 keeps float precision (as Vespa's container
    does; ranking truncates). Raises ``ExpressionError`` beginning with ``Could not parse '...' as a tensor``.
    """
    try:
        if not isinstance(value, str):
            return _Decoder(type, strict=False, truncate=False).decode(value)
        return _query_text(value.strip(), type)
    except ExpressionError as error:
        raise ExpressionError(
            f"Could not parse '{_shorten(str(value))}' as a tensor of type {type}: {error}"
        ) from error


def _query_text(text: str, type: TensorType) -> Tensor:
    decoder = _Decoder(type, strict=False, truncate=False)
    if text.startswith("tensor"):
        match = _TYPED.fullmatch(text)
        if match is None:
            raise ExpressionError("Expected a ':' after the tensor type")
        if match[1] != str(type):
            raise ExpressionError(f"Got tensor with type string '{match[1]}', but was passed type {type}")
        text = match[2].strip()
    if text[:1] in ("{", "["):
        return decoder.decode(_plain_json(text) if text[0] == "[" else parse_structure(text))
    unquoted = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    if not type.dimensions:
        try:
            return decoder.decode(parse_number(unquoted))
        except ExpressionError as error:
            raise ExpressionError("Expected a number") from error
    if type.mapped or not _BARE_HEX.fullmatch(unquoted):
        raise ExpressionError("Expected a number, hex string, or a string starting by {, [ or tensor(...)")
    return decoder.decode(unquoted)


def _plain_json(text: str) -> Any:
    """A JSON array, twenty times faster than the literal parser, which reads all else (bare labels, NaN)."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return parse_structure(text)


def _in_name_order(tensor: Tensor, type: TensorType) -> Tensor:
    """``tensor``, whose dimensions are in the order in which they were written, as one of ``type``."""
    written = tensor.type
    if written == type:
        return tensor
    axes = [written.indexed.index(dimension) for dimension in type.indexed]
    order = [written.mapped.index(dimension) for dimension in type.mapped]
    first = 1 if written.mapped else 0
    cells = np.ascontiguousarray(np.transpose(tensor.cells, [*range(first), *(axis + first for axis in axes)]))
    return Tensor(type, cells, tuple(tuple(labels[at] for at in order) for labels in tensor.labels))


def _decode_text(text: str, type: TensorType) -> Tensor:
    try:
        return _Decoder(type, strict=False, truncate=True).decode(parse_structure(text))
    except ExpressionError as error:
        raise ExpressionError(f"Could not parse '{_shorten(text)}' as a tensor of type {type}: {error}") from error


def parse_feed(value: Any, type: TensorType) -> Tensor:
    """A document field's JSON value, already decoded: values, blocks, cells, short or direct forms, or hex.

    Strict as Vespa's feed: ``Expected 512 values, but got N``. bfloat16 is truncated. Raises ``ExpressionError``.
    """
    return _Decoder(type, strict=True, truncate=True).decode(value)


def feed_reader(type: TensorType) -> Callable[[Any], Tensor]:
    """``parse_feed`` for many values of one ``type``."""
    return _Decoder(type, strict=True, truncate=True).decode


def decode_json(value: Any, type: TensorType) -> Tensor:
    """Tensor JSON as Vespa's container decodes it: the feed's forms, but missing cells of a dense block are 0."""
    if isinstance(value, list) and not type.mapped and not _first_leaf_is_object(value):
        value = {"values": value}
    return _Decoder(type, strict=False, truncate=True).decode(value)


class _Decoder:
    """Decodes one value of ``type``; ``strict``: all cells must be given; ``truncate``: bfloat16 is rounded."""

    def __init__(self, type: TensorType, *, strict: bool, truncate: bool) -> None:
        self.type = type
        self.strict = strict
        self.truncate = truncate
        self.shape = type.shape
        self.size = int(np.prod(self.shape)) if self.shape else 1
        self.mapped = tuple(d.name for d in type.mapped)

    def decode(self, value: Any) -> Tensor:
        if isinstance(value, dict):
            return self._decode_object(value)
        if isinstance(value, list) and _first_leaf_is_object(value):
            return self._from_cells(value)
        if not self.mapped:
            return Tensor(self.type, self._block(value))
        if value == []:
            return self._assemble({})
        if isinstance(value, list) and not self.strict and len(self.mapped) == 1:
            return self._labelled({str(i): item for i, item in enumerate(value)})
        raise ExpressionError(f"Expected an object or an array of cells for {self.type}")

    def _decode_object(self, value: dict[str, Any]) -> Tensor:
        if len(value) == 1 and not self.mapped and "values" in value and value["values"] is not None:
            return Tensor(self.type, self._values(value["values"]))
        cells, values, blocks = value.get("cells"), value.get("values"), value.get("blocks")
        if isinstance(cells, dict) or (isinstance(cells, list) and not (cells and _is_number(cells[0]))):
            return self._labelled(cells, cells=True) if isinstance(cells, dict) else self._from_cells(cells)
        if values is not None and not self.mapped:
            return Tensor(self.type, self._values(values))
        if isinstance(blocks, dict) or (isinstance(blocks, list) and blocks and isinstance(blocks[0], dict)):
            if not self.mapped or not self.shape:
                raise ExpressionError("The 'blocks' field can only be used with mixed tensors: use 'cells' or 'values'")
            each = blocks.values() if isinstance(blocks, dict) else blocks
            if any((block.get("values") if isinstance(block, dict) else block) in ([], "") for block in each):
                raise ExpressionError("The block value array does not contain any values")
            return self._labelled(blocks) if isinstance(blocks, dict) else self._from_blocks(blocks)
        direct = {k: v for k, v in value.items() if not (k == "type" and isinstance(v, str))}
        if not direct and not (self.strict and not self.mapped):
            return self._assemble({})
        return self._labelled(direct)

    def _labelled(self, items: Mapping[str, Any], *, cells: bool = False) -> Tensor:
        """Single mapped dimension: label to number or block. As ``cells``, positions of a single dense dimension."""
        if len(self.mapped) == 1:
            return self._assemble({(label,): self._block(item) for label, item in items.items()})
        if not items and (self.mapped or not self.strict):
            return self._assemble({})
        if cells and not self.mapped and len(self.shape) == 1:
            dimension = self.type.dimensions[0].name
            return self._from_cells([{"address": {dimension: k}, "value": v} for k, v in items.items()])
        raise ExpressionError(
            f"No suitable dimension in {self.type} for parsing a tensor on the mixed form: "
            "Should have one mapped dimension"
        )

    def _from_cells(self, cells: list[Any]) -> Tensor:
        blocks: dict[Labels, NDArray[Any]] = {}
        for cell in cells:
            if not isinstance(cell, dict) or not isinstance(cell.get("address"), dict):
                raise ExpressionError("Expected an object in a tensor 'cells' array to contain an 'address' field")
            if "value" not in cell:
                raise ExpressionError("Expected an object in a tensor 'cells' array to contain a 'value' field")
            labels, index = self._address(cell["address"], self.type.dimensions)
            block = blocks.get(labels)
            if block is None:
                block = blocks[labels] = np.zeros(self.shape, np.float64)
            block[index] = _number(cell["value"])
        return self._assemble({labels: self._cast(block) for labels, block in blocks.items()})

    def _from_blocks(self, blocks: list[Any]) -> Tensor:
        found: dict[Labels, NDArray[Any]] = {}
        for block in blocks:
            if not isinstance(block, dict) or not isinstance(block.get("address"), dict):
                raise ExpressionError("Expected a 'blocks' array object to contain an object 'address'")
            if "values" not in block:
                raise ExpressionError("Expected a 'blocks' array object to contain an array 'values'")
            labels, _ = self._address(block["address"], self.type.mapped)
            found[labels] = self._block(block["values"])
        return self._assemble(found)

    def _address(self, address: dict[str, Any], dimensions: Any) -> tuple[Labels, tuple[int, ...]]:
        if len(address) != len(dimensions) or any(d.name not in address for d in dimensions):
            raise ExpressionError(f"Address {address} does not name the dimensions of {self.type}")
        labels, index = [], []
        for dimension in dimensions:
            label = str(address[dimension.name])
            if dimension.mapped:
                labels.append(label)
            elif label.isdigit() and int(label) < dimension.size:
                index.append(int(label))
            else:
                raise ExpressionError(f"cell address ({label}) is not within the bounds of {self.type}")
        return tuple(labels), tuple(index)

    def _assemble(self, blocks: Mapping[Labels, NDArray[Any]]) -> Tensor:
        if not self.mapped:
            return Tensor(self.type, blocks.get((), np.zeros(self.shape, DTYPES[self.type.cell])))
        cells = np.stack(list(blocks.values())) if blocks else np.zeros((0, *self.shape), DTYPES[self.type.cell])
        return Tensor(self.type, cells, tuple(blocks))

    def _block(self, value: Any) -> NDArray[Any]:
        """One dense block (*shape) from numbers (flat or nested) or hex; a bare number when there are no dimensions."""
        if isinstance(value, str) and self.shape:
            return self._hex(value)
        if not isinstance(value, list):
            if self.shape:
                raise ExpressionError(f"Expected an array of {self.size} values, but got {value!r}")
            return self._cast(np.asarray(_number(value), np.float64))
        if self.mapped and not self.shape:
            raise ExpressionError(f"Expected a number but got {value!r}")
        flat = _plain_numbers(value)
        if flat is None:
            flat = np.asarray(self._flatten(value), np.float64)
        if flat.size != self.size and (self.strict or flat.size > self.size):
            raise ExpressionError(f"Expected {self.size} values, but got {flat.size}")
        if flat.size < self.size:
            flat = np.pad(flat, (0, self.size - flat.size))
        return self._cast(flat.reshape(self.shape))

    def _values(self, value: Any) -> NDArray[Any]:
        """The ``values`` of JSON: nested arrays are read in order, whatever their lengths."""
        if value in ([], ""):
            raise ExpressionError(f"Expected {self.size} values, but got 0: 'values' does not contain any values")
        if not self.strict and isinstance(value, list) and not _first_leaf_is_object(value):
            value = [leaf for row, _ in _rows(value) for leaf in row]
        return self._block(value)

    def _flatten(self, value: list[Any]) -> list[float]:
        """Leaves in order; leniently, a short row of the last dimension is filled with zeros as Vespa fills it."""
        flat: list[float] = []
        row = self.shape[-1] if self.shape else 1
        for leaf_row, nested in _rows(value):
            flat.extend(_number(leaf) for leaf in leaf_row)
            if nested and not self.strict and len(leaf_row) < row:
                flat.extend([0.0] * (row - len(leaf_row)))
        return flat

    def _hex(self, text: str) -> NDArray[Any]:
        digits = _HEX_DIGITS[self.type.cell]
        if len(text) != digits * self.size:
            got = f"Expected {self.size} values, but got {len(text) // digits}"
            raise ExpressionError(
                got if self.strict else f"Expected {digits * self.size} hex digits, but got {len(text)}"
            )
        try:
            raw = bytes.fromhex(text)
        except ValueError as error:
            raise ExpressionError(f"'{_shorten(text)}' is not a string of hex digits") from error
        if len(raw) * 2 != len(text):
            raise ExpressionError(f"'{_shorten(text)}' is not a string of hex digits")
        if self.type.cell == "bfloat16":
            # By slices of bytes: numpy gives other threads way at each step over 500 cells, which a feed cannot afford.
            wide = bytearray(4 * self.size)
            wide[2::4], wide[3::4] = raw[1::2], raw[0::2]
            return np.frombuffer(wide, "<f4").reshape(self.shape)
        cells = np.frombuffer(raw, _HEX_DTYPES[self.type.cell])
        return cells.astype(DTYPES[self.type.cell]).reshape(self.shape)

    def _cast(self, values: NDArray[np.float64]) -> NDArray[Any]:
        if self.type.cell == "int8":
            return as_int8(values)
        if self.type.cell == "double":
            return values
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        return truncate_bfloat16(single) if self.truncate and self.type.cell == "bfloat16" else single


def _plain_numbers(value: list[Any]) -> NDArray[np.float64] | None:
    """A flat list of nothing but numbers as an array, in one step; None when it is anything else."""
    if {*map(type, value)} <= {float, int}:
        try:
            return np.array(value, np.float64)
        except OverflowError as error:
            raise ExpressionError("an integer is too large for a tensor cell") from error
    return None


def _rows(value: list[Any]) -> Iterator[tuple[list[Any], bool]]:
    """The innermost lists of ``value`` in order, and whether they were nested."""
    if not any(isinstance(item, list) for item in value):
        yield value, False
        return
    for item in value:
        if not isinstance(item, list):
            raise ExpressionError("numbers and arrays are mixed at one level")
        for row, _ in _rows(item):
            yield row, True


def _first_leaf_is_object(value: list[Any]) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> float:
    if isinstance(value, str):
        return parse_number(_SPECIAL.get(value.lower(), value))
    if not _is_number(value):
        raise ExpressionError(f"Expected a number but got '{value}'")
    try:
        return float(value)
    except OverflowError as error:
        raise ExpressionError("an integer is too large for a tensor cell") from error


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
