"""Ranking expressions against what Vespa's own parsers and evaluators made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.engine.ranking import operations
from clipsearch.engine.ranking.batch import Environment, from_tensor, to_tensors
from clipsearch.engine.ranking.compiler import Compiled, Compiler
from clipsearch.engine.ranking.nodes import Reference
from clipsearch.engine.ranking.parser import parse_expression
from clipsearch.engine.tensors import SCALAR, Tensor, parse_literal, parse_type
from clipsearch.errors import ExpressionError

# Of the 286 recorded cases. The two refused ones use a name that is not bound, which no deployed profile can.
ANSWERED, REFUSED = 284, 2


class Bindings:
    """Names bound to numbers and tensors that all candidates share."""

    def __init__(self, values: Mapping[str, float | str | Tensor]) -> None:
        self.values = {k: parse_literal(v) if isinstance(v, str) else v for k, v in values.items()}

    def reference(self, node: Reference, compiler: Compiler) -> Compiled:
        value = self.values.get(node.name)
        if value is None:
            raise ExpressionError(f"unknown name '{node}'")
        if isinstance(value, Tensor):
            tensor = value
            return Compiled(tensor.type, lambda env: from_tensor(tensor, env.labels))
        number = value
        return Compiled(SCALAR, lambda env: number)


def evaluate(expression: str, bindings: Mapping[str, Any] | None = None, dialect: str = "cpp", n: int = 1) -> Tensor:
    compiled = Compiler(Bindings(bindings or {}), dialect=dialect).compile(parse_expression(expression, dialect))
    environment = Environment(n)
    with np.errstate(all="ignore"):
        return to_tensors(compiled.run(environment), compiled.type, environment)[0]


def _same(got: Tensor, result: str) -> bool:
    if not result.startswith("tensor"):
        return (
            not got.type.dimensions
            and np.isclose(float(got.cells), float(result), rtol=1e-14, atol=0, equal_nan=True).item()
        )
    expected = parse_literal(result)
    if got.type != expected.type or set(got.labels) != set(expected.labels):
        return False
    theirs = dict(expected.blocks())
    tolerance = 1e-14 if got.type.cell == "double" and got.type.dimensions else 1e-6
    return all(
        np.allclose(block, theirs[labels], rtol=tolerance, atol=0, equal_nan=True) for labels, block in got.blocks()
    )


def _answer(case: dict[str, Any]) -> str:
    """ "answered" as recorded, "refused" though Vespa answers, or "different"."""
    try:
        node = parse_expression(case["expression"], "java")
        got = evaluate(case["expression"], case["bindings"], "java")
    except ExpressionError as error:
        refused = "not supported by the local engine" in str(error) or "unknown name" in str(error)
        return "answered" if "error" in case else "refused" if refused else f"different: {error}"
    same_text = "".join(str(node).split()) == "".join(case["canonical"].split())
    return "answered" if "result" in case and same_text and _same(got, case["result"]) else f"different: {got}"


def test_every_recorded_expression_is_answered_as_vespa_answers_or_refused(shared: Path) -> None:
    lines = (shared / "vespa/cases/ranking_expressions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {line: _answer(json.loads(line)) for line in lines}
    counts = {kind: list(answers.values()).count(kind) for kind in ("answered", "refused")}
    print(f"ranking_expressions: {counts['answered']} answered as recorded, {counts['refused']} refused")
    different = [(json.loads(line)["expression"], a) for line, a in answers.items() if a.startswith("different")]
    assert not different
    assert counts == {"answered": ANSWERED, "refused": REFUSED}


@pytest.mark.parametrize(
    ("expression", "cpp", "java"),
    [
        ("2*3%4", 2, 6),
        ("10%4*2", 4, 4),
        ("8/4/2", 1, 1),
        ("2^3^2", 512, 512),
        ("1 - 2 + 3", 2, 2),
        ("1 < 2 < 3", 1, 1),
        ("1 + 2 * 3 ^ 2", 19, 19),
        ("1 || 0 && 0", 1, 1),
        ("0 > 1 == 0", 1, 0),
        ("5 > 3 in [1]", 1, 1),
        ("!0 + 1", 2, 2),
        ("1.0 ~= 1.00000001", 1, 1),
        ("1.0 ~= 1.0001", 0, 0),
        ("3 ~= 3.00000001", 1, 1),
    ],
)
def test_each_phase_has_its_evaluators_precedence(expression: str, cpp: float, java: float) -> None:
    assert float(evaluate(expression).cells) == cpp
    assert float(evaluate(expression, dialect="java").cells) == java


def test_only_java_swaps_a_number_with_a_tensor() -> None:
    f = {"f": "tensor<float>(x[2]):[1,4]", "a": 2.0}
    assert evaluate("2 / f", f) == parse_literal("tensor<float>(x[2]):[2,0.5]")
    assert evaluate("2 < f", f) == parse_literal("tensor<float>(x[2]):[0,1]")
    assert evaluate("2 < f", f, "java") == parse_literal("tensor<float>(x[2]):[1,0]")
    with pytest.raises(ExpressionError, match="Vespa may swap its sides"):
        evaluate("a < f", f, "java")


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("max(0/0, 1)", "NaN"),
        ("max(1, 0/0)", "1"),
        ("min(2, 0/0)", "2"),
        ("bit(-1, 7) + bit(1, 8)", "1"),
        ("round(2.5) + round(-2.5)", "1"),
        ("3 in [1, 2, 3]", "1"),
        ('if ("a" == "b", 1, 2)', "2"),
        ("sum(tensor(x[2],y[2])(x == y))", "2"),
        ("sum(tensor(x[3]):[1, 1 + 1, 3])", "6"),
        ("sum(tensor(k{}):{a: 2, b: 3} * tensor(k{}):{b: 4})", "12"),
        ("tensor(p{},x[2]):{a:[1,2],b:[3,4]}{p:b,x:0}", "3"),
        ("sum(softmax(tensor(x[3]):[1,2,3], x))", "1"),
        ("sum(l1_normalize(tensor(x[2]):[1,3], x) * tensor(x[2])(x))", "0.75"),
        ("sum(xw_plus_b(tensor(x[2]):[1,2], tensor(x[2],y[1]):[[3],[4]], tensor(y[1]):[5], x))", "16"),
        ("sum(unpack_bits(tensor<int8>(x[1]):[5], float, little) * tensor(x[8])(x))", "2"),
        ("argmax(tensor(x[3]):[1,9,2], x){x:1}", "1"),
        ("reduce(tensor(k{}):{}, max)", "0"),
        ("sum(concat(tensor(x[2]):[1,2], tensor(y[2]):[3,4], x))", "13"),
        ("sum(rename(tensor(a{},x[2]):{q:[1,2]}, (a,x), (z,b)){z:q})", "3"),
        ("tensor(k{}):{a:1}{k:zz}", "0"),
        ("tensor(x[2]):[7,8]{x:(5)}", "0"),
        ("# a comment\n1 +\n 2", "3"),
    ],
)
def test_expressions_beyond_the_recorded_ones(expression: str, result: str) -> None:
    got = evaluate(expression)
    assert not got.type.dimensions
    assert float(got.cells) == pytest.approx(float(result), nan_ok=True)


@pytest.mark.parametrize("expression", ["d * k", "d + d * 2", "k * rename(k, k, l)"])
def test_a_join_that_would_fill_the_memory_is_refused(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MOST_CELLS", 3)
    with pytest.raises(ExpressionError, match=r"makes \d+ cells over all candidates; the local engine allows 3"):
        evaluate(expression, {"d": "tensor(x[4]):[1,2,3,4]", "k": "tensor(k{}):{a:1,b:2}"})


def test_candidates_share_what_does_not_depend_on_them() -> None:
    compiled = Compiler(Bindings({"t": "tensor<float>(k{}):{a:1,b:2}"})).compile(parse_expression("t * 2"))
    environment = Environment(3)
    tensors = to_tensors(compiled.run(environment), compiled.type, environment)
    assert tensors == [parse_literal("tensor<float>(k{}):{a:2,b:4}")] * 3


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("tensor<int8>(x[1])", "tensor<int8>(x[1])", "tensor<float>(x[1])"),
        ("tensor<bfloat16>(x[1])", "tensor<int8>(y{})", "tensor<float>(x[1],y{})"),
        ("tensor<float>(x[1])", "tensor(x[1])", "tensor(x[1])"),
        ("tensor()", "tensor<int8>(x[1])", "tensor<float>(x[1])"),
    ],
)
def test_static_types_are_known_before_anything_runs(left: str, right: str, result: str) -> None:
    class Typed:
        def reference(self, node: Reference, compiler: Compiler) -> Compiled:
            return Compiled(parse_type(left if node.name == "a" else right), lambda env: None)

    assert Compiler(Typed()).compile(parse_expression("a + b")).type == parse_type(result)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (".5", "unexpected '.' at line 1, column 1"),
        ("max(1)", "write reduce(t, max)"),
        ("median()", "median() takes at least 1 arguments"),
        ("nothing(1e400)", "unknown name 'nothing(Infinity)'"),
        ("sum(tensor(x[4096])(x) + tensor(y[4096])(y) + tensor(z[2])(z))", "more cells than the local engine supports"),
        ("sqrt(1, 2)", "sqrt() takes 1 arguments"),
        ("reduce(1, avrage)", "'avrage' is not one of"),
        ("map(1, f(a,b)(a))", "expected f(a)(expression)"),
        ("rename(1, (x,y), z)", "same number of dimensions"),
        ("cell_cast(1, int16)", "'int16' is not one of"),
        ("tensor(x[2]):[1]", "has 2 cells, but 1 values"),
        ("tensor(x[2]):{{x:5}:1}", "not within the bounds"),
        ("tensor(x[2]){y:0}", "unexpected '{'"),
        ("(1, 2)", "is not a value"),
        ("-filter_subspaces(1, f(s)(s))", "filter_subspaces() and top() need a tensor, but got a number"),
        ("sum(top(2, 3))", "filter_subspaces() and top() need a tensor, but got a number"),
        ("range(x)", "range() is not supported by the local engine: use a generated tensor"),
    ],
)
def test_malformed_expressions_say_what_is_wrong(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(expression)
    assert message in str(caught.value)
