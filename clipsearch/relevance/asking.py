"""A judged query as the request that the search page would send for it, under any ranking and model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from clipsearch.relevance.judgments import JudgedQuery
from clipsearch.search import QueryEncoder, SearchClient, by_profile
from clipsearch.search.query import FIRST, PATCHES, Filters, Request, Vector, patches
from clipsearch.search.terms import Term, embedded_term, summed, terms_of


class Asker:
    """Makes requests for one model, or for words only without ``encoder``. Raises ``CheckpointError`` for a model that
    the index has no embeddings of.
    """

    def __init__(self, client: SearchClient, encoder: QueryEncoder | None) -> None:
        self._client, self._encoder = client, encoder
        self._generation = client.generation_of(encoder.model.model_id) if encoder else FIRST

    def answers(self, profile: str) -> bool:
        """Whether the index can be asked with ``profile``: not by parts of images where it has none by this model."""
        return profile != PATCHES or (
            self._encoder is not None and self._client.has_patches(self._encoder.model.model_id)
        )

    def request(self, query: JudgedQuery, profile: str, hits: int, alpha: float = 0.5) -> Request:
        """The request for the first ``hits`` of ``query``; one more where the query is an indexed image.

        That image is its own nearest neighbour, and no answer: whoever reads the hits leaves it out.
        """
        bounds: dict[str, Any] = {"filters": filters(query), "hits": hits + bool(query.like)}
        if profile == "lexical":
            return by_profile(profile, query.q, None, **bounds)
        if profile == PATCHES and self._encoder is not None:
            return patches(self.vector(query), self._encoder.model.model_id, **bounds)
        return by_profile(
            profile, query.q, self.vector(query), alpha=alpha, generation=self._generation, **bounds
        )  # fmt: skip

    def vector(self, query: JudgedQuery) -> Vector:
        """(D,) float32: the query's vector as the page made it. Raises ``InputError`` for an upload, which is gone."""
        further = [Term.parse(term) for term in query.terms]
        terms = terms_of(query.q, query.like, query.img, further)
        return summed(terms, lambda term: embedded_term(term, self._client, self._encoder))


def filters(query: JudgedQuery) -> Filters:
    """The filters that the query was judged under."""
    return Filters(**{field.name: getattr(query, field.name) for field in fields(Filters)})
