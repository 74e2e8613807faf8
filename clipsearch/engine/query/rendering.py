"""Search results as Vespa's JSON: hits with their summary fields, features, groups, errors.

Source: Vespa's ``JsonRenderer`` and ``FastHit``.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clipsearch.engine.index.documents import FieldValue, StoredDocument
from clipsearch.engine.package.model import Schema
from clipsearch.engine.package.synthetic import with_synthetic
from clipsearch.engine.tensors import render
from clipsearch.engine.tensors.value import Tensor

Json = dict[str, Any]
DOCUMENT_ID = "documentid"
TYPE_NAME = "sddocname"


def summary_fields(schema: Schema, summary: str, selected: Sequence[str]) -> dict[str, str] | None:
    """Output name to source field of a summary class, cut to what is ``selected`` (empty: all); None: no such class.

    The default class has the document's id and type besides its fields; another has the id when it says so.
    """
    found = schema.summaries.get(summary)
    if found is None:
        return None
    fields = dict(found.fields)
    if summary == "default":
        fields.setdefault(DOCUMENT_ID, DOCUMENT_ID)
    fields.setdefault(TYPE_NAME, TYPE_NAME)
    return {name: source for name, source in fields.items() if not selected or name in selected}


def hit(
    document: StoredDocument, schema: Schema, cluster: str, fields: Mapping[str, str], relevance: float, form: str
) -> Json:
    """One hit without features; ``form``: of tensors."""
    values: Json = {}
    if TYPE_NAME in fields:
        values[TYPE_NAME] = schema.name
    if DOCUMENT_ID in fields:
        values[DOCUMENT_ID] = document.id
    stored = with_synthetic(schema, document.fields, fields.values())
    for name, source in fields.items():
        value = stored.get(source)
        if value is not None and not _is_empty(value):
            values[name] = _value(value, form)
    shown = document.id if DOCUMENT_ID in fields else f"index:{cluster}/0/{global_id(document.id)}"
    return {"id": shown, "relevance": number(relevance), "source": cluster, "fields": values}


def stored_fields(fields: Mapping[str, str]) -> Collection[str]:
    """The document fields that ``hit`` needs."""
    return {source for source in fields.values() if source not in (DOCUMENT_ID, TYPE_NAME)}


def _is_empty(value: FieldValue) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, (str, list, dict, bytes)) and not value


def _value(value: FieldValue, form: str) -> Any:
    if isinstance(value, Tensor):
        return render(value, form)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def number(value: float) -> float | str:
    """A relevance; what JSON has no number for is a string, as Jackson writes it."""
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def features(values: Mapping[str, Sequence[Any]], position: int, form: str) -> Json:
    """The features of the hit at ``position``; numbers that are not finite become null."""
    found: Json = {}
    for name, column in values.items():
        value = column[position]
        if isinstance(value, Tensor):
            found[name] = render(value, form)
        else:
            found[name] = float(value) if math.isfinite(value) else None
    return found


def global_id(document_id: str) -> str:
    """Vespa's global id: 24 hex digits. Source: ``GlobalId.java``, ``IdIdString.makeLocation``."""
    parts = document_id.split(":", 4)
    location, _, where = parts[3].partition("=") if len(parts) == 5 else ("", "", "")
    if location == "n" and where.isdigit():
        head = (int(where) & 0xFFFFFFFF).to_bytes(4, "little")
    else:
        head = hashlib.md5((where or parts[-1]).encode(), usedforsecurity=False).digest()[:4]
    return (head + hashlib.md5(document_id.encode(), usedforsecurity=False).digest()[4:12]).hex()
