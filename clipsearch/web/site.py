"""What the pages have in common: the endpoint, the models, the uploads, the templates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from starlette.responses import HTMLResponse

from clipsearch.relevance.judgments import JudgmentBook
from clipsearch.search import QueryEncoder, SearchClient
from clipsearch.web.pictures import Pictures
from clipsearch.web.searching import RANKINGS, Searcher
from clipsearch.web.uploads import MAX_UPLOAD, Uploads

HERE = Path(__file__).parent
STATIC = HERE / "static"
TIMEOUT = 10.0
"""Seconds that a page waits for an endpoint that lives; ``Searcher.promptly`` finds out sooner that it does not."""


@dataclass(frozen=True, slots=True)
class UiConfig:
    """``url``: the endpoint. ``encoders``: by model id, the first is the default; without one, words only are searched.

    ``roots``: corpus name -> folder of its images. ``judgments``: the JSONL file that the judging mode appends to, None
    switches it off. ``timeout``: seconds that a page waits for the endpoint.
    """

    url: str
    encoders: Mapping[str, QueryEncoder] = field(default_factory=dict)
    roots: Mapping[str, Path] = field(default_factory=dict)
    judgments: Path | None = None
    timeout: float = TIMEOUT


def by_model(*encoders: QueryEncoder) -> dict[str, QueryEncoder]:
    """Encoders by the id of their model, for ``UiConfig``."""
    return {encoder.model.model_id: encoder for encoder in encoders}


class Ui:
    """What every handler has at hand. Synchronous handlers run on threads, so a slow model holds up nobody."""

    def __init__(self, config: UiConfig) -> None:
        self.config = config
        self.client = SearchClient(config.url, timeout=config.timeout)
        self.uploads = Uploads()
        self.searcher = Searcher(self.client, config.encoders, self.uploads)
        self.pictures = Pictures(self.client, config.roots)
        self.book = JudgmentBook(config.judgments) if config.judgments else None
        self.static = {path.name: _versioned(path) for path in STATIC.iterdir()}
        """File name -> URL of the static files."""
        self.templates = _templates(self.static)
        self.places: dict[str, tuple[str, str]] = {}
        """The navigation: name -> URL and label; each page's ``routes`` adds its own, and passes ``here=name``."""

    def render(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
    ) -> HTMLResponse:
        """The page that ``template`` makes of ``context``; asked for again each time, but for back and forward.

        Every template has ``static`` (URLs by file name), ``parts`` (macros of ``parts.html``), ``rankings`` (name ->
        label and words), ``models`` (ids, the default first), ``has_model``, ``full_size`` (corpora with files) and
        ``judging`` (whether judgments are kept).
        """
        text = self.templates.get_template(template).render(
            rankings=RANKINGS,
            places=self.places,
            models=tuple(self.config.encoders),
            has_model=bool(self.config.encoders),
            full_size=self.pictures.corpora,
            judging=self.config.judgments is not None,
            max_mb=MAX_UPLOAD // 1024 // 1024,
            **context,
        )
        keep = "private, no-cache" if status == 200 else "no-store"
        return HTMLResponse(text, status, headers={"Cache-Control": keep, **(headers or {})})


def _templates(static: Mapping[str, str]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["parts"] = environment.get_template("parts.html").module
    environment.globals["static"] = static
    return environment


def _versioned(path: Path) -> str:
    """A URL that changes with the file, so that no browser mixes an old style with a new page."""
    return f"/static/{path.name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:10]}"
