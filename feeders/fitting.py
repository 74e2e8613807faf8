"""Whether an application takes what is to be fed: asked once, before anything is encoded or sent.

A document of a field that the application does not have, or of vectors of another size, is refused whole; a feed would
find that out once for each document.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from clipsearch.errors import InputError, ServiceError
from clipsearch.records import Record
from clipsearch.search.endpoint import Endpoint, parse_id
from feeders.documents import bfloat16_hex
from feeders.generations import Addresses

WHOLE = "0-0-1000-1000"
_GROUPS = (
    ("patches", ("patches", "patches_model"), "do without --patches"),
    ("places", ("latitude", "longitude"), "leave latitude and longitude out of the corpus"),
)


def refusal(endpoint: Endpoint, document_id: str, fields: Mapping[str, Any]) -> str:
    """Why the application refuses ``fields`` of a document; "" when it takes them, or when nothing can be told now.

    What is wrong with one row, or with this moment, the feed comes to: it tries again, and counts.
    """
    try:
        corpus, key = parse_id(document_id)
        return endpoint.refusal(corpus, key, fields)
    except (InputError, ServiceError):
        return ""


def check_fields(
    endpoint: Endpoint, document_id: str, fields: Mapping[str, Any], dim: int, source: object,
    error: type[InputError] = InputError,
) -> str:  # fmt: skip
    """Raise ``error`` when the application does not take patches or places as they are in ``fields``.

    What else it refuses is returned in its own words; "" when it takes everything. Writes nothing. ``dim``: D of the
    embeddings of ``source``, which the message names.
    """
    said = refusal(endpoint, document_id, fields)
    if not said:
        return ""
    for what, names, otherwise in _GROUPS:
        part = {name: fields[name] for name in names if fields.get(name) is not None}
        if part and (reason := refusal(endpoint, document_id, part)):
            raise error(
                f"the application at {endpoint.url} does not take the {what} of {source} ({reason[:120]}): deploy the "
                f"package that 'clipsearch app --dim {dim} --out DIR --force' writes now, or {otherwise}"
            )
    return said


def check_records(url: str, records: Iterable[Record], patches: bool, dim: int, source: object) -> None:
    """``check_fields`` before images are encoded: of patches of ``dim`` cells, if any, and of the records' places."""
    first: Record | None = None
    fields: dict[str, Any] = {}
    for record in records:
        first = first or record
        if record.latitude is not None and record.longitude is not None:
            fields = {"latitude": record.latitude, "longitude": record.longitude}
            break
    if first is None:
        return
    if patches:
        cells = bfloat16_hex(np.eye(1, dim, dtype=np.float32)[0])
        fields |= {"patches": {"blocks": {WHOLE: cells}}, "patches_model": ""}
    if fields:
        endpoint = Endpoint(url)
        try:
            check_fields(endpoint, first.id, fields, dim, source)
        finally:
            endpoint.close()


def owns_patches(url: str, model_id: str) -> bool:
    """Whether patches of this model may replace those in the index unasked; if not, that is said on stderr.

    Patches have no generation. While an index has several, they are those of the first.
    """
    owned = Addresses(url).owns_patches(model_id)
    if not owned:
        _leave(f"the embeddings of {model_id} are a second generation, and the index keeps patches of one model")
    return owned


def takes_patches(endpoint: Endpoint, document_id: str, fields: Mapping[str, Any]) -> bool:
    """Whether the application takes patches like those of ``fields``; if not, that is said on stderr."""
    part = {name: fields[name] for name in ("patches", "patches_model") if name in fields}
    reason = refusal(endpoint, document_id, part) if part else ""
    if reason:
        _leave(f"the application at {endpoint.url} does not take them ({reason[:120]})")
    return not reason


def _leave(reason: str) -> None:
    tqdm.write(
        f"Note: patches are left as they are, because {reason}; 'feed update SHARDS --fields patches' sends them",
        file=sys.stderr,
    )
