"""Request bodies for Vespa's query API: the only place in clipsearch with YQL.

The YQL is put together from constant parts alone: one of 8 ways to match, which of the four filters are set, whether a
place on the map is asked for, one of 4 orders, with facets or without. These are 2,048 texts for each generation of
embeddings, and one that counts documents of a model; ``yql`` lists them all. Whatever a user types travels beside the
text as a parameter (``@text``, ``@corpus``...), so nothing typed can change what is asked. The functions return plain
dictionaries, which ``SearchClient.search`` sends unchanged and the pages can show.

Facets count matches within all filters that are set. So that a user can switch from one label to another, the labels
must be counted without the label's own filter: ``SearchClient.faceted`` does that with one more request of no hits for
each filter that is set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import combinations, product
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from clipsearch.errors import InputError
from clipsearch.records import Generation
from clipsearch.search.highlight import query_terms

Vector = npt.NDArray[np.float32]
Request = dict[str, Any]

PROFILES = ("lexical", "vector", "hybrid", "hybrid_linear")
SEMANTIC_PROFILES = ("vector", "hybrid", "hybrid_linear")
PATCHES = "vector_patches"
PATCH_TENSOR = "input.query(q_patches)"
MAX_HITS = 400  # Vespa's default maxHits
MAX_OFFSET = 1000  # Vespa's default maxOffset
TIMEOUT = "5s"
FEW_WORDS = 2  # of which nearly every image that has them in its captions has them all
SUMMARIES = ("hit", "hit_vector", "id")

SIZES: Mapping[str, tuple[int, int]] = {
    "small": (1, 319), "medium": (320, 1023), "large": (1024, 4095), "huge": (4096, 2**31 - 1)
}  # fmt: skip
"""Widths in px, both ends included: 320 is what a phone shows, 1024 what CLIP's patches of 224 px part in 16 and more,
4096 a sensor's whole frame."""

SORTS: Mapping[str, str] = {
    "": "",  # by relevance
    "label": " order by label asc",
    "width": " order by width desc",
    "corpus": " order by corpus asc",
}

_NEAR = "({{targetHits:{count}}}nearestNeighbor({field},{tensor}))"
_PATCHES = "({{targetHits:{count}}}nearestNeighbor(patches,q_patches)) and patches_model contains @model_id"
NEAREST = 200
"""How many neighbours match, whatever the page: were it more further down, counts and facets would jump there."""
_MATCH: Mapping[str, tuple[str, int]] = {
    "words": ("userInput(@text)", 0),
    "nearest": (_NEAR, NEAREST),
    "nearest_deep": (_NEAR, 1000),  # for lists of more hits than that at once
    "both": (f"{_NEAR} or userInput(@text)", 100),
    "patches": (_PATCHES, NEAREST),
    "patches_deep": (_PATCHES, 1000),  # over 10,921 images: +17 ms, where 200 for 100 is +2 ms
    "all": ("true", 0),
    "patched": ("patches_model contains @model_id", 0),
}
_FILTERS: Mapping[str, str] = {
    **{name: f"{name} contains @{name}" for name in ("corpus", "label", "split")},
    "size": "width >= @narrowest and width <= @widest",
}  # the strings are attributes with match word: the whole value is compared, whatever its case
# Documents without a place have NaN there, which is in no range.
_AREA = " and latitude >= @south and latitude <= @north and longitude >= @west and longitude <= @east"
_BUCKETS = ", ".join(f"bucket[{low}, {high}]" for low, high in SIZES.values())
_GROUPS = {
    "corpus": ("corpus", 100),
    "label": ("label", 500),
    "split": ("split", 20),
    "size": (f"predefined(width, {_BUCKETS})", 5),
}  # by what, and how many groups at most
_FACETS = "".join(
    f" all(group({by}) max({most}) order(-count()) each(output(count())) as({name}))"
    for name, (by, most) in _GROUPS.items()
)
FACETS = tuple(_GROUPS)


