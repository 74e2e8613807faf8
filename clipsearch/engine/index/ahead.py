"""Work that another thread does while a query goes on: only such that runs outside the interpreter is worth it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
OTHERS = min(4, (os.cpu_count() or 1) - 1)  # more would take turns with the queries' own threads
_threads = ThreadPoolExecutor(max(1, OTHERS), thread_name_prefix="query-ahead")


class Ahead(Generic[T]):
    """What ``function`` returns or raises; with ``ahead`` another thread begins at once, if one is free."""

    __slots__ = ("_function", "_future")

    def __init__(self, function: Callable[[], T], *, ahead: bool = True) -> None:
        self._function = function
        self._future: Future[T] | None = None
        if ahead and OTHERS > 0:
            try:
                self._future = _threads.submit(function)
            except RuntimeError:  # the interpreter shuts down
                self._future = None

    def result(self) -> T:
        """The outcome; what no thread has begun is done here, so that busy threads hold nobody up."""
        if self._future is None or self._future.cancel():
            return self._function()
        return self._future.result()
