"""The global phase's normalisers, over the reranked hits in their present order.

Source: Vespa's ``com.yahoo.search.ranking.LinearNormalizer`` and ``ReciprocalRankNormalizer``; reciprocal rank fusion
is Cormack, Clarke and Buettcher (SIGIR 2009) with k = 60.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RANK_CONSTANT = 60.0
_LARGEST = float(np.finfo(np.float32).max)


def normalize_linear(values: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) scaled so that the smallest is 0 and the largest 1; all 0.5 when equal; NaN and infinities stay."""
    scores = np.asarray(values, np.float64)
    usual = np.abs(scores) < _LARGEST
    if not usual.any():
        return scores
    low, high = float(scores[usual].min()), float(scores[usual].max())
    middle, span = (low + high) / 2, high - low
    with np.errstate(invalid="ignore"):
        scaled = 0.5 + (scores - middle) / (span if span > 0 else 1.0)
    return np.where(usual, scaled, scores)


def reciprocal_rank(values: NDArray[Any], k: float = RANK_CONSTANT) -> NDArray[np.float64]:
    """(N,) ``1 / (k + rank)``, ranks from 1 by descending value; ties rank by present order, NaN last."""
    scores = np.asarray(values, np.float64)
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    result = np.empty(len(scores), np.float64)
    result[order] = 1.0 / (k + 1.0 + np.arange(len(scores)))
    return result
