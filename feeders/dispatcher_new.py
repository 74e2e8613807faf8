"""Many requests in flight, each retried while that makes sense, memory bounded, nothing lost in silence.

pyvespa's own loops (``Vespa.feed_iterable``) are not used, because of faults that a feed of real data meets: a
producer that raises leaves the consumer waiting for ever; 503, which a restarting container answers, is not retried;
their queues hold thousands of documents. Here a producer that raises is an error like any other, after what is in
flight has finished, and ``HELD`` requests are in memory at most.

The producer runs in the caller's thread; worker threads send, one request each at a time; one thread keeps time:
retries that are due, the breaker, whatever ``tick`` does. Order is kept per id: a request waits while another one on
the same document is in flight or will be retried.
"""

from __future__ import annotations

import heapq
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from feeders.operations import Request
from feeders.throttle import Breaker, Throttle
from feeders.transport import Answer

ATTEMPTS = 15  # failures of one request while others succeed
LONGEST_WAIT = 5.0  # seconds between two attempts
HELD = 256  # requests in memory: in flight, waiting for a retry, or next
TICK = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation was given up; ``status`` is the endpoint's HTTP status, 0 when there was no answer."""

    id: str
    status: int
    reason: str


Send = Callable[[Request], Answer]
Done = Callable[[Request, Answer, Failure | None], None]


@dataclass(slots=True)
class _Entry:
    """A request on its way. ``strikes``: its failures while others succeeded; ``answer``: the last one."""

    request: Request
    tries: int = 0
    strikes: int = 0
    started: float = 0.0
    answer: Answer | None = None

    def failure(self, reason: str = "") -> Failure:
        last = self.answer or Answer("lost", 0, "no answer")
        return Failure(self.request.id, last.status, reason or last.reason)


class Dispatcher:
    """Delivers requests through ``send``, which may be called from up to ``most`` threads at once.

    ``patience``: seconds without a sign of life after which the endpoint counts as gone: what was sent and not
    acknowledged by then is given up, what was not sent is left. ``done(request, answer, failure or None)`` is called
    once for each request that came to an end, never from two threads at once; ``tick`` about every ``TICK`` seconds;
    ``reset`` when the endpoint has failed for a while. After ``run``: ``left`` requests were taken but are neither done
    nor given up, because of ``interrupted`` or ``gave_up``; ``retries`` is what was sent beyond once each.
    """

    def __init__(
        self,
        send: Send,
        done: Done,
        *,
        most: int = 64,
        patience: float = 60.0,
        tick: Callable[[], None] = lambda: None,
        reset: Callable[[], None] = lambda: None,
    ) -> None:
        self._send, self._done, self._tick, self._reset = send, done, tick, reset
        self._patience = patience
        self._throttle, self._breaker = Throttle(most), Breaker(patience)
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # for workers
        self._room = threading.Condition(lock)  # for the producer
        self._ready: deque[_Entry] = deque()
        self._later: list[tuple[float, int, _Entry]] = []
        self._flying: set[int] = set()  # ids of entries
        self._queues: dict[str, deque[_Entry] | None] = {}  # by id: what waits for the one that is on its way
        self._held = self._in_flight = self._number = 0
        self._workers: list[threading.Thread] = []
        self._idle = 0
        self._half_open, self._probe = False, 0.0
        self._stop = self._closing = False
        self._ended = threading.Event()
        self._trouble: BaseException | None = None
        self._entries: dict[int, _Entry] = {}
        self.left = self.retries = 0
        self.gave_up = self.interrupted = False