@dataclass(frozen=True, slots=True)
class Filters:
    """Restrict a search to one corpus, label, split and size (of ``SIZES``); "" leaves that one open."""

    corpus: str = ""
    label: str = ""
    split: str = ""
    size: str = ""

    def active(self) -> dict[str, str]:
        """The filters that are set, by field name in a fixed order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle on the map in degrees, by default the world; ``InputError`` for one that is none."""

    south: float = -90.0
    west: float = -180.0
    north: float = 90.0
    east: float = 180.0

    def __post_init__(self) -> None:
        """Check the order; the antimeridian is a border."""
        if not (-90 <= self.south <= self.north <= 90 and -180 <= self.west <= self.east <= 180):
            raise InputError(
                f"{self.south},{self.west},{self.north},{self.east} is no area: give south, west, north and east in "
                "degrees, latitudes from -90 to 90 and longitudes from -180 to 180"
            )

    def bounds(self) -> dict[str, str]:
        """The sides by name as fixed-point texts with 7 decimals (1 cm): Vespa's YQL refuses numbers like 1e-05."""
        # adding 0 makes -0.0 the plain zero
        return {side.name: f"{round(getattr(self, side.name), 7) + 0.0:.7f}" for side in fields(self)}


class Options(TypedDict, total=False):
    """What every request takes beside its query.

    ``filters``; ``hits`` and ``offset``: the page; ``generation`` of embeddings; ``facets``: count matches by the
    fields of ``FACETS``; ``sort``: one of ``SORTS``; ``summary``: one of ``SUMMARIES``: ``hit``, ``hit_vector`` with
    the embedding, ``id`` with nothing but the id; ``area``: only images that lie in it.
    """

    filters: Filters
    hits: int
    offset: int
    generation: Generation
    facets: bool
    sort: str
    summary: str
    area: Area | None


NO_FILTERS = Filters()
WORLD = Area()
FIRST = Generation()


@lru_cache(maxsize=64)
def yql(generation: Generation = FIRST) -> frozenset[str]:
    """All YQL that searches ``generation``."""
    return frozenset(_all_yql(generation))


def _all_yql(generation: Generation) -> Iterator[str]:
    yield _of_model(generation)
    chosen = [names for count in range(len(_FILTERS) + 1) for names in combinations(_FILTERS, count)]
    for match, names, placed, sort, facets in product(_MATCH, chosen, (False, True), SORTS, (False, True)):
        yield _yql(match, names, placed, sort, facets, generation)


@lru_cache(maxsize=4096)
def _yql(
    match: str, names: tuple[str, ...], placed: bool, sort: str, facets: bool, generation: Generation = FIRST
) -> str:
    template, count = _MATCH[match]
    condition = template.format(field=generation.field, tensor=generation.tensor, count=count)
    where = " and ".join([f"({condition})", *(_FILTERS[name] for name in names)])
    counted = f" | all({_FACETS.strip()})" if facets else ""
    return f"select * from image where {where}{_AREA if placed else ''}{SORTS[sort]}{counted}"


def _of_model(generation: Generation) -> str:
    return f"select * from image where {generation.model_field} contains @model_id"


def lexical(text: str, **options: Unpack[Options]) -> Request:
    """Images whose captions hold words of ``text``, by BM25. Raises ``InputError`` for a blank text."""
    return _request("words", "lexical", options) | {"text": _words(text)}


def vector(embedding: Vector, **options: Unpack[Options]) -> Request:
    """Images nearest to ``embedding``, (D,) float32 of unit norm, by cosine.

    The best 200 match: that many are counted by facets, brought into another order and can be paged through. A list of
    more ``hits`` than that at once is taken from the best 1000. The depth hangs on ``hits`` alone, never on ``offset``,
    so that totals and facets are the same on every page.
    """
    return _request(_deep("nearest", options), "vector", options) | _tensor(options, embedding)


def patches(embedding: Vector, model_id: str, **options: Unpack[Options]) -> Request:
    """Images by their patch that is nearest to ``embedding``, (D,) float32 of unit norm, by cosine.

    Only patches that ``model_id`` made are compared: those of another model are not in the same space. Each hit says
    which patch it was (``Hit.box``). As many images match as with ``vector``.
    """
    request = _request(_deep("patches", options), PATCHES, options)
    return request | {PATCH_TENSOR: _cells(embedding), "model_id": model_id}


def hybrid(
    text: str, embedding: Vector, *, profile: str = "hybrid", alpha: float = 0.5, **options: Unpack[Options]
) -> Request:
    """Both lists fused: ``profile`` "hybrid" by reciprocal rank, "hybrid_linear" by normalised scores.

    ``alpha`` in [0, 1] is the weight of the semantic part and is sent with "hybrid_linear" only. With "hybrid", images
    one of whose captions holds every word of ``text`` are a third list, but for a text of fewer than three words.
    """
    request = _request("both", profile, options)
    request |= {"text": _words(text), **_tensor(options, embedding)}
    if profile == "hybrid_linear":
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha is the weight of the semantic part, from 0 to 1, not {alpha}")
        if not options.get("sort"):
            request["input.query(alpha)"] = float(alpha)
    elif not options.get("sort") and not counts_whole(text):
        request["input.query(whole)"] = 0.0
    return request


