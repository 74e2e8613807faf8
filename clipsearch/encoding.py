"""Corpus + checkpoint -> embedding shards: decoded in threads, embedded in batches, resumable.

What was encoded before is known by content hash and model id, and is not encoded again: a second run does
only what is new or changed, a killed run goes on where it stopped. A bad image becomes a line in
``ledger.jsonl``; it never stops the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from clipsearch.corpora import Corpus, open_corpus
from clipsearch.errors import CheckpointError, ImageError, ShardError
from clipsearch.images import content_hash, load_image, thumbnail
from clipsearch.lookahead import batched, map_ahead
from clipsearch.records import Embedded, Record
from clipsearch.shards import (
    ROWS,
    Manifest,
    ShardWriter,
    read_columns,
    read_manifest,
    read_shard,
    shard_files,
    write_manifest,
    write_shard,
)  # fmt: skip

LEDGER = "ledger.jsonl"
BATCH = 64
EXAMPLES = 5  # failures that a summary quotes; the ledger has them all

Pixels = NDArray[np.uint8]


class ImageModel(Protocol):
    """What encoding needs of a model; ``clipsearch.clip.Clip`` has it, and tests need no torch."""

    @property
    def model_id(self) -> str:
        """Name and hash of the weights."""
        ...

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    def preprocess(self, image: Pixels) -> Pixels:
        """``(H, W, 3)`` uint8 -> ``(S, S, 3)`` uint8; called in threads."""
        ...

    def embed_pixels(self, pixels: Pixels) -> NDArray[np.float32]:
        """``(N, S, S, 3)`` uint8 -> ``(N, D)`` float32, unit norm."""
        ...


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What a run did, in images: newly encoded, taken over from before, dropped (no longer in the corpus),
    failed.

    ``failed`` counts the lines of ``ledger``: bad images, and entries of the corpus that name no image;
    ``examples`` are the first of them, for people.
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
    """A row of an earlier run: where it lies, and what it was made from."""

    shard: Path
    content_hash: str
    record: Record


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One record after its decode thread: ``pixels`` is None when an earlier row is still right."""

    record: Record
    content_hash: str = ""
    pixels: Pixels | None = None
    thumbnail: bytes = b""
    width: int = 0
    height: int = 0
    error: str = ""


def encode_corpus(
    corpus: Path, checkpoint: str | Path, out: Path, *,
    name: str = "", device: str = "auto", batch: int = BATCH, overwrite: bool = False, progress: bool = True,
) -> EncodeSummary:  # fmt: skip
    """Encode the corpus folder with the checkpoint into ``out``: what ``clipsearch encode`` does."""
    with open_corpus(corpus, name) as opened:
        from clipsearch.clip import load_clip

        model = load_clip(checkpoint, device)
        return encode(opened, model, out, batch=batch, overwrite=overwrite, progress=progress)


def encode(
    corpus: Corpus, model: ImageModel, out: Path, *,
    batch: int = BATCH, rows: int = ROWS, workers: int = 0, overwrite: bool = False, progress: bool = True,
) -> EncodeSummary:  # fmt: skip
    """Embed every image of ``corpus`` into shards in ``out``; returns what was done, however many images
    are bad.

    ``batch`` images go through the model at once, ``rows`` rows into a shard; ``workers`` decode threads
    (0: one per core) look at most two batches ahead, so memory does not grow with the corpus. Raises
    ``ShardError`` when ``out`` holds another corpus's or model's shards, unless ``overwrite``.
    """
    started = time.monotonic()
    _prepare_folder(out, corpus, model, overwrite)
    shards, known = shard_files(out), _known_rows(out, model.model_id, corpus.name)
    manifest = Manifest(corpus.name, model.model_id, model.dim, len(known), str(corpus.root))
    write_manifest(out, manifest)
    current: dict[str, Record] = {}
    encoded = 0

    def prepare(record: Record) -> _Prepared:
        return _prepare(corpus, model, record, known.get(record.key))

    with (
        _Ledger(out / LEDGER) as ledger,
        ShardWriter(out, model.dim, rows=rows) as writer,
        tqdm(total=len(corpus.records), desc="encoding", unit="image", disable=not progress) as bar,
    ):
        for issue in corpus.issues:
            ledger.write(corpus.name, issue.item, issue.reason)
        items = map_ahead(prepare, corpus.records, workers or os.cpu_count() or 1, 2 * batch)
        for group in batched(_to_embed(items, current, ledger, corpus.name, bar), batch):
            for row in _embed(model, group):
                writer.add(row)
            encoded += len(group)
    removed = len(known.keys() - {record.key for record in corpus.records})
    _tidy(shards, known, current, model.dim)
    write_manifest(out, replace(manifest, count=len(current) + encoded, complete=True))
    seconds = time.monotonic() - started
    return EncodeSummary(
        corpus.name, model.model_id, str(out), encoded, len(current), removed, ledger.lines, seconds,
        tuple(ledger.examples),
    )  # fmt: skip


