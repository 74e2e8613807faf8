"""From a page's state to results: what is asked of which model and sent to the endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from typing import Any, TypeVar, Unpack

from clipsearch.errors import CheckpointError, ClipsearchError, InputError, RejectedError, UnreachableError
from clipsearch.records import Generation, Results
from clipsearch.search import QueryEncoder, SearchClient, by_profile
from clipsearch.search.query import FIRST, Options, Request, Vector, browse, patches
from clipsearch.search.ranks import ListRanks, list_ranks
from clipsearch.search.terms import Term, embedded_term, summed, terms_of
from clipsearch.web.background import Backgrounds, Sample
from clipsearch.web.pictures import corpus_and_key
from clipsearch.web.state import PER_PAGE, PageState
from clipsearch.web.uploads import Uploads

PATIENCE = 1.0
"""Seconds after which a page asks whether the endpoint lives at all."""
PROBE = 0.8
"""Seconds in which it has to say so."""

T = TypeVar("T")
RANKINGS = {
    "lexical": ("Words", "by the words of the captions (BM25)"),
    "vector": ("Meaning", "by closeness of image and query"),
    "hybrid": ("Both", "by words and meaning, fused by reciprocal rank"),
    "hybrid_linear": ("Blend", "by words and meaning, blended by the slider"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, as a sentence, with its HTTP status; ``down``: the endpoint does not answer."""

    sentence: str
    status: int
    down: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A state with its query vector (D,), and the generation of embeddings and the model that the vector is of."""

    state: PageState
    ranking: str
    embedding: Vector | None = None
    generation: Generation = FIRST
    model: str = ""

    @property
    def leaves_out(self) -> str:
        """The image that is searched by: it is its own nearest neighbour, which tells nobody anything."""
        return self.state.like if self.embedding is not None else ""

    def request(self, **options: Unpack[Options]) -> Request:
        """The request with these ``options``, sorted as the state says; ``without_itself`` is for what it finds."""
        state = self.state
        options["sort"] = state.sort
        if not state.dups and options.get("hits"):
            options["summary"] = "hit_vector"
        if not state.asks:
            return browse(**options)
        if self.embedding is None:
            return by_profile(self.ranking, state.q, None, **options)
        options["generation"] = self.generation
        if state.parts:
            return patches(self.embedding, self.model, **options)
        return by_profile(self.ranking, state.q, self.embedding, alpha=state.alpha, **options)

    def without_itself(self, found: Results) -> Results:
        """``found`` without the image that is searched by, on whichever page it is: words, a filter or a subtracted
        term may put it anywhere.
        """
        return replace(found, hits=tuple(hit for hit in found.hits if hit.id != self.leaves_out))

    @property
    def note(self) -> str:
        """What the ranking does not look at though it is asked for, in one sentence; "" when it looks at all."""
        return unheard(self.state, self.ranking)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about one page of results; ``sample``: None when nothing can be judged against it; ``fetched``: its
    hits with the image that is searched by.
    """

    question: Question
    results: Results
    fetched: int
    ranks: ListRanks
    sample: Sample | None


def unheard(state: PageState, ranking: str) -> str:
    """What ``ranking`` does not look at though ``state`` has it, in one sentence; "" when it looks at all.

    Words alone have no vector, so that neither an image nor terms can be added to them.
    """
    image, terms = "the image" if state.by_image else "", "what is added or subtracted" if state.terms else ""
    if ranking != "lexical" or not (image or terms):
        return ""
    parts, verb = (f"{image} and {terms}", "do") if image and terms else (image or terms, "does")
    return f"This ranking looks at words only: {parts} {verb} not count."


def heard(state: PageState, ranking: str) -> PageState:
    """``state`` with only what ``ranking`` looks at."""
    return replace(state, like="", img="", terms=()) if unheard(state, ranking) else state


