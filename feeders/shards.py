"""``feed shards``: every row of an embedding shard folder becomes a document of the index."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipsearch.adapter import Adapter, load_adapter
from clipsearch.errors import ClipsearchError, InputError, RejectedError, ServiceError, ShardError
from clipsearch.search.endpoint import DEFAULT_URL, Endpoint, parse_id
from clipsearch.shards import Manifest, Shards, open_shards
from feeders.dispatcher import Failure
from feeders.documents import document_fields, document_rows
from feeders.feeding import FeedSummary, feed
from feeders.generations import Addresses, named
from feeders.journal import journal_path
from feeders.operations import Operation

DEAD_LETTERS = "dead-letters.jsonl"
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
    answers, and ``ShardError`` when ``folder`` holds no rows or the application stores vectors of another size. What
    an interrupted encoding left is fed, with a warning. ``adapter``: a file of ``clipsearch adapt`` that every
    embedding goes through; ``CheckpointError`` when it was made for another model.
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
    """Put the first row alone: a wrong vector size must stop the feed, not fail it once for each document."""
    endpoint = Endpoint(url, timeout=min(10.0, patience))  # later, the feed itself waits, and says how it went
    try:
        endpoint.status()
        generation = Addresses(url).of(adapter.model_id if adapter else shards.manifest.model_id)
    except ClipsearchError:
        endpoint.close()
        raise
    try:
        row = next(iter(shards))
        corpus, key = parse_id(row.record.id)
        fields = named(document_fields(adapter.apply_row(row) if adapter else row), generation)
        _put_first(endpoint, corpus, key, fields, folder, shards.manifest)
    except ShardError:
        raise
    except RejectedError as error:
        if error.status == 400:
            _fits(shards, folder, _size_in(error.message), endpoint.url)
    except (InputError, ServiceError):
        pass  # of this row, or of this moment: the feed comes to it, retries it, counts its failure
    finally:
        endpoint.close()


def _put_first(
    endpoint: Endpoint, corpus: str, key: str, fields: dict[str, Any], folder: Path, manifest: Manifest
) -> None:
    """Put a document; ``ShardError`` when the application takes it only without its patches."""
    try:
        endpoint.put(corpus, key, fields)
    except RejectedError as error:
        if error.status != 400 or "patches" not in fields:
            raise
        endpoint.put(corpus, key, {name: fields[name] for name in fields.keys() - {"patches", "patches_model"}})
        raise ShardError(
            f"the application at {endpoint.url} does not take the patches of {folder} ({error.message[:120]}): deploy "
            f"the package that 'clipsearch app --dim {manifest.dim}' writes now, or feed shards that were encoded "
            "without --patches"
        ) from error


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
