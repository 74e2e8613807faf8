"""From ASGI to ``Request`` and back: bodies read within bounds, handlers kept off the event loop.

A search runs in a thread of the executor; a visit, which may take minutes, in one of a few threads of its own, so that
visits never keep queries waiting. Feeding goes a faster way: its handler gives an answer to come, so thousands of
documents may wait for one group commit without a thread each. Served inline (``clipsearch/serving/inline.py``), a
request is read in the server's thread and answered in the one that did its work; on an event loop, all that one commit
completes are told in one go.
Nothing that goes wrong in a handler reaches a client as a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import parse_qsl

from clipsearch.engine.http.bodies import MAX_BODY, Bodies, BodyError, Held, Receive
from clipsearch.engine.http.messages import Answer, Request, Response, json_response
from clipsearch.serving.inline import is_inline, on_loop, until

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_INLINE = 256 << 10
MAX_RUNNING = 512
MAX_VISITS = 64
VISIT_THREADS = 4
# document/v1 paths that name many documents.
_VISIT = re.compile(r"/document/v1/?|/document/v1/[^/]*/[^/]*/(?:docid|(?:group|number)/[^/]*)/?")
log = logging.getLogger(__name__)


class Handler(Protocol):
    """What one port answers with."""

    def handle(self, request: Request) -> Response:
        """The answer; may take long: it is called in a thread."""

    def feed(self, request: Request) -> Answer | None:
        """The answer to come to a document operation, at once; None when ``request`` is something else."""


class App:
    """An ASGI application over ``handler``, which may be replaced at any time.

    ``max_body`` bounds a request's bytes, as sent and as un-gzipped. ``host_allowed`` is asked for each request's Host
    header (None: any): what a browser was tricked into sending here is refused.
    """

    def __init__(
        self,
        handler: Handler,
        executor: Executor,
        max_body: int = MAX_BODY,
        host_allowed: Callable[[str], bool] | None = None,
    ) -> None:
        self.handler = handler
        self._executor = executor
        self._visits: Executor | None = None
        self._bodies = Bodies(max_body)
        self._host_allowed = host_allowed
        self._running = {False: 0, True: 0}  # searches and the like; visits
        self._commits: Commits | None = None
        self._lock = threading.RLock()  # as that of ``Bodies``

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Websockets are closed."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        path = _raw_path(scope)
        held = Held(self._bodies)
        try:
            response = await self._respond(scope, path, receive, held)
            await self._send(scope["method"], path, response, send)
        finally:
            held.release()

    async def _respond(self, scope: Scope, path: str, receive: Receive, held: Held) -> Response:
        headers = {_header_name(name): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host")
        if self._host_allowed is not None and host is not None and not self._host_allowed(host):
            return _message(403, path, f"The Host header '{host[:200]}' does not name this machine")
        try:
            body = await self._bodies.read(headers, receive, held)
        except BodyError as error:
            return _message(error.status, path, str(error))
        query = _parsed_query(scope["query_string"])
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        try:
            return await self._dispatch(Request(method, path, query, headers, body))
        except Exception as error:  # the last resort: the client is told in a sentence, the log has the traceback
            log.exception("%s %s failed", method, path)
            return _message(500, path, f"internal error of the local engine: {type(error).__name__}")

    async def _dispatch(self, request: Request) -> Response:
        if len(request.body) <= MAX_INLINE:
            answer = self.handler.feed(request)
            if answer is not None:
                return answer.result() if answer.done() else await self._committed(answer)
        visit = _VISIT.fullmatch(request.path) is not None
        most = MAX_VISITS if visit else MAX_RUNNING
        if not self._enter(visit, most):
            text = f"Rejecting execution due to overload: {most} requests already enqueued"
            return _message(429, request.path, text)
        try:
            answer = self._pool(visit).submit(self.handler.handle, request)
            if is_inline():
                await until(answer)
                return answer.result()
            return await asyncio.wrap_future(answer)
        except CancelledError:  # by the executor, which shuts down: nobody has begun with it
            return _message(503, request.path, "the engine is stopping")
        finally:
            with self._lock:
                self._running[visit] -= 1

    def _enter(self, visit: bool, most: int) -> bool:
        """Counts one more request that runs, unless there are ``most``; whether it may run."""
        with self._lock:
            free = self._running[visit] < most
            self._running[visit] += free
        return free

    async def _committed(self, answer: Answer) -> Response:
        if is_inline():
            await until(answer)
            return answer.result()
        loop = asyncio.get_running_loop()
        if self._commits is None or self._commits.loop is not loop:
            self._commits = Commits(loop)
        await self._commits.wait(answer)
        return answer.result()

    def _pool(self, visit: bool) -> Executor:
        if not visit:
            return self._executor
        with self._lock:
            if self._visits is None:
                self._visits = ThreadPoolExecutor(VISIT_THREADS, thread_name_prefix="visit")
        return self._visits

    async def _send(self, method: str, path: str, response: Response, send: Send) -> None:
        body = response.body
        length = len(body) if isinstance(body, bytes) else -1
        await send(_start(response.status, response.headers, response.content_type, length))
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
            return
        await on_loop()
        if method != "HEAD":
            await self._stream(iter(body), _VISIT.fullmatch(path) is not None, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, chunks: Iterator[bytes], visit: bool, send: Send) -> None:
        loop = asyncio.get_running_loop()
        try:
            while block := await loop.run_in_executor(self._pool(visit), _next_block, chunks):
                await send({"type": "http.response.body", "body": block, "more_body": True})
        except Exception:  # too late for a status: the connection breaks, so that nobody takes a part for the whole
            log.exception("a streamed answer failed")
            raise


class Commits:
    """Wakes those who wait for document operations on ``loop``: once for all that were completed since the last time.

    Waking the loop from another thread is a system call, which a batch of a thousand documents need not make a
    thousand times.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[asyncio.Future[None]] = deque()
        self._woken = False

    async def wait(self, answer: Answer) -> None:
        """Returns when ``answer`` is there."""
        waiter = self.loop.create_future()

        def tell(_: Any) -> None:
            self._done.append(waiter)
            if not self._woken:
                self._woken = True
                try:
                    self.loop.call_soon_threadsafe(self._wake)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    self._done.clear()

        answer.add_done_callback(tell)
        await waiter

    def _wake(self) -> None:
        self._woken = False  # before the queue is emptied: what comes after is woken for again
        while self._done:
            waiter = self._done.popleft()
            if not waiter.done():  # its client may have gone
                waiter.set_result(None)


