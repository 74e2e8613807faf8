"""One page of results: from a ``PageState`` to what the template, or the page's JSON twin, shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipsearch.errors import CheckpointError, InputError, RejectedError, ServiceError, UnreachableError
from clipsearch.records import Hit, Results
from clipsearch.search import QueryEncoder, SearchClient, by_profile, explain
from clipsearch.search.query import browse, vector
from clipsearch.web.state import LAST_PAGE, PER_PAGE, PageState
from clipsearch.web.uploads import Uploads

RANKINGS = {
    "lexical": ("Words", "by the words of the captions (BM25)"),
    "vector": ("Meaning", "by closeness of image and query"),
    "hybrid": ("Both", "by words and meaning, fused by reciprocal rank"),
    "hybrid_linear": ("Blend", "by words and meaning, blended by the slider"),
}


NOTHING = Results((), 0)


@dataclass(frozen=True, slots=True)
class Card:
    """A hit as the page shows it. ``words`` and ``meaning``: its parts as a share of the page's best, in [0, 1]."""

    hit: Hit
    rank: int
    corpus: str
    key: str
    captions: tuple[str, ...]
    version: str
    cosine: float | None
    words: float
    meaning: float
    score: float


@dataclass(frozen=True, slots=True)
class Page:
    """Everything a page shows. ``error`` is a sentence; ``status`` the HTTP status that goes with it."""

    state: PageState
    ranking: str
    results: Results = NOTHING
    cards: tuple[Card, ...] = ()
    subject: str = ""
    error: str = ""
    down: bool = False
    status: int = 200

    @property
    def has_next(self) -> bool:
        """Whether a further page may hold hits."""
        seen = self.state.offset + len(self.cards)
        return len(self.cards) == PER_PAGE and seen < self.results.total and self.state.page < LAST_PAGE

    def as_json(self) -> dict[str, Any]:
        """The JSON twin."""
        if self.error:
            return {"error": self.error}
        answer = explain.as_json(self.results, self.state.offset + 1)
        following = self.state.query_string(page=self.state.page + 1) if self.has_next else None
        return {"ranking": self.ranking, **answer, "next": following}


class Searcher:
    """Answers page states; ``encoder`` is None when the UI runs without a model, and then words only are searched."""

    def __init__(self, client: SearchClient, encoder: QueryEncoder | None, uploads: Uploads) -> None:
        self.client = client
        self.encoder = encoder
        self.uploads = uploads

    def ranking(self, state: PageState) -> str:
        """The ranking that answers ``state``: the chosen one, else hybrid with a model and lexical without."""
        return "vector" if state.by_image else self.chosen(state)

    def chosen(self, state: PageState) -> str:
        """The ranking for the next words that are typed; an image query in between does not change it."""
        return state.ranking or ("hybrid" if self.encoder else "lexical")

    def page(self, state: PageState) -> Page:
        """The page for ``state``; errors become a page that says what is wrong."""
        ranking = self.ranking(state)
        try:
            results, subject = self._results(state, ranking)
        except UnreachableError:
            return self.failed(state, f"The search engine at {self.client.url} does not answer.", 503, down=True)
        except RejectedError as error:
            status = 400 if error.status < 500 else 502
            return self.failed(state, f"The search engine refuses this query: {error.message}", status)
        except CheckpointError as error:
            return self.failed(state, f"{error}.", 409)
        except (InputError, ServiceError) as error:
            return self.failed(state, f"{error}.", 400)
        return Page(state, ranking, results, cards(results, state.offset), subject)

    def failed(self, state: PageState, error: str, status: int, *, down: bool = False) -> Page:
        """A page that shows ``error``."""
        sentence = error[:1].upper() + error[1:]
        return Page(state, self.ranking(state), error=sentence, status=status, down=down)

    def _results(self, state: PageState, ranking: str) -> tuple[Results, str]:
        """Results, and in words what an image query is like."""
        bounds: dict[str, Any] = {"filters": state.filters, "hits": PER_PAGE, "offset": state.offset}
        if state.like:
            return self.client.similar(state.like, **bounds), state.like.rpartition("::")[2]
        if state.img:
            upload = self.uploads.get(state.img)
            if upload is None:
                raise InputError("that upload is forgotten by now: upload the image again")
            return self.client.search(vector(upload.embedding, **bounds, **self._generation())), upload.name
        if not state.q:
            return self.client.search(browse(**bounds)), ""
        embedding = self.encoder.text(state.q) if self.encoder and ranking != "lexical" else None
        if embedding is not None:
            bounds |= self._generation()
        return self.client.search(by_profile(ranking, state.q, embedding, alpha=state.alpha, **bounds)), ""

    def _generation(self) -> dict[str, Any]:
        """The generation of embeddings that the page's own model made; ``CheckpointError`` when the index has none."""
        return {"generation": self.client.generation_of(self.encoder.model.model_id)} if self.encoder else {}


def cards(results: Results, offset: int) -> tuple[Card, ...]:
    """Hits as cards, their parts scaled to the page's best."""
    angles = [explain.cosine(hit.semantic) for hit in results.hits]
    best_words = max((hit.lexical for hit in results.hits), default=0.0)
    best_meaning = max((angle for angle in angles if angle is not None), default=0.0)
    best_score = max((hit.relevance for hit in results.hits), default=0.0)
    return tuple(
        Card(
            hit=hit,
            rank=offset + number,
            corpus=hit.id.split(":")[1] if hit.id.count(":") > 2 else "",
            key=hit.id.rpartition("::")[2],
            captions=tuple(str(caption) for caption in hit.fields.get("captions") or ()),
            version=str(hit.fields.get("content_hash", ""))[:12],
            cosine=angle,
            words=_share(hit.lexical, best_words),
            meaning=_share(angle or 0.0, best_meaning),
            score=_share(hit.relevance, best_score),
        )
        for number, (hit, angle) in enumerate(zip(results.hits, angles, strict=True), 1)
    )


def _share(value: float, best: float) -> float:
    return round(max(0.0, min(1.0, value / best)), 3) if best > 0 else 0.0
