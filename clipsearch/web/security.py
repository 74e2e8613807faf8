"""Headers that every answer carries, and who may write.

The policy allows nothing inline and nothing from elsewhere: no caption, label or file name can become a script, even
if it slipped through escaping.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# For an image file that a browser opens by itself: it shows it on a page of its own, which it styles inline.
PICTURE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """ASGI middleware that adds ``HEADERS`` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; add headers to the start of a response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class HostGuard:
    """ASGI middleware that answers 403 to a Host header that ``allowed`` does not know (DNS rebinding)."""

    def __init__(self, app: ASGIApp, allowed: Callable[[str], bool]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is meant for this machine."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        if self.allowed(host):
            await self.app(scope, receive, send)
        else:
            answer = PlainTextResponse(f"The Host header '{host[:200]}' does not name this machine.", status_code=403)
            await answer(scope, receive, send)


def check_same_origin(request: Request) -> None:
    """403 for a request that another site made a browser send. Programs, which send neither header, pass."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    foreign = site not in (None, "same-origin", "none")
    if site is None and origin is not None:
        foreign = urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        raise HTTPException(403, "This form may only be sent from the search page itself.")
