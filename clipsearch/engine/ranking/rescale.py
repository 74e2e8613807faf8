"""Hits beyond the reranked ones keep their order below them: second phase and global phase rescale alike.

Source: Vespa's ``RangeAdjuster`` (global phase) and ``HitCollector`` (second phase): the rest is shifted and scaled
only when the worst reranked hit got a lower score than it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Adjustment:
    """``score * scale + bias`` for the hits that were not reranked; ``needed`` False: they keep their scores."""

    needed: bool
    scale: float = 1.0
    bias: float = 0.0

    def apply(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """(M,) scores of the rest, adjusted if needed."""
        values = np.asarray(scores, np.float64)
        return values * self.scale + self.bias if self.needed else values


def adjustment(before: NDArray[Any], after: NDArray[Any]) -> Adjustment:
    """How to adjust the rest, from the reranked hits' (N,) finite scores ``before`` and ``after``.

    Scale is ``max(1, range after) / max(1, range before)``; the bias maps the lowest before to the lowest after.
    """
    old, new = _finite(before), _finite(after)
    if old.size == 0 or new.size == 0 or old.min() <= new.min():
        return Adjustment(needed=False)
    scale = float(max(1.0, np.ptp(new)) / max(1.0, np.ptp(old)))
    return Adjustment(needed=True, scale=scale, bias=float(new.min() - old.min() * scale))


def rescale(before: NDArray[Any], after: NDArray[Any], rest: NDArray[Any]) -> NDArray[np.float64]:
    """(M,) scores of the hits that were not reranked: ``adjustment(before, after).apply(rest)``."""
    return adjustment(before, after).apply(rest)


def keep_above(scores: NDArray[Any], drop_limit: float | None) -> NDArray[np.bool_]:
    """(N,) which hits stay: ``score > drop_limit`` (NaN is dropped); all when there is no limit."""
    if drop_limit is None:
        return np.ones(len(scores), np.bool_)
    kept: NDArray[np.bool_] = np.asarray(scores, np.float64) > drop_limit
    return kept


def sanitize(scores: NDArray[Any]) -> NDArray[np.float64]:
    """First- and second-phase scores as Vespa keeps them: NaN and infinities become -inf."""
    values = np.asarray(scores, np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _finite(scores: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    return values[np.isfinite(values)]
