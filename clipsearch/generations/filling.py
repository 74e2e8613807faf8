"""The new embedding of every document that lacks it, as partial updates.

What is there is asked of the index, so a run that was killed goes on where it stopped, whatever became of its files.
An update holds only for the image that was embedded: its condition is the image's content hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.adapter import Adapter
from clipsearch.records import Embedded, Generation
from clipsearch.search.answers import read_vector
from clipsearch.search.endpoint import SCHEMA, Endpoint
from feeders.documents import bfloat16_hex
from feeders.feeding import FeedSummary, feed
from feeders.operations import Operation

_TOGETHER = 256  # stored embeddings that go through an adapter at once


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many documents have the new embedding already, and which lack it: (N,) uint64, hashes of ids, sorted."""

    done: int
    lacking: NDArray[np.uint64]

    def lacks(self, document_id: str) -> bool:
        """Whether this document is one of those."""
        key = _hash(document_id)
        at = int(np.searchsorted(self.lacking, key))
        return at < len(self.lacking) and bool(self.lacking[at] == key)


def coverage(endpoint: Endpoint, generation: Generation, model_id: str, corpora: Iterable[str] = ("",)) -> Coverage:
    """Which documents of the corpora ("": of all) lack an embedding of ``generation`` by ``model_id``.

    8 bytes a document in memory; one visit through the index.
    """
    done, lacking = 0, []
    for corpus in corpora:
        for document in endpoint.visit(corpus, fields=generation.model_field):
            if document.get("fields", {}).get(generation.model_field) == model_id:
                done += 1
            else:
                lacking.append(_hash(str(document["id"])))
    return Coverage(done, np.sort(np.asarray(lacking, np.uint64)))


def from_rows(rows: Iterable[Embedded], generation: Generation, missing: Coverage) -> Iterator[Operation]:
    """Updates out of the rows of shards, of documents that lack the embedding."""
    for row in rows:
        if missing.lacks(row.record.id):
            yield _update(row.record.id, row.embedding, row.model_id, row.content_hash, generation)


def from_index(endpoint: Endpoint, source: Generation, target: Generation, adapter: Adapter) -> Iterator[Operation]:
    """Updates out of embeddings that the index holds, which ``adapter`` was made for: no image is opened."""
    names = ",".join((source.field, source.model_field, target.model_field, "content_hash"))
    documents = (
        (str(document["id"]), document["fields"])
        for document in endpoint.visit(fields=names)
        if document.get("fields", {}).get(source.model_field) == adapter.base
        and document["fields"].get(target.model_field) != adapter.model_id
        and source.field in document["fields"]
    )
    while batch := list(islice(documents, _TOGETHER)):
        vectors = adapter.apply_images(np.stack([read_vector(fields[source.field]) for _, fields in batch]))
        for (document_id, fields), vector in zip(batch, vectors, strict=True):
            yield _update(document_id, vector, adapter.model_id, str(fields.get("content_hash", "")), target)


def fill(operations: Iterable[Operation], url: str, work: Path, total: int, *, progress: bool = True) -> FeedSummary:
    """Deliver the updates; what is given up is in ``dead-letters.jsonl`` of ``work``."""
    return feed(operations, url, dead_letters=work / "dead-letters.jsonl", total=total, progress=progress)


def _update(document_id: str, vector: Any, model_id: str, content_hash: str, generation: Generation) -> Operation:
    fields = {
        generation.field: {"assign": {"values": bfloat16_hex(np.asarray(vector, np.float32))}},
        generation.model_field: {"assign": model_id},
    }
    condition = f'{SCHEMA}.content_hash == "{content_hash}"' if content_hash else SCHEMA
    return Operation("update", document_id, fields, condition=condition)


def _hash(document_id: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest(), "little"))