class Searcher:
    """Answers page states; without encoders, words only are searched."""

    def __init__(self, client: SearchClient, encoders: Mapping[str, QueryEncoder], uploads: Uploads) -> None:
        self.client = client
        self.encoders = dict(encoders)
        self.uploads = uploads
        self.backgrounds = Backgrounds(client)
        self._probe = SearchClient(client.url, timeout=PROBE)
        self._pool = ThreadPoolExecutor(16, "search")
        self._pages = ThreadPoolExecutor(64, "page")

    def encoder(self, model: str = "") -> QueryEncoder | None:
        """The encoder of ``model``, "" for the first; None when the page runs without one.

        Raises ``InputError`` for a model that is not loaded.
        """
        if not model:
            return next(iter(self.encoders.values()), None)
        if model not in self.encoders:
            loaded = ", ".join(self.encoders) or "none"
            raise InputError(f"the model {model[:80]!r} is not loaded here (loaded: {loaded})")
        return self.encoders[model]

    def chosen(self, state: PageState) -> str:
        """The ranking that is chosen, by default hybrid with a model and lexical without."""
        return state.ranking or ("hybrid" if self.encoders else "lexical")

    def ranking(self, state: PageState) -> str:
        """The ranking that answers ``state``: the chosen one, but closeness where there are no words to rank by."""
        only_vector = state.asks and (state.parts or not state.q)
        return "vector" if only_vector else self.chosen(state)

    def query_vector(self, state: PageState) -> Vector | None:
        """(D,) float32: the weighted sum of words, image and terms, of unit length; None without any, or a model.

        Each summand has unit length before it is weighted. Raises ``InputError`` for an image that is gone and for
        terms that cancel out.
        """
        terms = terms_of(state.q, state.like, state.img, state.terms)
        encoder = self.encoder(state.model)
        if not terms or (encoder is None and any(term.kind != "like" for term in terms)):
            return None
        return summed(terms, lambda term: self._summand(term, encoder))

    def generation(self, model: str = "") -> Generation:
        """The generation of embeddings that ``model`` made; the active one without a model.

        Raises ``CheckpointError`` when the index has none of the model.
        """
        encoder = self.encoder(model)
        return self.client.generation_of(encoder.model.model_id) if encoder else self.client.active()

    def request(
        self, state: PageState, ranking: str = "", *, hits: int = PER_PAGE, offset: int | None = None
    ) -> Request:
        """The very request that answers ``state``, with facets; ``offset`` None: the state's own page."""
        return self.question(state, ranking).request(
            filters=state.filters, hits=hits, offset=state.offset if offset is None else offset, facets=True
        )

    def results(self, state: PageState, ranking: str = "", *, hits: int = PER_PAGE) -> Results:
        """The first ``hits`` of ``state`` by ``ranking`` ("": the state's own), without facets."""
        return self.promptly(self._results, state, ranking, hits)

    def _results(self, state: PageState, ranking: str, hits: int) -> Results:
        question = self.question(state, ranking)
        asked = hits + bool(question.leaves_out)
        found = question.without_itself(self.client.search(question.request(filters=state.filters, hits=asked)))
        return replace(found, hits=found.hits[:hits])

    def question(self, state: PageState, ranking: str = "") -> Question:
        """What ``state`` asks for, embedded. Raises as ``query_vector`` and ``generation`` do."""
        ranking = ranking or self.ranking(state)
        if ranking == "lexical" or not state.asks:
            return Question(state, ranking)
        embedding = self.query_vector(state)
        encoder = self.encoder(state.model)
        if state.parts and encoder is None:
            raise InputError("searching parts of images needs the model that made them: start the page with --model")
        model = encoder.model.model_id if encoder else ""
        return Question(
            state, ranking, embedding, self.generation(state.model) if embedding is not None else FIRST, model
        )

    def answer(self, state: PageState) -> Answer:
        """All that a page of results shows; requests go side by side.

        Raises ``ClipsearchError`` of any kind.
        """
        return self.promptly(self._answer, state)

    def promptly(self, work: Callable[..., T], *given: Any, **named: Any) -> T:
        """``work(*given, **named)``, but people are told within two seconds that the endpoint does not answer at all.

        An endpoint that is only slow gets its time: whether it lives is asked on a line of its own.
        """
        future = self._pages.submit(work, *given, **named)
        try:
            return future.result(PATIENCE)
        except NotYet:
            try:
                self._probe.check()
            except ClipsearchError:
                future.cancel()  # what has not begun yet is work that nobody waits for any more
                raise
        return future.result()

    def _answer(self, state: PageState) -> Answer:
        fused = self.ranking(state) in ("hybrid", "hybrid_linear") and bool(state.q) and not state.sort
        by_words = by_vector = None
        if fused:
            by_words = self._pool.submit(list_ranks, self.client, state.q, None, state.filters, without=state.like)
        question = self.question(state)  # the model works while the endpoint does
        if fused and question.embedding is not None:
            by_vector = self._pool.submit(
                list_ranks, self.client, "", question.embedding, state.filters, question.generation, without=state.like
            )
        found = self.client.faceted(question.request, state.filters, hits=PER_PAGE, offset=state.offset)
        sample = None
        if question.embedding is not None and not state.parts:
            sample = self.backgrounds.get(question.generation)
        ranks = ListRanks(
            by_words.result().lexical if by_words else {}, by_vector.result().semantic if by_vector else {}
        )
        return Answer(question, question.without_itself(found), len(found.hits), ranks, sample)

    def has_patches(self, model: str = "") -> bool:
        """Whether the index has parts of images by this model."""
        try:
            encoder = self.encoder(model)
            return encoder is not None and self.promptly(self.client.has_patches, encoder.model.model_id)
        except ClipsearchError:
            return False

    def subject(self, state: PageState) -> str:
        """The name of the image that is searched by, "" without one."""
        if state.img:
            upload = self.uploads.get(state.img)
            return upload.name if upload else ""
        return corpus_and_key(state.like)[1]

    def failure(self, error: ClipsearchError) -> Failure:
        """What to tell people about ``error``."""
        if isinstance(error, UnreachableError):
            return Failure(f"The search engine at {self.client.url} does not answer.", 503, True)
        if isinstance(error, RejectedError):
            status = 400 if error.status < 500 else 502
            return Failure(f"The search engine refuses this query: {error.message}", status)
        sentence = f"{error}."
        return Failure(sentence[:1].upper() + sentence[1:], 409 if isinstance(error, CheckpointError) else 400)

    def _summand(self, term: Term, encoder: QueryEncoder | None) -> Vector:
        """(D,) float32 of unit length."""
        if term.kind != "img" or encoder is None:
            return embedded_term(term, self.client, encoder)
        upload = self.uploads.get(term.value)
        if upload is None:
            raise InputError("that upload is forgotten by now: upload the image again")
        return upload.embeddings[encoder.model.model_id]
