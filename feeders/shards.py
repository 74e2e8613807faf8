"""``feed shards``: every row of an embedding shard folder becomes a document of the index."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from clipsearch.adapter import Adapter, load_adapter
from clipsearch.errors import InputError, RejectedError, ShardError
from clipsearch.records import Embedded
from clipsearch.search.endpoint import DEFAULT_URL, Endpoint, parse_id
from clipsearch.shards import Shards, open_shards
from feeders.dispatcher import Dispatcher, Failure, Operation
from feeders.documents import document_fields

DEAD_LETTERS = "dead-letters.jsonl"
_SIZES = (re.compile(r"[Ee]xpected (\d+) values"), re.compile(r"tensor(?:<\w+>)?\(\w+\[(\d+)\]\)"))


@dataclass(frozen=True, slots=True)
class FeedSummary:
    """What a feed did. ``not_sent`` is above 0 only when the endpoint went away; ``seconds`` is wall clock."""

    fed: int
    failed: int
    not_sent: int
    seconds: float
    dead_letters: str = ""

    @property
    def rate(self) -> float:
        """Acknowledged documents a second."""
        return self.fed / self.seconds if self.seconds else 0.0

    @property
    def complete(self) -> bool:
        """Whether everything is in the index."""
        return not (self.failed or self.not_sent)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "seconds": round(self.seconds, 3), "docs_per_second": round(self.rate, 1)}

    def __str__(self) -> str:
        parts = [f"{self.fed} documents fed in {self.seconds:.1f} s ({self.rate:.0f} docs/s)"]
        if self.failed:
            parts.append(f"{self.failed} failed: see {self.dead_letters}")
        if self.not_sent:
            parts.append(f"{self.not_sent} not sent, because the endpoint went away: run the same command again")
        return "; ".join(parts)


class DeadLetters:
    """A JSONL file with one line for each operation that was given up; it exists only if there is one.

    One left by an earlier run is removed: the file always speaks of the last run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        path.unlink(missing_ok=True)

    def write(self, failure: Failure) -> None:
        """Append one line, at once on disk for whoever looks."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
        self._file.write(json.dumps(asdict(failure), ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


def feed_shards(
    folder: Path,
    url: str = DEFAULT_URL,
    *,
    workers: int = 8,
    patience: float = 60.0,
    dead_letters: Path | None = None,
    progress: bool = True,
    adapter: Path | None = None,
) -> FeedSummary:
    """Put every row of the shards in ``folder`` into the index at ``url``; idempotent, so run it again at
    will.

    A document that the endpoint refuses is counted and written to ``dead_letters`` (by default
    ``dead-letters.jsonl`` in ``folder``). Raises ``UnreachableError`` or ``RejectedError`` at once when no
    application answers, and ``ShardError`` when ``folder`` holds no rows or the application stores vectors of
    another size. What an interrupted encoding left is fed, with a warning. ``adapter``: a file of ``clipsearch adapt``
    that every embedding goes through; ``CheckpointError`` when it was made for another model.
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
    endpoint = Endpoint(url, timeout=60.0)
    try:
        endpoint.status()
        letters = dead_letters or folder / DEAD_LETTERS
        return _feed(shards, folder, endpoint, workers, patience, letters, progress, change)
    finally:
        endpoint.close()


def _feed(
    shards: Shards,
    folder: Path,
    endpoint: Endpoint,
    workers: int,
    patience: float,
    dead_letters: Path,
    progress: bool,
    adapter: Adapter | None,
) -> FeedSummary:
    letters = DeadLetters(dead_letters)
    counts = {"fed": 0, "failed": 0}
    start = time.monotonic()
    with tqdm(total=len(shards), unit=" docs", desc="feed", disable=not progress, mininterval=0.5) as bar:

        def done(document_id: str, failure: Failure | None) -> None:
            counts["failed" if failure else "fed"] += 1
            if failure:
                letters.write(failure)
                bar.set_postfix(failed=counts["failed"])
            bar.update()

        try:
            Dispatcher(done, workers=workers, in_flight=4 * workers, patience=patience).run(
                _operations(shards, folder, endpoint, adapter)
            )
        finally:
            letters.close()
    left = len(shards) - counts["fed"] - counts["failed"]
    seconds = time.monotonic() - start
    return FeedSummary(
        **counts, not_sent=left, seconds=seconds, dead_letters=str(dead_letters) * bool(counts["failed"])
    )


def _operations(shards: Shards, folder: Path, endpoint: Endpoint, adapter: Adapter | None) -> Iterator[Operation]:
    """One put for each row. The first is sent here, alone: a wrong vector size must stop the feed, not fail
    it.
    """
    for number, row in enumerate(shards):
        send = _put(endpoint, row, adapter)
        if number == 0:
            try:
                send()
            except RejectedError as error:
                if error.status == 400:
                    _fits(shards, folder, _size_in(error.message), endpoint.url)
            except InputError:
                pass  # this row is at fault: it is sent again below, where its failure is counted
        yield Operation(row.record.id, send)


def _put(endpoint: Endpoint, row: Embedded, adapter: Adapter | None) -> Callable[[], None]:
    def send() -> None:
        corpus, key = parse_id(row.record.id)
        endpoint.put(corpus, key, document_fields(adapter.apply_row(row) if adapter else row))

    return send


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
