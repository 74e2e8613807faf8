"""The run itself: what is known is taken over, the rest is decoded ahead in threads, embedded in batches and kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clipsearch.corpora import Corpus
from clipsearch.encoding.ledger import LEDGER, Ledger
from clipsearch.encoding.models import ImageModel, embed_captions, embed_pixels
from clipsearch.encoding.preparing import Prepared, Preparer
from clipsearch.errors import ShardError
from clipsearch.images.patches import parse_patches
from clipsearch.lookahead import batched, map_ahead
from clipsearch.records import Embedded, Record
from clipsearch.shards import (
    RECORD_COLUMNS,
    ROWS,
    FolderLock,
    Manifest,
    ShardWriter,
    read_columns,
    read_manifest,
    read_shard,
    record_of,
    shard_files,
    write_manifest,
    write_shard,
)  # fmt: skip

BATCH = 64


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What a run did, in images: newly encoded, taken over from before, dropped (no longer in the corpus),
    failed.

    ``failed`` counts the lines of ``ledger``: bad images, and entries of the corpus that name no image;
    ``examples`` are the first of them, for people. ``encoder``: how the model was run, where that is known.
    """

    corpus: str
    model_id: str
    out: str
    encoded: int
    reused: int
    removed: int
    failed: int
    seconds: float
    examples: tuple[str, ...] = ()
    encoder: str = ""

    @property
    def rate(self) -> float:
        """Images encoded per second."""
        return self.encoded / self.seconds if self.seconds else 0.0

    @property
    def ledger(self) -> str:
        """The file that lists what failed, and why."""
        return str(Path(self.out) / LEDGER)


@dataclass(frozen=True, slots=True)
class _Known:
    """A row of an earlier run: where it lies, what it was made from, and the hash of its record in this process."""

    shard: Path
    content_hash: str
    record: int


