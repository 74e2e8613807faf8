"""``feed verify``: whether the index holds exactly what the shards hold.

Every document of the corpus is visited, and all its fields but the thumbnail are compared with its row: content hash,
model id, captions, label, split, path, place, size, and the embeddings of the image and of its patches cell by cell, as
bfloat16. What is missing, extra or different is listed. The number of documents that queries find is compared too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipsearch.adapter import Adapter, load_adapter
from clipsearch.errors import InputError
from clipsearch.records import Generation
from clipsearch.search import SearchClient
from clipsearch.search.endpoint import DEFAULT_URL, Endpoint
from clipsearch.shards import Shards, open_shards
from feeders.comparing import ALL_FIELDS, Findings, asked_fields, differing, fingerprint
from feeders.documents import document_rows
from feeders.generations import Addresses, plain
from feeders.visit import visit_documents

FINDINGS = "verify.jsonl"


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """What ``feed verify`` found, in documents.

    ``rows``: documents that the shards hold; ``indexed``: those of the corpus in the index; ``searchable``: those that
    a query finds; ``equal`` are the same in both; ``findings``: the file that lists the others.
    """

    rows: int
    indexed: int
    searchable: int
    equal: int
    missing: int
    extra: int
    different: int
    seconds: float
    findings: str

    @property
    def complete(self) -> bool:
        """Whether the index and the shards agree."""
        return self.rows == self.indexed == self.searchable == self.equal

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "clean": self.complete, "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        verdict = "Clean" if self.complete else "Not clean"
        more = f", {self.missing} missing, {self.extra} extra, {self.different} different"
        unseen = f"; queries find {self.searchable}" if self.searchable != self.indexed else ""
        listed = f": see {self.findings}" if self.findings else ""
        return (
            f"{verdict}: {self.equal} of {self.rows} documents are as the shards say{more}{unseen} "
            f"({self.indexed} in the index, {self.seconds:.1f} s){listed}"
        )


def verify(
    folder: Path,
    url: str = DEFAULT_URL,
    *,
    adapter: Path | None = None,
    findings: Path | None = None,
    slices: int = 1,
    progress: bool = True,
) -> VerifySummary:
    """Compare the index at ``url`` with the shards in ``folder``; 112 bytes and the id of each document are kept.

    ``findings``: a JSONL file (default: ``verify.jsonl`` in ``folder``) with ``id``, ``problem`` (missing, extra,
    different) and, where different, ``fields``; it exists only if there is something in it. ``adapter``: the one that
    the shards were fed with.
    """
    start = time.monotonic()
    shards = open_shards(folder)
    change = load_adapter(adapter) if adapter else None
    with SearchClient(url, timeout=60.0) as client:
        client.check()
        expected = dict(_expected(shards, change))
        rows, counts = len(expected), Counter[str]()
        with Findings(findings or folder / FINDINGS) as found:
            model_id = change.model_id if change else shards.manifest.model_id
            for document in _visited(shards.manifest.corpus, url, slices, progress, rows, Addresses(url).of(model_id)):
                _check(document, expected, counts, found)
            for document_id in expected:
                found.write(id=document_id, problem="missing")
        return VerifySummary(
            rows, counts.total(), client.document_count(shards.manifest.corpus), counts["equal"], len(expected),
            counts["extra"], counts["different"], time.monotonic() - start, str(found),
        )  # fmt: skip


def _expected(shards: Shards, adapter: Adapter | None) -> Iterator[tuple[str, bytes]]:
    for document_id, fields in document_rows(map(adapter.apply_row, shards) if adapter else shards):
        # a row that cannot be fed is in the index never, or wrongly
        yield document_id, b"" if isinstance(fields, InputError) else fingerprint(fields, ALL_FIELDS)


def _visited(
    corpus: str, url: str, slices: int, progress: bool, total: int, generation: Generation
) -> Iterator[dict[str, Any]]:
    """The documents of the corpus with the plain names of the generation's fields."""
    endpoint = Endpoint(url, timeout=60.0)
    try:
        names = ",".join(asked_fields(endpoint, corpus, ALL_FIELDS, generation))
        visited = visit_documents(endpoint, corpus, fields=names, slices=slices)
        for document in tqdm(visited, total=total, unit=" docs", desc="verify", disable=not progress, mininterval=0.5):
            yield document | {"fields": plain(document.get("fields", {}), generation)}
    finally:
        endpoint.close()


def _check(document: dict[str, Any], expected: dict[str, bytes], counts: Counter[str], found: Findings) -> None:
    document_id = str(document["id"])
    known = expected.pop(document_id, None)
    if known is None:
        counts["extra"] += 1
        found.write(id=document_id, problem="extra")
        return
    fields = differing(known, fingerprint(document.get("fields", {}), ALL_FIELDS), ALL_FIELDS)
    counts["different" if fields else "equal"] += 1
    if fields:
        found.write(id=document_id, problem="different", fields=fields)
