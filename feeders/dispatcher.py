"""Many operations in flight, each retried while that makes sense, memory bounded, nothing lost in silence.

pyvespa's own loop (``Vespa.feed_iterable``) is not used, because of four faults that a feed of real data
meets; its session remains the transport. (1) A producer that raises leaves the consumer thread waiting for
ever: here it is an error like any other, after what is in flight has finished. (2) The synchronous path
retries 429 but not 503, which is what a restarting container answers. (3) Its queue and futures hold
thousands of documents: here ``in_flight`` at most. (4) An id with ``/`` or ``..`` reaches another path:
``endpoint.parse_id`` refuses it before it is sent.

Order is kept per id: an operation waits while another one on the same id is in flight.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clipsearch.errors import ClipsearchError, RejectedError, UnreachableError

RETRIED = frozenset({429, 503})
ATTEMPTS = 10  # for one operation, while others succeed
LONGEST_WAIT = 5.0  # seconds between two attempts


@dataclass(frozen=True, slots=True)
class Operation:
    """One idempotent operation on the document ``id``; ``send`` returns when it is acknowledged, or raises."""

    id: str
    send: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation was given up; ``status`` is the endpoint's HTTP status, 0 when there was no answer."""

    id: str
    status: int
    reason: str


class Dispatcher:
    """Runs operations on ``workers`` threads.

    ``patience``: seconds without a single success after which the endpoint counts as gone: every operation in
    flight is then given up and no further one is taken. ``done(id, failure or None)`` is called once for each
    operation taken, from the worker threads but never from two at once.
    """

    def __init__(
        self,
        done: Callable[[str, Failure | None], None],
        *,
        workers: int = 8,
        in_flight: int = 32,
        patience: float = 60.0,
    ) -> None:
        self._done = done
        self._workers = workers
        self._slots = threading.Semaphore(in_flight)
        self._patience = patience
        self._changed = threading.Condition()
        self._ids: set[str] = set()
        self._stop = threading.Event()
        self._last_success = 0.0
        self._trouble: BaseException | None = None

    @property
    def gave_up(self) -> bool:
        """Whether the endpoint stayed silent longer than ``patience``."""
        return self._stop.is_set()

    def run(self, operations: Iterable[Operation]) -> None:
        """Take and run ``operations`` until they end or the endpoint counts as gone.

        An error of the producer, or of ``done``, is raised after everything in flight has been finished.
        """
        self._last_success = time.monotonic()
        pool = ThreadPoolExecutor(self._workers, "feed")
        try:
            for operation in operations:
                self._take(operation.id)
                if self._stop.is_set():
                    self._release(operation.id)
                    break
                pool.submit(self._run_one, operation)
        except KeyboardInterrupt:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=True)
        if self._trouble is not None:
            raise self._trouble

    def _take(self, document_id: str) -> None:
        self._slots.acquire()
        with self._changed:
            self._changed.wait_for(lambda: document_id not in self._ids)
            self._ids.add(document_id)

    def _release(self, document_id: str) -> None:
        with self._changed:
            self._ids.discard(document_id)
            self._changed.notify_all()
        self._slots.release()

    def _run_one(self, operation: Operation) -> None:
        try:
            failure = self._deliver(operation)
            with self._changed:
                self._done(operation.id, failure)
        except BaseException as error:  # a fault of ours: it must reach run(), not die with this thread
            self._trouble = error
            self._stop.set()
        finally:
            self._release(operation.id)

    def _deliver(self, operation: Operation) -> Failure | None:
        started, attempt = time.monotonic(), 0
        while True:
            try:
                operation.send()
            except ClipsearchError as error:
                if not self._try_again(error, attempt, started):
                    return Failure(operation.id, getattr(error, "status", 0), str(error))
            else:
                self._last_success = time.monotonic()
                return None
            attempt += 1

    def _try_again(self, error: ClipsearchError, attempt: int, started: float) -> bool:
        retried = isinstance(error, UnreachableError)
        retried |= isinstance(error, RejectedError) and error.status in RETRIED
        others_succeed = self._last_success > started
        if not retried or (others_succeed and attempt + 1 >= ATTEMPTS):
            return False
        # a producer that takes its time between two operations is no sign of a lost endpoint
        if time.monotonic() - max(self._last_success, started) > self._patience:
            self._stop.set()
        # jitter: workers that failed together must not come back together
        return not self._stop.wait(min(LONGEST_WAIT, 0.1 * 2**attempt) * random.uniform(0.5, 1.5))
