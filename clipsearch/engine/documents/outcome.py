"""What becomes of one operation: as little as a feed of thousands a second needs of ``concurrent.futures.Future``.

A ``Future`` makes a lock and a condition of its own each time, which cost a twentieth of the engine's time on a put.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
_LOCK = threading.Lock()  # one for all: it is held for a moment only
log = logging.getLogger(__name__)


class Outcome(Generic[T]):
    """A value or an error to come; ``finish`` brings it, once. Safe for threads."""

    __slots__ = ("_callbacks", "_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = False
        self._error: BaseException | None = None
        self._value: T | None = None
        self._callbacks: tuple[Callable[[Any], object], ...] = ()

    def finish(self, error: BaseException | None, value: T | None = None) -> None:
        """It is there: tells whoever waits, on this thread. Raises ``RuntimeError`` the second time."""
        with _LOCK:
            if self._done:
                raise RuntimeError("this operation is finished already: nobody would hear of another outcome")
            self._error, self._value = error, value
            self._done = True
            callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            self._tell(callback)

    def _tell(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("telling what became of an operation failed")

    def done(self) -> bool:
        """Whether it is there."""
        return self._done

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls ``fn`` once it is there, on the thread that brings it; at once when it is there already.

        What ``fn`` raises is logged, and goes no further.
        """
        with _LOCK:
            if not self._done:
                self._callbacks = (*self._callbacks, fn)
                return
        self._tell(fn)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, None without one; waits for it. Raises ``TimeoutError`` after ``timeout`` seconds."""
        if not self._done:
            there = threading.Event()
            self.add_done_callback(lambda _: there.set())
            if not there.wait(timeout):
                raise TimeoutError
        return self._error

    def result(self, timeout: float | None = None) -> T:
        """The value; waits for it. Raises the error, and ``TimeoutError`` after ``timeout`` seconds."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return cast(T, self._value)
