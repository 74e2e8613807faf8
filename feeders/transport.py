"""Requests to document/v1 and what their answers mean.

httpr carries them: the Rust client below pyvespa's own sessions, thread safe, with keep-alive connections. pyvespa's
sessions are left out here because they serialise and check each document again and wrap each answer; what is sent is
bytes that were made once. Measured on two cores against a server that does nothing, CPU per request of 2.6 kB: 136 us
by pyvespa's session, 48 us by httpr in threads over HTTP/1.1, 56 us over HTTP/2, 134 us by its asyncio client. HTTP/1.1
is also what the server answers at least cost: 0.35 ms a document in the local engine, 0.42 ms over HTTP/2, 0.62 ms
over HTTP/2 with the gzip of ``vespa feed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import httpr
import orjson

from clipsearch.errors import UnreachableError
from feeders.operations import Request

_HEADERS = {"content-type": "application/json; charset=utf-8", "user-agent": "clipsearch-feed"}

Verdict = Literal["done", "unmet", "overload", "unavailable", "unsent", "lost", "refused", "trouble"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request; ``status`` is the HTTP status, 0 without an answer.

    ``done``: acknowledged. ``unmet``: its condition is not met, or there is no document to change. ``overload``: 429.
    ``unavailable``: 503. ``unsent``: no connection, so nothing was done. ``lost``: no whole answer, or 504, so it may
    have been done. ``refused``: the request is wrong, and will be tomorrow. ``trouble``: any other 5xx, which speaks of
    the endpoint rather than of the request.
    """

    verdict: Verdict
    status: int = 0
    reason: str = ""


DONE = Answer("done", 200)
_PASSING: dict[int, Verdict] = {429: "overload", 503: "unavailable", 504: "lost"}


class Transport:
    """Sends requests to the endpoint at ``url``, from many threads; ``timeout``: seconds that an answer may take.

    The endpoint is told to give up a little earlier (document/v1's ``timeout``, 180 s where it is not given): a write
    that is sent again must not still wait in the endpoint, to be done after the newer one.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._limit = f"timeout={max(1, int(timeout * 900))}ms"
        self._client = self._connect()

    def _connect(self) -> httpr.Client:
        return httpr.Client(headers=_HEADERS, timeout=self._timeout, follow_redirects=False, cookie_store=False)

    def reconnect(self) -> None:
        """Take new connections from now on: the old ones may lead nowhere."""
        self._client = self._connect()

    def send(self, request: Request) -> Answer:
        """Send it once. Raises ``UnreachableError`` when what answers is not a Vespa container."""
        client = self._client
        content = request.body or None
        try:
            address = f"{self._url}{request.path}{'&' if '?' in request.path else '?'}{self._limit}"
            response = client.request(request.method, address, content=content)
            status, body = response.status_code, response.content
        except (httpr.ConnectError, httpr.ConnectTimeout) as error:
            return Answer("unsent", 0, f"no connection ({_short(error)})")
        except (httpr.HTTPError, RuntimeError) as error:  # the latter from a body that breaks off
            return Answer("lost", 0, f"no answer ({_short(error)})")
        if status == 200 and b'"pathId"' in body:
            return DONE
        return self._explain(status, body)

    def _explain(self, status: int, body: bytes) -> Answer:
        reply = _parsed(body)
        message = str(reply.get("message") or "") or body[:200].decode("utf-8", "replace")
        reason = f"HTTP {status}: {message}"
        if status == 412 or (status == 404 and "pathId" in reply):
            return Answer("unmet", status, reason)
        if status in _PASSING:
            return Answer(_PASSING[status], status, reason)
        if status < 400 or status == 404:
            raise UnreachableError(
                f"what answers at {self._url} is not a Vespa container (HTTP {status} to a document): give the port of "
                "queries and documents with --url, by default 8080, not that of deployments or of the search page"
            )
        return Answer("trouble" if status >= 500 else "refused", status, reason)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return reply if isinstance(reply, dict) else {}


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:160]
