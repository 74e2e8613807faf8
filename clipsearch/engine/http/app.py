"""From ASGI to ``Request`` and back: bodies read and un-gzipped within bounds, handlers kept off the event loop.

A search or visit runs in a thread. Feeding goes a faster way: its handler gives a future at once, so thousands of
documents may wait for one group commit without a thread each. Nothing that goes wrong in a handler reaches a client
as a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import Executor, Future
from typing import Any, Protocol
from urllib.parse import parse_qsl

from clipsearch.engine.http.messages import Request, Response, json_response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY = 64 << 20
MAX_INLINE = 256 << 10
MAX_RUNNING = 512
_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
log = logging.getLogger(__name__)


class Handler(Protocol):
    """What one port answers with."""

    def handle(self, request: Request) -> Response:
        """The answer; may take long: it is called in a thread."""

    def feed(self, request: Request) -> Future[Response] | None:
        """The answer to come to a document operation, at once; None when ``request`` is something else."""


class BodyError(Exception):
    """A body that is refused with ``status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class App:
    """An ASGI application over ``handler``, which may be replaced at any time.

    ``max_body`` bounds a request's bytes, as sent and as un-gzipped.
    """

    def __init__(self, handler: Handler, executor: Executor, max_body: int = MAX_BODY) -> None:
        self.handler = handler
        self._executor = executor
        self._max_body = max_body
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Websockets are closed."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        response = await self._respond(scope, receive)
        await self._send(scope["method"], response, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path = _raw_path(scope)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            body = decompress(await self._body(headers, receive), headers, self._max_body)
        except BodyError as error:
            return _message(error.status, path, str(error))
        query = tuple(parse_qsl(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True))
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        request = Request(method, path, query, headers, body)
        try:
            return await self._dispatch(request)
        except Exception as error:  # the last resort: the client is told in a sentence, the log has the traceback
            log.exception("%s %s failed", method, path)
            return _message(500, path, f"internal error of the local engine: {type(error).__name__}")

    async def _dispatch(self, request: Request) -> Response:
        if len(request.body) <= MAX_INLINE:
            answer = self.handler.feed(request)
            if answer is not None:
                return await asyncio.wrap_future(answer)
        if self._running >= MAX_RUNNING:
            return _message(
                429,
                request.path,
                f"Rejecting execution due to overload: {self._running} requests already enqueued",
            )
        self._running += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self.handler.handle, request)
        finally:
            self._running -= 1

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        length = headers.get("content-length", "0")
        too_large = f"the request body is larger than {self._max_body} bytes"
        if length.isdecimal() and int(length) > self._max_body:
            raise BodyError(413, too_large)
        chunks, size = [], 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise BodyError(400, "the client went away in the middle of its request")
            chunk = event.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                raise BodyError(413, too_large)
            chunks.append(chunk)
            if not event.get("more_body", False):
                return b"".join(chunks)

    async def _send(self, method: str, response: Response, send: Send) -> None:
        body = response.body
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        if response.status != 204:
            headers.append((b"content-type", response.content_type.encode("latin-1")))
        if isinstance(body, bytes):
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
            return
        if method != "HEAD":
            await self._stream(iter(body), send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, chunks: Iterator[bytes], send: Send) -> None:
        loop = asyncio.get_running_loop()
        try:
            while block := await loop.run_in_executor(self._executor, _next_block, chunks):
                await send({"type": "http.response.body", "body": block, "more_body": True})
        except Exception:  # too late for a status: the connection breaks, so that nobody takes a part for the whole
            log.exception("a streamed answer failed")
            raise


def _next_block(chunks: Iterator[bytes], size: int = 64 << 10) -> bytes:
    """The next chunks joined to about ``size`` bytes; b"" at the end."""
    taken, length = [], 0
    for chunk in chunks:
        taken.append(chunk)
        length += len(chunk)
        if length >= size:
            break
    return b"".join(taken)


def decompress(body: bytes, headers: dict[str, str], limit: int) -> bytes:
    """``body`` without its Content-Encoding.

    Raises ``BodyError``: 400 damaged, 413 more than ``limit`` bytes, 415 another encoding than gzip.
    """
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise BodyError(415, f"Content-Encoding '{encoding}' is not supported: send gzip, or none")
    decoder = zlib.decompressobj(wbits=31)
    try:
        plain = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise BodyError(400, f"the gzip body is damaged: {error}") from error
    if len(plain) > limit:
        raise BodyError(413, f"the request body is larger than {limit} bytes")
    if not decoder.eof:
        raise BodyError(400, "the gzip body is cut short")
    return plain


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
