"""Two rankings of one query side by side: ``/compare`` and its JSON twin.

``a`` and ``b`` name the rankings, ``am`` and ``bm`` their models, ``aa`` and ``ba`` the weights of meaning where they
are blended; all else is the state of the search page. Each side is asked for by itself, so that the error of one leaves
the other standing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clipsearch.errors import ClipsearchError, InputError
from clipsearch.metrics.overlap import rank_biased_overlap
from clipsearch.records import Hit, Results
from clipsearch.search import explain
from clipsearch.search.highlight import best_caption, segments
from clipsearch.search.query import PATCHES
from clipsearch.search.terms import number_within
from clipsearch.web.judging import marks_for, query_of
from clipsearch.web.pictures import corpus_and_key, version_of
from clipsearch.web.searching import RANKINGS, Failure, Searcher, unheard
from clipsearch.web.site import Ui
from clipsearch.web.state import PageState, one_of

SHOWN = 20
DEPTH = 50
"""Hits of each side that are known, so that a change of rank may come from below those that are shown."""

NAMES = {**RANKINGS, PATCHES: ("Parts", "by the part of an image that fits best")}
"""The rankings to choose from, by name, with a label and words for each."""

P = 0.9
_LIKENESS = ((0.9, "nearly the same"), (0.6, "similar"), (0.3, "rather different"))


@dataclass(frozen=True, slots=True)
class Side:
    """One side's choices. ``letter`` is "a" or "b"; ``model`` "" is the first one."""

    letter: str
    ranking: str
    model: str
    alpha: float

    def pairs(self) -> list[tuple[str, str]]:
        """Its parameters in a URL."""
        pairs = [(self.letter, self.ranking)]
        pairs += [(f"{self.letter}m", self.model)] if self.model else []
        return [*pairs, (f"{self.letter}a", f"{self.alpha:g}")] if self.ranking == "hybrid_linear" else pairs

    def state(self, state: PageState) -> PageState:
        """The search page's state that shows this side."""
        if self.ranking == PATCHES:
            return replace(state, ranking="", parts=True, model=self.model, page=1)
        return replace(state, ranking=self.ranking, model=self.model, alpha=self.alpha, page=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One hit of a column. ``other``: its rank on the other side, None when it is not among the first ``DEPTH`` there;
    ``link``: a number that it shares with itself in the other column, None when it is not shown there. ``compared``:
    whether the other side could be had at all.
    """

    hit: Hit
    rank: int
    other: int | None
    link: int | None
    caption: tuple[tuple[str, bool], ...]
    letter: str
    compared: bool = True

    @property
    def corpus(self) -> str:
        """The namespace of its id."""
        return corpus_and_key(self.hit.id)[0]

    @property
    def key(self) -> str:
        """The end of its id."""
        return corpus_and_key(self.hit.id)[1]

    @property
    def version(self) -> str:
        """What changes with the picture."""
        return version_of(self.hit)

    @property
    def text(self) -> str:
        """The caption without marks."""
        return "".join(part for part, _ in self.caption)

    @property
    def cosine(self) -> float | None:
        """Of image and query."""
        return explain.cosine(self.hit.semantic)

    @property
    def climbs(self) -> int:
        """Ranks that it gains from A to B; negative when it loses some."""
        if self.other is None:
            return 0
        return self.rank - self.other if self.letter == "a" else self.other - self.rank

    @property
    def kind(self) -> str:
        """The change from A to B: "up", "down", "same"; "gone" in A, "new" in B when the other side lacks it; "" when
        nothing is known of the other side.
        """
        if not self.compared:
            return ""
        if self.other is None:
            return "gone" if self.letter == "a" else "new"
        return "up" if self.climbs > 0 else "down" if self.climbs < 0 else "same"

    @property
    def change(self) -> str:
        """The change in words."""
        if self.other is None:
            return f"gone: not in B's first {DEPTH}" if self.letter == "a" else f"new: not in A's first {DEPTH}"
        if not self.climbs:
            return "same rank"
        return f"{self.kind} {abs(self.climbs)}, {'to' if self.letter == 'a' else 'from'} {self.other}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**explain.hit_json(self.hit, self.rank), "other_rank": self.other, "change": self.kind}


@dataclass(frozen=True, slots=True)
class Column:
    """One side as it is shown; ``failure`` when it could not be had."""

    side: Side
    state: PageState
    ranking: str
    results: Results | None
    failure: Failure | None
    entries: tuple[Entry, ...] = ()

    @property
    def name(self) -> tuple[str, str]:
        """The ranking's label, and in words."""
        return NAMES[self.ranking]

    @property
    def note(self) -> str:
        """What this side does not look at though it is asked for, in one sentence; "" when it looks at all."""
        return unheard(self.state, self.ranking)

    @property
    def ids(self) -> list[str]:
        """The ids of all known hits, best first."""
        return [hit.id for hit in self.results.hits] if self.results else []

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        about = {"ranking": self.ranking, "model": self.side.model, "alpha": self.side.alpha}
        if self.failure or self.results is None:
            return {**about, "error": self.failure.sentence if self.failure else ""}
        seconds = round(self.results.seconds, 4)
        hits = [entry.as_json() for entry in self.entries]
        return {**about, "note": self.note, "total": self.results.total, "seconds": seconds, "hits": hits}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both sides share, and A's and B's columns."""

    state: PageState
    columns: tuple[Column, ...] = ()

    @property
    def failure(self) -> Failure | None:
        """What went wrong when both sides went wrong."""
        failures = [column.failure for column in self.columns]
        return failures[0] if failures and all(failures) else None

    @property
    def shared(self) -> int:
        """How many of the shown images are in both columns."""
        return sum(entry.link is not None for entry in self.columns[0].entries)

    @property
    def overlap(self) -> float | None:
        """Rank-biased overlap of all known hits; None when a side has failed or both are empty."""
        if any(column.failure for column in self.columns) or not any(column.ids for column in self.columns):
            return None
        first, second = (column.ids for column in self.columns)
        return rank_biased_overlap(first, second, P)

    @property
    def summary(self) -> str:
        """How alike the columns are, in one sentence; "" when there is nothing to compare."""
        if self.overlap is None:
            return ""
        shown = max(len(column.entries) for column in self.columns)
        if not self.shared:
            return f"None of the first {shown} images are in both lists."
        likeness = next((words for least, words in _LIKENESS if round(self.overlap, 2) >= least), "very different")
        verb = "is" if self.shared == 1 else "are"
        return f"{self.shared} of the first {shown} images {verb} in both lists, which are {likeness}."

    def url(self, *, swapped: bool = False, path: str = "/compare") -> str:
        """This page; ``swapped``: with the sides changed over."""
        sides = [column.side for column in self.columns]
        if swapped:
            first, second = sides
            sides = [replace(second, letter="a"), replace(first, letter="b")]
        return f"{path}?{urlencode([*shared_pairs(self.state), *further(sides)])}"

    def as_json(self) -> dict[str, Any]:
        """The JSON twin."""
        overlap = self.overlap
        return {
            "query": dict(query_of(self.state).as_json()),
            **{column.side.letter: column.as_json() for column in self.columns},
            "shown": SHOWN,
            "shared": self.shared if overlap is not None else None,
            "rank_biased_overlap": None if overlap is None else round(overlap, 6),
            "depth": DEPTH,
            "summary": self.summary,
        }


def shared_pairs(state: PageState) -> list[tuple[str, str]]:
    """The parameters that both sides have in common."""
    return replace(state, ranking="", model="", sort="", parts=False, dups=False, view="").query_pairs()


def further(sides: list[Side]) -> list[tuple[str, str]]:
    """The parameters of the sides."""
    return [pair for side in sides for pair in side.pairs()]


def parse_sides(params: Mapping[str, str], state: PageState, models: tuple[str, ...]) -> tuple[Side, Side]:
    """Both sides, chosen or by default: words against the page's own ranking; for a query without words, closeness by
    the first two models. ``InputError`` names a value that makes no sense.
    """
    if not state.q and state.asks:
        defaults = ("vector", "vector")
    elif state.ranking not in ("", "lexical"):
        defaults = ("lexical", state.ranking)
    else:
        defaults = ("lexical", "hybrid")
    fresh = not any(params.get(name) for name in ("a", "b", "am", "bm"))
    second = models[1] if fresh and defaults[0] == defaults[1] and len(models) > 1 else state.model
    others = (state.model, second)
    a, b = (
        Side(
            letter,
            one_of(letter, params.get(letter, ""), ("", *NAMES)) or defaults[at],
            params.get(f"{letter}m", "").strip() or others[at],
            number_within(f"{letter}a", params.get(f"{letter}a") or str(state.alpha), 0, 1),
        )
        for at, letter in enumerate("ab")
    )
    return a, b


def compare(searcher: Searcher, state: PageState, sides: tuple[Side, Side]) -> Comparison:
    """Ask for both sides at once. Errors stay on their side."""
    if not state.asks:
        return Comparison(state, tuple(Column(side, side.state(state), side.ranking, None, None) for side in sides))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda side: _column(searcher, state, side), sides)
    shown = set(first.ids[:SHOWN]) & set(second.ids[:SHOWN])
    links = {document: number for number, document in enumerate((x for x in first.ids if x in shown), 1)}
    columns = tuple(
        replace(column, entries=_entries(column, other, links, state.q))
        for column, other in ((first, second), (second, first))
    )
    return Comparison(state, columns)


def _column(searcher: Searcher, state: PageState, side: Side) -> Column:
    own = side.state(state)
    try:
        if side.ranking == "lexical" and not state.q:
            raise InputError("this query has no words to rank by: choose another ranking")
        asked = replace(own, dups=True)  # near-duplicates are not folded here, so hits need no vectors
        ranking = "vector" if side.ranking == PATCHES else side.ranking
        return Column(side, own, side.ranking, searcher.results(asked, ranking, hits=DEPTH), None)
    except ClipsearchError as error:
        return Column(side, own, side.ranking, None, searcher.failure(error))


def _entries(column: Column, other: Column, links: Mapping[str, int], words: str) -> tuple[Entry, ...]:
    ranks = {document: rank for rank, document in enumerate(other.ids, 1)}
    letter, compared = column.side.letter, not other.failure
    hits = column.results.hits[:SHOWN] if column.results else ()
    return tuple(
        Entry(hit, rank, ranks.get(hit.id), links.get(hit.id), _caption(hit, words), letter, compared)
        for rank, hit in enumerate(hits, 1)
    )


def _caption(hit: Hit, words: str) -> tuple[tuple[str, bool], ...]:
    """The caption that holds most of the words, with those marked."""
    captions = tuple(str(caption) for caption in hit.fields.get("captions") or ())
    if not captions:
        return ()
    return segments(captions[best_caption(captions, words)], words)


class ComparePage:
    """The handlers of the comparison."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui

    def page(self, request: Request) -> Response:
        """The page; 200 as long as one side stands."""
        found = self._comparison(request)
        failure = found.failure
        sides = [column.side for column in found.columns]
        judged = [marks_for(self.ui, replace(column.state, judge=found.state.judge)) for column in found.columns]
        return self.ui.render(
            "compare.html",
            status=failure.status if failure else 200,
            headers={"Retry-After": "5"} if failure and failure.down else {},
            here="compare",
            down=bool(failure and failure.down),
            found=found,
            state=found.state,
            kept=[pair for pair in shared_pairs(found.state) if pair[0] != "q"],
            further="".join(f"&{urlencode([pair])}" for pair in further(sides)),
            query=query_of(found.state),
            subject=self.ui.searcher.subject(found.state),
            marks=None if None in judged else {id: mark for marks in judged if marks for id, mark in marks.items()},
            judged={side.letter: marks for side, marks in zip(sides, judged, strict=True)},
            names=dict(RANKINGS) if failure and failure.down else self._names(),
        )

    def _names(self) -> dict[str, tuple[str, str]]:
        """The rankings that the index can answer; parts of images only where it has some."""
        some = any(self.ui.searcher.has_patches(model) for model in self.ui.config.encoders)
        return NAMES if some else dict(RANKINGS)

    def json(self, request: Request) -> Response:
        """The JSON twin."""
        found = self._comparison(request)
        if found.failure:
            return JSONResponse({"error": found.failure.sentence}, found.failure.status)
        return JSONResponse(found.as_json())

    def _comparison(self, request: Request) -> Comparison:
        state = PageState.parse(request.query_params)
        sides = parse_sides(request.query_params, state, tuple(self.ui.config.encoders))
        common = replace(state, sort="", parts=False, dups=False, view="", page=1)
        return compare(self.ui.searcher, common, sides)


def routes(ui: Ui) -> list[Route]:
    """The routes of the comparison."""
    ui.places["compare"] = ("/compare", "Compare")
    page = ComparePage(ui)
    handlers: list[tuple[str, Callable[[Request], Response]]] = [("/compare", page.page), ("/compare.json", page.json)]
    return [Route(path, handler) for path, handler in handlers]
