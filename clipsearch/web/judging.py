"""Judging: whether a hit answers the query, kept as lines of a file that ``clipsearch relevance`` reads.

``judge=1`` in a page's URL puts two buttons under each hit. They belong to one form, whose address has the state of the
page, so that the server knows what was asked and how it was ranked. A browser without JavaScript is sent back to the
hit that it judged; with it, ``page.js`` sends the same form and is answered 204.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from clipsearch.errors import InputError
from clipsearch.relevance.judgments import JudgedQuery, Judgment
from clipsearch.search.endpoint import parse_id
from clipsearch.search.query import PATCHES
from clipsearch.web.searching import heard
from clipsearch.web.security import check_same_origin
from clipsearch.web.site import Ui
from clipsearch.web.state import PageState

MAX_FORM = 4096
"""Bytes of the form: a button's name and value."""

MARKS = {"relevant": True, "irrelevant": False, "undecided": None}
SIDES = ("a", "b")


def query_of(state: PageState) -> JudgedQuery:
    """What ``state`` asks for, however it is ranked and shown."""
    return JudgedQuery(
        state.q, state.like, state.img, tuple(map(str, state.terms)),
        state.corpus, state.label, state.split, state.size,
    )  # fmt: skip


def judged_query(ui: Ui, state: PageState) -> JudgedQuery:
    """What hits of ``state`` are judged for: no image and no terms where the ranking looks at words only."""
    return query_of(heard(state, ui.searcher.ranking(state)))


def marks_for(ui: Ui, state: PageState) -> dict[str, bool] | None:
    """What was judged for ``state``, by document id; None where nothing can be judged."""
    if ui.book is None or not state.judge or not state.asks:
        return None
    return ui.book.of(judged_query(ui, state))


class Judging:
    """The one handler that writes."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui

    async def judge(self, request: Request) -> Response:
        """Append one judgment; it is on the disk before the answer: 303 back to the hit, or 204 to a script.

        400 for a form that makes no sense, 403 from another site, 409 without a file, 413 and 415 for another kind of
        body, 507 when the disk refuses.
        """
        check_same_origin(request)
        if self.ui.book is None:
            raise HTTPException(409, "Judgments are not kept: start the page with --judgments FILE.")
        mark = await read_mark(request)
        state = PageState.parse(request.query_params)
        if not state.asks:
            raise HTTPException(400, "There is no query to judge for: search for something first.")
        judgment = self._judgment(state, mark)
        try:
            await run_in_threadpool(self.ui.book.add, judgment)
        except OSError as error:
            sentence = f"The judgment could not be kept in {self.ui.book.path}: {error.strerror}."
            raise HTTPException(507, sentence) from error
        if request.headers.get("accept", "").startswith("application/json"):
            return Response(status_code=204)
        return RedirectResponse(_back(request, state, judgment), 303)

    def _judgment(self, state: PageState, mark: tuple[str, int, str]) -> Judgment:
        word, rank, document_id = mark
        ranking = PATCHES if state.parts else self.ui.searcher.ranking(state)
        encoder = self.ui.searcher.encoder(state.model) if ranking != "lexical" else None
        model = encoder.model.model_id if encoder else ""
        return Judgment(judged_query(self.ui, state), document_id, MARKS[word], ranking, model, rank)


async def read_mark(request: Request) -> tuple[str, int, str]:
    """The pressed button's ``mark``: one of ``MARKS``, the hit's rank and its document id.

    Raises ``HTTPException`` 413 as soon as the body is too large, 415 for another kind of body, 400 for nonsense.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Send the judgment as a form with the field “mark”.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise HTTPException(413, "That is too long for a judgment.")
    try:
        values = parse_qs(body.decode("ascii"), max_num_fields=8, errors="strict").get("mark", [])
        word, rank, document_id = values[0].split(" ") if len(values) == 1 else ("", "0", "")
        number = int(rank) if rank.isascii() and rank.isdigit() and len(rank) < 6 else -1
        if word not in MARKS or number < 0:
            raise InputError("the form has no judgment")
        parse_id(document_id)
    except (ValueError, InputError) as error:
        raise HTTPException(400, "That form is no judgment: mark is like “relevant 3 id:demo:image::a.jpg”.") from error
    return word, number, document_id


def compare_pairs(request: Request) -> list[tuple[str, str]]:
    """The parameters that only the comparison has: the rankings, models and weights of its sides."""
    names = [side + part for side in SIDES for part in ("", "m", "a")]
    return [(name, request.query_params[name]) for name in names if request.query_params.get(name)]


def _back(request: Request, state: PageState, judgment: Judgment) -> str:
    """Where the form was: built of parsed parts only, so that nobody can be sent elsewhere."""
    side = request.query_params.get("side", "")
    if side not in SIDES:
        return f"/{state.query_string(page=state.page)}#judge-{judgment.rank}"
    plain = replace(state, ranking="", model="", page=1)
    pairs = [*plain.query_pairs(), *compare_pairs(request)]
    return f"/compare?{urlencode(pairs)}#judge-{side}-{judgment.rank}"


def routes(ui: Ui) -> list[Route]:
    """The route that takes judgments. Raises ``InputError`` when their file cannot be written."""
    if ui.book is not None:
        ui.book.check()
    return [Route("/judge", Judging(ui).judge, methods=["POST"])]
