"""Request bodies for Vespa's query API: the only place in clipsearch with YQL.

The YQL is one of 41 constant texts for each generation of embeddings (five ways to match, with each combination of
the three filters, and the documents of one model); whatever a user types travels beside it as a parameter (``@text``,
``@corpus``...), so no text can change what is asked. The functions return plain dictionaries, which
``SearchClient.search`` sends unchanged and the pages can show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import InputError
from clipsearch.records import Generation

Vector = npt.NDArray[np.float32]
Request = dict[str, Any]

PROFILES = ("lexical", "vector", "hybrid", "hybrid_linear")
SEMANTIC_PROFILES = ("vector", "hybrid", "hybrid_linear")
MAX_HITS = 400  # Vespa's default maxHits
MAX_OFFSET = 1000  # Vespa's default maxOffset
TIMEOUT = "5s"

_MATCH: Mapping[str, str] = {
    "words": "userInput(@text)",
    "nearest": "({{targetHits:100}}nearestNeighbor({field},{tensor}))",
    "nearest_deep": "({{targetHits:1000}}nearestNeighbor({field},{tensor}))",  # dearer: for pages beyond hit 100
    "both": "({{targetHits:100}}nearestNeighbor({field},{tensor})) or userInput(@text)",
    "all": "true",
}
_FILTERS: Mapping[str, str] = {
    name: f"{name} contains @{name}" for name in ("corpus", "label", "split")
}  # the fields are attributes with match word: the whole value is compared, whatever its case


@dataclass(frozen=True, slots=True)
class Filters:
    """Restrict a search to one corpus, label and split; "" leaves that one open."""

    corpus: str = ""
    label: str = ""
    split: str = ""

    def active(self) -> dict[str, str]:
        """The filters that are set, by field name in a fixed order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value}


NO_FILTERS = Filters()
FIRST = Generation()


@lru_cache(maxsize=64)
def yql(generation: Generation = FIRST) -> Mapping[tuple[str, tuple[str, ...]], str]:
    """All YQL that searches ``generation``, by way to match and filters."""
    texts: dict[tuple[str, tuple[str, ...]], str] = {}
    texts["model", ()] = f"select * from image where {generation.model_field} contains @model_id"
    for match, template in _MATCH.items():
        condition = template.format(field=generation.field, tensor=generation.tensor)
        for count in range(len(_FILTERS) + 1):
            for names in combinations(_FILTERS, count):
                where = " and ".join([f"({condition})", *(_FILTERS[name] for name in names)])
                texts[match, names] = f"select * from image where {where}"
    return texts


YQL = yql()


def lexical(text: str, *, filters: Filters = NO_FILTERS, hits: int = 10, offset: int = 0) -> Request:
    """Images whose captions hold words of ``text``, by BM25. Raises ``InputError`` for a blank text."""
    return _request("words", "lexical", filters, hits, offset) | {"text": _words(text)}


def vector(
    embedding: Vector, *,
    filters: Filters = NO_FILTERS, hits: int = 10, offset: int = 0, generation: Generation = FIRST,
) -> Request:  # fmt: skip
    """Images nearest to ``embedding``, (D,) float32 of unit norm, by cosine."""
    match = "nearest" if hits + offset <= 100 else "nearest_deep"
    return _request(match, "vector", filters, hits, offset, generation) | _tensor(generation, embedding)


def hybrid(
    text: str,
    embedding: Vector,
    *,
    profile: str = "hybrid",
    alpha: float = 0.5,
    filters: Filters = NO_FILTERS,
    hits: int = 10,
    offset: int = 0,
    generation: Generation = FIRST,
) -> Request:
    """Both lists fused: ``profile`` "hybrid" by reciprocal rank, "hybrid_linear" by normalised scores.

    ``alpha`` in [0, 1] is the weight of the semantic part and is sent with "hybrid_linear" only.
    """
    request = _request("both", profile, filters, hits, offset, generation)
    request |= {"text": _words(text), **_tensor(generation, embedding)}
    if profile == "hybrid_linear":
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha is the weight of the semantic part, from 0 to 1, not {alpha}")
        request["input.query(alpha)"] = float(alpha)
    return request


