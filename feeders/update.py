"""``feed update``: partial updates of documents that are there - new embeddings, new captions, labels.

An update never makes a document: one of an image that is not in the index is counted and listed as missing. Vespa
answers 200 to an update of a missing document, so each update travels with a condition that every image meets, and
that a missing one does not (412).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.adapter import Adapter, load_adapter
from clipsearch.captions import clean_captions
from clipsearch.errors import InputError, ShardError
from clipsearch.records import Record
from clipsearch.search.endpoint import SCHEMA, Endpoint
from clipsearch.shards import Shards, open_shards
from feeders.comparing import Findings
from feeders.dispatcher import Failure
from feeders.documents import bfloat16_hex, document_rows
from feeders.feeding import FeedSummary
from feeders.fitting import check_fields, owns_patches, takes_patches
from feeders.images import Delivery
from feeders.lines import read_objects, to_operation
from feeders.operations import Operation
from feeders.sync import assign

FIELDS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding",),
    "patches": ("patches",),
    "captions": ("captions",),
    "label": ("label",),
    "split": ("split",),
    "place": ("latitude", "longitude"),
    "image": ("content_hash", "thumbnail", "width", "height", "image_uri"),
}
"""What ``--fields`` names, and the fields of the schema that it means."""

MISSING = "missing.jsonl"
_UNIT = 0.01


@dataclass(frozen=True, slots=True)
class UpdateSummary:
    """What ``feed update`` did; ``missing`` documents are listed in the file ``listed``."""

    feed: FeedSummary
    missing: int
    listed: str

    @property
    def complete(self) -> bool:
        """Whether every update found its document and was acknowledged."""
        return self.feed.complete and not self.missing

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**self.feed.as_json(), "missing": self.missing, "missing_list": self.listed}

    def __str__(self) -> str:
        missing = f"; {self.missing} documents are not in the index: see {self.listed}" if self.missing else ""
        return f"{self.feed}{missing}"


def feed_updates(
    path: Path,
    delivery: Delivery,
    *,
    fields: Iterable[str] = ("embedding",),
    corpus: str = "",
    adapter: Path | None = None,
    missing: Path | None = None,
) -> UpdateSummary:
    """Update documents from a shard folder (the ``fields`` of each row) or from a JSONL file.

    A line of the file is ``{"id": "id:rsicd:image::a.jpg", "captions": [...], "label": "river"}``, with ``key`` in
    place of ``id`` where ``corpus`` is given, or one of Vespa's own updates. Embeddings bring the shards' patches along
    where the index's patches are of the same generation, and the application takes them. Raises ``InputError`` for a
    field that shards do not have, and ``ShardError`` for patches or places that are named and that the application does
    not take.
    """
    home = path if path.is_dir() else path.parent
    if path.is_dir():
        shards = open_shards(path)
        change = _adapter(adapter, shards)
        operations, total = from_shards(shards, _fitting(shards, fields, change, delivery.url), change), len(shards)
    else:
        operations, total = from_file(path, corpus), None
    with Findings(missing or home / MISSING) as found:
        fed = delivery.feed(operations, home, total=total, resume=True, unmet=lambda name: found.write(id=name))
    return UpdateSummary(fed, found.lines, str(found))


def _adapter(path: Path | None, shards: Shards) -> Adapter | None:
    if path is None:
        return None
    adapter = load_adapter(path)
    adapter.check(shards.manifest.model_id, f"what {shards.folder} was encoded with")
    return adapter


def _fitting(shards: Shards, fields: Iterable[str], adapter: Adapter | None, url: str) -> list[str]:
    """``fields``, with patches where embeddings bring them along."""
    wanted = list(fields)
    document_id, row = next(document_rows(islice(map(adapter.apply_row, shards) if adapter else shards, 1)), ("", {}))
    if isinstance(row, InputError) or not row:
        return wanted
    endpoint = Endpoint(url)
    try:
        if "embedding" in wanted and "patches" not in wanted and shards.manifest.patches:
            if owns_patches(url, str(row["model_id"])) and takes_patches(endpoint, document_id, row):
                wanted.append("patches")
        elif named := {name: row[name] for group in wanted for name in FIELDS.get(group, ()) if name in row}:
            check_fields(endpoint, document_id, named, shards.manifest.dim, shards.folder, ShardError)
    finally:
        endpoint.close()
    return wanted


def from_shards(shards: Shards, fields: Iterable[str], adapter: Adapter | None = None) -> Iterator[Operation | Failure]:
    """One update a row: ``fields`` are names of ``FIELDS``, and no more than these are updated."""
    wanted = list(fields)
    if unknown := [name for name in wanted if name not in FIELDS]:
        raise InputError(f"shards have no field {unknown[0]!r}: choose from {', '.join(FIELDS)}")
    names = [name for group in dict.fromkeys(wanted) for name in FIELDS[group]]
    return _updates(shards, names, adapter)


def _updates(shards: Shards, names: list[str], adapter: Adapter | None) -> Iterator[Operation | Failure]:
    for document_id, row in document_rows(map(adapter.apply_row, shards) if adapter else shards):
        if isinstance(row, InputError):
            yield Failure(document_id, 0, str(row))
        else:
            yield Operation("update", document_id, assign(row, names), condition=SCHEMA)


def from_file(path: Path, corpus: str = "") -> Iterator[Operation | Failure]:
    """One update a line; a line that is none becomes a dead letter."""
    for where, content in read_objects(path):
        try:
            if isinstance(content, InputError):
                raise content
            if "update" in content:
                operation = to_operation(content, where)
                yield replace(operation, condition=operation.condition or SCHEMA, create=False)
            else:
                yield _update(content, corpus, where)
        except InputError as error:
            yield Failure(where, 0, str(error))


def _update(content: dict[str, Any], corpus: str, where: str) -> Operation:
    content = dict(content)
    key = content.pop("key", "")
    document_id = str(content.pop("id", "") or (key and corpus and Record(corpus, str(key), "").id))
    if not document_id:
        raise InputError(f'{where} names no document: it needs "id", or "key" together with --corpus')
    if not content:
        raise InputError(f"{where} changes nothing: it has only an id")
    if isinstance(content.get("captions"), str):
        content["captions"] = [content["captions"]]
    if isinstance(content.get("captions"), list):
        content["captions"] = list(clean_captions(map(str, content["captions"])))
    if isinstance(content.get("embedding"), list):
        content["embedding"] = _embedding(content["embedding"], where)
    return Operation(
        "update", document_id, {name: {"assign": value} for name, value in content.items()}, condition=SCHEMA
    )


def _embedding(cells: list[Any], where: str) -> str:
    try:
        vector = np.asarray(cells, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"the embedding in {where} is not a list of numbers") from error
    if vector.ndim != 1 or not abs(float(np.linalg.norm(vector)) - 1) <= _UNIT:
        raise InputError(f"the embedding in {where} must be one row of length 1")
    return bfloat16_hex(vector)