def counts_whole(text: str) -> bool:
    """Whether "hybrid" puts images first whose caption holds every word of ``text``: of three different words or more.

    Of one or two words all hits by words would come before all that only the vector found, and nothing were fused.
    """
    return len(query_terms(text)) > FEW_WORDS


def by_profile(
    profile: str, text: str, embedding: Vector | None, *, alpha: float = 0.5, **options: Unpack[Options]
) -> Request:
    """The request of rank profile ``profile`` for what there is of a text and an embedding.

    Without a text (an image query) the two hybrids have one list only, so they become "vector". Raises
    ``InputError`` for an unknown profile or for a part that is missing.
    """
    if profile not in PROFILES:
        raise InputError(f"there is no ranking {profile!r}: choose one of {', '.join(PROFILES)}")
    if profile == "lexical":
        return lexical(text, **options)
    if embedding is None:
        raise InputError(f"the ranking {profile!r} needs a model that turns the query into a vector")
    if profile == "vector" or not text.strip():
        return vector(embedding, **options)
    return hybrid(text, embedding, profile=profile, alpha=alpha, **options)


def browse(**options: Unpack[Options]) -> Request:
    """Images in no particular order, for a look at what the index holds; with ``hits=0``, only their count."""
    return _request("all", "lexical", options)


def located(**options: Unpack[Options]) -> Request:
    """Images that say where they were taken, within ``area`` (by default the world), in no particular order."""
    changed = options.copy()
    changed["area"] = options.get("area") or WORLD
    return _request("all", "lexical", changed)


def of_default_profile() -> Request:
    """One hit of the rank profile that the deployed query profile names: its match features tell the generation."""
    return {name: value for name, value in browse(hits=1).items() if name != "ranking.profile"}


def of_model(model_id: str, generation: Generation = FIRST) -> Request:
    """Documents whose embedding of ``generation`` is of this model, for their count."""
    return browse(hits=0) | {"yql": _of_model(generation), "model_id": model_id}


def of_patches_model(model_id: str) -> Request:
    """Documents whose patches are of this model, for their count."""
    return _request("patched", "lexical", Options(hits=0)) | {"model_id": model_id}


def _deep(match: str, options: Options) -> str:
    return f"{match}_deep" if options.get("hits", 10) > NEAREST else match


def _request(match: str, profile: str, options: Options) -> Request:
    hits, offset = options.get("hits", 10), options.get("offset", 0)
    generation, sort = options.get("generation", FIRST), options.get("sort", "")
    if not 0 <= hits <= MAX_HITS:
        raise InputError(f"{hits} hits were asked for: Vespa gives 0 to {MAX_HITS} at a time")
    if not 0 <= offset <= MAX_OFFSET:
        raise InputError(f"hit {offset} is out of reach: Vespa pages to hit {MAX_OFFSET}; narrow the query instead")
    if sort not in SORTS:
        raise InputError(f"there is no order {sort!r}: choose one of {', '.join(filter(None, SORTS))}, or none")
    if sort and profile in ("hybrid", "hybrid_linear"):
        profile = "vector"  # Vespa refuses an order together with a global phase; the order is all that counts
    active, area = options.get("filters", NO_FILTERS).active(), options.get("area")
    names = tuple(active)
    return {
        "yql": _yql(match, names, area is not None, sort, options.get("facets", False), generation),
        "ranking.profile": profile if profile == PATCHES else generation.profile(profile),
        **_summary(options.get("summary", "hit"), generation),
        "hits": hits,
        "offset": offset,
        "timeout": TIMEOUT,
        **_bounds(active.pop("size", "")),
        **active,
        **(area.bounds() if area else {}),
    }


def _summary(name: str, generation: Generation) -> Request:
    if name not in SUMMARIES:
        raise InputError(f"there is no summary {name!r}: choose one of {', '.join(SUMMARIES)}")
    asked = {"presentation.summary": generation.summary(name)}
    return asked | {"presentation.format.tensors": "hex"} if name == "hit_vector" else asked


def _bounds(size: str) -> Request:
    if not size:
        return {}
    if size not in SIZES:
        raise InputError(f"there is no size {size!r}: choose one of {', '.join(SIZES)}")
    return dict(zip(("narrowest", "widest"), SIZES[size], strict=True))


def _tensor(options: Options, embedding: Vector) -> Request:
    return {f"input.query({options.get('generation', FIRST).tensor})": _cells(embedding)}


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
