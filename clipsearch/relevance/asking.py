"""A judged query as the request that the search page would send for it, under any ranking and model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from clipsearch.errors import InputError
from clipsearch.relevance.judgments import JudgedQuery
from clipsearch.search import QueryEncoder, SearchClient, by_profile
from clipsearch.search.query import FIRST, PATCHES, Filters, Request, Vector, patches


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
        """(D,) float32: the weighted sum of the query's parts, of unit length each and in the end."""
        total = sum(weight * self._summand(kind, value) for weight, kind, value in _parts(query))
        length = float(np.linalg.norm(total))
        if length < 1e-6:
            raise InputError(f"the parts of the judged query {query} cancel out")
        return np.asarray(total / length, dtype=np.float32)

    def _summand(self, kind: str, value: str) -> Vector:
        if kind == "like":
            vector = self._client.embedding(value, self._generation)
            return vector / max(float(np.linalg.norm(vector)), 1e-12)
        if kind != "text" or self._encoder is None:
            raise InputError(f"a judged query with {kind}:{value} cannot be asked again")
        return self._encoder.text(value)


def filters(query: JudgedQuery) -> Filters:
    """The filters that the query was judged under."""
    return Filters(**{field.name: getattr(query, field.name) for field in fields(Filters)})


def _parts(query: JudgedQuery) -> list[tuple[float, str, str]]:
    parts = [(1.0, "text", query.q)] if query.q else []
    parts += [(1.0, "like", query.like)] if query.like else []
    for term in query.terms:
        weight, _, rest = term.partition(":")
        kind, _, value = rest.partition(":")
        try:
            parts.append((float(weight), kind, value))
        except ValueError:
            raise InputError(f"a judged query has the term {term!r}, which is not like -0.5:text:snow") from None
    return parts
