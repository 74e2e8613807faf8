"""A batch of candidates is scored exactly as each candidate alone: nothing leaks from row to row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipsearch.engine.package.model import Field, FieldType, Input, Phase, RankProfile, Schema, SummaryClass
from clipsearch.engine.ranking import BatchTensor, BatchValue, Feature, compile_profile
from clipsearch.engine.ranking import program as program_module
from clipsearch.engine.tensors import Tensor, TensorType, cast, parse_type

TYPES = {
    "dense": parse_type("tensor<float>(x[3])"),
    "matrix": parse_type("tensor<bfloat16>(x[3],y[2])"),
    "bits": parse_type("tensor<int8>(x[3])"),
    "tags": parse_type("tensor<float>(k{})"),
    "pairs": parse_type("tensor(k{},l{})"),
    "patches": parse_type("tensor<float>(k{},x[3])"),
}
INPUTS = {"q": parse_type("tensor<float>(x[3])"), "s": parse_type("tensor<float>(k{})")}
SCHEMA = Schema(
    "doc",
    {
        name: Field(name, FieldType("tensor", tensor=type), attribute=True)
        for name, type in TYPES.items()
    }
    | {"n": Field("n", FieldType("int"), attribute=True)},
    {},
    {"default": SummaryClass("default", {})},
    {},
)  # fmt: skip
EXPRESSIONS = """
attribute(dense) + attribute(matrix) * attribute(n)
attribute(tags) * attribute(patches) - attribute(dense)
attribute(tags) * attribute(tags) + query(s)
attribute(pairs) * attribute(tags)
attribute(pairs) * rename(attribute(tags), k, l)
attribute(patches) * query(q)
query(s) * query(q) + attribute(n)
sum(attribute(patches) * query(q), x)
sum(attribute(dense) * query(q))
sum(attribute(matrix) * attribute(dense), x)
sum(attribute(patches) * attribute(dense), x)
sum(attribute(patches) * attribute(patches), x)
reduce(attribute(pairs), max, k)
reduce(attribute(pairs), avg, l)
reduce(attribute(pairs), min)
reduce(attribute(patches), median, k)
reduce(attribute(patches), prod, x)
reduce(attribute(patches), count, k)
reduce(attribute(patches), avg)
merge(attribute(tags), query(s), f(a,b)(a - b))
merge(attribute(patches), attribute(patches) * 2, f(a,b)(a + b))
concat(attribute(dense), attribute(n), x)
concat(attribute(patches), attribute(dense), x)
concat(attribute(tags), attribute(tags) * 2, z)
attribute(patches){k:a}
attribute(patches){k:(attribute(n))}
attribute(pairs){k:a,l:(attribute(n))}
attribute(matrix){x:(attribute(n)),y:1}
query(q){x:(attribute(n))}
query(s){k:(attribute(n))}
if (attribute(n) > 1, attribute(patches), attribute(patches) * 3)
if (attribute(n) > 1, attribute(dense) * 1.5, query(q) * 2)
if (attribute(n) > 1, query(s) * 2, attribute(tags) * 1)
map_subspaces(attribute(patches), f(t)(sum(t * t)))
map_subspaces(attribute(patches), f(t)(tensor(z[2])(t{x:(z)} + z)))
filter_subspaces(attribute(patches), f(t)(sum(t) > 1))
top(2, attribute(tags))
cell_order(attribute(patches), min)
unpack_bits(attribute(bits))
cell_cast(attribute(dense), int8)
cosine_similarity(attribute(patches), query(q), x)
l2_normalize(attribute(matrix), y)
argmax(attribute(tags), k)
tensor(z[3])(attribute(dense){x:(z)} * attribute(n) + z)
tensor(z{}):{a:attribute(n), b:1}
tensor(z{},w[2]):{a:[attribute(n), 2]} * attribute(n)
softmax(attribute(tags), k)
hamming(attribute(bits), cell_cast(query(q), int8))
attribute(n) in [1, 2]
""".strip().splitlines()


class Rows:
    """The tensors of some documents, as the query room hands them over."""

    def __init__(self, documents: list[dict[str, Any]], inputs: dict[str, Tensor]) -> None:
        self.documents, self.inputs = documents, inputs

    def value(self, feature: Feature) -> BatchValue:
        name = feature.arguments[0]
        if feature.name == "query":
            return BatchTensor(INPUTS[name], [self.inputs[name]])
        if name == "n":
            return np.array([float(document["n"]) for document in self.documents])
        tensors = [document[name] for document in self.documents]
        if TYPES[name].mapped:
            return BatchTensor(TYPES[name], tensors)
        cells = [tensor.cells for tensor in tensors]
        return BatchTensor(TYPES[name], np.stack(cells) if cells else np.zeros((0, *TYPES[name].shape)))


def _random(rng: np.random.Generator, type: TensorType) -> Tensor:
    if not type.mapped:
        return Tensor(type, cast(rng.integers(-4, 5, type.shape) + 0.25, type.cell))
    candidates = [tuple(rng.choice(list("ab012"), len(type.mapped)).tolist()) for _ in range(int(rng.integers(0, 5)))]
    labels = tuple(dict.fromkeys(candidates))
    return Tensor(type, cast(rng.integers(-4, 5, (len(labels), *type.shape)) + 0.25, type.cell), labels)


def _document(rng: np.random.Generator) -> dict[str, Any]:
    return {"n": int(rng.integers(0, 4)), **{name: _random(rng, type) for name, type in TYPES.items()}}


def _canonical(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return "number", round(value, 9)
    blocks = {labels: np.round(block.astype(np.float64), 5).tolist() for labels, block in value.blocks()}
    return str(value.type), str(sorted(blocks.items()))


def test_many_candidates_are_scored_in_chunks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    inputs = {name: Input(name, type) for name, type in INPUTS.items()}
    phase = Phase("sum(attribute(patches) * query(q)) + sum(abs(attribute(dense) - query(q))) + attribute(n)")
    program = compile_profile(RankProfile("p", inputs=inputs, first_phase=phase, second_phase=phase), SCHEMA)
    source = Rows([_document(rng) for _ in range(50)], {name: _random(rng, type) for name, type in INPUTS.items()})
    whole = program.first_phase(source, 50)
    monkeypatch.setattr(program_module, "CHUNK", 7)
    assert program.first_phase(source, 50).tolist() == whole.tolist()
    assert program.second_phase(source, 50).tolist() == whole.tolist()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_candidate_gets_what_it_would_get_alone(expression: str) -> None:
    rng = np.random.default_rng(len(expression))
    inputs = {name: Input(name, type) for name, type in INPUTS.items()}
    functions = RankProfile("p", inputs=inputs, first_phase=Phase("0"), match_features=(expression,))
    program = compile_profile(functions, SCHEMA)
    (name,) = program.match_features
    for size in (1, 2, 7, 0):
        documents = [_document(rng) for _ in range(size)]
        given = {name: _random(rng, type) for name, type in INPUTS.items()}
        together = program.match_values(Rows(documents, given), size)[name]
        assert len(together) == size
        alone = [program.match_values(Rows([document], given), 1)[name][0] for document in documents]
        assert [_canonical(value) for value in together] == [_canonical(value) for value in alone]
