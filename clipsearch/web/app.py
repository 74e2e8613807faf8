"""The routes of the search page.

``/`` is the page and ``/index.json`` its twin; ``/thumb/...`` and ``/image/...`` are pictures by document id;
``POST /upload`` takes an image and redirects to ``/?img=<token>``; ``/health`` says how the endpoint is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clipsearch.errors import InputError, ServiceError
from clipsearch.search import QueryEncoder, SearchClient
from clipsearch.web.page import RANKINGS, Page, Searcher
from clipsearch.web.pictures import Pictures, picture_response
from clipsearch.web.security import HostGuard, SecurityHeaders, check_same_origin
from clipsearch.web.state import PageState
from clipsearch.web.uploads import MAX_UPLOAD, Uploads, embed_upload, read_upload

HERE = Path(__file__).parent
STATIC = HERE / "static"


@dataclass(frozen=True, slots=True)
class UiConfig:
    """``url``: the endpoint. ``encoder``: None leaves words only. ``roots``: corpus name -> folder of its images."""

    url: str
    encoder: QueryEncoder | None = None
    roots: Mapping[str, Path] = field(default_factory=dict)


class Ui:
    """The handlers. Synchronous ones run on Starlette's threads, so a slow model or engine holds up nobody else."""

    def __init__(self, config: UiConfig) -> None:
        self.client = SearchClient(config.url, timeout=10.0)
        self.uploads = Uploads()
        self.searcher = Searcher(self.client, config.encoder, self.uploads)
        self.pictures = Pictures(self.client, config.roots)
        self.templates = _templates()

    def index(self, request: Request) -> Response:
        """The page."""
        return self.html(self._page(request))

    def index_json(self, request: Request) -> Response:
        """The page's JSON twin: the same state, the same status."""
        page = self._page(request)
        return JSONResponse(page.as_json(), page.status)

    def thumb(self, request: Request) -> Response:
        """A thumbnail out of the index."""
        return picture_response(request, self.pictures.thumbnail(**request.path_params))

    def image(self, request: Request) -> Response:
        """A full-size file below a corpus root."""
        return picture_response(request, *self.pictures.full_size(**request.path_params))

    def uploaded(self, request: Request) -> Response:
        """The thumbnail of an upload."""
        upload = self.uploads.get(request.path_params["token"])
        if upload is None:
            raise HTTPException(404, "That upload is forgotten by now.")
        return picture_response(request, upload.thumbnail)

    async def upload(self, request: Request) -> Response:
        """Take an image and go to the page that searches by it."""
        check_same_origin(request)
        encoder = self.searcher.encoder
        if encoder is None:
            raise HTTPException(409, "Searching by image needs a model: start the page with --model DIR.")
        data, name = await read_upload(request)
        upload = await run_in_threadpool(embed_upload, self.uploads, encoder, data, name)
        return RedirectResponse(f"/?img={upload.token}", 303)

    def health(self, request: Request) -> Response:
        """200 while the endpoint answers, else 503."""
        encoder = self.searcher.encoder
        about: dict[str, Any] = {"endpoint": self.client.url, "model": encoder and encoder.model.model_id}
        try:
            return JSONResponse({"status": "ok", **about, "documents": self.client.document_count()})
        except ServiceError as error:
            return JSONResponse({"status": "down", **about, "message": str(error)}, 503)

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """Errors for people: the page with a sentence; for pictures just the sentence."""
        assert isinstance(error, HTTPException)
        sentence = {404: "There is no such page.", 405: "That cannot be done here."}.get(error.status_code, "")
        if error.detail and error.detail not in ("Not Found", "Method Not Allowed"):
            sentence = error.detail
        if request.url.path.startswith(("/thumb/", "/image/", "/static/")):
            return Response(sentence, error.status_code, media_type="text/plain")
        page = self.searcher.failed(PageState(), sentence, error.status_code)
        return await run_in_threadpool(self.html, page)

    async def on_service_error(self, request: Request, error: Exception) -> Response:
        """A picture that cannot be had because the endpoint is gone."""
        return Response(str(error), 503, media_type="text/plain")

    def html(self, page: Page) -> HTMLResponse:
        """Render ``page``."""
        text = self.templates.get_template("page.html").render(
            page=page,
            state=page.state,
            rankings=RANKINGS,
            chosen=self.searcher.chosen(page.state),
            has_model=self.searcher.encoder is not None,
            full_size=self.pictures.corpora,
            several_corpora=len({card.corpus for card in page.cards}) > 1,
            max_mb=MAX_UPLOAD // 1024 // 1024,
        )
        headers = {"Retry-After": "5"} if page.down else {}
        return HTMLResponse(text, page.status, headers={"Cache-Control": "no-store", **headers})

    def _page(self, request: Request) -> Page:
        try:
            state = PageState.parse(request.query_params)
        except InputError as error:
            return self.searcher.failed(PageState(), f"{error}.", 400)
        return self.searcher.page(state)


def create_app(config: UiConfig, hosts: Callable[[str], bool] | None = None) -> Starlette:
    """The ASGI application of the search page; ``hosts``: the Host headers that it answers to, None: all.

    Raises ``InputError`` for a URL or corpus root that is none.
    """
    ui = Ui(config)
    routes = [
        Route("/", ui.index),
        Route("/index.json", ui.index_json),
        Route("/thumb/{corpus}/{key}", ui.thumb),
        Route("/image/{corpus}/{key}", ui.image),
        Route("/uploaded/{token}", ui.uploaded),
        Route("/upload", ui.upload, methods=["POST"]),
        Route("/health", ui.health),
        Route("/favicon.ico", lambda request: FileResponse(STATIC / "icon.svg")),
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(SecurityHeaders), *([Middleware(HostGuard, allowed=hosts)] if hosts else [])],
        exception_handlers={HTTPException: ui.on_http_error, ServiceError: ui.on_service_error},
    )


def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(HERE / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["static"] = {path.name: _versioned(path) for path in STATIC.iterdir()}
    return environment


def _versioned(path: Path) -> str:
    """A URL that changes with the file, so that no browser mixes an old style with a new page."""
    return f"/static/{path.name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:10]}"
