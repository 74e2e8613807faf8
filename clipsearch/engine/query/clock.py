"""The time that one search has, and where it went."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clipsearch.errors import QueryError

_TIME = re.compile(r"\s*(\d*\.?\d+)\s*(s|ms|µs|ks)?\s*")
_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ks": 1e3, None: 1.0}


def parse_timeout(value: str) -> float | None:
    """``2``, ``2.5s``, ``500ms`` in seconds; None for "". Raises ``QueryError``."""
    if not value:
        return None
    found = _TIME.fullmatch(value)
    if found is None:
        raise QueryError(f"Could not set 'timeout' to '{value}': not a time in seconds such as 2.5s or 500ms", code=3)
    return float(found[1]) * _SECONDS[found[2]]


class Clock:
    """Starts when it is made; ``limit`` in seconds, None: there is none."""

    def __init__(self, limit: float | None = None) -> None:
        self.started = time.perf_counter()
        self.limit = limit
        self.steps: list[tuple[str, float]] = []

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def check(self) -> None:
        """Raises ``QueryError`` (Vespa's code 12, HTTP 504) when the time is over."""
        if self.limit is not None and self.elapsed() > self.limit:
            raise QueryError(f"Timed out: the query's timeout of {self.limit * 1000:g} ms is over", code=12, status=504)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Takes the time of a step, which is not begun when the time is over."""
        self.check()
        start = time.perf_counter()
        yield
        self.steps.append((name, time.perf_counter() - start))

    def trace(self) -> dict[str, Any]:
        """The steps in the form of Vespa's trace."""
        return {"children": [{"message": f"{name}: {seconds * 1000:.3f} ms"} for name, seconds in self.steps]}
