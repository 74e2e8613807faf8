"""A proxy that gets in the way of document operations: what a feed meets on a bad day, as often as asked for.

Half of the faults come before the operation has reached the endpoint and half after it was done, which a client
cannot tell apart.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

BEFORE = ("429", "503", "reset", "stall", "close")
AFTER = ("reset after", "stall after", "truncated", "truncated chunk", "close after")


class FaultProxy:
    """``share`` of the document operations meet a fault of ``kinds``; a stall lasts ``stall`` seconds.

    ``faults`` counts them by kind; ``seen`` are the paths of all document operations; ``done`` counts those that the
    endpoint acknowledged by path.
    """

    def __init__(self, target: str, share: float, stall: float, seed: int) -> None:
        parts = urlsplit(target)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.share, self.stall, self.url = share, stall, ""
        self.kinds: tuple[str, ...] = BEFORE + AFTER
        self.faults, self.seen, self.done = Counter[str](), Counter[str](), Counter[str]()
        self.lock = threading.Lock()
        self._random = random.Random(seed)

    def fault(self, path: str) -> str:
        """The fault that an operation meets, or ""."""
        if not path.startswith("/document/"):
            return ""
        with self.lock:
            self.seen[path] += 1
            kind = self._random.choice(self.kinds) if self._random.random() < self.share else ""
            if kind:
                self.faults[kind] += 1
            return kind


class ProxyHandler(BaseHTTPRequestHandler):
    """What proxies of the tests have in common: one connection to the endpoint for each of the client's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    upstream: http.client.HTTPConnection | None = None

    def forward(self, host: str, port: int, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        """The endpoint's response to this request, and its body."""
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(host, port, timeout=60)
        self.upstream.request(self.command, self.path, body, {"Content-Type": "application/json"})
        response = self.upstream.getresponse()
        return response, response.read()

    def finish(self) -> None:
        """Close both connections, whoever went away first."""
        with suppress(OSError, ValueError):
            super().finish()
        if self.upstream is not None:
            self.upstream.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class _Handler(ProxyHandler):
    proxy: FaultProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.proxy.fault(self.path)
        if kind in BEFORE:
            self._break(kind, b"")
            return
        response, answer = self.forward(self.proxy.host, self.proxy.port, body)
        status = response.status
        with self.proxy.lock:
            self.proxy.done[self.path] += status == 200
        if kind:
            self._break(kind, answer)
        else:
            self._answer(status, answer)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def _answer(self, status: int, body: bytes) -> None:
        self.wfile.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def _break(self, kind: str, answer: bytes) -> None:
        match kind.split(maxsplit=1)[0]:
            case "429" | "503":
                self._answer(int(kind), b'{"message":"come back later"}')
                return
            case "reset":  # RST instead of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "stall":
                time.sleep(self.proxy.stall)
            case "truncated" if "chunk" in kind:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + answer[:3])
            case "truncated":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + answer)
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what this is about."""


@contextmanager
def fault_proxy(target: str, share: float = 0.3, stall: float = 0.3, seed: int = 1) -> Iterator[FaultProxy]:
    """A proxy before the endpoint at ``target``; its ``url`` says where."""
    proxy = FaultProxy(target, share, stall, seed)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
