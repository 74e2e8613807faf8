"""``feed``: deliver operations to an endpoint, each retried while that makes sense, and say what became of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import httpr
from tqdm import tqdm

from clipsearch.errors import RejectedError, UnreachableError
from feeders.dispatcher import Dispatcher, Failure
from feeders.dispatcher import Operation as _Sending
from feeders.operations import METHODS, Operation


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


def feed(
    operations: Iterable[Operation],
    url: str,
    *,
    dead_letters: Path,
    journal: Path | None = None,
    total: int | None = None,
    patience: float = 60.0,
    connections: int = 0,
    progress: bool = True,
) -> FeedSummary:
    """Deliver ``operations`` to the endpoint at ``url``; memory does not grow with their number.

    Order is kept per document id. ``dead_letters``: a JSONL file of what was given up, and why (``id``, ``status``,
    ``reason``). ``journal``: a file in which acknowledged operations are kept until the feed is complete, so that an
    interrupted one goes on where it stopped. ``total``: how many operations there are, for the progress and for
    ``not_sent``. ``patience``: seconds without a sign of life after which the endpoint counts as gone.
    ``connections``: most requests in flight; 0 lets the feed find out. An error that the producer raises is raised
    here, when what is in flight has finished; Ctrl-C ends the feed in the same way, with ``interrupted`` set.
    Raises ``UnreachableError`` or ``RejectedError`` when no application answers at ``url``.
    """
    letters = DeadLetters(dead_letters)
    counts = {"fed": 0, "failed": 0}
    start = time.monotonic()
    client = httpr.Client(timeout=60.0, follow_redirects=False)
    bar = tqdm(total=total, unit=" docs", desc="feed", disable=not progress, mininterval=0.5)

    def done(document_id: str, failure: Failure | None) -> None:
        counts["failed" if failure else "fed"] += 1
        if failure:
            letters.write(failure)
            bar.set_postfix(failed=counts["failed"])
        bar.update()

    def sending() -> Iterator[_Sending]:
        for operation in operations:
            yield _Sending(operation.id, _send(client, url.rstrip("/"), operation))

    dispatcher = Dispatcher(done, workers=connections or 8, in_flight=4 * (connections or 8), patience=patience)
    interrupted = False
    try:
        dispatcher.run(sending())
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
        letters.close()
        client.close()
    left = 0 if total is None else max(0, total - counts["fed"] - counts["failed"])
    return FeedSummary(
        **counts,
        not_sent=left,
        seconds=time.monotonic() - start,
        dead_letters=str(dead_letters) * bool(counts["failed"]),
        interrupted=interrupted,
        gave_up=dispatcher.gave_up,
    )


def _send(client: httpr.Client, url: str, operation: Operation) -> Callable[[], None]:
    def send() -> None:
        try:
            answer = client.request(
                METHODS[operation.kind],
                url + operation.path(),
                content=operation.body(),
                headers={"content-type": "application/json"},
            )
        except httpr.RequestError as error:
            raise UnreachableError(f"nobody answers at {url}: {error}") from error
        if answer.status_code != 200:
            raise RejectedError(answer.status_code, answer.text[:300])

    return send
