"""Expressions of Vespa's own tests in forms that its recorded cases do not have.

Facts of EvaluationTestCase, RankingExpressionTestCase and the list of expressions that both of its parsers read.
"""

from __future__ import annotations

import pytest
from test_engine_ranking_expressions import evaluate

from clipsearch.engine.ranking.parser import parse_expression
from clipsearch.engine.tensors import parse_literal
from clipsearch.errors import ExpressionError


@pytest.mark.parametrize("dialect", ["cpp", "java"])
@pytest.mark.parametrize(
    ("expression", "given", "expected"),
    [
        ("tensor(j[2])(t{key:bar,i:2-j})", "tensor(key{},i[3]):{foo:[1,2,2],bar:[4,5,6]}", "tensor(j[2]):[6,5]"),
        ("t{x:k+1} + tensor(y[1]):[0]", "tensor(x[3]):[1,2,3]", "tensor(y[1]):[3]"),
        ("t{x:k}+tensor(y[1]):[0]", "tensor(x{}):{k:7,'1':8}", "tensor(y[1]):[7]"),
        ("t{-2}+tensor(y[1]):[0]", "tensor(x{}):{'-2':7}", "tensor(y[1]):[7]"),
        ("tensor(x{}):{ {x:1}:1.0, {x:-2}:2.0 }", "tensor():{0}", "tensor(x{}):{'1':1,'-2':2}"),
        ("tensor(x{}):{ a:1+2+3, b:if(1>2,3,4), '--':sum(t*2) }", "tensor():{7}", "tensor(x{}):{a:6,b:4,'--':14}"),
        ("t in [1, -2, 3]", "tensor(x{}):{a:3,b:7,c:-2}", "tensor(x{}):{a:1,b:0,c:1}"),
        ("tensor(d[3])(t{a:(tensor(i[3]):[0,2,4]{i:(d)})})", "tensor(a[5]):[1,2,3,4,5]", "tensor(d[3]):[1,3,5]"),
        ("tensor(d[4])(t{a:(d / 2), b:(d % 2)})", "tensor(a[2],b[2]):[[1,2],[3,4]]", "tensor(d[4]):[1,2,3,4]"),
        ("t % 2 == map(t, f(x)(x % 2))", "tensor(x{}):{a:2,b:3}", "tensor(x{}):{a:1,b:1}"),
        ("!t == map(t, f(x)(!x))", "tensor(x{}):{a:0,b:3}", "tensor(x{}):{a:1,b:1}"),
        ("ldexp(t, 3.1)", "tensor(x{}):{a:1,b:2}", "tensor(x{}):{a:8,b:16}"),
        ("join(t, 0.1, f(x,y)(x*y))", "tensor(x{}):{a:1}", "tensor(x{}):{a:0.1}"),
    ],
)
def test_expressions_have_vespas_value(dialect: str, expression: str, given: str, expected: str) -> None:
    assert evaluate(expression, {"t": given, "k": 1.0}, dialect) == parse_literal(expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("feature.0", "feature.0"),
        ("feature . out", "feature.out"),
        ("feature.out.out", "feature.out.out"),
        ("feature.in", "feature.in"),
        ("if ( 1 > 2 , 3 , 4 ) + feature ( arg1 ) . out.out", "if (1 > 2, 3, 4) + feature(arg1).out.out"),
        ("cosh ( foo.out )", "cosh(foo.out)"),
        (" $var1 +($var2 - $var3)* $var4", "query(var1) + (query(var2) - query(var3)) * query(var4)"),
        ("if(if(f1.out<$p1,0,1)<if(f2.out<$p2,0,1),f3.out,$p3)",
         "if (if (f1.out < query(p1), 0, 1) < if (f2.out < query(p2), 0, 1), f3.out, query(p3))"),
        ("t{x: a + a()}", "t{x:(a + a())}"),
        ("t{x:a}", "t{x:a}"),
    ],
)  # fmt: skip
def test_expressions_have_vespas_text(written: str, expected: str) -> None:
    assert str(parse_expression(written, "java")) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("tensor(x[2]):{-1:5}", "not within the bounds"),
        ("t in [k]", "not supported by the local engine"),
        ('t in ["a"]', "not supported by the local engine"),
        ("t{x:1.0}", "not supported by the local engine"),
        ("t{}", "unexpected"),
        ("t{x:}", "unexpected"),
        ("map(t, f(x)(log10(x + sum(t))))", "a tensor function sees only its parameters"),
        ("tensor(x{},y[2]):{a:[1, 2], b:[3]}", "2 cells, but 1 values"),
        ("tensor(x[2],y[3]):[[1,2,3,4],[4,5,6]]", "6 cells, but 7 values"),
    ],
)
def test_what_vespa_rejects_in_an_expression_is_rejected(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        evaluate(expression, {"t": "tensor(x[2]):[1,2]", "k": 1.0})