def _next_block(chunks: Iterator[bytes], size: int = 64 << 10) -> bytes:
    """The next chunks joined to about ``size`` bytes; b"" at the end."""
    taken, length = [], 0
    for chunk in chunks:
        taken.append(chunk)
        length += len(chunk)
        if length >= size:
            break
    return b"".join(taken)


@lru_cache(maxsize=256)
def _header_name(name: bytes) -> str:
    return name.decode("latin-1").lower()


@lru_cache(maxsize=1024)
def _start(status: int, headers: tuple[tuple[str, str], ...], content_type: str, length: int) -> dict[str, Any]:
    """The first event of an answer; ``length``: of its body, -1 when that is streamed. Not to be changed."""
    sent = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    if status != 204:
        sent.append((b"content-type", content_type.encode("latin-1")))
    if length >= 0:
        sent.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": sent}


def _parsed_query(text: bytes) -> tuple[tuple[str, str], ...]:
    return _short_query(text) if len(text) < 64 else _long_query(text)


def _long_query(text: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True)) if text else ()


_short_query = lru_cache(maxsize=256)(_long_query)  # a feed gives the same few with each document


def _raw_path(scope: Scope) -> str:
    raw = scope.get("raw_path") or scope["path"].encode()
    path: str = raw.decode("latin-1").split("?", 1)[0]
    if "://" in path[:10]:  # absolute-form, as a proxy sends it
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    return path


def _message(status: int, path: str, message: str) -> Response:
    return json_response(status, {"pathId": path, "message": message})


def configure_logging() -> None:
    """Engine warnings and tracebacks go to stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
