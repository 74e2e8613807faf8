"""BM25 as Vespa computes it: ``sum_t idf(t) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average))``.

Source: ``searchlib/features/bm25_feature.cpp``; Robertson and Zaragoza, "The Probabilistic Relevance Framework".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75


def idf(matching: float, total: float) -> float:
    """Inverse document frequency of a term in ``matching`` of ``total`` documents; both at least 1, n at most N."""
    documents = max(1.0, float(total))
    found = min(max(1.0, float(matching)), documents)
    return math.log(1.0 + (documents - found + 0.5) / (found + 0.5))


def score(
    tf: NDArray[Any],
    length: NDArray[Any],
    average_length: float,
    term_idf: float | NDArray[Any],
    k1: float = K1,
    b: float = B,
) -> NDArray[np.float64]:
    """One term's share in each document's score: (N,) float64 from (N,) occurrences and (N,) field lengths.

    A document's bm25 is the sum over its terms. ``average_length`` in words; 0 counts as 1 word.
    """
    occurrences = np.asarray(tf, np.float64)
    relative = np.asarray(length, np.float64) / (average_length or 1.0)
    norm = k1 * ((1.0 - b) + b * relative)
    scores: NDArray[np.float64] = term_idf * occurrences * (k1 + 1.0) / np.maximum(occurrences + norm, 1e-300)
    return scores
