"""Requests that are answered where they arrive: without an event loop, as long as nothing needs one.

An event loop costs a request more than its work does: a task, two or three wake-ups of another thread, each a system
call and a change of who holds Python's lock. ``InlineLoop`` stands in for the loop that the server knows: what the
server wants called soon is called at once, in the server's thread, and a coroutine goes on in whichever thread brings
what it waits for. A step must be short, as on a loop. What needs a real loop (timeouts, executors) awaits
``on_loop()`` first. Under a real event loop all of this does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Promise(Protocol):
    """What an inline coroutine can wait for."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> object:
        """Calls ``fn`` once it is there, from any thread."""


class _OnLoop:
    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        if asyncio._get_running_loop() is None:
            yield self


_ON_LOOP = _OnLoop()


class _Until:
    __slots__ = ("_promise",)

    def __init__(self, promise: Promise) -> None:
        self._promise = promise

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._promise


def on_loop() -> Awaitable[None]:
    """Awaited inline, the coroutine goes on as a task of the event loop; awaited on a loop, nothing happens."""
    return _ON_LOOP


def until(promise: Promise) -> Awaitable[None]:
    """Awaited inline, the coroutine goes on in the thread that brings ``promise``; not for coroutines on a loop."""
    return _Until(promise)


def is_inline() -> bool:
    """Whether the caller runs in a thread without an event loop."""
    return asyncio._get_running_loop() is None


_NOTHING = object()  # what a bare ``yield`` gives, which waits for nothing that could ever come


def _go_on(resume: Callable[[Any], Any], value: Any) -> Any:
    """What a coroutine that goes on waits for next; None when it has ended. Raises nothing."""
    try:
        awaited = resume(value)
    except StopIteration:
        return None
    except BaseException:
        log.exception("a request failed")
        return None
    return _NOTHING if awaited is None else awaited


class _Run:
    """One coroutine on its way; what the server takes for its task."""

    __slots__ = ("_coroutine", "_loop")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine, self._loop = coroutine, loop

    def step(self, _: Any = None) -> None:
        """Goes on until the coroutine waits again, or ends. Raises nothing."""
        awaited = _go_on(self._coroutine.send, None)
        if awaited is None:
            return
        try:
            if type(awaited) is _OnLoop:
                self._loop.call_soon_threadsafe(self._loop.create_task, self._coroutine)
            else:
                awaited.add_done_callback(self.step)
        except (
            BaseException
        ) as error:  # the loop is closed, or this is nothing to wait for: what it holds must be freed
            _go_on(self._coroutine.throw, error)
            self._coroutine.close()

    def cancel(self, msg: Any = None) -> bool:
        """As a task that cannot be cancelled."""
        return False


class _Future:
    """A future of ``loop`` that any thread may set."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._future = loop, loop.create_future()

    def set_result(self, value: Any) -> None:
        """Sets it."""
        self._loop.call_soon_threadsafe(self._future.set_result, value)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._future.__await__()


class InlineLoop:
    """As much of an event loop as the server uses; ``loop`` is the real one, for those who ask for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def create_future(self) -> _Future:
        """What the server waits for, on the real loop, when it shall stop."""
        return _Future(self._loop)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:
        """Calls it now. Raises nothing: the server would not expect it."""
        try:
            callback(*args)
        except BaseException:
            log.exception("a request failed")

    call_soon_threadsafe = call_soon

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> _Run:
        """Starts ``coroutine`` here and now."""
        run = _Run(coroutine, self._loop)
        run.step()
        return run


def portable(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """ASGI application ``app``, whose ``receive`` and ``send`` may be awaited inline and, after ``on_loop``, there."""

    def started(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> Awaitable[None]:
        return app(scope, _portable(receive), _portable(send))

    return started


def _portable(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any) -> Any:
        promise = call(*args)
        loop = asyncio._get_running_loop()
        return promise if loop is None or not hasattr(promise, "add_done_callback") else _on(loop, promise)

    return called


async def _on(loop: asyncio.AbstractEventLoop, promise: Any) -> Any:
    """What the server's ``promise`` brings, awaited on ``loop``."""
    future = loop.create_future()
    # Not a closure over the promise: the server keeps the callback, and nobody would ever free the two of them.
    promise.add_done_callback(partial(_told, loop, future))
    try:
        return await future
    except asyncio.CancelledError:
        promise.cancel()
        raise


def _told(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], promise: Any) -> None:
    loop.call_soon_threadsafe(_settle, future, promise)


def _settle(future: asyncio.Future[Any], promise: Any) -> None:
    if future.done():
        return
    try:
        future.set_result(promise.result())
    except BaseException as error:
        future.set_exception(error)
