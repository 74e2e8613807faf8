"""``feed export``: documents as Vespa's feed JSONL: ``clipsearch feed export shards | vespa feed -``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from clipsearch.adapter import load_adapter
from clipsearch.encoding import encode
from clipsearch.errors import ShardError
from clipsearch.shards import MANIFEST, open_shards
from feeders.dispatcher import Failure
from feeders.images import Source, members_of, puts
from feeders.lines import line, writing
from feeders.operations import Operation
from feeders.update import from_shards
from feeders.visit import Written


def export_shards(
    folders: Iterable[Path],
    out: str | Path = "-",
    *,
    adapter: Path | None = None,
    updates: Iterable[str] = (),
    progress: bool = True,
) -> Written:
    """Write a put for each row of the shards, or a partial update of the fields ``updates``, to ``out`` ("-": stdout).

    A row that is unfit for the index is left out, named on stderr and counted.
    """
    written = refused = 0
    with writing(out) as file:
        for operation in tqdm(_operations(folders, adapter, tuple(updates)), unit=" docs", desc="export",
                              disable=not progress, mininterval=0.5):  # fmt: skip
            if isinstance(operation, Failure):
                refused += 1
                tqdm.write(f"Left out: {operation.id}: {operation.reason}", file=sys.stderr)
                continue
            file.write(line(operation.kind, operation.id, operation.fields))
            written += 1
    return Written(written, str(out), refused)


def _operations(
    folders: Iterable[Path], adapter: Path | None, updates: tuple[str, ...]
) -> Iterator[Operation | Failure]:
    for folder in folders:
        shards = open_shards(folder)
        if not len(shards):
            raise ShardError(f"{folder} holds no embedded image: the ledger of 'clipsearch encode' there says why")
        change = load_adapter(adapter) if adapter else None
        if change:
            change.check(shards.manifest.model_id, f"what {folder} was encoded with")
        yield from from_shards(shards, updates, change) if updates else puts(iter(shards), change)


def is_shards(path: Path) -> bool:
    """Whether ``path`` is a folder of shards rather than a corpus."""
    return (path / MANIFEST).is_file()


def encode_for_export(source: Source, progress: bool = True) -> tuple[list[Path], int]:
    """The corpora encoded into the work folder: the folders of their shards, and how many images failed."""
    folders, failed = [], 0
    with source.open() as opened:
        model = source.load(opened)
        for corpus in members_of(opened):
            folder = source.folder(corpus.name, model.model_id)
            summary = encode(corpus, model, folder, batch=source.batch, progress=progress, patches=source.patches)
            failed += summary.failed
            if summary.failed:
                tqdm.write(f"{summary.failed} images of {corpus.name} failed: see {summary.ledger}", file=sys.stderr)
            folders.append(folder)
    return folders, failed
