"""Annotations of YQL: what kind of value each takes, and which are refused by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from lark import Tree

from clipsearch.engine.query.literals import constant
from clipsearch.errors import QueryError

Ast = Tree[Any]
TUNING = (
    "hnsw.approximateThreshold", "hnsw.explorationSlack", "hnsw.filterFirstExploration",
    "hnsw.filterFirstThreshold", "hnsw.postFilterThreshold", "hnsw.targetHitsMaxAdjustmentFactor",
)  # fmt: skip
REFUSED = ("thresholdBoostFactor", "minTargetHits", "elementFilter", "grammar.profile")
_KINDS = {
    "number": {
        "targetHits", "totalTargetHits", "targetNumHits", "distance", "exclusionDistance", "weight", "hitLimit", "id",
        "maxEditDistance", "prefixLength", "significance", "scoreThreshold", "distanceThreshold",
        "hnsw.exploreAdditionalHits", *TUNING,
    },
    "boolean": {
        "filter", "ranked", "stem", "prefix", "suffix", "substring", "approximate", "nfkc", "normalizeCase",
        "accentDrop", "andSegmenting", "implicitTransforms", "usePositionData", "allowEmpty", "ascending", "descending",
    },
    "string": {
        "label", "grammar", "bounds", "language", "defaultIndex", "grammar.composite", "grammar.tokenization",
        "grammar.syntax",
    },
    "map": {"connectivity", "documentFrequency", "annotations", "origin"},
}  # fmt: skip


def annotation_map(node: Ast, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The annotations before an expression of the parse tree. Raises ``QueryError`` for one of a wrong type."""
    written: Any = node.children[0]
    found = constant(written.children[0], parameters)
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise QueryError("an annotation must be a map such as {targetHits: 100}")
    check_kinds(written.children[0])
    return found


def check_kinds(annotations: Ast) -> None:
    """Raises ``QueryError`` for an annotation whose value is of another kind than Vespa reads."""
    for pair in (child for child in annotations.children if isinstance(child, Tree) and child.data == "pair"):
        name = str(pair.children[0]).strip("'\"")
        expected = next((kind for kind, names in _KINDS.items() if name in names), None)
        value: Any = pair.children[1]
        kind = {"minus_number": "number", "name": "string"}.get(value.data, value.data)
        if expected and kind not in ("parameter", expected):
            raise QueryError(f"the annotation '{name}' has another type than expected: a {expected}, not a {kind}")


def origin_text(annotation: Any) -> str:
    """The part of the user's text that an ``origin`` annotation names."""
    if not isinstance(annotation, dict) or not {"original", "offset", "length"} <= annotation.keys():
        raise QueryError("Map annotation 'origin' must contain entries with keys 'original', 'offset' and 'length'.")
    start = int(annotation["offset"])
    return str(annotation["original"])[start : start + int(annotation["length"])]


def check_origin(origin: Any, word: str) -> None:
    """Raises ``QueryError`` when the ``origin`` of ``word`` is another word, which Vespa cuts in its place."""
    if origin is None:
        return
    written, other = (unicodedata.normalize("NFKC", text).lower() for text in (word, origin_text(origin)))
    if written != other:
        raise QueryError(f"the annotation 'origin' of '{word}' is not supported unless it is the same word")


def document_frequency(annotation: Any) -> tuple[int, int]:
    """In how many documents of how many a ``documentFrequency`` annotation says that its term is."""
    if not isinstance(annotation, dict) or not {"frequency", "count"} <= annotation.keys():
        raise QueryError("Map annotation 'documentFrequency' must contain entries with keys 'frequency' and 'count'.")
    return int(annotation["frequency"]), int(annotation["count"])
