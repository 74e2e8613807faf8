"""The search page at ``/``, its JSON twin ``/index.json``, and the very request it sends, as text to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from clipsearch.errors import ClipsearchError, InputError
from clipsearch.records import Results
from clipsearch.search.query import SIZES
from clipsearch.web.cards import Card, Judge, cards
from clipsearch.web.judging import marks_for
from clipsearch.web.site import Ui
from clipsearch.web.state import LAST_PAGE, PER_PAGE, CardLinks, PageState

NOTHING = Results((), 0)
SHOWN_VALUES = 8  # of a facet, before "more"
MOST_VALUES = 60  # with "more": a corpus may have hundreds of labels, and a page should stay light
FACETS = {"label": "Label", "corpus": "Corpus", "split": "Split", "size": "Size"}
SORT_NAMES = {"": "Relevance", "label": "Label", "width": "Width", "corpus": "Corpus"}
SIZE_NAMES = {
    name: f"{name} ({low}–{high} px)" if high < 2**30 else f"{name} ({low} px and more)"
    for name, (low, high) in SIZES.items()
}


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a facet: the link that chooses it, or takes it off when it is chosen."""

    value: str
    name: str
    count: int
    chosen: bool
    href: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything a page shows. ``error`` is a sentence; ``status`` the HTTP status that goes with it.

    ``note``: what the ranking does not look at, as a sentence. ``fetched``: hits of this page with the image that is
    searched by, which is not among ``results``: the page that it stood on is one hit shorter.
    ``strong`` and ``weak`` are the cards above and below the line between likely matches and the rest.
    """

    state: PageState
    ranking: str
    results: Results = NOTHING
    strong: tuple[Card, ...] = ()
    weak: tuple[Card, ...] = ()
    facets: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    subject: str = ""
    note: str = ""
    fetched: int = 0
    error: str = ""
    down: bool = False
    status: int = 200

    @property
    def cards(self) -> tuple[Card, ...]:
        """All cards in rank order."""
        return self.strong + self.weak

    @property
    def last(self) -> int:
        """The rank of the last hit on this page."""
        return self.state.offset + len(self.results.hits)

    @property
    def folded(self) -> int:
        """Near-duplicates that are shown within their first."""
        return len(self.results.hits) - len(self.cards)

    @property
    def has_next(self) -> bool:
        """Whether a further page may hold hits."""
        reached = self.state.offset + self.fetched
        return self.fetched == PER_PAGE and reached < self.results.total and self.state.page < LAST_PAGE

    def as_json(self) -> dict[str, Any]:
        """The JSON twin."""
        if self.error:
            return {"error": self.error}
        following = self.state.query_string(page=self.state.page + 1) if self.has_next else None
        return {
            "ranking": self.ranking,
            "note": self.note,
            "total": self.results.total,
            "seconds": round(self.results.seconds, 4),
            "request": without_vectors(self.results.request),
            "facets": self.results.facets,
            "hits": [card.as_json() for card in self.cards],
            "next": following,
        }


class SearchPage:
    """The handlers of the search page."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui

    def index(self, request: Request) -> Response:
        """The page."""
        try:
            state = PageState.parse(request.query_params)
        except InputError as error:
            return self.show(self.failed(PageState(), error))
        if "add" in request.query_params:  # the small form: the URL that stays is the canonical one
            return RedirectResponse(f"/{state.query_string()}", 303)
        return self.show(self.page(state))

    def index_json(self, request: Request) -> Response:
        """The page's JSON twin: the same state, the same status."""
        try:
            page = self.page(PageState.parse(request.query_params))
        except InputError as error:
            page = self.failed(PageState(), error)
        return JSONResponse(page.as_json(), page.status)

    def request_json(self, request: Request) -> Response:
        """The body that the page sends to ``/search/``."""
        return JSONResponse(self._request(request))

    def request_yql(self, request: Request) -> Response:
        """The YQL, then its parameters as ``name=value``, each quoted for a shell, as ``vespa query`` takes them.

        Control characters are left out: what is pasted into a terminal must not steer it. A line break may stay, for it
        is within the quotes.
        """
        body = self._request(request)
        lines = [
            shlex.quote("".join(each for each in f"{name}={value}" if each == "\n" or category(each) != "Cc"))
            for name, value in body.items()
            if name != "yql"
        ]
        return PlainTextResponse("\n".join([body["yql"], "", *lines, ""]))

    def request_curl(self, request: Request) -> Response:
        """A command line that sends the same request, in printable ASCII alone."""
        body = json.dumps(self._request(request)).replace("\x7f", "\\u007f")
        url = shlex.quote(f"{self.ui.client.url.rstrip('/')}/search/")
        return PlainTextResponse(f"curl -s -H 'Content-Type: application/json' -d {shlex.quote(body)} {url}\n")

    def page(self, state: PageState) -> Page:
        """The page for ``state``; errors become a page that says what is wrong."""
        try:
            answer = self.ui.searcher.answer(state)
        except ClipsearchError as error:
            return self.failed(state, error)
        results = answer.results
        mixed = bool(state.by_image or state.terms)
        judge = Judge(state.q, answer.question.embedding, answer.sample, answer.ranks, words_suffice=not mixed)
        shown = cards(results.hits, state.offset, judge, together=not state.dups)
        line = weak_from(shown) if not state.sort else len(shown)
        subject = self.ui.searcher.subject(state)
        facets = _facets(state, results)
        question = answer.question
        return Page(
            state, question.ranking, results, shown[:line], shown[line:], facets, subject, question.note, answer.fetched
        )

    def failed(self, state: PageState, error: ClipsearchError) -> Page:
        """A page that shows ``error``."""
        failure = self.ui.searcher.failure(error)
        ranking = self.ui.searcher.ranking(state)
        return Page(state, ranking, error=failure.sentence, status=failure.status, down=failure.down)

    def show(self, page: Page) -> Response:
        """Render ``page``."""
        state = page.state
        return self.ui.render(
            "page.html",
            status=page.status,
            headers={"Retry-After": "5"} if page.down else {},
            here="search",
            page=page,
            state=state,
            links=CardLinks(state),
            chosen=self.ui.searcher.chosen(state),
            has_patches=not page.down and self.ui.searcher.has_patches(state.model),
            several_corpora=len({card.corpus for card in page.cards}) > 1,
            facet_names=FACETS,
            sort_names=SORT_NAMES,
            marks=marks_for(self.ui, state),
            shown_values=SHOWN_VALUES,
            most_values=MOST_VALUES,
        )

    def _request(self, request: Request) -> dict[str, Any]:
        state = PageState.parse(request.query_params)
        return self.ui.searcher.promptly(self.ui.searcher.request, state)


