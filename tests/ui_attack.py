"""Hostile input for the search page, and a proxy before the endpoint that remembers what the page asks it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

from fault_proxy import ProxyHandler

FRAGMENTS = (
    '"', "'", "`", "\\", ";", "--", "/*", "*/", "//", "#", "%", "{", "}", "[", "]", "(", ")", "<", ">", "@", "$", "!",
    "&", "|", "=", "*", "?", "~", "^", ":", ",", "+", "-", "@text", "@corpus", "@label", "userInput(@text)", "true",
    '") or true or ("', "' or 1=1 --", "; select * from sources * where true", "limit 400 offset 900",
    "order by width desc", "| all(group(corpus) each(output(count())))", "captions contains 'a'", "range(width,0,9)",
    '{"grammar":"raw"}', "({targetHits:10}nearestNeighbor(embedding,q))", "input.query(q)", "ranking.profile=lexical",
    "embedding", "captions:", "label:river", "corpus:", "width:>100", "sddocname:image", "default:", "+captions:a",
    "-a", "rank(a,b)", "weakAnd(a,b)", "near(a,b)", "OR", "AND", "NOT", "ANDNOT", "RANK", "NaN", "Infinity", "-1",
    "1e999", "9" * 400, "0x7fffffff", "2147483648", "-9223372036854775809", "null", "undefined", "None", "[object]",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{7*7}}", "${7*7}", "{% include 'x' %}", "%s%n",
    "../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1/", "javascript:alert(1)", "data:text/html,x",
    "\u202eevil", "\u200f\u05d0\u05d1", "\u0627\u0644\u0646\u0647\u0631", "\u6cb3\u5ddd", "\U0001f600",
    "\U0001f468\u200d\U0001f469",
    "e\u0301" * 20, "\u0000", "a\u0000b", "\u0001\u001b[31m", "\u007f", "\u0085", "\u2028", "\u2029",
    "\ufeff", "\ufffe", "\uffff",
    "\r\n", "\r\nSet-Cookie: a=b", "\t", "\u00a0", "\u3000", "\udbff", "\udc00", "river", "a bridge", "the",
)  # fmt: skip
RAW = (b"\xff", b"\xfe\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82", b"\xc3\x28")


def hostile(count: int, seed: int = 1) -> Iterator[str]:
    """``count`` values for a URL's parameter, percent-encoded: each fragment once, then mixtures of them."""
    fixed = [_encoded(fragment) for fragment in FRAGMENTS] + [quote(raw) for raw in RAW]
    fixed += [
        "x" * 10_240,
        quote("\u6cb3" * 3000),
        quote("'\"" * 5000),
        "%00" * 3000,
        "a%20" * 2500,
        "%",
        "%zz",
        "%u0041",
        "+",
    ]
    generator = random.Random(seed)
    for number in range(count):
        yield fixed[number] if number < len(fixed) else _mixture(generator)


def _encoded(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _mixture(generator: random.Random) -> str:
    parts = []
    for _ in range(generator.randint(1, 8)):
        kind = generator.random()
        if kind < 0.7:
            parts.append(_encoded(generator.choice(FRAGMENTS)))
        elif kind < 0.8:
            parts.append(quote(generator.choice(RAW)))
        elif kind < 0.9:
            parts.append(
                _encoded("".join(chr(generator.randrange(1, 0x3000)) for _ in range(generator.randint(1, 30))))
            )
        else:
            parts.append(quote(generator.randbytes(generator.randint(1, 30))))
    return generator.choice(("", "%20", "+")).join(parts)


@dataclass
class Asked:
    """One request that the page sent to the endpoint."""

    method: str
    path: str
    body: dict[str, Any]
    status: int


@dataclass
class Recorder:
    """What went through the proxy since ``take`` was last called."""

    host: str
    port: int
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> list[Asked]:
        """All requests until now, which are forgotten."""
        with self.lock:
            taken, self.asked = self.asked, []
        return taken

    def queries(self) -> list[dict[str, Any]]:
        """``take``, the bodies of queries only."""
        return [asked.body for asked in self.take() if asked.path.startswith("/search/")]


class _Handler(ProxyHandler):
    recorder: Recorder

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        response, answer = self.forward(self.recorder.host, self.recorder.port, body)
        asked = Asked(self.command, self.path, json.loads(body) if body else {}, response.status)
        with self.recorder.lock:
            self.recorder.asked.append(asked)
        kind = response.getheader("Content-Type", "application/json")
        head = f"HTTP/1.1 {response.status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n"
        self.wfile.write(head.encode() + answer)

    do_GET = do_POST = do_PUT = do_DELETE = pass_on  # noqa: N815


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def recording_proxy(target: str) -> Iterator[Recorder]:
    """A proxy before the endpoint at ``target``; its ``url`` says where."""
    parts = urlsplit(target)
    recorder = Recorder(parts.hostname or "", parts.port or 80)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"recorder": recorder}))
    recorder.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
