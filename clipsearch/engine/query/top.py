"""The best of many scores, without sorting them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_of(scores: NDArray[np.float64], lids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indexes of the ``count`` highest of (n,) ``scores``, best first; equal scores in lid order, as in Vespa."""
    chosen = np.arange(len(scores))
    if count < len(scores):
        worst = np.partition(scores, len(scores) - count)[len(scores) - count] if count else np.inf
        chosen = np.flatnonzero(scores >= worst)
    keys = lids[chosen]
    if (keys[1:] > keys[:-1]).all():  # as they mostly are: one stable sort does it
        return chosen[np.argsort(-scores[chosen], kind="stable")[:count]]
    return chosen[np.lexsort((keys, -scores[chosen]))[:count]]
