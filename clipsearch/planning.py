"""``clipsearch plan``: memory, disk, nodes and feed time of a Vespa cluster, out of figures that Vespa has published.

Every figure has its source, and the plan quotes those that it used. Sizes are exact arithmetic (values times bytes);
the graph, the document store and the feed rate are measurements of others, on their hardware: measure your own before
you buy. Sizes are in bytes, MB and GB are powers of ten, as in the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

from clipsearch.errors import InputError

CELL_BYTES = {"float": 4.0, "bfloat16": 2.0, "bits": 1 / 8}
GRAPH_BYTES = {0: 0.0, 8: 39.0, 16: 92.0}


@dataclass(frozen=True, slots=True)
class Figure:
    """A published number: what it says, and where."""

    says: str
    source: str


_BILLION = "blog.vespa.ai, 2022-01-27"
FIGURES: Mapping[str, Figure] = {
    "cells": Figure("float 4 bytes a value, bfloat16 2, int8 1, with 8 bits to an int8", "docs.vespa.ai, tensor types"),
    "graph": Figure(
        "1 billion 13-byte codes: 64.2 GB without a graph, 103.7 with M 8, 156.3 with M 16: 39 and 92 bytes a vector",
        _BILLION,
    ),
    "multi": Figure(
        "12 bytes more a vector in a graph with several vectors a document", "vespa-engine/vespa, searchlib"
    ),
    "documents": Figure("30 to 52 bytes a document in memory for ids, about 33 GB for 1 billion", _BILLION),
    "paged": Figure(
        "attribute: paged keeps an attribute on disk and doubles what it takes there; not for a first phase or a graph",
        "docs.vespa.ai, content/attributes",
    ),
    "phases": Figure(
        "bits with a hamming graph in the first phase, paged bfloat16 for the best 1000 in the second",
        "vespa-engine/sample-apps, reverse-image-search",
    ),
    "limit": Figure(
        "feeding is blocked at 80 % of a node's memory or disk",
        "docs.vespa.ai, reference/applications/services/content: resource-limits",
    ),
    "feed-M16": Figure("15,400 puts/s a node: 13-byte codes, hamming, M 16, 72 vCPU", _BILLION),
    "feed-M8": Figure("32,000 puts/s a node: 13-byte codes, hamming, M 8, 72 vCPU", _BILLION),
    "feed-M0": Figure("81,200 puts/s a node: 13-byte codes, no graph, 72 vCPU", _BILLION),
    "feed-float": Figure("5,521 documents/s: one 384-value float vector, M 16, 64 vCPU", "blog.vespa.ai, 2023-03-29"),
    "feed-multi": Figure("5,009 vectors/s: several vectors a document, M 16, 64 vCPU", "blog.vespa.ai, 2023-03-29"),
    "client": Figure(
        "vespa feed sends at most about 140,000 operations/s of up to 1 kB, 42,000 of 10 kB",
        "blog.vespa.ai, 2023-05-22",
    ),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be served.

    ``patches``: further vectors a document, 0 for none. ``bits``: bits with a hamming graph in the first phase,
    bfloat16 paged on disk for the second. ``links``: HNSW's max-links-per-node, 0 for exact search. ``redundancy``:
    copies of each document. ``headroom``: share of a node's memory and disk that stays free; feeding is blocked when
    less than 0.2 is. ``node_memory`` and ``node_disk``: bytes. ``document_bytes``: of a document on disk without its
    vectors: captions and thumbnail.
    """

    docs: float
    dim: int = 512
    patches: int = 0
    bits: bool = False
    cells: str = "bfloat16"
    links: int = 16
    redundancy: int = 2
    headroom: float = 0.3
    node_memory: float = 256e9
    node_disk: float = 4e12
    document_bytes: float = 12_000

    def __post_init__(self) -> None:
        """Raises ``InputError`` that names the option."""
        if not 1 <= self.docs <= 1e13:
            raise InputError(f"--docs {self.docs:g}: give from 1 to 1e13 documents")
        if self.dim < 1 or self.patches < 0 or self.redundancy < 1:
            raise InputError("--dim and --redundancy are at least 1, --patches at least 0")
        if self.bits and self.dim % 8:
            raise InputError(f"--bits needs a dimension that 8 divides, not {self.dim}")
        if self.cells not in CELL_BYTES or (self.bits and self.cells != "bfloat16"):
            raise InputError(f"--cells {self.cells}: choose float or bfloat16; --bits ranks again in bfloat16")
        if self.links not in GRAPH_BYTES:
            raise InputError(
                f"--links {self.links}: Vespa has published figures for {', '.join(map(str, GRAPH_BYTES))}"
            )
        if not 0.2 <= self.headroom < 1:
            raise InputError(f"--headroom {self.headroom:g}: at least 0.2, since Vespa blocks feeding at 80 %")
        if min(self.node_memory, self.node_disk) <= 0 or self.document_bytes < 0:
            raise InputError("--node-memory and --node-disk are above 0")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that takes room, in bytes over all documents, one copy."""

    name: str
    memory: float = 0.0
    disk: float = 0.0
    figures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a workload needs. ``memory`` and ``disk``: bytes of all copies; ``seconds``: a first feed, at least."""

    workload: Workload
    parts: tuple[Part, ...]
    memory: float
    disk: float
    nodes: int
    bound_by: str
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def figures(self) -> tuple[str, ...]:
        """Keys of ``FIGURES`` that were used, in their order there."""
        used = {key for part in self.parts for key in part.figures} | {"limit", "client", *_feed(self.workload)[2]}
        return tuple(key for key in FIGURES if key in used)

    def as_json(self) -> dict[str, Any]:
        """For machines, sizes in bytes."""
        return {
            "workload": asdict(self.workload), "parts": [asdict(part) for part in self.parts], "memory": self.memory,
            "disk": self.disk, "nodes": self.nodes, "bound_by": self.bound_by, "feed_seconds": self.seconds,
            "notes": list(self.notes), "figures": {key: asdict(FIGURES[key]) for key in self.figures},
        }  # fmt: skip


