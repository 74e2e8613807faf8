"""``feed remove``: documents out of the index, by id or by selection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from clipsearch.errors import InputError
from clipsearch.records import Record
from clipsearch.search.endpoint import Endpoint
from feeders.dispatcher import Failure
from feeders.feeding import FeedSummary
from feeders.images import Delivery
from feeders.lines import reading
from feeders.operations import Operation
from feeders.visit import visit_documents


def remove_listed(path: Path, delivery: Delivery, *, corpus: str = "", home: Path | None = None) -> FeedSummary:
    """Remove the documents whose ids stand in a file ("-": standard input), one a line.

    A line is an id, a key where ``corpus`` is given, or a JSON object with ``id`` or ``remove``. A document that is
    not there counts as removed: Vespa does not tell.
    """
    return delivery.feed(_listed(path, corpus), home or Path(path).parent)


def _listed(path: Path, corpus: str) -> Iterator[Operation | Failure]:
    with reading(path) as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                where = f"line {number} of {path}"
                try:
                    yield Operation("remove", _id(text, corpus, where))
                except InputError as error:
                    yield Failure(where, 0, str(error))


def _id(text: bytes, corpus: str, where: str) -> str:
    try:
        name = text.decode("utf-8").strip()
        if name.startswith("{"):
            content = orjson.loads(name)
            name = str(content.get("id") or content.get("remove") or content.get("put") or content.get("update") or "")
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise InputError(f"{where} is no document id: {error}") from error
    if name.startswith("id:"):
        return name
    if not name or not corpus:
        raise InputError(f"{where} is no document id (id:<corpus>:image::<key>): for keys alone, give --corpus")
    return Record(corpus, name, "").id


def count_selected(url: str, corpus: str = "", selection: str = "") -> int:
    """How many documents ``remove_selected`` would remove."""
    endpoint = Endpoint(url, timeout=60.0)
    try:
        endpoint.status()
        return sum(1 for _ in visit_documents(endpoint, corpus, fields="[id]", selection=selection))
    finally:
        endpoint.close()


def remove_selected(delivery: Delivery, *, corpus: str = "", selection: str = "", home: Path) -> FeedSummary:
    """Remove a whole corpus, or what ``selection`` (Vespa's document selection) picks of it or of all.

    Documents are visited and removed one by one, so that each that fails is named. Raises ``InputError`` when neither
    is given: to remove everything, select ``true``.
    """
    if not corpus and not selection:
        raise InputError("nothing says what to remove: give a file of ids, --corpus NAME or --selection")
    endpoint = Endpoint(delivery.url, timeout=60.0)
    try:
        endpoint.status()
        found = visit_documents(endpoint, corpus, fields="[id]", selection=selection)
        operations = (Operation("remove", str(document["id"])) for document in found)
        return delivery.feed(operations, home)
    finally:
        endpoint.close()
