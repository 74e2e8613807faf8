"""nearestNeighbor through the query API: labels and blocks, bits, thresholds, and many documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from query_support import Served, attribute, make_schema

from clipsearch.engine.index import vector_neighbors
from clipsearch.engine.package.model import Field, FieldType, Input, Phase, RankProfile
from clipsearch.engine.query.matching import Matcher
from clipsearch.engine.query.neighbors import closest_of
from clipsearch.engine.query.tree import NearestNeighbor
from clipsearch.engine.ranking import distances as metrics
from clipsearch.engine.tensors import Tensor, parse_type
from clipsearch.engine.tensors.value import cast

WIDTH = 64
TYPES = {
    "patches": "tensor<bfloat16>(patch{},x[64])",
    "bits": "tensor<int8>(x[8])",
    "patch_bits": "tensor<int8>(patch{},x[8])",
    "wide": "tensor<bfloat16>(x[64])",
    "two_labels": "tensor<float>(a{},b{},x[4])",
    "tags": "tensor<float>(tag{})",
}
METRICS = {"patches": "prenormalized-angular", "bits": "hamming", "patch_bits": "hamming", "wide": "angular"}
INPUTS = {"q": Input("q", parse_type("tensor<float>(x[64])")), "b": Input("b", parse_type("tensor<int8>(x[8])"))}
PROFILES = [
    RankProfile(name, INPUTS, first_phase=Phase(f"closeness(field,{name})"),
                match_features=(f"closeness(field,{name})", f"distance(field,{name})", f"rawScore({name})"))
    for name in METRICS
]  # fmt: skip


def tensor(name: str, cells: Any, labels: tuple[str, ...] = ()) -> Tensor:
    type = parse_type(TYPES[name])
    return Tensor(type, cast(np.asarray(cells), type.cell), tuple((label,) for label in labels))


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """300 documents; every tenth without vectors, every twelfth without blocks."""
    random, found = np.random.default_rng(1), []
    for lid in range(300):
        count = 0 if lid % 12 == 11 else int(random.integers(1, 5))
        labels = tuple(f"p{i}" for i in range(count))
        cells = random.normal(size=(count, WIDTH))
        cells /= np.linalg.norm(cells, axis=1, keepdims=True)
        fields: dict[str, Any] = {"width": lid % 7}
        if lid % 10:
            fields["patches"] = tensor("patches", cells, labels)
            fields["bits"] = tensor("bits", random.integers(-128, 128, 8).astype(np.int8))
            fields["patch_bits"] = tensor("patch_bits", random.integers(-128, 128, (count, 8)).astype(np.int8), labels)
            fields["wide"] = tensor("wide", random.normal(size=WIDTH))
        found.append(fields)
    return found


@pytest.fixture(scope="module")
def served(documents: list[dict[str, Any]]) -> Served:
    fields = {
        name: Field(name, FieldType("tensor", tensor=parse_type(type)), attribute=True, hnsw=name != "bits",
                    distance_metric=METRICS.get(name))
        for name, type in TYPES.items()
    }  # fmt: skip
    engine = Served(make_schema(profiles=PROFILES, **fields, size=attribute("size", "int")))
    for lid, document in enumerate(documents):
        engine.put(lid, document)
    for lid in (8, 21):
        engine.put(lid, {**documents[lid], "patches": documents[(lid + 1)]["patches"]})
        engine.put(lid, documents[lid])
    return engine


def query_for(name: str, seed: int) -> tuple[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    if "bits" in name:
        return "b", random.integers(-128, 128, 8).astype(np.int8)
    cells = random.normal(size=WIDTH)
    return "q", (cells / np.linalg.norm(cells)).astype(np.float32)


def internal(documents: list[dict[str, Any]], name: str, query: np.ndarray[Any, Any]) -> dict[int, float]:
    """The internal distance of each document that has any vector, by the formulas."""
    found = {}
    for lid, fields in enumerate(documents):
        if name in fields and fields[name].cells.size:
            cells = fields[name].cells.reshape(-1, len(query))
            found[lid] = float(metrics.internal(METRICS[name], cast(query, fields[name].type.cell), cells).min())
    return found


@pytest.mark.parametrize("where", ["{}", "{} and width > 3"])
@pytest.mark.parametrize("name", METRICS)
def test_the_hits_are_the_nearest_documents_by_their_closest_vector(
    served: Served, documents: list[dict[str, Any]], name: str, where: str
) -> None:
    variable, query = query_for(name, 5)
    expected = internal(documents, name, query)
    if "width" in where:
        expected = {lid: distance for lid, distance in expected.items() if documents[lid]["width"] > 3}
    item = f"({{targetHits:20}}nearestNeighbor({name},{variable}))"
    body = {"yql": f"select * from image where {where.format(item)}", "ranking": name, "hits": 20,
            f"input.query({variable})": query.tolist()}  # fmt: skip
    status, root = served.post(body)
    assert status == 200, root
    got = {int(hit["id"].rpartition("::")[2]): hit["fields"]["matchfeatures"] for hit in root["children"]}
    assert len(got) == 20
    if name != "bits":
        assert root["fields"]["totalCount"] == 20, "approximate search exposes no more than targetHits"
    wide = cast(query, parse_type(TYPES[name]).cell)
    limit = sorted(expected.values())[19]
    assert all(expected[lid] <= limit + 1e-6 for lid in got)
    for lid, features in got.items():
        inner = np.array([expected[lid]])
        closeness = metrics.raw_score_from_internal(METRICS[name], inner, wide)[0]
        assert features[f"closeness(field,{name})"] == pytest.approx(closeness, abs=1e-5)
        assert features[f"rawScore({name})"] == pytest.approx(closeness, abs=1e-5)
        distance = metrics.distance_from_internal(METRICS[name], inner, wide)[0]
        assert features[f"distance(field,{name})"] == pytest.approx(distance, abs=1e-5)


def matched(served: Served, *nodes: NearestNeighbor, **inputs: Tensor) -> Matcher:
    assert served.application is not None
    schema = served.application.package.schemas["image"]
    matcher = Matcher(schema, served.application.indexes["image"].snapshot(), inputs)
    for node in nodes:
        matcher.run(node)
    return matcher


def test_closest_names_the_winning_block_of_any_row(served: Served, documents: list[dict[str, Any]]) -> None:
    type = parse_type("tensor<float>(x[64])")
    queries = [Tensor(type, query_for("patches", seed)[1]) for seed in (6, 7)]
    nodes = [NearestNeighbor("patches", name, target_hits=5) for name in ("q", "r")]
    matcher = matched(served, *nodes, q=queries[0], r=queries[1])
    rows = np.flatnonzero(matcher.snapshot.live)
    one, both = matcher.neighbors[0].closest(rows), closest_of(matcher.neighbors, rows)
    assert len(one) == len(both) == 300
    for position, lid in enumerate(matcher.snapshot.lids[rows].tolist()):
        held = documents[lid].get("patches")
        assert str(one[position].type) == "tensor<bfloat16>(patch{})"
        if held is None or not len(held.labels):
            assert one[position].labels == both[position].labels == ()
            continue
        dots = [held.cells @ cast(query.cells, "bfloat16") for query in queries]
        assert one[position].labels == (held.labels[int(np.argmax(dots[0]))],)
        assert both[position].labels == (held.labels[int(np.argmax(np.max(dots, axis=0)))],)
        assert one[position].cells.tolist() == [1.0]


def test_a_distance_threshold_keeps_what_is_near_enough(served: Served, documents: list[dict[str, Any]]) -> None:
    variable, query = query_for("patch_bits", 8)
    expected = internal(documents, "patch_bits", query)
    for approximate in ("true", "false"):
        options = f"targetHits:300, distanceThreshold:22, approximate:{approximate}"
        yql = f"select * from image where {{{options}}}nearestNeighbor(patch_bits,{variable})"
        got = served.ids(yql, **{f"input.query({variable})": query.tolist(), "ranking": "patch_bits"})
        assert sorted(got) == [lid for lid, distance in expected.items() if distance <= 22]
        assert 5 < len(got) < 200


def test_every_hit_of_a_search_beyond_the_number_of_documents_has_a_vector(
    served: Served, documents: list[dict[str, Any]]
) -> None:
    variable, query = query_for("patches", 9)
    for approximate in ("true", "false"):
        yql = f"select * from image where {{targetHits:400, approximate:{approximate}}}nearestNeighbor(patches,q)"
        got = served.ids(yql, **{f"input.query({variable})": query.tolist(), "ranking": "patches"})
        assert sorted(got) == sorted(internal(documents, "patches", query))


@pytest.mark.parametrize(
    ("field", "variable", "message"),
    [
        ("two_labels", "q", "is not supported by nearest neighbor searcher"),
        ("tags", "q", "is not supported by nearest neighbor searcher"),
        ("patches", "b", "does not match query type tensor<int8>(x[8])"),
        ("patches", "missing", "requires a tensor rank feature named 'query(missing)'"),
        ("width", "q", "field is not a tensor"),
    ],
)
def test_what_cannot_be_compared_is_refused(served: Served, field: str, variable: str, message: str) -> None:
    inputs = {"input.query(q)": query_for("wide", 1)[1].tolist(), "input.query(b)": query_for("bits", 1)[1].tolist()}
    yql = f"select * from image where {{targetHits:3}}nearestNeighbor({field},{variable})"
    status, root = served.post({"yql": yql, "ranking": "wide", **inputs})
    assert status == 400
    assert message in root["errors"][0]["message"]


def test_codes_and_measuring_every_row_answer_alike_after_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_neighbors, "MIN_ROWS", 2000)
    monkeypatch.setattr(vector_neighbors, "DEEPEST", 1)
    type = parse_type(TYPES["wide"])
    wide = Field("wide", FieldType("tensor", tensor=type), attribute=True, hnsw=True, distance_metric="angular")
    engine, random = Served(make_schema(profiles=PROFILES[-1:], wide=wide)), np.random.default_rng(2)
    centres = random.normal(size=(100, WIDTH))
    for lid in range(4000):
        engine.put(lid, {"wide": tensor("wide", centres[lid % 100] + 0.5 * random.normal(size=WIDTH))})
    for lid in range(0, 4000, 5):
        engine.remove(lid)
    assert engine.application is not None
    column = engine.application.indexes["image"].snapshot().generation.tensors["wide"]
    column.settle()
    searched = 0
    for seed in range(10):
        query = centres[seed * 10 + 1] + 0.5 * np.random.default_rng(seed).normal(size=WIDTH)
        body = {"input.query(q)": query.tolist(), "ranking": "wide"}
        got = engine.ids("select * from image where {targetHits:10}nearestNeighbor(wide,q)", **body)
        every = "select * from image where {targetHits:10, approximate:false}nearestNeighbor(wide,q)"
        expected = engine.ids(every, **body)[:10]
        assert len(got) == 10
        searched += len(set(got) & set(expected))
    assert searched >= 98
