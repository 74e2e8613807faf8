"""The plain data that travels between the rooms: no behaviour, no dependencies.

``Record`` goes from ``corpora`` to ``training`` and ``encoding``; ``Embedded`` from ``encoding`` (through Parquet
shards) to ``feeders``; ``Hit`` and ``Results`` from ``search`` to the command line, the UI and the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a corpus with its captions.

    ``key`` is URL-safe and stable (made only by ``clipsearch.keys.make_key``); ``uri`` is relative to the corpus
    root: ``images/a.jpg``, or ``images.zip!/rsicd/a.jpg`` for a zip member. ``label`` is "" when unknown.
    ``latitude`` and ``longitude``: where the image was taken, in degrees (WGS 84); None when unknown.
    """

    corpus: str
    key: str
    uri: str
    captions: tuple[str, ...] = ()
    split: str = "train"
    label: str = ""
    latitude: float | None = None
    longitude: float | None = None

    @property
    def id(self) -> str:
        """The Vespa document id; the namespace is the corpus."""
        return f"id:{self.corpus}:image::{self.key}"


@dataclass(frozen=True, slots=True)
class Issue:
    """One item that was left out, and why: a line of a ledger or of a command's summary."""

    item: str
    reason: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """One row of an embedding shard: a record with what its image gave.

    ``embedding``: (D,) float32, unit norm (typed Any: this module does not import numpy).
    ``thumbnail``: JPEG bytes, at most 256 px. ``content_hash``: hex SHA-256 of the image file's bytes.
    ``patches``: (P, D) embeddings of parts of the image and ``boxes``: (P, 4) int32, their left, top, right and bottom
    in px; ``texts``: (captions, D), one embedding a caption. None where they were not asked for.
    """

    record: Record
    embedding: Any
    thumbnail: bytes
    width: int
    height: int
    content_hash: str
    model_id: str
    patches: Any = None
    boxes: Any = None
    texts: Any = None


@dataclass(frozen=True, slots=True, order=True)
class Generation:
    """One generation of embeddings: all of one model, in a field of its own, so that an index can hold two at once.

    What belongs to it in the application package has its name at the end; the first generation has the plain names.
    """

    number: int = 1

    @property
    def name(self) -> str:
        """``g1``, ``g2``..."""
        return f"g{self.number}"

    @property
    def suffix(self) -> str:
        """What ends the names of this generation: "" or ``_g2``."""
        return "" if self.number == 1 else f"_{self.name}"

    @property
    def field(self) -> str:
        """The field of its embeddings."""
        return f"embedding{self.suffix}"

    @property
    def model_field(self) -> str:
        """The field of the model that made them."""
        return f"model_id{self.suffix}"

    @property
    def tensor(self) -> str:
        """The query tensor that they are searched with."""
        return f"q{self.suffix}"

    def profile(self, ranking: str) -> str:
        """The rank profile of a ranking: ``vector`` or ``vector_g2``; ``lexical`` compares no embeddings."""
        return ranking if ranking == "lexical" else f"{ranking}{self.suffix}"

    def summary(self, name: str) -> str:
        """The document summary ``name``: ``hit_vector`` or ``hit_vector_g2``; the others hold no embedding."""
        return f"{name}{self.suffix}" if name == "hit_vector" else name


COMPLETE = 0.999
"""A caption whose share of the query's words is above this holds them all; Vespa's shares are of single precision."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search hit. ``lexical``: bm25(captions); ``semantic``: closeness in (0, 1]; both from match-features.

    ``complete``: share of the query's words, in [0, 1], that the caption holds which holds most of them; ``box``: of
    the patch that is nearest to the query (left, top, right, bottom, as shares of the image), None when no patches were
    searched; ``embedding``: (D,) float32 when the request's summary was ``hit_vector``.
    """

    id: str
    relevance: float
    fields: Mapping[str, Any]
    lexical: float = 0.0
    semantic: float = 0.0
    complete: float = 0.0
    box: tuple[float, float, float, float] | None = None
    embedding: Any = None

    @property
    def is_complete(self) -> bool:
        """Whether one caption holds every word of the query."""
        return self.complete > COMPLETE


@dataclass(frozen=True, slots=True)
class Results:
    """The answer to one query. ``request`` is the very body that was sent; ``seconds`` is the round trip.

    ``facets``: field to value to number of matches, most first, when the request asked for them.
    """

    hits: tuple[Hit, ...]
    total: int
    request: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    facets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
