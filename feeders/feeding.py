"""``feed``: deliver operations to an endpoint, each retried while that makes sense, and say what became of them.

What every feeder does: make operations, call ``feed``, print the summary.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import orjson
from tqdm import tqdm

from clipsearch.errors import ClipsearchError, ServiceError
from clipsearch.search.endpoint import Endpoint, parse_id
from feeders.dispatcher import UNSURE, Dispatcher, Failure
from feeders.generations import Addresses
from feeders.journal import Journal
from feeders.operations import Operation, Request, to_request
from feeders.transport import Answer, Transport

MOST = 64  # requests in flight
_TIMEOUT = 30.0  # seconds for an answer


@dataclass(frozen=True, slots=True)
class FeedSummary:
    """What a feed did, in operations.

    ``fed``: acknowledged now; ``skipped``: acknowledged by an earlier run that did not get to its end (the journal
    says so); ``unmet``: whose condition was not met, or whose document to update is missing: no failure; ``failed``:
    given up, each a line of ``dead_letters``; ``not_sent``: never sent, because the endpoint went away or the feed was
    interrupted; ``retries``: requests beyond the first of an operation; ``seconds``: wall clock.
    """

    fed: int
    failed: int
    not_sent: int
    seconds: float
    dead_letters: str = ""
    skipped: int = 0
    unmet: int = 0
    retries: int = 0
    interrupted: bool = False
    gave_up: bool = False

    @property
    def rate(self) -> float:
        """Acknowledged operations a second."""
        return self.fed / self.seconds if self.seconds else 0.0

    @property
    def complete(self) -> bool:
        """Whether everything is in the index: what an exit code of 0 means."""
        return not (self.failed or self.not_sent or self.interrupted or self.gave_up)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "seconds": round(self.seconds, 3), "docs_per_second": round(self.rate, 1)}

    def __str__(self) -> str:
        parts = [f"{self.fed} documents fed in {self.seconds:.1f} s ({self.rate:.0f} docs/s)"]
        if self.skipped:
            parts.append(f"{self.skipped} were fed before")
        if self.unmet:
            parts.append(f"{self.unmet} had nothing to do, because a condition was not met or the document is missing")
        if self.failed:
            parts.append(f"{self.failed} failed: see {self.dead_letters}")
        if self.gave_up or self.interrupted or self.not_sent:
            why = "Ctrl-C came" if self.interrupted else "the endpoint went away"
            parts.append(f"{self.not_sent} not sent, because {why}: run the same command again to go on")
        return "; ".join(parts)


class DeadLetters:
    """A JSONL file with one line for each operation that was given up; it exists only if there is one.

    One left by an earlier run is removed: the file always speaks of the last run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._lock = threading.Lock()
        self.count = 0
        path.unlink(missing_ok=True)

    def write(self, failure: Failure) -> None:
        """Append one line, at once there for whoever looks; from any thread."""
        with self._lock:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", encoding="utf-8")
            self._file.write(json.dumps(asdict(failure)) + "\n")
            self._file.flush()
            self.count += 1

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


def feed(
    operations: Iterable[Operation | Failure],
    url: str,
    *,
    dead_letters: Path,
    journal: Path | None = None,
    total: int | None = None,
    patience: float = 60.0,
    connections: int = 0,
    progress: bool = True,
    unmet: Callable[[str], None] | None = None,
) -> FeedSummary:
    """Deliver ``operations`` to the endpoint at ``url``; memory does not grow with their number.

    Order is kept per document id. A ``Failure`` among the operations is an item of which the producer could make
    none: it is counted and written down like one that the endpoint refused.

    ``dead_letters``: a JSONL file of what was given up, and why (``id``, ``status``, ``reason``). ``journal``: a file
    in which acknowledged operations are kept until the feed is complete, so that an interrupted one goes on where it
    stopped. ``total``: how many operations there are, for the progress and for ``not_sent``. ``patience``: seconds
    without a sign of life after which the endpoint counts as gone. ``connections``: most requests in flight; 0 lets
    the feed find out how many are best. ``unmet`` is told the id of each operation that had nothing to do.

    An error that the producer raises is raised here, when what was taken has been delivered. Ctrl-C finishes what is
    in flight and returns, with ``interrupted`` set. Raises ``UnreachableError`` or ``RejectedError`` when no
    application answers at ``url``, and ``ServiceError`` when the index lost what the journal says it has.
    """
    endpoint = Endpoint(url)
    try:
        about = endpoint.status()
        run = _Run(endpoint, about, dead_letters, journal, total, min(_TIMEOUT, patience), progress, unmet)
        with run:
            return run.feed(operations, connections or MOST, patience)
    finally:
        endpoint.close()


