"""What the engine's handlers take and give, free of any server library.

``clipsearch.engine.http.app`` turns ASGI calls into ``Request`` and ``Response`` back into ASGI events, so handlers
are plain functions that tests call directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    ``path`` is still percent-encoded; ``query`` holds decoded pairs in order; ``headers`` has lower-case names;
    ``body`` is already un-gzipped.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def param(self, name: str, default: str = "") -> str:
        """The last value of query parameter ``name``."""
        for key, value in reversed(self.query):
            if key == name:
                return value
        return default


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer; ``body`` is bytes, or an iterable of chunks for a streamed answer."""

    status: int
    body: bytes | Iterable[bytes] = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Answer(Protocol):
    """A ``Response`` to come, in the manner of ``concurrent.futures.Future``."""

    def done(self) -> bool:
        """Whether it is there."""

    def result(self, timeout: float | None = None) -> Response:
        """The response; waits for it."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls ``fn`` once it is there, from whichever thread brings it."""


def json_response(status: int, value: Any) -> Response:
    """``value`` as JSON (numpy arrays allowed)."""
    return Response(status, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
