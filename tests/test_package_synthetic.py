"""Fields outside the document: the engine computes what Vespa computes while feeding."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch.appwriter import EmbeddingField, render_package
from clipsearch.engine.package import load_package
from clipsearch.engine.package.model import Field, FieldType, Schema
from clipsearch.engine.package.synthetic import with_synthetic
from clipsearch.engine.tensors import Tensor
from clipsearch.engine.tensors.types import parse_type


def schema(source: str, type_: str) -> Schema:
    fields = {
        "vector": Field("vector", FieldType("tensor")),
        "made": Field("made", FieldType("tensor", tensor=parse_type(type_)), in_document=False, source=source),
    }
    return Schema("s", fields, {}, {}, {})


def made(source: str, type_: str, value: Tensor) -> Tensor:
    result = with_synthetic(schema(source, type_), {"vector": value})["made"]
    assert isinstance(result, Tensor)
    return result


def test_bits_are_packed_with_the_first_cell_highest() -> None:
    cells = np.asarray([1, 0, 0, 0, 0, 0, 0, -1, 0, 2], np.float32)
    packed = made("input vector | pack_bits", "tensor<int8>(x[2])", Tensor(parse_type("tensor<float>(x[10])"), cells))
    assert packed == Tensor(parse_type("tensor<int8>(x[2])"), np.asarray([-128, 64], np.int8))


def test_binarize_compares_with_its_threshold_and_keeps_the_type() -> None:
    type_ = parse_type("tensor<float>(x[3])")
    value = Tensor(type_, np.asarray([0.4, 0.5, 0.6], np.float32))
    expected = Tensor(type_, np.asarray([0, 0, 1], np.float32))
    assert made("input vector | binarize 0.5", "tensor<float>(x[3])", value) == expected


def test_each_block_of_a_mixed_tensor_is_packed_on_its_own() -> None:
    cells = np.asarray([[1] * 8, [-1] * 8], np.float32)
    value = Tensor(parse_type("tensor<bfloat16>(patch{},x[8])"), cells, (("a",), ("b",)))
    packed = made("input vector | binarize | pack_bits", "tensor<int8>(patch{},x[1])", value)
    assert str(packed.type) == "tensor<int8>(patch{},x[1])"
    assert {labels: block.tolist() for labels, block in packed.blocks()} == {("a",): [-1], ("b",): [0]}


def test_the_bits_field_of_a_written_package_has_the_type_that_is_computed() -> None:
    files = render_package([EmbeddingField("embedding", 64), EmbeddingField("bits", 64, "bits")])
    image = load_package({path: text.encode() for path, text in files.items()}).schemas["image"]
    cells = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    value = Tensor(parse_type("tensor<bfloat16>(x[64])"), cells)
    bits = with_synthetic(image, {"embedding": value})["bits"]
    assert isinstance(bits, Tensor)
    assert bits.type == image.fields["bits"].type.tensor
    assert np.array_equal(np.unpackbits(bits.cells.view(np.uint8)), cells > 0)


@pytest.mark.parametrize("fields", [{}, {"other": "x"}])
def test_a_document_without_the_source_gets_no_value(fields: dict[str, str]) -> None:
    assert with_synthetic(schema("input vector | pack_bits", "tensor<int8>(x[1])"), fields) == fields
