"""How many requests are in flight, and whether the endpoint is there at all.

``Throttle`` finds the number of requests in flight by itself, in the manner of Vespa's ``DynamicThrottler``: it
measures throughput at the sizes that it has been at, and walks at random around the size that was best by
``throughput * size^-0.1`` - twice as many requests in flight must bring 7 % more throughput, or the time they wait is
not worth it. ``Breaker`` follows Vespa's ``GracePeriodCircuitBreaker``.
"""

from __future__ import annotations

import math
import random
from typing import Literal

LEAST = 16
_STEPS = 8  # sizes measured between one size and its double
_COST = 0.1


class Throttle:
    """``target``: requests that may be in flight now, between ``LEAST`` and ``most``. Not safe for threads."""

    def __init__(self, most: int) -> None:
        self._least, self._most = min(LEAST, most), most
        self.target = most
        self._rates: dict[int, tuple[float, float]] = {}  # by step: size, and throughput at it
        self._acknowledged = self._in_flight = 0
        self._start = 0.0
        self._calm = most  # answers since it was made smaller

    def acknowledged(self, in_flight: int, now: float) -> None:
        """One more answer, while ``in_flight`` requests were out; ``now`` in seconds."""
        if not self._acknowledged:
            self._start = now
        self._calm += 1
        self._acknowledged += 1
        self._in_flight += in_flight
        if self._acknowledged > max(100, 5 * self.target) and now > self._start:
            self._choose(self._in_flight / self._acknowledged, self._acknowledged / (now - self._start))
            self._acknowledged = self._in_flight = 0

    def overloaded(self) -> None:
        """The endpoint said 429: fewer from now on, and what was measured before no longer counts.

        At most once in as many answers as there are requests in flight: they all meet the same overload.
        """
        if self._calm < self.target:
            return
        self.target = max(self._least, int(self.target * 0.8))
        self._rates.clear()
        self._calm = self._acknowledged = self._in_flight = 0

    def _choose(self, size: float, rate: float) -> None:
        self._rates[round(math.log2(max(1.0, size)) * _STEPS)] = (size, rate)
        best, _ = max(self._rates.values(), key=lambda measured: measured[1] * measured[0] ** -_COST)
        walked = best * random.uniform(0.88, 1.15)  # upwards more than down: the optimum may move
        self.target = max(self._least, min(self._most, round(walked)))


class Breaker:
    """Tells from answers and failures how to treat the endpoint; all times are seconds of one clock.

    ``closed``: all is well. ``half-open``: nothing but failures for ``grace`` seconds, so only a probe now and then
    is sent. ``open``: no sign of life for ``patience`` seconds although something was asked: it counts as gone.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._grace = min(10.0, patience / 3)
        self._quiet_since: float | None = None
        self._failing_since: float | None = None

    def asked(self, now: float) -> None:
        """Something is waiting for an answer."""
        if self._quiet_since is None:
            self._quiet_since = now

    def idle(self) -> None:
        """Nothing waits for an answer: a slow producer is no sign of a lost endpoint."""
        self._quiet_since = self._failing_since = None

    def alive(self, now: float) -> bool:
        """The endpoint did, or properly refused, what it was asked; returns whether it had been failing."""
        was, self._failing_since, self._quiet_since = self._failing_since, None, now
        return was is not None

    def failed(self, now: float) -> None:
        """No answer, or one that speaks of the endpoint's own trouble."""
        if self._failing_since is None:
            self._failing_since = now

    @property
    def failing(self) -> bool:
        """Whether the last that was heard of it was a failure."""
        return self._failing_since is not None

    def state(self, now: float) -> Literal["closed", "half-open", "open"]:
        """How to treat the endpoint now."""
        if self._quiet_since is not None and now - self._quiet_since > self._patience:
            return "open"
        if self._failing_since is not None and now - self._failing_since > self._grace:
            return "half-open"
        return "closed"
