"""Distance metrics of nearest neighbour search: heap order, closeness, and ``distance()``, per metric.

Source: Vespa's ``searchlib/tensor/*_distance.cpp``. Queries are (D,) and rows (N, D), both already in the attribute's
cell type (Vespa converts the query first); results are (N,) float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import ExpressionError

METRICS = ("euclidean", "angular", "prenormalized-angular", "dotproduct", "hamming", "geodegrees")
NO_DISTANCE = float(np.finfo(np.float64).max)
EARTH_RADIUS_KM = 6371.0088

Vector = NDArray[Any]
Scores = NDArray[np.float64]


def internal(metric: str, query: Vector, rows: Vector) -> Scores:
    """(N,) what the heap of nearest neighbours orders by, ascending. Raises ``ExpressionError``: unknown metric."""
    if metric == "hamming":
        return _hamming(query, rows)
    q, r = np.asarray(query, np.float64), np.asarray(rows, np.float64)
    if metric == "euclidean":
        return np.asarray(np.square(r - q).sum(axis=1), np.float64)
    if metric == "geodegrees":
        return _haversine(q, r)
    dots: Scores = row_dots(r, q)
    if metric == "dotproduct":
        return np.asarray(np.negative(dots), np.float64)
    if metric == "prenormalized-angular":
        return np.asarray(squared_norm(q) - dots, np.float64)
    if metric == "angular":
        norms = np.sqrt(np.square(r).sum(axis=1) * np.square(q).sum())
        cosine = np.divide(dots, norms, out=np.zeros(len(rows)), where=norms > 0)
        return np.asarray(1.0 - np.clip(cosine, -1.0, 1.0), np.float64)
    raise _unknown(metric)


def distance_from_internal(metric: str, values: Vector, query: Vector) -> Scores:
    """(N,) ``distance(field, f)`` from (N,) internal distances; ``query`` (D,) scales prenormalized-angular."""
    inner = np.asarray(values, np.float64)
    if metric == "euclidean":
        return np.sqrt(inner)
    if metric == "angular":
        return np.arccos(np.clip(1.0 - inner, -1.0, 1.0))
    if metric == "prenormalized-angular":
        norm = squared_norm(query)
        return 1.0 - np.clip((norm - inner) / norm, -1.0, 1.0)
    if metric == "geodegrees":
        return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(inner, 0.0, 1.0)))
    if metric in ("dotproduct", "hamming"):
        return inner
    raise _unknown(metric)


def raw_score_from_internal(metric: str, values: Vector, query: Vector) -> Scores:
    """(N,) ``closeness(field, f)`` and ``rawScore`` from (N,) internal distances."""
    if metric == "dotproduct":
        return -np.asarray(values, np.float64)
    return 1.0 / (1.0 + distance_from_internal(metric, values, query))


def distance(metric: str, query: Vector, rows: Vector) -> Scores:
    """(N,) ``distance(field, f)``."""
    return distance_from_internal(metric, internal(metric, query, rows), query)


def raw_score(metric: str, query: Vector, rows: Vector) -> Scores:
    """(N,) closeness, the higher the nearer."""
    return raw_score_from_internal(metric, internal(metric, query, rows), query)


def internal_threshold(metric: str, threshold: float, query: Vector) -> float:
    """``distanceThreshold`` in internal distance: hits at most this far are kept."""
    if metric == "euclidean":
        return threshold * threshold
    if metric == "angular":
        return 1.0 - math.cos(min(max(threshold, 0.0), math.pi))
    if metric == "prenormalized-angular":
        return threshold * squared_norm(query)
    if metric == "geodegrees":
        half = min(max(threshold, 0.0) / (2.0 * EARTH_RADIUS_KM), math.pi / 2)
        return math.sin(half) ** 2
    if metric in ("dotproduct", "hamming"):
        return threshold
    raise _unknown(metric)


def missing_raw_score(metric: str) -> float:
    """Closeness of a document without a tensor: 0, or the lowest double for dotproduct."""
    return -NO_DISTANCE if metric == "dotproduct" else 0.0


def row_dots(rows: Vector, query: Vector) -> Vector:
    """(N,) inner products of ``rows`` (N, D) and ``query`` (D,), in their dtype.

    A product of its own for each row, which costs no more: BLAS's matrix product rounds by position, and equal rows
    must be equally far, for ties to be settled as in Vespa.
    """
    dots: Vector = np.matmul(rows[:, np.newaxis, :], query)[:, 0]
    return dots


def squared_norm(query: Vector) -> float:
    """``|q|^2``, 1 for a zero query (prenormalized-angular divides by it)."""
    wide = np.asarray(query, np.float64)
    return float(wide @ wide) or 1.0


def _hamming(query: Vector, rows: Vector) -> Scores:
    if rows.dtype == np.int8 and query.dtype == np.int8:
        different = np.ascontiguousarray(rows ^ query)
        if not hasattr(np, "bitwise_count"):  # numpy 1
            return np.asarray(np.unpackbits(different.view(np.uint8), axis=1).sum(axis=1), np.float64)
        words = different.view(np.uint64 if rows.shape[1] % 8 == 0 else np.uint8)
        return np.asarray(np.bitwise_count(words).sum(axis=1), np.float64)
    return np.asarray((rows != query).sum(axis=1), np.float64)


def _haversine(query: Scores, rows: Scores) -> Scores:
    latitude, longitude = np.radians(rows[:, 0]), np.radians(rows[:, 1])
    query_latitude, query_longitude = math.radians(float(query[0])), math.radians(float(query[1]))
    half_latitude = np.sin((latitude - query_latitude) / 2) ** 2
    half_longitude = np.sin((longitude - query_longitude) / 2) ** 2
    found: Scores = half_latitude + np.cos(latitude) * math.cos(query_latitude) * half_longitude
    return found


def _unknown(metric: str) -> ExpressionError:
    return ExpressionError(f"'{metric}' is not a distance metric: expected one of {', '.join(METRICS)}")
