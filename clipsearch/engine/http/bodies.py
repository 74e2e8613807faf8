"""Request bodies: read whole within bounds, un-gzipped within bounds, and bounded all together.

A body is counted from its first byte until its request is answered, so that many clients that send slowly cannot hold
more memory than ``MAX_HELD`` between them; the next one is told to come back (429).
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from clipsearch.serving.inline import on_loop

MAX_BODY = 64 << 20
MAX_MEMBERS = 100
MAX_HELD = 256 << 20
PATIENCE = 60.0  # seconds to wait for the next part of a body
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyError(Exception):
    """A body that is refused with ``status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Held:
    """The bytes that one request holds of ``Bodies``; ``release`` gives them back."""

    __slots__ = ("_bodies", "size")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size = 0

    def add(self, size: int) -> None:
        """Counts ``size`` bytes more. Raises ``BodyError`` (429) when all bodies together are too many."""
        self._bodies.take(size)
        self.size += size

    def release(self) -> None:
        """Gives all bytes back."""
        self._bodies.give_back(self.size)
        self.size = 0


class Bodies:
    """The bodies that are held at once; one is of ``limit`` bytes at most, all of ``max_held``."""

    def __init__(self, limit: int = MAX_BODY, max_held: int = MAX_HELD) -> None:
        self.limit = limit
        self.max_held = max(max_held, limit)
        self.held = 0
        self._lock = threading.RLock()  # the garbage collector may end a request at any place, this one too

    def take(self, size: int) -> None:
        """Counts ``size`` bytes. Raises ``BodyError`` (429) when they are too many."""
        with self._lock:
            if self.held and self.held + size > self.max_held:
                raise BodyError(429, f"Rejecting execution due to overload: {self.held} bytes of requests already held")
            self.held += size

    def give_back(self, size: int) -> None:
        """Counts ``size`` bytes less."""
        with self._lock:
            self.held -= size

    async def read(self, headers: Mapping[str, str], receive: Receive, held: Held) -> bytes:
        """The body as the handler wants it; its bytes are counted in ``held``.

        Raises ``BodyError``: 400 cut off or damaged, 408 too slow, 413 larger than the limit, 415 an unknown
        Content-Encoding, 429 too many bytes held.
        """
        announced = headers.get("content-length", "")
        length = int(announced) if announced.isascii() and announced.isdecimal() and len(announced) < 19 else -1
        if length > self.limit:
            raise self._too_large()
        if length == 0:
            return b""
        body = await self._receive(length, receive, held)
        encoding = headers.get("content-encoding", "")
        if not encoding or not body:
            return body
        plain = decompress(body, encoding, self.limit)
        if plain is not body:
            held.add(max(0, len(plain) - len(body)))
        return plain

    async def _receive(self, length: int, receive: Receive, held: Held) -> bytes:
        """All chunks; when ``length`` bytes were announced (else -1), no more is waited for after the last of them."""
        chunks: list[bytes] = []
        size = 0
        while True:
            event = await (_next(receive) if chunks else receive())
            if event["type"] == "http.disconnect":
                raise BodyError(400, "the client went away in the middle of its request")
            chunk: bytes = event.get("body", b"")
            size += len(chunk)
            if size > self.limit:
                raise self._too_large()
            held.add(len(chunk))
            if size == length or not event.get("more_body", False):
                break
            chunks.append(chunk)
        if size < length:
            raise BodyError(400, f"the request body has {size} bytes instead of the {length} announced")
        return b"".join((*chunks, chunk)) if chunks else chunk

    def _too_large(self) -> BodyError:
        return BodyError(413, f"the request body is larger than {self.limit} bytes")


async def _next(receive: Receive) -> MutableMapping[str, Any]:
    """The next event of a body whose beginning is held already. Raises ``BodyError`` (408) when it does not come."""
    await on_loop()
    try:
        async with asyncio.timeout(PATIENCE):
            return await receive()
    except TimeoutError as error:
        raise BodyError(408, f"the rest of the request body did not come within {PATIENCE:g} s") from error


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """``body`` without its Content-Encoding; gzip of several members, one after the other, is read whole.

    Raises ``BodyError``: 400 damaged or cut short, 413 more than ``limit`` bytes or too many members, 415 another
    encoding than gzip.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise BodyError(415, f"Content-Encoding '{encoding}' is not supported: send gzip, or none")
    members: list[bytes] = []
    size = 0
    while True:
        decoder = zlib.decompressobj(wbits=31)
        try:
            plain = decoder.decompress(body, limit - size + 1)
        except zlib.error as error:
            raise BodyError(400, f"the gzip body is damaged: {error}") from error
        size += len(plain)
        if size > limit:
            raise BodyError(413, f"the request body is larger than {limit} bytes")
        if not decoder.eof:
            raise BodyError(400, "the gzip body is cut short")
        body = decoder.unused_data.lstrip(b"\0")  # padding with zeros is allowed, as gzip(1) does
        if not body and not members:
            return plain
        members.append(plain)
        if len(members) == MAX_MEMBERS and body:  # each costs a copy of the rest: millions would hold up the server
            raise BodyError(413, f"the gzip body has more than {MAX_MEMBERS} members")
        if not body:
            return b"".join(members)