def similar(
    embedding: Vector, *,
    filters: Filters = NO_FILTERS, hits: int = 10, offset: int = 0, generation: Generation = FIRST,
) -> Request:  # fmt: skip
    """``vector`` for the embedding of an indexed image, with room for that image itself among the hits.

    An image is its own nearest neighbour: page one asks for one hit more, later pages start one later, and
    ``SearchClient.similar`` leaves the image out. (A document id cannot be filtered on in YQL.)
    """
    if offset:
        return vector(embedding, filters=filters, hits=hits, offset=offset + 1, generation=generation)
    return vector(embedding, filters=filters, hits=min(hits + 1, MAX_HITS), offset=0, generation=generation)


def by_profile(
    profile: str,
    text: str,
    embedding: Vector | None,
    *,
    alpha: float = 0.5,
    filters: Filters = NO_FILTERS,
    hits: int = 10,
    offset: int = 0,
    generation: Generation = FIRST,
) -> Request:
    """The request of rank profile ``profile`` for what there is of a text and an embedding.

    Without a text (an image query) the two hybrids have one list only, so they become "vector". Raises
    ``InputError`` for an unknown profile or for a part that is missing.
    """
    if profile not in PROFILES:
        raise InputError(f"there is no ranking {profile!r}: choose one of {', '.join(PROFILES)}")
    if profile == "lexical":
        return lexical(text, filters=filters, hits=hits, offset=offset)
    if embedding is None:
        raise InputError(f"the ranking {profile!r} needs a model that turns the query into a vector")
    page: dict[str, Any] = {"filters": filters, "hits": hits, "offset": offset, "generation": generation}
    if profile == "vector" or not text.strip():
        return vector(embedding, **page)
    return hybrid(text, embedding, profile=profile, alpha=alpha, **page)


def browse(*, filters: Filters = NO_FILTERS, hits: int = 10, offset: int = 0) -> Request:
    """Images in no particular order, for a look at what the index holds; with ``hits=0``, only their count."""
    return _request("all", "lexical", filters, hits, offset)


def of_default_profile() -> Request:
    """One hit of the rank profile that the deployed query profile names: its match features tell the generation."""
    return {name: value for name, value in browse(hits=1).items() if name != "ranking.profile"}


def of_model(model_id: str, generation: Generation = FIRST) -> Request:
    """Documents whose embedding of ``generation`` is of this model, for their count."""
    request = _request("model", "lexical", NO_FILTERS, 0, 0, generation)
    return request | {"model_id": model_id}


def _request(
    match: str, profile: str, filters: Filters, hits: int, offset: int, generation: Generation = FIRST
) -> Request:
    if not 0 <= hits <= MAX_HITS:
        raise InputError(f"{hits} hits were asked for: Vespa gives 0 to {MAX_HITS} at a time")
    if not 0 <= offset <= MAX_OFFSET:
        raise InputError(f"hit {offset} is out of reach: Vespa pages to hit {MAX_OFFSET}; narrow the query instead")
    active = filters.active()
    return {
        "yql": yql(generation)[match, tuple(active)],
        "ranking.profile": generation.profile(profile),
        "presentation.summary": "hit",
        "hits": hits,
        "offset": offset,
        "timeout": TIMEOUT,
        **active,
    }


def _tensor(generation: Generation, embedding: Vector) -> Request:
    return {f"input.query({generation.tensor})": _cells(embedding)}


def _words(text: str) -> str:
    if not text.strip():
        raise InputError("the query is empty: type some words")
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot travel in JSON


def _cells(embedding: Vector | Sequence[float]) -> list[float]:
    """Nine digits give each float32 back exactly, in half the characters of a double."""
    cells = np.asarray(embedding, dtype=np.float32)
    if cells.ndim != 1 or not np.isfinite(cells).all():
        raise InputError("a query vector must be one row of finite numbers")
    return [float(f"{cell:.9g}") for cell in cells]