def plan(workload: Workload) -> Plan:
    """The cluster that ``workload`` needs."""
    parts = _parts(workload)
    memory, disk = (workload.redundancy * sum(getattr(p, name) for p in parts) for name in ("memory", "disk"))
    usable = 1 - workload.headroom
    wanted = {
        "memory": ceil(memory / (workload.node_memory * usable)),
        "disk": ceil(disk / (workload.node_disk * usable)),
        "redundancy": workload.redundancy,
    }
    bound_by = max(wanted, key=lambda name: wanted[name])
    nodes = wanted[bound_by]
    vectors, rate, _ = _feed(workload)
    each = max(vectors * workload.redundancy / (rate * nodes), workload.docs / _client_rate(workload))
    return Plan(workload, tuple(parts), memory, disk, nodes, bound_by, each, tuple(_notes(workload, memory)))


def vector_bytes(count: float, dim: int, cells: str) -> float:
    """Bytes of ``count`` vectors."""
    return count * dim * CELL_BYTES[cells]


def graph_bytes(count: float, links: int, *, several: bool = False) -> float:
    """Bytes of an HNSW graph over ``count`` vectors; ``several``: there are several a document."""
    return count * (GRAPH_BYTES[links] + (12 if several and links else 0))


def _parts(work: Workload) -> list[Part]:
    parts = _vectors("embedding", work.docs, work, several=False)
    if work.patches:
        parts += _vectors(f"{work.patches} patches", work.docs * work.patches, work, several=True)
    stored = work.docs * (work.document_bytes + (1 + work.patches) * work.dim * CELL_BYTES[work.cells])
    parts.append(Part("ids of documents", memory=52 * work.docs, figures=("documents",)))
    parts.append(Part("documents: captions, thumbnail, vectors", disk=stored, figures=("cells",)))
    return parts


def _vectors(name: str, count: float, work: Workload, *, several: bool) -> list[Part]:
    found = "bits" if work.bits else work.cells
    size = vector_bytes(count, work.dim, found)
    graph = graph_bytes(count, work.links, several=several)
    parts = [Part(f"{name}, {found}", memory=size, disk=size, figures=("cells", *(["phases"] if work.bits else ())))]
    if work.links:
        figures = ("graph", "multi") if several else ("graph",)
        parts.append(Part(f"{name}, graph (M {work.links})", memory=graph, disk=graph, figures=figures))
    if work.bits:
        paged = 2 * vector_bytes(count, work.dim, work.cells)
        parts.append(Part(f"{name}, {work.cells}, paged", disk=paged, figures=("cells", "paged")))
    return parts


def _feed(work: Workload) -> tuple[float, float, tuple[str, ...]]:
    """Vectors to insert, how many a node inserts in a second, and the figures that say so.

    The rate of the measurement that is most alike, unchanged: other dimensions and cores will differ.
    """
    vectors = work.docs * (1 + work.patches)
    if work.links == 0:
        return vectors, 81_200, ("feed-M0",)
    if work.bits:
        return vectors, *((15_400, ("feed-M16",)) if work.links == 16 else (32_000, ("feed-M8",)))
    if work.patches:
        return vectors, 5_009, ("feed-multi",)
    return vectors, 5_521, ("feed-float",)


def _client_rate(work: Workload) -> float:
    """Operations/s of one feed client, for documents of the size that travels: vectors in hex, twice their bytes."""
    size = work.document_bytes * 4 / 3 + 2 * (1 + work.patches) * work.dim * CELL_BYTES[work.cells]
    return 140_000 if size <= 1000 else 42_000 * min(1.0, 10_000 / size)


def _notes(work: Workload, memory: float) -> list[str]:
    notes = [f"{work.document_bytes:,.0f} bytes a document beside its vectors are assumed: --document-bytes"]
    if work.patches and not work.bits and memory > 1e12:
        notes.append(
            "bfloat16 patches in memory are most of this: --bits keeps them on disk, for the second phase only"
        )
    if work.docs >= 1e8 and not work.bits:
        notes.append("from 100 million documents on, --bits is what Vespa's own examples do")
    if work.bits:
        notes.append("bits lose some neighbours: measure recall with your own vectors, and rerank enough (1000)")
        notes.append(
            "'clipsearch app --field NAME:DIM:bits' keeps the bfloat16 vectors in memory, too: make them paged"
        )
    if work.links == 0:
        notes.append("without a graph each query compares all vectors: 15 s a thread for 1 billion 13-byte codes")
    return notes
