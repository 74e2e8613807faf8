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
    """

    corpus: str
    key: str
    uri: str
    captions: tuple[str, ...] = ()
    split: str = "train"
    label: str = ""

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
    """

    record: Record
    embedding: Any
    thumbnail: bytes
    width: int
    height: int
    content_hash: str
    model_id: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One search hit. ``lexical``: bm25(captions); ``semantic``: closeness in (0, 1]; both from match-features."""

    id: str
    relevance: float
    fields: Mapping[str, Any]
    lexical: float = 0.0
    semantic: float = 0.0


@dataclass(frozen=True, slots=True)
class Results:
    """The answer to one query. ``request`` is the very body that was sent; ``seconds`` is the round trip."""

    hits: tuple[Hit, ...]
    total: int
    request: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
