"""Tensor functions against a plain dictionary of cells: every pair of tensors, operator, aggregator and dimension."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from test_engine_ranking_expressions import evaluate

from clipsearch.engine.tensors import Tensor, parse_literal

TENSORS = {
    "f": "tensor<float>(x[4]):[1.5,-2.25,3.125,0.5]",
    "d": "tensor(x[4]):[0.1,2,-1,4]",
    "h": "tensor<int8>(x[4]):[3,-7,100,0]",
    "m": "tensor<float>(x[4],y[2]):[[1,2],[3,4],[5,6],[7,8]]",
    "s": "tensor<float>(k{}):{a:1,b:2,c:3}",
    "t": "tensor(k{}):{b:5,c:7,d:9}",
    "p": "tensor<bfloat16>(k{},x[4]):{a:[1,0,0,0],c:[0,1,0,0],z:[0.5,0.5,0.5,0.5]}",
    "w": "tensor(k{},l{}):{{k:a,l:u}:2,{k:a,l:v}:3,{k:c,l:u}:-4}",
}
Cells = dict[tuple[tuple[str, Any], ...], float]  # sorted (dimension, label or index) to value
VALUES = {name: parse_literal(text) for name, text in TENSORS.items()}


def cells_of(tensor: Tensor) -> Cells:
    mapped = [dimension.name for dimension in tensor.type.mapped]
    indexed = [dimension.name for dimension in tensor.type.indexed]
    found: Cells = {}
    for labels, block in tensor.blocks():
        for place in np.ndindex(block.shape):
            address = {**dict(zip(mapped, labels, strict=True)), **dict(zip(indexed, place, strict=True))}
            found[tuple(sorted(address.items()))] = float(block[place])
    return found


def joined(left: Cells, right: Cells, function: Callable[[float, float], float]) -> Cells:
    found: Cells = {}
    for (a, x), (b, y) in itertools.product(left.items(), right.items()):
        mine, theirs = dict(a), dict(b)
        if all(theirs.get(name, label) == label for name, label in mine.items()):
            found[tuple(sorted((mine | theirs).items()))] = function(x, y)
    return found


def reduced(cells: Cells, dimensions: tuple[str, ...], aggregate: Callable[[list[float]], float]) -> Cells:
    groups: dict[Any, list[float]] = {}
    for address, value in cells.items():
        kept = tuple(item for item in address if dimensions and item[0] not in dimensions)
        groups.setdefault(kept, []).append(value)
    return {address: aggregate(values) for address, values in groups.items()}


def assert_same(expression: str, expected: Cells) -> None:
    got = cells_of(evaluate(expression, TENSORS))
    assert got.keys() == expected.keys(), expression
    for address, value in expected.items():
        assert got[address] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), (expression, address)


OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "<": lambda a, b: float(a < b),
    ">=": lambda a, b: float(a >= b),
    "==": lambda a, b: float(a == b),
    "!=": lambda a, b: float(a != b),
    "&&": lambda a, b: float(a != 0 and b != 0),
    "||": lambda a, b: float(a != 0 or b != 0),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_join_what_the_dimensions_have_in_common(operator: str) -> None:
    for left, right in itertools.product(TENSORS, TENSORS):
        expected = joined(cells_of(VALUES[left]), cells_of(VALUES[right]), OPERATORS[operator])
        assert_same(f"{left} {operator} {right}", expected)


FUNCTIONS: Mapping[str, Callable[[float, float], float]] = {
    "max": max,
    "min": min,
    "atan2": math.atan2,
    "fmod": lambda a, b: math.fmod(a, b) if b else math.nan,
    "hamming": lambda a, b: float(bin((int(a) ^ int(b)) & 255).count("1")),
    "bit": lambda a, b: float(0 <= int(b) < 8 and bool((int(a) & 255) >> int(b) & 1)),
    "ldexp": lambda a, b: math.ldexp(a, int(b)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_two_join_as_well(name: str) -> None:
    for left, right in itertools.product(TENSORS, TENSORS):
        if name == "ldexp" and right == "h":
            continue  # 2 to the 100 does not fit a float cell
        expected = joined(cells_of(VALUES[left]), cells_of(VALUES[right]), FUNCTIONS[name])
        assert_same(f"{name}({left},{right})", expected)


AGGREGATORS: Mapping[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "avg": statistics.fmean,
    "count": lambda values: float(len(values)),
    "max": max,
    "min": min,
    "prod": math.prod,
    "median": statistics.median,
}


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_reduce_aggregates_over_the_dimensions_that_it_names(aggregator: str) -> None:
    for name, value in VALUES.items():
        dimensions = [dimension.name for dimension in value.type.dimensions]
        for count in range(len(dimensions) + 1):
            for chosen in itertools.combinations(dimensions, count):
                expected = reduced(cells_of(value), chosen or tuple(dimensions), AGGREGATORS[aggregator])
                expected = expected if chosen and len(chosen) < len(dimensions) else {(): next(iter(expected.values()))}
                assert_same(f"reduce({','.join((name, aggregator, *chosen))})", expected)


def test_merge_keeps_the_cells_of_both_and_combines_those_they_share() -> None:
    for left, right in (("s", "t"), ("t", "s"), ("f", "d"), ("p", "p"), ("w", "w")):
        mine, theirs = cells_of(VALUES[left]), cells_of(VALUES[right])
        both = {key: mine[key] * 10 + theirs[key] for key in mine.keys() & theirs.keys()}
        assert_same(f"merge({left},{right},f(a,b)(a*10+b))", {**mine, **theirs, **both})


def test_rename_moves_cells_to_other_dimensions() -> None:
    for name, before, after in (("m", "x", "z"), ("p", "k", "a"), ("w", "l", "b"), ("s", "k", "z")):
        cells = cells_of(VALUES[name])
        moved = {
            tuple(sorted((after if part == before else part, label) for part, label in key)): value
            for key, value in cells.items()
        }
        assert_same(f"rename({name},{before},{after})", moved)


def test_concat_puts_the_second_behind_the_first() -> None:
    for left, right in itertools.product(("f", "d", "h", "p"), ("f", "d", "h", "p")):
        behind: Cells = {}
        for key, value in cells_of(VALUES[right]).items():
            behind[tuple((name, label + 4 if name == "x" else label) for name, label in key)] = value
        ahead = cells_of(VALUES[left])
        if ("k" in str(VALUES[left].type)) == ("k" in str(VALUES[right].type)):
            assert_same(f"concat({left},{right},x)", {**ahead, **behind})
    assert_same("concat(s,1,n)", {(*key, ("n", 0)): v for key, v in cells_of(VALUES["s"]).items()} | {
        (*key, ("n", 1)): 1.0 for key in cells_of(VALUES["s"])
    })  # fmt: skip


def test_normalisers_and_distances_are_their_formulas() -> None:
    f, d = (np.asarray(VALUES[name].cells, np.float64) for name in ("f", "d"))
    vectors = {
        "l1_normalize(f,x)": f / f.sum(),
        "l2_normalize(f,x)": f / np.sqrt((f * f).sum()),
        "softmax(f,x)": np.exp(f) / np.exp(f).sum(),
        "argmax(f,x)": (f == f.max()).astype(float),
        "argmin(f,x)": (f == f.min()).astype(float),
    }
    for expression, vector in vectors.items():
        assert_same(expression, {(("x", place),): value for place, value in enumerate(vector.tolist())})
    numbers = {
        "matmul(f,d,x)": float(f @ d),
        "xw_plus_b(f,d,2,x)": float(f @ d) + 2,
        "cosine_similarity(f,d,x)": float(f @ d / np.linalg.norm(f) / np.linalg.norm(d)),
        "euclidean_distance(f,d,x)": float(np.linalg.norm(f - d)),
    }
    for expression, number in numbers.items():
        assert_same(expression, {(): number})


def test_generated_tensors_slices_and_bits_are_what_they_say() -> None:
    assert_same("tensor(i[2],j[3])(i*10+j)", {(("i", i), ("j", j)): i * 10.0 + j for i in range(2) for j in range(3)})
    assert_same("m{x:2}", {(("y", 0),): 5.0, (("y", 1),): 6.0})
    assert_same("p{k:z}", {(("x", place),): 0.5 for place in range(4)})
    assert_same("w{l:u}", {(("k", "a"),): 2.0, (("k", "c"),): -4.0})
    bits = {
        (("x", 8 * place + bit),): float((value & 255) >> (7 - bit) & 1)
        for place, value in enumerate((3, -7, 100, 0))
        for bit in range(8)
    }
    assert_same("unpack_bits(h)", bits)
    assert_same("filter_subspaces(s,f(v)(v>1))", {(("k", "b"),): 2.0, (("k", "c"),): 3.0})
    assert_same(
        "map_subspaces(p,f(v)(sum(v)))", {(("k", label),): v for label, v in (("a", 1.0), ("c", 1.0), ("z", 2.0))}
    )
    assert_same("top(2,t)", {(("k", "c"),): 7.0, (("k", "d"),): 9.0})
    assert_same("expand(s,n)", {(*key, ("n", 0)): value for key, value in cells_of(VALUES["s"]).items()})
    assert_same("cell_cast(d,int8)", {(("x", place),): v for place, v in enumerate((0.0, 2.0, -1.0, 4.0))})
