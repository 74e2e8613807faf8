"""``feed sync``: make the index equal to the corpus, and send only what differs.

The corpus is encoded into the work folder (only what is new or changed), the index is visited for a few fields, and
the two are compared: a new image is put, an image file with another content hash is put again, a changed caption,
label, split, path or place, or another model's embedding, is a partial update, and what the corpus no longer has is
removed. With ``--patches`` so are patches of another model or of another plan. Without it, patches are left alone but
for those of a replaced image, which are gone: the plan counts these. So it is while the model's embeddings are a second
generation of the index, for patches have no generation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipsearch.adapter import Adapter
from clipsearch.corpora import Corpus
from clipsearch.encoding import EncodeSummary, ImageModel, encode
from clipsearch.errors import ImageError, InputError
from clipsearch.images import content_hash
from clipsearch.lookahead import map_ahead
from clipsearch.records import Embedded, Record
from clipsearch.search.endpoint import Endpoint
from clipsearch.shards import open_shards, read_columns, read_facts, read_shard, shard_files
from clipsearch.shards.table import Facts
from feeders.comparing import CORPUS_FIELDS, LABELS, differing, fingerprint, fingerprints
from feeders.dispatcher import Failure
from feeders.documents import document_rows, patch_labels, record_fields
from feeders.feeding import FeedSummary
from feeders.fitting import check_records, owns_patches
from feeders.generations import Addresses
from feeders.images import Delivery, Source, encoded_sentence, members_of
from feeders.operations import Operation

FIELDS = (*CORPUS_FIELDS, "content_hash", "model_id", "patches_model")
PATCH_FIELDS = (*FIELDS, LABELS)
_BRINGS = {"model_id": "embedding", "patches_model": "patches", LABELS: "patches"}
"""Which field is updated where another says that it is of another model, or incomplete."""

MANY = 0.5  # share of an index's documents that are not removed unasked


@dataclass(slots=True)
class Plan:
    """What would make the index equal to one corpus. ``puts``: new or replaced images, ``updates``: the fields of
    each document that change, ``removes``: all by document id; ``unreadable`` images are left as they are. ``patches``:
    whether patches are compared and sent; if not, ``bared`` documents lose theirs, because their image is replaced.
    """

    corpus: str
    patches: bool = False
    puts: set[str] = field(default_factory=set)
    updates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    removes: list[str] = field(default_factory=list)
    added: int = 0
    unchanged: int = 0
    unreadable: int = 0
    indexed: int = 0
    bared: int = 0

    @property
    def operations(self) -> int:
        """How many there are to send."""
        return len(self.puts) + len(self.updates) + len(self.removes)

    def counts(self) -> dict[str, int]:
        """In documents; ``fields`` of updates are counted one by one."""
        fields = Counter(name for names in self.updates.values() for name in names)
        bared = {"replaced_without_patches": self.bared} if self.bared else {}
        return {
            "added": self.added, "replaced": len(self.puts) - self.added, "updated": len(self.updates),
            "removed": len(self.removes), "unchanged": self.unchanged, "unreadable": self.unreadable,
            **bared, **{f"updated_{name}": count for name, count in sorted(fields.items())},
        }  # fmt: skip

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts().items())
        return f"{self.corpus}: {counts}"


@dataclass(frozen=True, slots=True)
class SyncSummary:
    """What ``feed sync`` found and did; ``feed`` is None for a dry run."""

    plans: tuple[Plan, ...]
    encodings: tuple[EncodeSummary, ...] = ()
    feed: FeedSummary | None = None

    @property
    def complete(self) -> bool:
        """Whether the index is equal to the corpora now; for a dry run, whether every image can be read."""
        failed = any(plan.unreadable for plan in self.plans) or any(one.failed for one in self.encodings)
        return not failed and (self.feed is None or self.feed.complete)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        corpora = [{"corpus": plan.corpus, **plan.counts()} for plan in self.plans]
        encodings = [{**asdict(one), "ledger": one.ledger} for one in self.encodings]
        fed = self.feed.as_json() if self.feed else {}
        return {**fed, "dry_run": self.feed is None, "plans": corpora, "encodings": encodings}

    def __str__(self) -> str:
        lines = [encoded_sentence(one) for one in self.encodings] + [str(plan) for plan in self.plans]
        return "\n".join([*lines, str(self.feed) if self.feed else "A dry run: nothing was sent"])


def sync(source: Source, delivery: Delivery, *, dry_run: bool = False, yes: bool = False) -> SyncSummary:
    """Make the index at ``delivery.url`` equal to the corpora of ``source``; documents of other corpora stay.

    An image that cannot be read now is not removed: its document stays as it is, and the summary is not complete.
    ``dry_run``: compare only, without encoding, so that an image that is no image is not noticed. Raises
    ``InputError`` when more than half of a corpus's documents would be removed, unless ``yes``: that is what a disk
    that is not mounted looks like; and, before anything is encoded, when there are patches or places that the
    application does not take.
    """
    delivery.check()
    with source.open() as opened:
        members = members_of(opened)
        if dry_run:
            model_id = source.model_id()
            adapter = source.load_adapter(model_id)
            shown = adapter.model_id if adapter else model_id
            patches = _patches(source, shown, delivery.url)
            plans = [_compare(corpus, _read_images(corpus), shown, delivery.url, patches) for corpus in members]
            return SyncSummary(tuple(plans))
        model = source.load(opened)
        adapter = source.load_adapter(model.model_id)
        return _sync(members, model, adapter, source, delivery, yes)


def _patches(source: Source, model_id: str, url: str) -> bool:
    """Whether patches are compared and sent."""
    return bool(source.patches.strip()) and owns_patches(url, model_id)


def _sync(
    members: Sequence[Corpus], model: ImageModel, adapter: Adapter | None, source: Source, delivery: Delivery, yes: bool
) -> SyncSummary:
    shown = adapter.model_id if adapter else model.model_id
    patches = _patches(source, shown, delivery.url)
    check_records(delivery.url, (one for corpus in members for one in corpus.records), patches, model.dim, source)
    plans, encodings, folders = [], [], []
    for corpus in members:
        folder = source.folder(corpus.name, model.model_id)
        encodings.append(
            encode(corpus, model, folder, batch=source.batch, progress=delivery.progress, patches=source.patches)
        )
        plan = _compare(corpus, _encoded(folder, patches), shown, delivery.url, patches, PATCH_FIELDS)
        if len(plan.removes) > MANY * plan.indexed and not yes:
            raise InputError(
                f"{len(plan.removes)} of the {plan.indexed} documents of {corpus.name} would be removed, because "
                f"{corpus.root} no longer has their images: if that is right, say so with --yes"
            )
        plans.append(plan)
        folders.append(folder)

    def operations() -> Iterator[Operation | Failure]:
        for plan, folder in zip(plans, folders, strict=True):
            yield from operations_of(plan, folder, model.dim, adapter)

    total = sum(plan.operations for plan in plans)
    fed = delivery.feed(operations(), source.work, total=total)
    return SyncSummary(tuple(plans), tuple(encodings), fed)


def _compare(
    corpus: Corpus, facts: Iterable[Facts], model_id: str, url: str, patches: bool, known: Sequence[str] = FIELDS
) -> Plan:
    """The plan for one corpus. ``facts``: the ``known`` fields of each image that can be read."""
    names = known if patches else FIELDS
    endpoint = Endpoint(url, timeout=60.0)
    try:
        index = dict(fingerprints(endpoint, corpus.name, names, Addresses(url).of(model_id)))
    finally:
        endpoint.close()
    plan = Plan(corpus.name, patches, indexed=len(index))
    read = 0
    for fact in facts:
        read += 1
        labels = None if fact.boxes is None else tuple(sorted(set(patch_labels(fact.boxes, *fact.size))))
        fields = {**record_fields(fact.record), "content_hash": fact.content_hash, "model_id": model_id}
        fields |= {"patches_model": model_id if patches and labels != () else None, LABELS: labels or None}
        _decide(plan, fact.record.id, fields, index.pop(fact.record.id, None), names)
    if read < len(corpus.records):
        unreadable = [record.id for record in corpus.records if record.id in index]
        plan.unreadable = len(corpus.records) - read
        for document_id in unreadable:
            del index[document_id]
    plan.removes = sorted(index)
    return plan


def _decide(
    plan: Plan, document_id: str, fields: Mapping[str, Any], known: bytes | None, compared: Sequence[str]
) -> None:
    names = differing(known, fingerprint(fields, compared), compared) if known is not None else ()
    has_patches = "patches_model" in names and not plan.patches
    if has_patches:
        names = tuple(name for name in names if name != "patches_model")
    if known is None or "content_hash" in names:
        plan.puts.add(document_id)
        plan.added += known is None
        plan.bared += has_patches
    elif names:
        plan.updates[document_id] = tuple(dict.fromkeys(_BRINGS.get(name, name) for name in names))
    else:
        plan.unchanged += 1


def _encoded(folder: Path, patches: bool) -> Iterator[Facts]:
    """What the shards know of each image, without its embeddings and thumbnail."""
    for path in shard_files(folder):
        yield from read_facts(path, patches)


def _read_images(corpus: Corpus) -> Iterator[Facts]:
    """The same, from the image files themselves."""

    def digest(record: Record) -> tuple[Record, str]:
        try:
            return record, content_hash(corpus.read(record))
        except ImageError:
            return record, ""

    found = map_ahead(digest, corpus.records, os.cpu_count() or 1, 64)
    yield from (Facts(record, known, (0, 0)) for record, known in found if known)  # only beside boxes is a size used


def operations_of(plan: Plan, folder: Path, dim: int, adapter: Adapter | None = None) -> Iterator[Operation | Failure]:
    """The plan's operations, read from the shards in ``folder``; shards that hold nothing of it are not read."""
    for document_id in plan.removes:
        yield Operation("remove", document_id)
    open_shards(folder)  # complains if it is gone
    for path in shard_files(folder):
        ids = {row["id"] for row in read_columns(path, ["id"])}
        if ids.isdisjoint(plan.puts) and ids.isdisjoint(plan.updates):
            continue
        rows = (row for row in read_shard(path, dim) if row.record.id in plan.puts or row.record.id in plan.updates)
        yield from _changes(plan, map(adapter.apply_row, rows) if adapter else rows)


def _changes(plan: Plan, rows: Iterator[Embedded]) -> Iterator[Operation | Failure]:
    for document_id, fields in document_rows(rows):
        if isinstance(fields, InputError):
            yield Failure(document_id, 0, str(fields))
        elif document_id in plan.puts:
            left_out = () if plan.patches else ("patches", "patches_model")
            sent = {name: value for name, value in fields.items() if name not in left_out}
            yield Operation("put", document_id, sent)
        else:
            yield Operation("update", document_id, assign(fields, plan.updates[document_id]))


def assign(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Update operations that set ``names`` to what ``fields`` holds, and clear those that it lacks.

    Embeddings and patches bring the id of their model along.
    """
    wanted = list(names)
    for vectors, model in (("embedding", "model_id"), ("patches", "patches_model")):
        if vectors in wanted and model not in wanted:
            wanted.append(model)
    return {name: {"assign": fields.get(name)} for name in wanted}
