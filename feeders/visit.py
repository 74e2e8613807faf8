"""``feed visit``: the documents of an index, a line of JSON each, as ``feed jsonl`` and ``vespa feed`` take them back.

Slices are disjoint parts of a visit that are read at the same time: on a cluster that is faster, on one local engine
it is not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from tqdm import tqdm

from clipsearch.search.endpoint import DEFAULT_URL, Endpoint
from feeders.lines import line, writing

_AHEAD = 500  # documents of each slice that wait in memory


def visit_documents(
    endpoint: Endpoint, corpus: str = "", *, fields: str = "[document]", selection: str = "", slices: int = 1
) -> Iterator[dict[str, Any]]:
    """Every document once, in no order that means anything; the arguments are ``Endpoint.visit``'s."""
    parts = [
        endpoint.visit(corpus, fields=fields, selection=selection, slices=slices, slice_id=number)
        for number in range(slices)
    ]
    yield from parts[0] if slices == 1 else _together(parts)


def _together(parts: list[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Read all ``parts`` at once, each in a thread; what one raises is raised here."""
    queue: Queue[dict[str, Any] | BaseException | None] = Queue(_AHEAD * len(parts))
    stop = threading.Event()

    def give(item: dict[str, Any] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    def read(part: Iterator[dict[str, Any]]) -> None:
        try:
            for document in part:
                if stop.is_set():
                    return
                give(document)
            give(None)
        except BaseException as error:
            give(error)

    threads = [threading.Thread(target=read, args=(part,), name="visit", daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    left = len(parts)
    try:
        while left:
            try:
                item = queue.get(timeout=0.2)  # so that Ctrl-C is seen
            except Empty:
                continue
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@dataclass(frozen=True, slots=True)
class Written:
    """How many documents were written, and where; ``refused`` could not be written, each a line on stderr."""

    documents: int
    out: str
    refused: int = 0

    @property
    def complete(self) -> bool:
        """Whether every document was written."""
        return not self.refused

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"documents": self.documents, "refused": self.refused, "out": self.out}

    def __str__(self) -> str:
        refused = f", {self.refused} could not be written" if self.refused else ""
        return f"{self.documents} documents written to {self.out}{refused}"


def dump_index(
    out: str | Path = "-",
    url: str = DEFAULT_URL,
    *,
    corpus: str = "",
    selection: str = "",
    fields: str = "[document]",
    slices: int = 1,
    progress: bool = True,
) -> Written:
    """Write every document of the index (or of ``corpus``, or that ``selection`` picks) as a line to ``out``.

    ``out``: a file, which appears when it is whole, or "-" for standard output. Raises ``UnreachableError`` or
    ``RejectedError`` when the endpoint does not answer, or does not know the selection or a field.
    """
    endpoint = Endpoint(url, timeout=60.0)
    count = 0
    try:
        endpoint.status()
        documents = visit_documents(endpoint, corpus, fields=fields, selection=selection, slices=slices)
        with writing(out) as file, tqdm(unit=" docs", desc="visit", disable=not progress, mininterval=0.5) as bar:
            for document in documents:
                file.write(line("put", str(document["id"]), document.get("fields", {})))
                count += 1
                bar.update()
    finally:
        endpoint.close()
    return Written(count, str(out))
