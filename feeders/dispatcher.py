"""Many requests in flight, each retried while that makes sense, memory bounded, nothing lost in silence.

pyvespa's own loops (``Vespa.feed_iterable``) are not used, because of faults that a feed of real data meets: a
producer that raises leaves the consumer waiting for ever; 503, which a restarting container answers, is not retried;
their queues hold thousands of documents. Here a producer that raises is an error like any other, after what was taken
has been delivered, and at most ``HELD`` requests are in memory.

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
_SILENCE = Answer("lost", 0, "no answer")
UNSURE = "it may have been done, and doing it twice would be wrong"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation was given up; ``status`` is the endpoint's HTTP status, 0 when there was no answer."""

    id: str
    status: int
    reason: str


Send = Callable[[Request], Answer]
Done = Callable[[Request, Answer, Failure | None], None]


@dataclass(slots=True, eq=False)
class _Entry:
    """A request on its way. ``strikes``: its failures while others succeeded; ``answer``: its last one."""

    request: Request
    sent: bool = False
    strikes: int = 0
    tries: int = 0
    started: float = 0.0
    answer: Answer = _SILENCE


class Dispatcher:
    """Delivers requests through ``send``, which is called from up to ``most`` threads at once.

    ``patience``: seconds without a sign of life after which the endpoint counts as gone: what was sent and not
    acknowledged by then is given up, what was not sent is left. ``done(request, answer, failure or None)`` is called
    once for each request that came to an end, never from two threads at once; ``tick`` about every ``TICK`` seconds;
    ``reset`` when the endpoint has failed for a while. After ``run``: ``left`` requests were taken and are neither done
    nor given up, because of ``interrupted`` or ``gave_up``; ``retries`` counts what was sent beyond once each.
    """

    def __init__(
        self, send: Send, done: Done, *, most: int = 64, patience: float = 60.0,
        tick: Callable[[], None] = lambda: None, reset: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._send, self._done, self._tick, self._reset = send, done, tick, reset
        self._throttle, self._breaker = Throttle(most), Breaker(patience)
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ready: deque[_Entry] = deque()
        self._later: list[tuple[float, int, _Entry]] = []  # a heap by the time of the next attempt
        self._flying: set[_Entry] = set()
        self._queues: dict[str, deque[_Entry]] = {}  # by id that is on its way: what comes after it
        self._held = self._idle = self._number = 0
        self._risked = 0  # sent, and neither acknowledged nor given up
        self._last_success = self._next_probe = 0.0
        self._half_open = self._stop = False
        self._trouble: BaseException | None = None
        self._producing = False
        self.left = self.retries = 0
        self.gave_up = self.interrupted = False

    def run(self, requests: Iterable[Request]) -> None:
        """Take and deliver ``requests`` until they end, the endpoint counts as gone, or Ctrl-C.

        An error of the producer is raised after everything taken has been delivered, one of ``send``, ``done`` or
        ``tick`` at once. Ctrl-C finishes what is in flight and leaves the rest; a second one is raised.
        """
        clock = threading.Thread(target=self._keep_time, name="feed-clock", daemon=True)
        clock.start()
        producer = iter(requests)
        try:
            with self._interruptible():
                self._take_all(producer)
                self._drain()
        finally:
            with self._work:
                self._stop = True
                self._leave()
            self._ended.set()
            clock.join()
            close = getattr(producer, "close", None)
            if close:
                close()
        if self._trouble is not None:
            raise self._trouble

    # ---- the producer's side, in the caller's thread

    def _take_all(self, producer: Iterator[Request]) -> None:
        while not self._stop:
            self._producing = True
            try:
                request = next(producer, None)
            except KeyboardInterrupt:
                self._interrupt()
                return
            except BaseException as error:
                self._trouble = self._trouble or error
                return
            finally:
                self._producing = False
            if request is None or not self._submit(request):
                return

    def _submit(self, request: Request) -> bool:
        with self._room:
            if self._held >= HELD:  # and then until half of it is gone, so that threads change places seldom
                while self._held > HELD // 2 and not self._stop:
                    self._room.wait(0.2)
            if self._stop:
                self.left += 1
                return False
            self._held += 1
            self._breaker.asked(time.monotonic())
            queue = self._queues.get(request.id)
            if queue is not None:
                queue.append(_Entry(request))
                return True
            self._queues[request.id] = deque()
            self._ready.append(_Entry(request))
            if self._idle:
                self._work.notify()
            else:
                self._hire()
        return True

    def _drain(self) -> None:
        with self._room:
            while self._held and not (self._stop and not self._flying):
                self._room.wait(0.2)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """While this runs, Ctrl-C stops the producer where it is, but nothing of ours between two lines."""

        def handle(number: int, frame: Any) -> None:
            if self._producing or self.interrupted:
                raise KeyboardInterrupt
            self._interrupt()

        ours = threading.current_thread() is threading.main_thread()
        ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self) -> None:
        self.interrupted = self._stop = True  # no lock: a signal handler may interrupt whoever has it

    # ---- the workers

    def _hire(self) -> None:
        if len(self._threads) < self._throttle.target:
            thread = threading.Thread(target=self._run_worker, name="feed", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run_worker(self) -> None:
        entry: _Entry | None = None
        try:
            while True:
                with self._work:
                    if entry is not None:
                        self._settle(entry)
                    entry = self._next()
                if entry is None:
                    return
                entry.answer = self._send(entry.request)
        except BaseException as error:  # it must reach run(), not die with this thread
            with self._work:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._trouble = self._trouble or error
        self._stop = True
        self._flying.clear()
        self._work.notify_all()
        self._room.notify_all()

    def _next(self) -> _Entry | None:
        while not self._stop:
            now = time.monotonic()
            if self._ready and self._allowed(now):
                entry = self._ready.popleft()
                self.retries += entry.sent
                self._risked += not entry.sent
                entry.sent, entry.started = True, now
                self._flying.add(entry)
                return entry
            self._idle += 1
            self._work.wait()
            self._idle -= 1
        return None

    def _allowed(self, now: float) -> bool:
        if self._breaker.failing and not self._ready[0].sent and self._risked >= self._throttle.target:
            return False  # while nobody knows whether it is there, nothing new is put at risk
        if not self._half_open:
            return len(self._flying) < self._throttle.target
        if now < self._next_probe:
            return False
        self._next_probe = now + random.uniform(0.3, 0.7)
        return True

    def _settle(self, entry: _Entry) -> None:
        if entry not in self._flying:
            return  # given up meanwhile
        now, answer = time.monotonic(), entry.answer
        self._flying.remove(entry)
        match answer.verdict:
            case "done" | "unmet" | "refused":
                self._last_success = now
                self._throttle.acknowledged(len(self._flying) + 1, now)
                if self._breaker.alive(now):
                    self._recover(now)
                self._finish(entry, self._failure(entry) if answer.verdict == "refused" else None)
                return
            case "overload":
                self._throttle.overloaded()
        self._breaker.failed(now)
        if answer.verdict == "trouble":
            self._finish(entry, self._failure(entry))
        elif answer.verdict == "lost" and not entry.request.repeatable:
            self._finish(entry, Failure(entry.request.id, answer.status, f"{answer.reason}: {UNSURE}"))
        else:
            self._retry(entry, now)

    def _retry(self, entry: _Entry, now: float) -> None:
        if entry.answer.verdict != "overload":  # that one is as good as any other, it only came too early
            entry.strikes += self._last_success > entry.started
        if entry.strikes >= ATTEMPTS:
            self._finish(entry, self._failure(entry))
            return
        # jitter: requests that failed together must not come back together
        wait = min(LONGEST_WAIT, 0.1 * 2**entry.tries) * random.uniform(0.5, 1.5)
        entry.tries += 1
        self._number += 1
        heapq.heappush(self._later, (now + wait, self._number, entry))

    def _recover(self, now: float) -> None:
        """The endpoint is back: nobody waits longer than a moment any more."""
        self._half_open = False
        self._later = [
            (min(due, now + random.uniform(0, 0.2)), number, entry) if entry.tries > 3 else (due, number, entry)
            for due, number, entry in self._later
        ]
        heapq.heapify(self._later)

    def _failure(self, entry: _Entry) -> Failure:
        return Failure(entry.request.id, entry.answer.status, entry.answer.reason)

    def _finish(self, entry: _Entry, failure: Failure | None) -> None:
        queue = self._queues[entry.request.id]
        if queue:
            self._ready.append(queue.popleft())
        else:
            del self._queues[entry.request.id]
        self._held -= 1
        self._risked -= 1
        if not self._held:
            self._breaker.idle()
        if self._held <= HELD // 2:
            self._room.notify_all()
        self._done(entry.request, entry.answer, failure)

    # ---- the clock

    def _keep_time(self) -> None:
        try:
            while not self._ended.wait(TICK):
                if self._look():
                    self._reset()
                self._tick()
            self._tick()
        except BaseException as error:
            with self._work:
                self._fail(error)

    def _look(self) -> bool:
        """Move on what is due; returns whether the breaker has just become half-open."""
        with self._work:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                self._ready.appendleft(heapq.heappop(self._later)[2])
            state = self._breaker.state(now)
            turned = state == "half-open" and not self._half_open
            self._half_open = state == "half-open"
            if state == "open" and not self._stop:
                self._give_up()
            if self._stop:
                self._leave()
            elif self._ready:
                wanted = 1 if self._half_open else min(len(self._ready), self._throttle.target - len(self._flying))
                self._work.notify(max(0, wanted))
                if wanted > self._idle:
                    self._hire()
            return turned

    def _give_up(self) -> None:
        """What was sent fails for good; the rest, which was not, is left."""
        self.gave_up = self._stop = True
        waiting = [entry for _, _, entry in self._later] + [entry for entry in self._ready if entry.sent]
        for entry in [*self._flying, *waiting]:
            self._held -= 1
            self._done(entry.request, entry.answer, self._failure(entry))
        self._flying.clear()
        self._later.clear()
        self._ready = deque(entry for entry in self._ready if not entry.sent)

    def _leave(self) -> None:
        """After a stop: what is not in flight will not be sent; what comes back unfinished neither."""
        self.left += self._held - len(self._flying)
        self._held = len(self._flying)
        self._later.clear()
        self._ready.clear()
        self._queues = {entry.request.id: deque() for entry in self._flying}
        self._work.notify_all()
        self._room.notify_all()