def encode(
    corpus: Corpus, model: ImageModel, out: Path, *,
    batch: int = BATCH, rows: int = ROWS, workers: int = 0, overwrite: bool = False, progress: bool = True,
    patches: str = "", captions: bool = False, bands: Sequence[int] = (),
) -> EncodeSummary:  # fmt: skip
    """Embed every image of ``corpus`` into shards in ``out``; returns what was done, however many images
    are bad.

    ``batch`` images go through the model at once and are then safe from a kill; ``rows`` rows go into a shard;
    ``workers`` decode threads (0: one per core) look at most two batches ahead, so memory does not grow with the
    pictures. ``patches``: also embed parts of each image (``"3x3"``, see ``patches.py``); ``captions``: also embed the
    captions; ``bands``: which bands of many-band pictures are red, green and blue, counted from 1. Raises
    ``ShardError`` when ``out`` holds something else's shards, unless ``overwrite``, or is being written to by another
    process, and ``InputError`` for patches that make no sense.
    """
    started = time.monotonic()
    plan = parse_patches(patches)
    wanted = Manifest(
        corpus.name, model.model_id, model.dim, 0, str(corpus.root), False, str(plan), captions,
        ",".join(map(str, bands)), bool(getattr(model, "quantised", False)),
    )  # fmt: skip
    if out.exists() and not out.is_dir():
        raise ShardError(f"{out} is a file: --out takes a folder")
    out.mkdir(parents=True, exist_ok=True)
    with FolderLock(out):
        _prepare_folder(out, wanted, overwrite)
        run = _Run(corpus, model, out, wanted, Preparer(corpus, model, plan, bands))
        with (
            Ledger(out / LEDGER) as ledger,
            ShardWriter(out, model.dim, rows=rows, journal=True) as writer,
            tqdm(total=len(corpus.records), desc="encoding", unit="image", disable=not progress) as bar,
        ):
            run.find_known()
            for issue in corpus.issues:
                ledger.write(corpus.name, issue.item, issue.reason)
            run.encode_new(ledger, writer, bar, max(1, batch // (1 + plan.usual)), workers or os.cpu_count() or 1)
        run.tidy()
    return EncodeSummary(
        corpus.name, model.model_id, str(out), run.encoded, len(run.current), run.removed, ledger.lines,
        time.monotonic() - started, tuple(ledger.examples), str(getattr(model, "encoder", "")),
    )  # fmt: skip


def _prepare_folder(out: Path, wanted: Manifest, overwrite: bool) -> None:
    """Make ``out`` ready, or refuse it when it belongs to something else."""
    before = read_manifest(out) if not overwrite else None
    if before is not None:
        _require_same(out, before, wanted)
    old = (*shard_files(out), *out.glob("journal-*.arrow")) if overwrite else ()
    for path in [*out.glob(".shard-*.tmp"), *out.glob(".journal-*.tmp"), *old]:
        path.unlink()


def _require_same(out: Path, before: Manifest, wanted: Manifest) -> None:
    """Rows that are made in different ways do not belong into one folder."""
    other = "choose another --out, or replace them with --overwrite"
    if (before.model_id, before.dim) != (wanted.model_id, wanted.dim):
        raise ShardError(
            f"{out} holds shards of model {before.model_id} ({before.dim} dimensions), and this is {wanted.model_id} "
            f"({wanted.dim}): {other}"
        )
    if before.corpus != wanted.corpus:
        raise ShardError(f"{out} holds shards of corpus {before.corpus}, and this is {wanted.corpus}: {other}")
    names = {"patches": "--patches", "captions": "--captions", "bands": "--bands", "quantised": "--backend onnx-int8"}
    for name, option in names.items():
        had, want = getattr(before, name), getattr(wanted, name)
        if had != want:
            spoken = f"with {option} {had}" if had and had is not True else f"with{'' if had else 'out'} {option}"
            raise ShardError(f"{out} holds shards that were made {spoken}: say the same again, {other}")


class _Run:
    """One run over one corpus: what was there before, what is right still, what is new."""

    def __init__(self, corpus: Corpus, model: ImageModel, out: Path, manifest: Manifest, preparer: Preparer) -> None:
        self.corpus, self.model, self.out, self.manifest, self.preparer = corpus, model, out, manifest, preparer
        self.known: dict[str, _Known] = {}
        self.shards: list[Path] = []
        self.current: set[str] = set()  # keys whose earlier row is right
        self.encoded = self.removed = 0

    def find_known(self) -> None:
        """Rows of earlier runs by key; where a killed run left a key in two shards, the later one counts.

        Rows of another model or corpus, beside a manifest that somebody deleted, are as good as none.
        """
        self.shards = shard_files(self.out)
        names = (*RECORD_COLUMNS, "model_id", "content_hash")
        for path in self.shards:
            for row in read_columns(path, names):
                if (row["model_id"], row["corpus"]) == (self.manifest.model_id, self.manifest.corpus):
                    record = record_of(row)
                    self.known[record.key] = _Known(path, row["content_hash"], hash(record))
        write_manifest(self.out, replace(self.manifest, count=len(self.known)))

    def encode_new(self, ledger: Ledger, writer: ShardWriter, bar: Any, batch: int, workers: int) -> None:
        """Embed what is new or changed; each batch is safe when the next begins."""

        def prepare(record: Record) -> Prepared:
            known = self.known.get(record.key)
            return self.preparer.prepare(record, known.content_hash if known else None)

        items = map_ahead(prepare, self.corpus.records, workers, 2 * batch)
        for group in batched(self._to_embed(items, ledger, bar), batch):
            writer.extend(self._embed(group))
            self.encoded += len(group)

    def _to_embed(self, items: Iterable[Prepared], ledger: Ledger, bar: Any) -> Iterator[Prepared]:
        """Pass on what must be embedded; note the others in ``current`` (an earlier row is right) or in the
        ledger."""
        for item in items:
            bar.update()
            if item.error:
                ledger.write(self.corpus.name, item.record.uri, item.error)
            elif item.pixels is None:
                self.current.add(item.record.key)
            else:
                yield item

    def _embed(self, group: list[Prepared]) -> list[Embedded]:
        vectors = embed_pixels(self.model, np.concatenate([item.pixels for item in group if item.pixels is not None]))
        texts: list[Any] = [None] * len(group)
        if self.manifest.captions:
            texts = list(embed_captions(self.model, [item.record.captions for item in group]))
        rows, start = [], 0
        for item, of_captions in zip(group, texts, strict=True):
            count = 0 if item.boxes is None else len(item.boxes)
            parts = vectors[start + 1 : start + 1 + count] if item.boxes is not None else None
            row = Embedded(
                item.record, vectors[start], item.thumbnail, item.width, item.height, item.content_hash,
                self.model.model_id, parts, item.boxes, of_captions,
            )  # fmt: skip
            rows.append(row)
            start += 1 + count
        return rows

    def tidy(self) -> None:
        """Bring the shards of earlier runs up to date: drop rows that are gone or replaced, and renew captions.

        One shard at a time, after the new rows are safe; a run that is killed here leaves rows twice, and the
        next run takes the later one.
        """
        records = {record.key: record for record in self.corpus.records}
        for path in self.shards:
            keys = [row["key"] for row in read_columns(path, ["key"])]
            kept = [key for key in keys if key in self.current and self.known[key].shard == path]
            if not kept:
                path.unlink()
            elif len(kept) < len(keys) or any(hash(records[key]) != self.known[key].record for key in kept):
                wanted = set(kept)
                rows = [row for row in read_shard(path, self.model.dim) if row.record.key in wanted]
                write_shard(path, self._renewed(rows, records), self.model.dim)
        self.removed = len(self.known.keys() - records.keys())
        count = len(self.current) + self.encoded
        write_manifest(self.out, replace(self.manifest, count=count, complete=True))

    def _renewed(self, rows: list[Embedded], records: dict[str, Record]) -> list[Embedded]:
        """The rows with today's records, and today's captions embedded."""
        fresh = [replace(row, record=records[row.record.key]) for row in rows]
        if not self.manifest.captions:
            return fresh
        changed = [n for n, row in enumerate(rows) if row.record.captions != fresh[n].record.captions]
        texts = embed_captions(self.model, [fresh[n].record.captions for n in changed]) if changed else []
        for number, of_captions in zip(changed, texts, strict=True):
            fresh[number] = replace(fresh[number], texts=of_captions)
        return fresh
