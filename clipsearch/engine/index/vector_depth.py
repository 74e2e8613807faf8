"""How many vectors a search has to measure: a statistical rule over the distances that codes estimate.

An estimate is off by a nearly normal variable, so a vector whose estimate lies behind the worst hit is a hit after all
with a known chance. The chances of all vectors that are not measured add up to the number of hits that are missed:
those with an estimate are summed, and the rest, farther away, taken to become exponentially more with the distance, at
the rate of the last half of the estimates, for so neighbours grow denser in many dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_ENOUGH = 30  # errors, to know their mean and deviation by
_DEVIATIONS = np.linspace(-8.0, 8.0, 1025)
_CHANCES = np.array([0.5 * math.erfc(each / math.sqrt(2)) for each in _DEVIATIONS])


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """What a search knows of the nearest vectors.

    ``worst``: the greatest distance of a hit so far; ``errors`` (n,): distance less estimate of those measured;
    ``spread``: the standard deviation of errors among all vectors, where those of the nearest may be smaller.
    """

    worst: float
    errors: Numbers
    spread: float


def needed(estimates: Numbers, near: Near, allowed: float, horizon: float, unseen: int) -> int | None:
    """How many of the first ``estimates`` (n,), ascending, to measure that at most ``allowed`` hits are missed.

    ``horizon``: no estimate of the ``unseen`` further vectors is smaller. None: more estimates are needed to tell.
    """
    errors = near.errors
    if not math.isfinite(float(errors @ errors)):  # cells may be infinite or no numbers
        errors = errors[np.isfinite(errors)]
    if len(errors) < _ENOUGH or not math.isfinite(near.worst):
        return None
    mean = float(errors.sum()) / len(errors)
    variance = float(errors @ errors) / len(errors) - mean * mean
    worst, spread = near.worst - mean, max(math.sqrt(max(0.0, variance)), near.spread, 1e-30)
    allowed -= _beyond(estimates, horizon, worst, spread, unseen)
    if allowed <= 0:
        return None
    chances = np.interp((estimates - worst) / spread, _DEVIATIONS, _CHANCES)
    left = np.cumsum(chances[::-1])  # by how many of the last are not measured
    return len(estimates) - int(np.searchsorted(left, allowed, side="right"))


def _beyond(estimates: Numbers, horizon: float, worst: float, spread: float, unseen: int) -> float:
    """How many hits are to be expected beyond ``horizon``.

    Of ``n exp((x - horizon) / scale)`` vectors up to estimate x, each a hit with the chance of a normal variable; at
    most as if all ``unseen`` were at the horizon.
    """
    if unseen <= 0:
        return 0.0
    count, start = len(estimates), (horizon - worst) / spread
    most = unseen * _chance(start)
    scale = (horizon - float(estimates[count // 2])) / math.log(2) if count else 0.0
    if scale <= 0:
        return most
    rate = spread / scale
    exponent = rate * rate / 2 - start * rate
    if exponent > 700:
        return most
    return min(most, count * (math.exp(exponent) * _chance(start - rate) - _chance(start)))


def _chance(deviations: float) -> float:
    return 0.5 * math.erfc(deviations / math.sqrt(2))
