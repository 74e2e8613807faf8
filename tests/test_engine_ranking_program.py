"""Rank profiles compiled to programs: phases, functions, inputs, normalisers, features, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipsearch.engine.package.model import Field, FieldType, Function, Input, Phase, RankProfile, Schema, SummaryClass
from clipsearch.engine.ranking import BatchTensor, BatchValue, Feature, compile_profile
from clipsearch.engine.tensors import Tensor, parse_literal, parse_type
from clipsearch.errors import EngineError, ExpressionError, PackageError

VECTOR, PATCHES = parse_type("tensor<bfloat16>(x[4])"), parse_type("tensor<float>(p{},x[2])")
FIELDS = (
    Field("captions", FieldType("array", FieldType("string")), index=True, bm25=True),
    Field("title", FieldType("string"), index=True),
    Field("label", FieldType("string"), attribute=True),
    Field("width", FieldType("int"), attribute=True),
    Field("height", FieldType("int")),
    Field("embedding", FieldType("tensor", tensor=VECTOR), attribute=True),
    Field("patches", FieldType("tensor", tensor=PATCHES), attribute=True),
)
SCHEMA = Schema("image", {f.name: f for f in FIELDS}, {}, {"default": SummaryClass("default", {})}, {})
BM25, CLOSENESS = Feature("bm25", ("captions",)), Feature("closeness", ("field", "embedding"))


class Source:
    """A feature source from a dictionary; remembers how often each feature was asked for."""

    def __init__(self, values: Mapping[Feature, BatchValue]) -> None:
        self.values, self.asked = dict(values), list[Feature]()

    def value(self, feature: Feature) -> BatchValue:
        self.asked.append(feature)
        return self.values[feature]


def profile(first: str = "", **changes: Any) -> RankProfile:
    functions = {
        "lexical": Function("lexical", (), "bm25(captions)"),
        "semantic": Function("semantic", (), "closeness(field, embedding)"),
        "blend": Function("blend", ("a", "weight"), "weight * a + (1 - weight) * semantic"),
        "of_field": Function("of_field", ("name",), "bm25(name)"),
        "loop": Function("loop", (), "1 + again"),
        "again": Function("again", (), "loop"),
    }
    base = RankProfile("test", functions=functions, first_phase=Phase(first) if first else None)
    return replace(base, file="schemas/image/test.profile", line=3, **changes)


def first_phase(expression: str, values: Mapping[Feature, BatchValue], n: int, **changes: Any) -> list[float]:
    return compile_profile(profile(expression, **changes), SCHEMA).first_phase(Source(values), n).tolist()


def global_phase(expression: str, values: Mapping[Feature, Any], relevance: list[float]) -> list[float]:
    program = compile_profile(profile("1", global_phase=Phase(expression)), SCHEMA)
    scores = program.global_phase(Source(values), len(relevance), np.array(relevance))
    assert scores is not None
    return scores.tolist()


def refusal(expression: str = "1", **changes: Any) -> str:
    with pytest.raises(PackageError) as caught:
        compile_profile(profile(expression, **changes), SCHEMA)
    assert caught.value.file == "schemas/image/test.profile"
    assert "schema 'image', rank profile 'test'" in str(caught.value)
    return str(caught.value)


def test_a_first_phase_scores_all_candidates_at_once() -> None:
    values = {BM25: np.array([1.0, 0.0, 4.0]), CLOSENESS: np.array([0.5, 0.6, 0.7])}
    assert first_phase("lexical + 10 * semantic", values, 3) == [6.0, 6.0, 11.0]
    assert first_phase("if (lexical > 0, 1 + lexical, semantic)", values, 3) == [2.0, 0.6, 5.0]


def test_a_constant_first_phase_gives_every_candidate_its_score() -> None:
    assert first_phase("value(7)", {}, 3) == [7.0, 7.0, 7.0]
    assert first_phase("0", {}, 0) == []


def test_functions_take_arguments_as_macros() -> None:
    values = {BM25: np.array([1.0, 2.0]), CLOSENESS: np.array([0.5, 0.25])}
    assert first_phase("blend(lexical + 1, 0.5)", values, 2) == [1.25, 1.625]
    assert first_phase("of_field(captions)", values, 2) == [1.0, 2.0]
    assert first_phase("rankingExpression(lexical)", values, 2) == [1.0, 2.0]


def test_a_feature_is_read_once_however_often_it_is_named() -> None:
    source = Source({BM25: np.array([2.0])})
    program = compile_profile(profile("lexical * lexical + bm25(captions)"), SCHEMA)
    assert program.first_phase(source, 1).tolist() == [6.0]
    assert source.asked == [BM25]


def test_a_profile_says_which_features_it_needs() -> None:
    changed = profile(
        "lexical", match_features=("closeness(field, embedding)", "lexical"), second_phase=Phase("attribute(width)")
    )
    program = compile_profile(changed, SCHEMA)
    assert program.features == {BM25, Feature("attribute", ("width",))}
    assert program.all_features == {*program.features, CLOSENESS}
    assert program.match_features == ("closeness(field,embedding)", "lexical")


def test_match_features_are_numbers_or_tensors_per_hit() -> None:
    rows = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    names = ("bm25(captions)", "attribute(embedding)", "semantic")
    program = compile_profile(profile("1", match_features=names, summary_features=("lexical",)), SCHEMA)
    source = Source({
        BM25: np.array([1.0, 2.0]), CLOSENESS: 0.5, Feature("attribute", ("embedding",)): BatchTensor(VECTOR, rows)
    })  # fmt: skip
    values = program.match_values(source, 2)
    assert list(values) == list(names)
    assert values["bm25(captions)"] == [1.0, 2.0]
    assert values["semantic"] == [0.5, 0.5]
    assert values["attribute(embedding)"] == [Tensor(VECTOR, rows[0]), Tensor(VECTOR, rows[1])]
    assert program.summary_values(source, 2) == {"lexical": [1.0, 2.0]}


def test_a_query_tensor_meets_each_documents_tensor() -> None:
    inputs = {"q": Input("q", parse_type("tensor<float>(x[4])"))}
    rows = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    query = np.array([[0.25, 0.75, 0, 0]], np.float32)
    values: dict[Feature, BatchValue] = {
        Feature("attribute", ("embedding",)): BatchTensor(VECTOR, rows),
        Feature("query", ("q",)): BatchTensor(inputs["q"].type, query),
    }
    for expression in ("sum(query(q) * attribute(embedding))", "reduce(attribute(embedding) * query(q), sum, x)"):
        assert first_phase(expression, values, 3, inputs=inputs) == [0.25, 0.75, 0.5]
    cosine = first_phase("cosine_similarity(query(q), attribute(embedding), x)", values, 3, inputs=inputs)
    assert cosine == pytest.approx([0.31622777, 0.9486833, 0.89442719])


def test_a_scores_rounding_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(5)
    type = parse_type("tensor<float>(x[512])")
    schema = replace(SCHEMA, fields={"e": Field("e", FieldType("tensor", tensor=type), attribute=True)})
    inputs = {"q": Input("q", type)}
    rows = np.tile(rng.standard_normal((1, 512)).astype(np.float32), (5000, 1))
    rows[1::2] = rng.standard_normal((2500, 512))
    query = rng.standard_normal((1, 512)).astype(np.float32)
    values = {Feature("attribute", ("e",)): BatchTensor(type, rows), Feature("query", ("q",)): BatchTensor(type, query)}
    program = compile_profile(profile("sum(query(q) * attribute(e))", inputs=inputs), schema)
    scores = program.first_phase(Source(values), 5000)
    assert np.unique(scores[::2]).size == 1
    assert scores == pytest.approx(rows.astype(np.float64) @ query[0].astype(np.float64))


def test_a_query_tensor_that_was_not_sent_is_zeros() -> None:
    inputs = {"q": Input("q", parse_type("tensor<float>(x[4])")), "s": Input("s", parse_type("tensor(k{})"))}
    values = {Feature("query", ("q",)): 0.0, Feature("query", ("s",)): 0.0}
    assert first_phase("sum(query(q)) + sum(query(s)) + count(query(q))", values, 2, inputs=inputs) == [4.0, 4.0]


def test_mixed_tensors_are_ranked_per_candidate() -> None:
    inputs = {"q": Input("q", parse_type("tensor<float>(x[2])"))}
    patches = [
        parse_literal("tensor<float>(p{},x[2]):{0:[1,2],1:[3,4]}"),
        parse_literal("tensor<float>(p{},x[2]):{}"),
        parse_literal("tensor<float>(p{},x[2]):{7:[5,0]}"),
    ]
    values: dict[Feature, BatchValue] = {
        Feature("attribute", ("patches",)): BatchTensor(PATCHES, patches),
        Feature("query", ("q",)): BatchTensor(inputs["q"].type, np.array([[1.0, 1.0]], np.float32)),
        Feature("attribute", ("width",)): np.array([1.0, 0.0, 7.0]),
    }

    def ask(expression: str) -> list[float]:
        return first_phase(expression, values, 3, inputs=inputs)

    assert ask("reduce(sum(query(q) * attribute(patches), x), max, p)") == [7.0, 0.0, 5.0]
    assert ask("sum(attribute(patches) * attribute(patches))") == [30.0, 0.0, 25.0]
    assert ask("sum(attribute(patches){p:7})") == [0.0, 0.0, 5.0]
    assert ask("sum(attribute(patches){p:(attribute(width))})") == [7.0, 0.0, 5.0]
    assert ask("count(attribute(patches))") == [4.0, 0.0, 2.0]
    assert ask("reduce(attribute(patches), median)") == [2.5, 0.0, 2.5]
    assert ask("sum(top(1, sum(attribute(patches), x)))") == [7.0, 0.0, 5.0]
    assert ask("sum(map_subspaces(attribute(patches), f(t)(t{x:0} * 10)))") == [40.0, 0.0, 50.0]
    assert ask("sum(merge(attribute(patches), tensor(p{},x[2]):{0:[10,10]}, f(a,b)(a + b)))") == [30.0, 20.0, 25.0]
    assert ask("sum(if (attribute(width) > 0, attribute(patches), attribute(patches) * 2))") == [10.0, 0.0, 5.0]


def test_dense_slices_may_differ_by_candidate() -> None:
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]], np.float32)
    values: dict[Feature, BatchValue] = {
        Feature("attribute", ("embedding",)): BatchTensor(VECTOR, rows),
        Feature("attribute", ("width",)): np.array([3.0, 0.0, 99.0]),
    }
    assert first_phase("attribute(embedding)[(attribute(width))]", values, 3) == [4.0, 5.0, 0.0]
    chosen = "sum(if (attribute(width) > 5, attribute(embedding), attribute(embedding) * 0))"
    with pytest.raises(PackageError, match="both results must have one type"):
        first_phase(chosen, values, 3)
    assert first_phase(chosen.replace(", attribute(embedding),", ", attribute(embedding) * 1,"), values, 3) == [
        0.0, 0.0, 36.0
    ]  # fmt: skip


def test_constants_are_numbers_or_tensors() -> None:
    constants = {"weight": "2.5", "c": "tensor(x[2]):[1,2]"}
    assert first_phase("weight + constant(weight) + sum(constant(c))", {}, 1, constants=constants) == [8.0]


def test_the_second_phase_sees_the_first() -> None:
    program = compile_profile(profile("lexical", second_phase=Phase("firstPhase * 2 + 1")), SCHEMA)
    assert program.second_phase(Source({BM25: np.array([1.0, 3.0])}), 2).tolist() == [3.0, 7.0]
    plain = compile_profile(profile("lexical"), SCHEMA)
    assert plain.second_phase(Source({BM25: np.array([1.0])}), 1).tolist() == [1.0]


def test_reciprocal_rank_fusion_over_the_reranked_hits() -> None:
    values = {BM25: np.array([1.0, 9.0, 0.0]), CLOSENESS: np.array([0.9, 0.1, 0.5])}
    expected = [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 63 + 1 / 62]
    assert global_phase("reciprocal_rank_fusion(lexical, semantic)", values, [0, 0, 0]) == pytest.approx(expected)
    guarded = "if (lexical > 0, reciprocal_rank(lexical), 0) + reciprocal_rank(semantic, 10)"
    expected = [1 / 62 + 1 / 11, 1 / 61 + 1 / 13, 1 / 12]
    assert global_phase(guarded, values, [0, 0, 0]) == pytest.approx(expected)


def test_normalize_linear_and_the_present_score_blend() -> None:
    values = {BM25: np.array([1.0, 9.0, 5.0])}
    assert global_phase("normalize_linear(lexical) + relevanceScore", values, [3, 2, 1]) == [3.0, 3.0, 1.5]
    assert global_phase("normalize_linear(relevanceScore)", values, [3, 2, 1]) == [1.0, 0.5, 0.0]


def test_a_profile_without_global_phase_has_no_global_scores() -> None:
    assert compile_profile(profile("1"), SCHEMA).global_phase(Source({}), 2, np.zeros(2)) is None


@pytest.mark.parametrize("name", ["normalize_linear", "reciprocal_rank", "reciprocal_rank_fusion"])
def test_normalisers_are_only_for_the_global_phase(name: str) -> None:
    arguments = "lexical, semantic" if name.endswith("fusion") else "lexical"
    assert "only be used in the expression of global-phase" in refusal(f"{name}({arguments})")
    functions = {"f": Function("f", (), f"{name}(now, now)")}
    message = refusal("1", functions=functions, global_phase=Phase("f"))
    assert "only be used in the expression of global-phase" in message


def test_normalisers_take_names_not_expressions() -> None:
    message = refusal(global_phase=Phase("normalize_linear(lexical + 1)"))
    assert "'lexical + 1' must be a feature or a function name" in message
    assert "takes at least two arguments" in refusal(global_phase=Phase("reciprocal_rank_fusion(lexical)"))
    assert "second argument must be a number" in refusal(global_phase=Phase("reciprocal_rank(lexical, semantic)"))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nativeRank", "the rank feature 'nativeRank' is not supported by the local engine: set a first-phase"),
        ("nativeRank(title)", "nativeRank(title)' is not supported"),
        ("fieldMatch(title).completeness", "use bm25(field) or matches(field) instead"),
        ("no_such_function(1)", "unknown rank feature 'no_such_function(1)'"),
        ("approx(1, 2)", "unknown rank feature 'approx(1,2)'"),
        ("lexicl", "unknown rank feature 'lexicl'"),
        ("bm25(nothing)", "has no field 'nothing'"),
        ("bm25(title)", "enable-bm25"),
        ("bm25(label)", "not indexed"),
        ("attribute(label)", "not supported by the local engine: the field is a string"),
        ("attribute(height)", "needs 'attribute'"),
        ("closeness(field, title)", "no tensor attribute 'title'"),
        ("rawScore(captions)", "the field needs 'attribute'"),
        ("attribute(embedding)", "must be a number, but it is a tensor<bfloat16>(x[4])"),
        ("sum(attribute(embedding), y)", "it has no such dimension"),
        ("sum(attribute(embedding) * attribute(patches))", "dimension 'x' differs"),
        ("blend(1)", "blend() takes 2 arguments"),
        ("loop", "calls itself: loop -> again -> loop"),
        ("relevanceScore", "can only be used in global-phase"),
        ("constant(pi)", "the profile has no such constant"),
        ("map(attribute(embedding), f(a)(a * lexical))", "a tensor function sees only its parameters"),
        ("1 +", "the expression ends too early"),
        ("1 $ 2", "unexpected '$'"),
        ('"text"', 'the string "text" can only be compared'),
        ("if (attribute(embedding), 1, 2)", "the condition of if() must be a number"),
        ("diag(x[3],y[3])", "diag() is not supported by the local engine"),
        ("tensor(x{})(1)", "only indexed dimensions"),
        ("sum(tensor(x[9999999])(x))", "at most 65536 are supported"),
    ],
)
def test_what_cannot_be_ranked_is_refused_at_deploy(expression: str, message: str) -> None:
    expression = expression.replace("diag(x[3],y[3])", "diag(x,y)")
    message = message.replace("diag(x[3],y[3])", "diag(x,y)")
    assert message in refusal(expression)


def test_a_profile_without_first_phase_is_refused_when_it_is_used() -> None:
    program = compile_profile(profile(), SCHEMA)
    with pytest.raises(ExpressionError, match="'test' has no first-phase: Vespa would rank by nativeRank"):
        program.first_phase(Source({}), 1)


@pytest.mark.parametrize("expression", ["1" + " + 1" * 4000, "(" * 99 + "1" + ")" * 99, "!" * 3000 + "1"])
def test_huge_expressions_are_answered_or_refused_but_never_crash(expression: str) -> None:
    try:
        answer = str(np.isfinite(first_phase(expression, {}, 1)).all())
    except EngineError as error:
        answer = str(error)
    assert answer == "True" or "deeply nested" in answer
