"""An application package as the engine holds it: parsed, with inheritance resolved, checked, immutable.

Names and defaults are those of Vespa's schema reference. Whoever reads these never sees schema text again, except
ranking expressions, which ``clipsearch.engine.ranking`` parses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import Tensor

if TYPE_CHECKING:
    from clipsearch.engine.embedding import Embedder


@dataclass(frozen=True, slots=True)
class FieldType:
    """``kind``: string, byte, int, long, float, double, bool, raw, tensor, array, weightedset.

    ``element`` is the element type of array and weightedset, ``tensor`` the type of a tensor.
    """

    kind: str
    element: FieldType | None = None
    tensor: TensorType | None = None

    def __str__(self) -> str:
        if self.kind == "tensor":
            return str(self.tensor)
        return f"{self.kind}<{self.element}>" if self.element else self.kind


@dataclass(frozen=True, slots=True)
class Field:
    """One schema field.

    ``attribute``/``index``/``summary``: what its indexing statement asks for. ``match``: text | word | exact;
    ``language``: what ``set_language`` gives from a constant in this field ("" when it does not).
    ``source``: the indexing statement that makes the value, without its outputs ("": the value is the one fed).
    """

    name: str
    type: FieldType
    attribute: bool = False
    index: bool = False
    summary: bool = False
    bm25: bool = False
    match: str = "text"
    cased: bool = False
    fast_search: bool = False
    rank_filter: bool = False
    stemming: str = "best"
    normalizing: bool = True
    distance_metric: str = ""
    hnsw: bool = False
    hnsw_max_links: int = 16
    hnsw_explore_at_insert: int = 200
    in_document: bool = True
    language: str = ""
    source: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class SummaryClass:
    """A document-summary: output name to source field name, in order."""

    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Function:
    """``function name(arguments) { expression: ... }``."""

    name: str
    arguments: tuple[str, ...]
    expression: str


@dataclass(frozen=True, slots=True)
class Input:
    """``query(name) type: default``; ``default`` is the literal as written, or ""."""

    name: str
    type: TensorType
    default: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One ranking phase; ``rerank_count`` 100 unless the profile says otherwise; drop limit None: keep all."""

    expression: str
    rerank_count: int = 100
    drop_limit: float | None = None


@dataclass(frozen=True, slots=True)
class RankProfile:
    """A rank profile with everything inherited already merged in. ``first_phase`` None: Vespa's nativeRank."""

    name: str
    inputs: Mapping[str, Input] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    constants: Mapping[str, str | Tensor] = field(default_factory=dict)
    first_phase: Phase | None = None
    second_phase: Phase | None = None
    global_phase: Phase | None = None
    match_features: tuple[str, ...] = ()
    summary_features: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    keep_rank_count: int = 10_000
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Schema:
    """One document type. ``summaries`` always has "default"; ``rank_profiles`` always "default", "unranked".

    ``embedders``: what ``embed`` in its indexing statements may name. ``computed``: the fields whose value an indexing
    statement makes.
    """

    name: str
    fields: Mapping[str, Field]
    fieldsets: Mapping[str, tuple[str, ...]]
    summaries: Mapping[str, SummaryClass]
    rank_profiles: Mapping[str, RankProfile]
    embedders: Mapping[str, Embedder] = field(default_factory=dict, compare=False, repr=False)
    computed: tuple[Field, ...] = field(default=(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        computed = tuple(each for each in self.fields.values() if each.source)
        object.__setattr__(self, "computed", computed)


@dataclass(frozen=True, slots=True)
class ApplicationPackage:
    """All of one application.

    ``query_profiles``: name to flattened property map ("default" is applied to every query that names none).
    ``content_cluster``: id of the content cluster, part of hit ids and of visit's ``cluster``.
    ``snowball_english``: the linguistics config that switches English from KStem to Snowball.
    ``files``: the package as deployed, path to bytes, so that it can be stored and served again.
    ``embedders``: by component id. ``generation``: the number of the session that deploys it, 0 when none does.
    """

    schemas: Mapping[str, Schema]
    query_profiles: Mapping[str, Mapping[str, str]]
    content_cluster: str
    container_cluster: str
    snowball_english: bool
    files: Mapping[str, bytes]
    embedders: Mapping[str, Embedder] = field(default_factory=dict, compare=False, repr=False)
    generation: int = field(default=0, compare=False)