def _prepare_folder(out: Path, corpus: Corpus, model: ImageModel, overwrite: bool) -> None:
    """Make ``out`` ready, or refuse it when it belongs to something else."""
    if out.exists() and not out.is_dir():
        raise ShardError(f"{out} is a file: --out takes a folder")
    before = read_manifest(out) if not overwrite else None
    if before is not None and (before.model_id, before.dim) != (model.model_id, model.dim):
        raise ShardError(
            f"{out} holds shards of model {before.model_id} ({before.dim} dimensions), and this is {model.model_id} "
            f"({model.dim}): choose another --out, or replace them with --overwrite"
        )
    if before is not None and before.corpus != corpus.name:
        raise ShardError(
            f"{out} holds shards of corpus {before.corpus}, and this is {corpus.name}: choose another --out, or "
            "replace them with --overwrite"
        )
    out.mkdir(parents=True, exist_ok=True)
    leftovers = [*out.glob(".shard-*.tmp"), *(shard_files(out) if overwrite else ())]
    for path in leftovers:
        path.unlink()


def _known_rows(out: Path, model_id: str, corpus: str) -> dict[str, _Known]:
    """Rows of earlier runs by key; where a killed run left a key in two shards, the later one counts.

    Rows of another model or corpus, beside a manifest that somebody deleted, are as good as none.
    """
    names = ("model_id", "corpus", "key", "uri", "captions", "split", "label", "content_hash")
    known: dict[str, _Known] = {}
    for path in shard_files(out):
        for row in read_columns(path, names):
            if (row["model_id"], row["corpus"]) != (model_id, corpus):
                continue
            record = Record(row["corpus"], row["key"], row["uri"], tuple(row["captions"]), row["split"], row["label"])
            known[record.key] = _Known(path, row["content_hash"], record)
    return known


def _prepare(corpus: Corpus, model: ImageModel, record: Record, known: _Known | None) -> _Prepared:
    """Read, hash, and, unless the image is known, decode one record's image; runs in a thread."""
    try:
        data = corpus.read(record)
        digest = content_hash(data)
        if known is not None and known.content_hash == digest:
            return _Prepared(record, digest)
        image = load_image(data)
    except ImageError as error:
        return _Prepared(record, error=str(error))
    height, width = image.shape[:2]
    try:
        return _Prepared(record, digest, model.preprocess(image), thumbnail(image), width, height)
    except Exception as error:  # whatever one odd picture does to resizing, the others go on and the ledger tells
        reason = f"the picture of {width} x {height} px cannot be resized: {type(error).__name__}: {error}"
        return _Prepared(record, error=reason)


def _to_embed(
    items: Iterable[_Prepared], current: dict[str, Record], ledger: _Ledger, corpus: str, bar: Any
) -> Iterator[_Prepared]:
    """Pass on what must be embedded; note the others in ``current`` (an earlier row is right) or in the
    ledger."""
    for item in items:
        bar.update()
        if item.error:
            ledger.write(corpus, item.record.uri, item.error)
        elif item.pixels is None:
            current[item.record.key] = item.record
        else:
            yield item


def _embed(model: ImageModel, group: list[_Prepared]) -> Iterator[Embedded]:
    pixels = np.stack([item.pixels for item in group if item.pixels is not None])
    vectors = np.asarray(model.embed_pixels(pixels), dtype=np.float32)
    if vectors.shape != (len(group), model.dim) or not np.isfinite(vectors).all():
        raise CheckpointError(
            f"model {model.model_id} gave embeddings of shape {vectors.shape} for {len(group)} images of dimension "
            f"{model.dim}, or numbers that are not finite: the checkpoint is damaged"
        )
    for item, vector in zip(group, vectors, strict=True):
        yield Embedded(item.record, vector, item.thumbnail, item.width, item.height, item.content_hash, model.model_id)


def _tidy(shards: list[Path], known: dict[str, _Known], current: dict[str, Record], dim: int) -> None:
    """Bring the shards of earlier runs up to date: drop rows that are gone or replaced, and renew captions.

    One shard at a time, after the new rows are safe; a run that is killed here leaves rows twice, and the
    next run takes the later one.
    """
    for path in shards:
        keys = [row["key"] for row in read_columns(path, ["key"])]
        kept = [key for key in keys if key in current and known[key].shard == path]
        if not kept:
            path.unlink()
        elif len(kept) < len(keys) or any(current[key] != known[key].record for key in kept):
            wanted = set(kept)
            rows = [row for row in read_shard(path, dim) if row.record.key in wanted]
            write_shard(path, [replace(row, record=current[row.record.key]) for row in rows], dim)


class _Ledger:
    """The list of what this run could not encode: one JSON object a line, written at once."""

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self.examples: list[str] = []
        self._file = path.open("wb")

    def write(self, corpus: str, item: str, reason: str) -> None:
        """Add one line."""
        self._file.write(orjson.dumps({"corpus": corpus, "item": item, "reason": reason}) + b"\n")
        self._file.flush()
        self.lines += 1
        if self.lines <= EXAMPLES:
            self.examples.append(f"{item}: {reason}")

    def __enter__(self) -> _Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
