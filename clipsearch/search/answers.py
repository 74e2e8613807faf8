"""What Vespa answers, read: a hit of a query, its facets, a stored tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clipsearch.errors import RejectedError
from clipsearch.records import Generation, Hit
from clipsearch.search.query import FACETS, SIZES, Vector

LEXICAL = "bm25(captions)"
COMPLETE = "elementCompleteness(captions).queryCompleteness"
CLOSEST = "closest(patches)"
FIRST = Generation()

_SEMANTIC = re.compile(r"closeness\(field,embedding(?:_g(\d+))?\)")
_NEAREST = re.compile(r"closeness\(field,(?:embedding(?:_g\d+)?|patches)\)")
_EMBEDDING = re.compile(r"embedding(?:_g\d+)?")
_LABEL = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)")


def generation_of_name(number: str | None) -> Generation:
    """The generation of a number as it stands at the end of a name; None: the first."""
    return Generation(int(number)) if number else FIRST


def generations_named(features: Mapping[str, Any]) -> list[Generation]:
    """The generations whose closeness is among a hit's match features."""
    return sorted(generation_of_name(match[1]) for match in map(_SEMANTIC.fullmatch, features) if match)


def read_vector(value: Any) -> Vector:
    """A stored tensor<...>(x[D]) as (D,) float32, from the JSON forms in which Vespa renders it.

    ``{"type", "values": [..]}``, a bare list, or hex of bfloat16 (4 digits a cell) or float (8, told by
    ``type``).
    """
    kind = value.get("type", "") if isinstance(value, dict) else ""
    cells = value.get("values") if isinstance(value, dict) else value
    if isinstance(cells, str):
        if "float>" in kind and "bfloat16" not in kind:
            return np.frombuffer(bytes.fromhex(cells), ">f4").astype(np.float32)
        high = np.frombuffer(bytes.fromhex(cells), ">u2").astype(np.uint32)
        return (high << 16).view(np.float32)
    if not isinstance(cells, list):
        raise RejectedError(502, f"the endpoint renders an embedding in an unknown form: {str(value)[:80]}")
    return np.asarray(cells, dtype=np.float32)


def read_hit(child: Mapping[str, Any]) -> Hit:
    """One child of a query's root as a hit: what its match features say is in its parts, not in its fields."""
    fields = dict(child.get("fields", {}))
    parts = fields.pop("matchfeatures", {})
    fields.pop("sddocname", None)
    document_id = str(fields.pop("documentid", child.get("id", "")))
    stored = [fields.pop(name) for name in list(fields) if _EMBEDDING.fullmatch(name)]
    return Hit(
        id=document_id,
        relevance=_number(child.get("relevance")),
        fields=fields,
        lexical=_number(parts.get(LEXICAL)),
        semantic=max((_number(value) for name, value in parts.items() if _NEAREST.fullmatch(name)), default=0.0),
        complete=_number(parts.get(COMPLETE)),
        box=_box(parts.get(CLOSEST)),
        embedding=read_vector(stored[0]) if stored else None,
    )


def read_facets(children: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """The counts of the grouping that ``query`` asks for: field to value to count, most first, then by name.

    Documents without a value are not counted. Sizes are those of ``SIZES``, in the order in which they grow.
    """
    found: dict[str, dict[str, int]] = {}
    for root in children:
        if not str(root.get("id", "")).startswith("group:root"):
            continue
        for groups in root.get("children", ()):
            name = str(groups.get("label", ""))
            counts = {_value(group): _count(group) for group in groups.get("children", ())}
            counts.pop("", None)
            order = list(SIZES) if name == "size" else sorted(counts, key=lambda value: (-counts[value], value))
            found[name] = {value: counts[value] for value in order if counts.get(value)}
    if found:
        return {name: found.get(name, {}) for name in FACETS}  # Vespa leaves out lists that are empty
    return {}


def _value(group: Mapping[str, Any]) -> str:
    limits = group.get("limits")
    if limits is None:
        return str(group.get("value", ""))
    low = int(limits["from"])
    return next((size for size, (least, _) in SIZES.items() if least == low), "")


def _count(group: Mapping[str, Any]) -> int:
    return int(group.get("fields", {}).get("count()", 0))


def _box(closest: Any) -> tuple[float, float, float, float] | None:
    """The box that the label of the closest patch spells: ``tensor(patch{})`` with one cell, short or short-value."""
    cells = closest.get("cells", closest) if isinstance(closest, dict) else None
    for label in cells or ():
        match = _LABEL.fullmatch(str(label))
        if match:
            left, top, right, bottom = (int(part) / 1000 for part in match.groups())
            return left, top, right, bottom
    return None


def _number(value: Any) -> float:
    """Vespa renders NaN and infinities as null, and -Infinity relevance as a string: all become 0.

    Neither has a form in JSON, so one of them would make ``--json`` and the page's JSON twin unreadable.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
