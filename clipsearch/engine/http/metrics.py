"""Counters of queries and document operations, as ``/state/v1/metrics`` and ``/metrics/v2/values`` show them.

Names are those of Vespa's container metrics. Rates and averages are over the time since the last snapshot, which is
taken once a minute as Vespa does; the first minute shows what there is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

PERIOD = 60.0  # seconds between snapshots


class Series:
    """Observations of one value: how many, their sum, least and greatest since the last snapshot, and all their number.

    Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0
        self._reset()

    def _reset(self) -> None:
        self.number, self.sum, self.least, self.greatest, self.last = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, value: float) -> None:
        """One observation."""
        with self._lock:
            self.least = value if self.number == 0 else min(self.least, value)
            self.greatest = value if self.number == 0 else max(self.greatest, value)
            self.number += 1
            self.total += 1
            self.sum += value
            self.last = value

    def add_many(self, number: int, total: float, least: float, greatest: float) -> None:
        """``number`` (at least 1) observations with the sum ``total``."""
        with self._lock:
            self.least = least if self.number == 0 else min(self.least, least)
            self.greatest = greatest if self.number == 0 else max(self.greatest, greatest)
            self.number += number
            self.total += number
            self.sum += total
            self.last = greatest

    def values(self, seconds: float, reset: bool) -> dict[str, float]:
        """Vespa's values of this metric over the last ``seconds``."""
        with self._lock:
            found = {
                "average": self.sum / self.number if self.number else 0.0,
                "sum": self.sum,
                "count": self.number,
                "last": self.last,
                "max": self.greatest,
                "min": self.least,
                "rate": self.number / max(seconds, 1e-3),
            }
            if reset:
                self._reset()
            return found


class Metrics:
    """Named series, in the order of their first observation, with one snapshot for all."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._series: dict[str, Series] = {}
        self._since = clock()
        self._snapshot: tuple[float, float, dict[str, dict[str, float]]] | None = None

    def add(self, name: str, value: float = 1.0) -> None:
        """One observation of metric ``name``."""
        self.series(name).add(value)

    def series(self, name: str) -> Series:
        """The series of metric ``name``, made when it is new."""
        return self._series.get(name) or self._series.setdefault(name, Series())

    def total(self, name: str) -> int:
        """How many observations of ``name`` there were in all."""
        series = self._series.get(name)
        return 0 if series is None else series.total

    def snapshot(self) -> tuple[float, float, dict[str, dict[str, float]]]:
        """From and to when (epoch seconds), and each metric's values in between."""
        with self._lock:
            now = self._clock()
            over = now - self._since >= PERIOD
            if self._snapshot is None or over:
                values = {name: s.values(now - self._since, over) for name, s in list(self._series.items())}
                current = (self._since, now, values)
                if not over:
                    return current
                self._snapshot, self._since = current, now
            return self._snapshot


_OUTCOMES = {
    200: "httpapi_succeeded",
    404: "httpapi_not_found",
    412: "httpapi_condition_not_met",
    400: "httpapi_parse_error",
}


class DocumentMetrics(Metrics):
    """The ``httpapi_*`` metrics of document operations, counted in one place a kind and status: feeding is fast."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._counting = threading.Lock()
        self._counted: dict[tuple[str, int], list[float]] = {}  # number, sum, least and greatest latency

    def count(self, kind: str, status: int, started: float) -> None:
        """One operation of ``kind`` (puts, updates, removes), answered with ``status``; ``started``: monotonic time."""
        latency = time.monotonic() - started
        with self._counting:
            found = self._counted.get((kind, status))
            if found is None:
                self._counted[kind, status] = [1, latency, latency, latency]
                return
            found[0] += 1
            found[1] += latency
            if latency < found[2]:
                found[2] = latency
            elif latency > found[3]:
                found[3] = latency

    def snapshot(self) -> tuple[float, float, dict[str, dict[str, float]]]:
        """As ``Metrics.snapshot``, with what was counted since."""
        with self._counting:
            counted, self._counted = self._counted, {}
        for (kind, status), (number, total, least, greatest) in counted.items():
            for name in ("httpapi_num_operations", f"httpapi_num_{kind}", _OUTCOMES.get(status, "httpapi_failed")):
                self.series(name).add_many(int(number), number, 1.0, 1.0)
            self.series("httpapi_latency").add_many(int(number), total, least, greatest)
        return super().snapshot()


def state_values(metrics: Metrics, dimensions: dict[str, str]) -> list[dict[str, Any]]:
    """The ``values`` of /state/v1/metrics."""
    _, _, found = metrics.snapshot()
    return [{"name": name, "values": values, "dimensions": dimensions} for name, values in found.items()]


def flat_values(metrics: Metrics) -> dict[str, float]:
    """One flat map of ``name.aggregate``, as /metrics/v2/values has it."""
    _, _, found = metrics.snapshot()
    return {f"{name}.{key}": value for name, values in found.items() for key, value in values.items()}