def without_vectors(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request body to look at: vectors as their length."""
    return {
        name: f"({len(value)} numbers)" if name.startswith("input.query(q") else value
        for name, value in request.items()
    }


def weak_from(shown: tuple[Card, ...]) -> int:
    """How many cards stand above the line below which all are weak."""
    line = len(shown)
    while line and shown[line - 1].weak:
        line -= 1
    return line


def _facets(state: PageState, results: Results) -> dict[str, tuple[Value, ...]]:
    facets, links = {}, CardLinks(state)
    for name in FACETS:
        counts = dict(results.facets.get(name, {}))
        chosen = getattr(state, name)
        if chosen:  # its own count is that of the page; without the filter, others may be nearer
            counts = {chosen: results.total, **{value: count for value, count in counts.items() if value != chosen}}
        values = tuple(
            Value(
                value,
                SIZE_NAMES.get(value, value) if name == "size" else value,
                count,
                value == chosen,
                "/" + links.choose(name, "" if value == chosen else value),
            )
            for value, count in counts.items()
            if value
        )
        if len(values) > 1 or chosen:
            facets[name] = values
    return facets


def routes(ui: Ui) -> list[Route]:
    """The routes of the search page."""
    page = SearchPage(ui)
    return [
        Route("/", page.index),
        Route("/index.json", page.index_json),
        Route("/request.json", page.request_json),
        Route("/request.yql", page.request_yql),
        Route("/request.curl", page.request_curl),
    ]