class _Run:
    """One feed: what the dispatcher, the journal, the dead letters and the progress know of each other."""

    def __init__(
        self, endpoint: Endpoint, about: dict[str, Any], dead_letters: Path, journal: Path | None,
        total: int | None, timeout: float, progress: bool, unmet: Callable[[str], None] | None,
    ) -> None:  # fmt: skip
        self._endpoint = endpoint
        self._tell_unmet = unmet
        self._total = total
        self._addresses = Addresses(endpoint.url)
        self._transport = Transport(endpoint.url, timeout)
        self._journal = _open_journal(journal, _owner(endpoint.url, about)) if journal else None
        self._letters = DeadLetters(dead_letters)
        self._bar = tqdm(total=total, unit=" docs", desc="feed", disable=not progress, mininterval=0.5)
        self._fed = self._unmet = self._skipped = 0
        self._journal_ends = False
        if self._journal and self._journal.foreign:
            tqdm.write(f"{journal} is of another index: everything is sent", file=sys.stderr)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._letters.close()
        if self._journal:
            self._journal.close(self._journal_ends)

    def feed(self, operations: Iterable[Operation | Failure], most: int, patience: float) -> FeedSummary:
        """Feed all of them."""
        start = time.monotonic()
        dispatcher = Dispatcher(
            self._send, self._done, most=most, patience=patience, tick=self._tick, reset=self._transport.reconnect
        )
        dispatcher.run(self._requests(operations))
        ended = self._ended
        left = dispatcher.left if self._total is None else max(dispatcher.left, self._total - ended)
        summary = FeedSummary(
            fed=self._fed, failed=self._letters.count, not_sent=left, seconds=time.monotonic() - start,
            dead_letters=str(self._letters.path) * bool(self._letters.count), skipped=self._skipped, unmet=self._unmet,
            retries=dispatcher.retries, interrupted=dispatcher.interrupted, gave_up=dispatcher.gave_up,
        )  # fmt: skip
        self._journal_ends = summary.complete
        return summary

    def _requests(self, operations: Iterable[Operation | Failure]) -> Iterator[Request]:
        """What is to be sent; runs in the caller's thread."""
        for operation in operations:
            if isinstance(operation, Failure):
                self._letters.write(operation)
                continue
            try:
                request = to_request(self._addresses.operation(operation))
            except (ClipsearchError, TypeError) as error:
                self._letters.write(Failure(operation.id, 0, str(error)))
                continue
            known = self._journal.look_up(request) if self._journal else "new"
            if known == "new":
                yield request
            elif known == "unsure":
                self._letters.write(
                    Failure(request.id, 0, f"an earlier run was killed while it was under way: {UNSURE}")
                )
            else:
                self._skip(request)

    def _skip(self, request: Request) -> None:
        """Look whether the document is there, now and then: an index that was emptied since must not pass for fed."""
        assert self._journal is not None
        if self._skipped & (self._skipped - 1) == 0 and request.kind == "put" and self._journal.alone(request):
            corpus, key = parse_id(request.id)
            if self._endpoint.get(corpus, key, "[id]") is None:
                self._journal_ends = True
                raise ServiceError(
                    f"{request.id} was fed to {self._endpoint.url} before and is no longer there: somebody emptied "
                    "or changed the index. The journal is removed; run the same command again to feed everything"
                )
        self._skipped += 1

    @property
    def _ended(self) -> int:
        return self._fed + self._letters.count + self._unmet + self._skipped

    # ---- what the dispatcher calls: from the workers, and _tick from its clock

    def _send(self, request: Request) -> Answer:
        if self._journal and not request.repeatable:
            self._journal.sending(request)
        return self._transport.send(request)

    def _done(self, request: Request, answer: Answer, failure: Failure | None) -> None:
        if failure:
            self._letters.write(failure)
            return
        if answer.verdict == "unmet":
            self._unmet += 1
            if self._tell_unmet:
                self._tell_unmet(request.id)
        else:
            self._fed += 1
        if self._journal:
            self._journal.acknowledged(request)

    def _tick(self) -> None:
        if self._journal:
            self._journal.flush()
        if self._ended > self._bar.n:
            if self._letters.count:
                self._bar.set_postfix(failed=self._letters.count, refresh=False)
            self._bar.update(self._ended - self._bar.n)


def _open_journal(path: Path, owner: str) -> Journal | None:
    try:
        return Journal(path, owner)
    except OSError as error:
        message = f"Warning: no journal at {path} ({error.strerror}): a feed that is interrupted will start anew"
        tqdm.write(message, file=sys.stderr)
        return None


def _owner(url: str, about: dict[str, Any]) -> str:
    """What tells one index from another: where it is, and which deployment of which application runs there."""
    known = {name: about.get(name) for name in ("application", "content")}
    return f"{url}\n{orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode()}"
