"""Tensor texts, JSON and bytes against what Vespa's own code did, and their edges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.engine.tensors import (
    FORMS,
    Tensor,
    decode_json,
    from_bytes,
    parse_feed,
    parse_literal,
    parse_query_input,
    parse_type,
    render,
    to_bytes,
    to_hex,
    truncate_bfloat16,
)
from clipsearch.errors import ExpressionError

ANSWERED_AT_LEAST = 51


def _cases(shared: Path) -> list[dict[str, Any]]:
    lines = (shared / "vespa/cases/tensor_io.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _same(got: Tensor, literal: str) -> bool:
    expected = parse_query_input(literal, got.type)  # not truncated, as the recorded values
    return got.labels == expected.labels and np.array_equal(got.cells, expected.cells, equal_nan=True)


def _answer(case: dict[str, Any]) -> bool:
    """True: answered as recorded; False: differently."""
    if case["kind"] == "render":
        tensor = parse_literal(case["literal"])
        return all(render(tensor, form) == json.loads(case[form]) for form in FORMS if form in case)
    type = parse_type(case["type"])
    try:
        if case["kind"] == "query_input":
            got = parse_query_input(case["literal"], type)
        else:
            got = decode_json(json.loads(case["literal"]), type)
    except ExpressionError:
        return not case["ok"]
    return bool(case["ok"]) and _same(got, case["result"])


def test_every_recorded_tensor_is_read_and_rendered_as_vespa_does(shared: Path) -> None:
    cases = _cases(shared)
    different = [case for case in cases if not _answer(case)]
    print(f"tensor_io: {len(cases) - len(different)} answered as recorded, 0 refused, {len(different)} different")
    assert not different
    assert len(cases) >= ANSWERED_AT_LEAST


X3, X512 = parse_type("tensor<float>(x[3])"), parse_type("tensor<bfloat16>(x[512])")
PATCHES = parse_type("tensor<float>(p{},x[2])")


def test_a_feed_must_give_every_cell() -> None:
    with pytest.raises(ExpressionError, match="Expected 512 values, but got 2"):
        parse_feed({"values": [1, 2]}, X512)
    with pytest.raises(ExpressionError, match="Expected 512 values, but got 1"):
        parse_feed("3F80", X512)
    with pytest.raises(ExpressionError, match="Expected 2 values, but got 3"):
        parse_feed({"blocks": {"a": [1, 2, 3]}}, PATCHES)
    with pytest.raises(ExpressionError):
        parse_feed({}, X3)


@pytest.mark.parametrize(
    "value",
    [[1, 2.5, 3], {"values": [1, 2.5, 3]}, "3f8000004020000040400000", {"values": "3F8000004020000040400000"},
     {"cells": [{"address": {"x": str(i)}, "value": v} for i, v in enumerate([1, 2.5, 3])]},
     [{"address": {"x": i}, "value": v} for i, v in enumerate([1, 2.5, 3])],
     {"type": "tensor<float>(x[3])", "values": ["1", 2.5, 3]}],
)  # fmt: skip
def test_every_feed_form_of_a_dense_tensor_is_read(value: Any) -> None:
    assert parse_feed(value, X3) == parse_literal("tensor<float>(x[3]):[1,2.5,3]")


@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2], "b": "4040000040800000"}, {"blocks": {"a": [1, 2], "b": [3, 4]}},
     {"blocks": [{"address": {"p": "a"}, "values": [1, 2]}, {"address": {"p": "b"}, "values": [[3, 4]]}]},
     {"cells": [{"address": {"p": p, "x": i}, "value": v} for p, i, v in
                [("a", 0, 1), ("a", 1, 2), ("b", 0, 3), ("b", 1, 4)]]}],
)  # fmt: skip
def test_every_feed_form_of_a_mixed_tensor_is_read(value: Any) -> None:
    assert parse_feed(value, PATCHES) == parse_literal("tensor<float>(p{},x[2]):{b:[3,4],a:[1,2]}")


@pytest.mark.parametrize(
    "value",
    [None, True, "zz", "3f80000040200000404000 0", [1, None, 3], [1, True, 3], [1, "x", 3], {"values": 3}, [[1, 2], 3],
     {"cells": [{"address": {"y": "0"}, "value": 1}]}, {"cells": [{"address": {"x": "7"}, "value": 1}]},
     {"cells": [{"value": 1}]}, {"cells": [{"address": {"x": "0"}}]}, {"blocks": {"a": [1, 2, 3]}}, [10**400, 1, 2]],
)  # fmt: skip
def test_what_is_no_tensor_is_refused_with_a_sentence(value: Any) -> None:
    with pytest.raises(ExpressionError, match=r"\w+ \w+ \w+"):
        parse_feed(value, X3)


def test_bfloat16_is_truncated_on_feed_but_not_in_a_query() -> None:
    type = parse_type("tensor<bfloat16>(x[1])")
    assert parse_feed([0.1], type).cells.item() == 0.099609375
    assert parse_query_input([0.1], type).cells.item() == pytest.approx(0.1, abs=1e-8)
    assert truncate_bfloat16(np.array([-0.1, np.nan, np.inf])).tolist()[0] == -0.099609375


def test_hex_of_512_bfloat16_cells_round_trips() -> None:
    cells = truncate_bfloat16(np.random.default_rng(1).standard_normal(512))
    tensor = parse_feed(to_hex(cells, "bfloat16"), X512)
    assert np.array_equal(tensor.cells, cells)
    assert render(tensor, "hex-value") == to_hex(cells, "bfloat16")
    assert from_bytes(to_bytes(tensor), X512) == tensor
    assert len(to_bytes(tensor)) == 1024


@pytest.mark.parametrize(
    "literal",
    ["tensor(x[2]):[1,2]", "tensor<int8>(x[3]):[1,-2,127]", "tensor<float>(p{},x[2]):{a:[1,2],'b c':[3,4]}",
     "tensor(k{}):{a:NaN,b:-Infinity}", "tensor(a{},b{}):{{a:1,b:2}:3}", "tensor():{2.5}",
     "tensor<float>(p{},x[2]):{}"],
)  # fmt: skip
def test_bytes_and_text_round_trip(literal: str) -> None:
    tensor = parse_literal(literal)
    assert from_bytes(to_bytes(tensor), tensor.type) == tensor
    assert parse_literal(str(tensor)) == tensor


def test_damaged_bytes_are_refused() -> None:
    for data in (b"", b"abc", b"\xff\xff\xff\xff[]"):
        with pytest.raises(ExpressionError, match="are not a tensor of type"):
            from_bytes(data, PATCHES)
    with pytest.raises(ExpressionError, match="3 stored bytes"):
        from_bytes(b"abc", X3)


@pytest.mark.parametrize("form", FORMS)
def test_mixed_tensors_render_in_every_form(form: str) -> None:
    tensor = parse_literal("tensor<float>(p{},x[2]):{a:[1,2]}")
    got = render(tensor, form)
    content = got if form.endswith("value") else got["blocks" if "long" not in form else "cells"]
    cells = [{"address": {"p": "a", "x": str(i)}, "value": i + 1.0} for i in range(2)]
    expected = {"short": {"a": [1.0, 2.0]}, "long": cells, "hex": {"a": "3F80000040000000"}}
    assert content == expected[form.removesuffix("-value")]


def test_an_unknown_form_is_refused_by_name() -> None:
    with pytest.raises(ExpressionError, match="'tiny' is not a tensor format"):
        render(parse_literal("tensor(x[1]):[1]"), "tiny")


@pytest.mark.parametrize("text", ["[" * 1000, "{" * 1000, "{a:" * 500, "[1,2", "{a:[1}", "[1]]", "{{x:0}:1,a:2}", "["])
def test_malformed_literals_are_refused_not_crashed_on(text: str) -> None:
    with pytest.raises(ExpressionError, match="Could not parse"):
        parse_query_input(text, X3)


def test_a_literal_needs_a_type_or_the_right_one() -> None:
    assert parse_literal("[1,2,3]", X3) == parse_literal("tensor<float>(x[3]):[1,2,3]", X3)
    with pytest.raises(ExpressionError, match="expected a type in front"):
        parse_literal("[1,2,3]")
    with pytest.raises(ExpressionError, match="is expected"):
        parse_literal("tensor(x[3]):[1,2,3]", X3)


def test_tensors_are_equal_when_labels_and_cells_are() -> None:
    one = parse_literal("tensor(k{}):{a:1,b:NaN}")
    assert one == parse_literal("tensor(k{}):{b:NaN,a:1}")
    assert one != parse_literal("tensor(k{}):{a:1}")
    assert one != parse_literal("tensor<float>(k{}):{a:1,b:NaN}")
    assert math.isnan(dict(one.blocks())[("b",)])
