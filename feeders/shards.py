"""``feed shards``: every row of an embedding shard folder becomes a document of the index."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from clipsearch.adapter import Adapter, load_adapter
from clipsearch.errors import InputError, ShardError
from clipsearch.search.endpoint import DEFAULT_URL, Endpoint
from clipsearch.shards import Shards, open_shards, read_columns, shard_files
from feeders.dispatcher import Failure
from feeders.documents import document_fields, document_rows
from feeders.feeding import FeedSummary, feed
from feeders.fitting import check_fields
from feeders.generations import Addresses, named
from feeders.journal import journal_path
from feeders.operations import Operation

DEAD_LETTERS = "dead-letters.jsonl"
PLACE_COLUMNS = ("latitude", "longitude")
_SIZES = (re.compile(r"[Ee]xpected (\d+) values"), re.compile(r"tensor(?:<\w+>)?\(\w+\[(\d+)\]\)"))


def feed_shards(
    folder: Path,
    url: str = DEFAULT_URL,
    *,
    workers: int = 0,
    patience: float = 60.0,
    dead_letters: Path | None = None,
    journal: Path | None = None,
    progress: bool = True,
    adapter: Path | None = None,
) -> FeedSummary:
    """Put every row of the shards in ``folder`` into the index at ``url``; idempotent, so run it again at will.

    One that was interrupted goes on where it stopped. ``workers``: most requests in flight; 0 lets the feed find out
    how many are best. A document that the endpoint refuses is counted and written to ``dead_letters`` (by default
    ``dead-letters.jsonl`` in ``folder``). Raises ``UnreachableError`` or ``RejectedError`` at once when no application
    answers, and ``ShardError``, before anything is written, when ``folder`` holds no rows or the application stores
    vectors of another size, or no patches or places. What an interrupted encoding left is fed, with a warning.
    ``adapter``: a file of ``clipsearch adapt`` that every embedding goes through; ``CheckpointError`` when it was made
    for another model.
    """
    shards = open_shards(folder)
    if not len(shards):
        raise ShardError(f"{folder} holds no embedded image: the ledger of 'clipsearch encode' there says why")
    if not shards.manifest.complete:
        message = f"Warning: 'clipsearch encode' did not get to its end in {folder}: feeding {len(shards)} images"
        tqdm.write(message, file=sys.stderr)
    change = load_adapter(adapter) if adapter else None
    if change:
        change.check(shards.manifest.model_id, f"what {folder} was encoded with")
    letters = dead_letters or folder / DEAD_LETTERS
    _check_size(shards, folder, url, change, patience)
    return feed(
        _operations(shards, change), url, dead_letters=letters, journal=journal or journal_path(folder, url),
        total=len(shards),
        patience=patience, connections=workers, progress=progress,
    )  # fmt: skip


def _operations(shards: Shards, adapter: Adapter | None) -> Iterator[Operation | Failure]:
    rows = (adapter.apply_row(row) for row in shards) if adapter else shards
    for document_id, fields in document_rows(rows):
        if isinstance(fields, InputError):
            yield Failure(document_id, 0, str(fields))
        else:
            yield Operation("put", document_id, fields)


def _check_size(shards: Shards, folder: Path, url: str, adapter: Adapter | None, patience: float) -> None:
    """Ask with the first row: a wrong vector size must stop the feed, not fail it once for each document."""
    endpoint = Endpoint(url, timeout=min(10.0, patience))  # later, the feed itself waits, and says how it went
    try:
        endpoint.status()
        generation = Addresses(url).of(adapter.model_id if adapter else shards.manifest.model_id)
        try:
            row = next(iter(shards))
            fields = named(document_fields(adapter.apply_row(row) if adapter else row), generation)
        except ShardError:
            raise
        except InputError:
            return  # of this row: the feed comes to it, and counts its failure
        fields |= _first_place(folder)
        dim = shards.manifest.dim
        said = check_fields(endpoint, row.record.id, fields, dim, folder, ShardError)
        _fits(shards, folder, _size_in(said), endpoint.url)
    finally:
        endpoint.close()


def _first_place(folder: Path) -> dict[str, float]:
    """Where the first image lies that has a place."""
    for path in shard_files(folder):
        for row in read_columns(path, PLACE_COLUMNS):  # not there in shards of an earlier version
            if None not in (row.get("latitude"), row.get("longitude")):
                return row
    return {}


def _size_in(message: str) -> int | None:
    """D of the application's embedding field, out of the endpoint's words for a vector of another size."""
    for pattern in _SIZES:
        match = pattern.search(message)
        if match:
            return int(match[1])
    return None


def _fits(shards: Shards, folder: Path, size: int | None, url: str) -> None:
    given = shards.manifest.dim
    if size not in (None, given):
        raise ShardError(
            f"the shards in {folder} hold vectors of {given} numbers (model {shards.manifest.model_id}), and the "
            f'application at {url} stores vectors of {size}: deploy one that "clipsearch app --dim {given} --out DIR" '
            f"writes, or encode with a model of {size}"
        )
