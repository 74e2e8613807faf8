"""The application: the routes of all pages, what surrounds them, and errors for people.

``/`` is the search page (``page.py``); ``/thumb/...`` and ``/image/...`` are pictures by document id; ``POST /upload``
takes an image and redirects to ``/?img=<token>``; ``/health`` says how the endpoint is. Each further page is a module
with ``routes(ui)``, named in ``PAGES``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from clipsearch.errors import ClipsearchError, ServiceError
from clipsearch.web import compare, inside, judging, mapview, page
from clipsearch.web.pictures import FOR_EVER, picture_response
from clipsearch.web.security import HostGuard, SecurityHeaders, check_same_origin
from clipsearch.web.site import STATIC, Ui, UiConfig, by_model
from clipsearch.web.state import PageState
from clipsearch.web.uploads import embed_upload, read_upload

__all__ = ["PAGES", "Ui", "UiConfig", "by_model", "create_app"]

PAGES: tuple[Callable[[Ui], list[Route]], ...] = (
    page.routes, compare.routes, mapview.routes, inside.routes, judging.routes,
)  # fmt: skip
"""What gives the routes of each page."""

_PICTURES = ("/thumb/", "/image/", "/uploaded/")


class Compressed:
    """ASGI middleware that compresses text; pictures are compressed as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self.plain, self.packed = app, GZipMiddleware(app, minimum_size=1000, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through, by way of gzip where it is worth it."""
        is_picture = scope["type"] == "http" and scope["path"].startswith(_PICTURES)
        await (self.plain if is_picture else self.packed)(scope, receive, send)


class KeptFiles(StaticFiles):
    """Static files, kept for ever by browsers at ``urls``, which change with the files."""

    def __init__(self, urls: Collection[str]) -> None:
        super().__init__(directory=STATIC)
        self.urls = frozenset(urls)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As Starlette answers; the path is the first argument, the scope the third."""
        response = super().file_response(*args, **kwargs)
        scope: Scope = kwargs.get("scope") or args[2]
        name = Path(kwargs.get("full_path") or args[0]).name
        if f"/static/{name}?{scope['query_string'].decode('latin-1')}" in self.urls:
            response.headers["Cache-Control"] = FOR_EVER
        return response


class Files:
    """Pictures by document id, uploads, and how the endpoint is."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/thumb/{corpus}/{key}", self.thumb),
            Route("/image/{corpus}/{key}", self.image),
            Route("/uploaded/{token}", self.uploaded),
            Route("/upload", self.upload, methods=["POST"]),
            Route("/health", self.health),
            Route("/favicon.ico", lambda request: FileResponse(STATIC / "icon.svg")),
        ]

    def thumb(self, request: Request) -> Response:
        """A thumbnail out of the index."""
        return picture_response(request, self.ui.pictures.thumbnail(**request.path_params))

    def image(self, request: Request) -> Response:
        """A full-size file below a corpus root."""
        return picture_response(request, *self.ui.pictures.full_size(**request.path_params))

    def uploaded(self, request: Request) -> Response:
        """The thumbnail of an upload."""
        upload = self.ui.uploads.get(request.path_params["token"])
        if upload is None:
            raise HTTPException(404, "That upload is forgotten by now.")
        return picture_response(request, upload.thumbnail)

    async def upload(self, request: Request) -> Response:
        """Take an image and go to the page that searches by it, keeping what the form's URL says beside it."""
        check_same_origin(request)
        encoders = self.ui.searcher.encoders
        if not encoders:
            raise HTTPException(409, "Searching by image needs a model: start the page with --model DIR.")
        data, name = await read_upload(request)
        upload = await run_in_threadpool(embed_upload, self.ui.uploads, encoders, data, name)
        state = PageState.parse(request.query_params)
        return RedirectResponse(f"/{state.query_string(img=upload.token, like='')}", 303)

    def health(self, request: Request) -> Response:
        """200 while the endpoint answers, else 503, within two seconds where it hangs."""
        models = list(self.ui.searcher.encoders)
        about: dict[str, Any] = {"endpoint": self.ui.client.url, "model": models[0] if models else None}
        try:
            documents = self.ui.searcher.promptly(self.ui.client.document_count)
            return JSONResponse({"status": "ok", **about, "documents": documents})
        except ServiceError as error:
            return JSONResponse({"status": "down", **about, "message": str(error)}, 503)


class Errors:
    """Errors that no handler took: a page with a sentence, JSON for the JSON twins, plain text for pictures."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """What Starlette or a handler refuses by status."""
        assert isinstance(error, HTTPException)
        sentence = {404: "There is no such page.", 405: "That cannot be done here."}.get(error.status_code, "")
        if error.detail and error.detail not in ("Not Found", "Method Not Allowed"):
            sentence = error.detail
        return await self.answer(request, sentence, error.status_code)

    async def on_error(self, request: Request, error: Exception) -> Response:
        """A ``ClipsearchError``: bad input, an endpoint that is away."""
        assert isinstance(error, ClipsearchError)
        failure = self.ui.searcher.failure(error)
        return await self.answer(request, failure.sentence, failure.status, failure.down)

    async def answer(self, request: Request, sentence: str, status: int, down: bool = False) -> Response:
        """``sentence`` in the form that fits what was asked for."""
        headers = {"Retry-After": "5"} if down else {}
        if request.url.path.startswith((*_PICTURES, "/static/")):
            return Response(sentence, status, headers, "text/plain")
        if request.url.path.endswith(".json"):
            return JSONResponse({"error": sentence}, status, headers)

        def render() -> Response:
            return self.ui.render("message.html", status=status, headers=headers, sentence=sentence, down=down)

        return await run_in_threadpool(render)


def create_app(config: UiConfig, hosts: Callable[[str], bool] | None = None) -> Starlette:
    """The ASGI application of the search page; ``hosts``: the Host headers that it answers to, None: all.

    Raises ``InputError`` for a URL or corpus root that is none.
    """
    ui = Ui(config)
    errors = Errors(ui)
    guard = [Middleware(HostGuard, allowed=hosts)] if hosts else []
    pages = [route for routes in PAGES for route in routes(ui)]
    return Starlette(
        routes=[*pages, *Files(ui).routes(), Mount("/static", KeptFiles(ui.static.values()), name="static")],
        middleware=[Middleware(SecurityHeaders), *guard, Middleware(Compressed)],
        exception_handlers={HTTPException: errors.on_http_error, ClipsearchError: errors.on_error},
    )
