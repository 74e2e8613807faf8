"""Distances, BM25, normalisers and rescaling against the numbers in Vespa's own unit tests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.engine.ranking import bm25, distances
from clipsearch.engine.ranking.normalizers import normalize_linear, reciprocal_rank
from clipsearch.engine.ranking.rescale import adjustment, keep_above, rescale, sanitize
from clipsearch.errors import ExpressionError

KM_PER_MILE = 1.609344


def _golden(shared: Path, group: str, at_least: int) -> list[dict[str, Any]]:
    rows = json.loads((shared / "vespa/cases/golden_numbers.json").read_text(encoding="utf-8"))
    found = [row for row in rows if row["group"] == group]
    assert len(found) >= at_least
    return found


def _vectors(case: dict[str, Any]) -> tuple[Any, Any]:
    dtype = np.int8 if case.get("cell") == "int8" else np.float64
    return np.array(case["a"], dtype), np.array([case["b"]], dtype)


def test_distances_are_vespas(shared: Path) -> None:
    for row in _golden(shared, "distance", 90):
        metric = row["input"]["metric"]
        query, rows = _vectors(row["input"])
        expected, tolerance = row["expected"], row.get("tolerance", 1e-9)
        if metric == "geodegrees":
            kilometres = 1 / distances.raw_score(metric, query, rows)[0] - 1
            assert abs(kilometres / KM_PER_MILE - expected["miles"]) <= tolerance
            assert distances.distance(metric, query, rows)[0] == pytest.approx(kilometres)
            continue
        got = {
            "internal_distance": distances.internal(metric, query, rows)[0],
            "raw_score": distances.raw_score(metric, query, rows)[0],
            "distance_feature": distances.distance(metric, query, rows)[0],
        }
        for key, value in expected.items():
            # the square root of an angle's rounding error near 0 is 1e-8
            assert got[key] == pytest.approx(value, abs=max(tolerance, 1e-7)), (row, got)


def test_a_zero_query_has_vespas_distance(shared: Path) -> None:
    for row in _golden(shared, "distance_zero_query", 5):
        case = row["input"]
        got = distances.internal(case["metric"], np.array(case["query"]), np.array([case["document"]]))
        assert got.tolist() == [row["expected"]["internal_distance"]]


def test_thresholds_become_internal_distances(shared: Path) -> None:
    for row in _golden(shared, "distance_threshold", 15):
        case = row["input"]
        query = np.array([np.sqrt(case.get("query_norm_sq", 1.0)), 0.0])
        got = distances.internal_threshold(case["metric"], case["threshold"], query)
        assert got == pytest.approx(row["expected"], abs=1e-12)


def test_a_geo_threshold_is_in_kilometres() -> None:
    query, rows = np.array([37.61, -122.38]), np.array([[51.47, -0.46]])
    kilometres = float(distances.distance("geodegrees", query, rows)[0])
    inner = float(distances.internal("geodegrees", query, rows)[0])
    assert distances.internal_threshold("geodegrees", kilometres, query) == pytest.approx(inner)


def test_closeness_is_vespas(shared: Path) -> None:
    rows = [row for row in _golden(shared, "closeness", 3) if row["input"]]
    assert len(rows) == 2  # the third is of a query without a nearestNeighbor item: test_query_features.py
    for row in rows:
        case = row["input"]
        got = distances.raw_score(case["metric"], np.array(case["query"]), np.array(case["docs"]))
        assert got == pytest.approx(row["expected"])


def test_every_recorded_number_is_asserted_by_some_test(shared: Path) -> None:
    rows = json.loads((shared / "vespa/cases/golden_numbers.json").read_text(encoding="utf-8"))
    assert Counter(row["group"] for row in rows) == {
        "distance": 90, "distance_threshold": 15, "bm25": 8, "bm25_idf": 6, "range_adjuster": 6,
        "distance_zero_query": 5, "closeness": 3, "reciprocal_rank": 3, "global_phase": 3, "normalize_linear": 2,
        "second_phase": 2, "distance_feature": 1,
    }  # fmt: skip


def test_an_unknown_metric_is_refused_by_name() -> None:
    for function in (distances.internal, distances.raw_score, distances.distance):
        with pytest.raises(ExpressionError, match="'manhattan' is not a distance metric"):
            function("manhattan", np.zeros(2), np.zeros((1, 2)))
    with pytest.raises(ExpressionError, match="'manhattan'"):
        distances.internal_threshold("manhattan", 1.0, np.zeros(2))


def test_a_document_without_a_vector_is_farthest() -> None:
    assert distances.missing_raw_score("angular") == 0.0
    assert distances.missing_raw_score("dotproduct") == -1.7976931348623157e308
    assert distances.NO_DISTANCE == 1.7976931348623157e308


def test_bm25_idf_is_vespas(shared: Path) -> None:
    for row in _golden(shared, "bm25_idf", 6):
        got = bm25.idf(row["input"]["matching_docs"], row["input"]["total_docs"])
        assert got == pytest.approx(row["expected"], rel=1e-12)


def test_bm25_is_vespas(shared: Path) -> None:
    for row in _golden(shared, "bm25", 8):
        case, total = row["input"], 0.0
        for i, term in enumerate(case["terms"]):
            weight = case["significance"][i] if "significance" in case else bm25.idf(term["df"], case["N"])
            tf, length = np.array([term["tf"]]), np.array([term["field_length"]])
            total += bm25.score(tf, length, case["avg_field_length"], weight, case["k1"], case["b"])[0]
        assert total == pytest.approx(row["expected"], rel=row.get("tolerance", 1e-9)), row


def test_normalize_linear_is_vespas(shared: Path) -> None:
    for row in _golden(shared, "normalize_linear", 2):
        got = normalize_linear(np.array([float(v) for v in row["input"]]))
        assert got == pytest.approx([float(v) for v in row["expected"]], nan_ok=True)


def test_equal_scores_normalize_to_a_half() -> None:
    assert normalize_linear(np.array([3.0, 3.0])).tolist() == [0.5, 0.5]
    assert normalize_linear(np.array([np.inf])).tolist() == [np.inf]


def test_reciprocal_rank_is_vespas(shared: Path) -> None:
    for row in _golden(shared, "reciprocal_rank", 3):
        got = reciprocal_rank(np.array([float(v) for v in row["input"]["values"]]), row["input"]["k"])
        assert got == pytest.approx(row["expected"])


def test_reciprocal_rank_breaks_ties_by_present_order() -> None:
    assert reciprocal_rank(np.array([0.0, 1.0, 0.0])).tolist() == [1 / 62, 1 / 61, 1 / 63]


def test_the_range_adjuster_is_vespas(shared: Path) -> None:
    for row in _golden(shared, "range_adjuster", 6):
        pairs = np.array(row["input"]["initial_final_pairs"], np.float64)
        got, expected = adjustment(pairs[:, 0], pairs[:, 1]), row["expected"]
        assert got.needed == expected["rescale_needed"]
        if got.needed:
            assert (got.scale, got.bias) == pytest.approx((expected["scale"], expected["bias"]))
            adjusted = np.array(expected["adjusted"], np.float64)
            assert got.apply(adjusted[:, 0]) == pytest.approx(adjusted[:, 1])


def test_the_second_phase_keeps_the_rest_below(shared: Path) -> None:
    for row in _golden(shared, "second_phase", 2):
        case = row["input"]
        first = np.array(case["first_phase"], np.float64)
        order = np.argsort(-first, kind="stable")[: case["array_size"]]
        order = order[order < 20]
        head, rest = order[: case["rerank_count"]], order[case["rerank_count"] :]
        final = {int(d): float(d) + 200 for d in head}
        final |= dict(zip(map(int, rest), rescale(first[head], head + 200.0, first[rest]), strict=True))
        assert final == {int(k): v for k, v in row["expected"].items()}


def test_the_global_phase_rescales_and_drops_as_vespa(shared: Path) -> None:
    for row in _golden(shared, "global_phase", 3):
        case = row["input"]
        names = sorted(case["scores"], key=lambda name: -case["scores"][name])
        count = min(case.get("rerank_count", 100), len(names))
        before = np.array([case["scores"][name] for name in names], np.float64)
        after = case.get("reranked_scores_in_order") or [case["expression_value"]] * count
        scores = np.concatenate([after, rescale(before[:count], np.array(after), before[count:])])
        kept = keep_above(scores, case.get("drop_limit"))
        got = {name: score for name, score, keep in zip(names, scores, kept, strict=True) if keep}
        assert got == row["expected"]


def test_scores_that_are_not_finite_sort_last() -> None:
    assert sanitize(np.array([np.nan, np.inf, 1.0])).tolist() == [-np.inf, -np.inf, 1.0]
    assert keep_above(np.array([np.nan, 1.0, 2.0]), 1.0).tolist() == [False, False, True]
    assert rescale(np.array([np.inf]), np.array([1.0]), np.array([0.5])).tolist() == [0.5]
