"""The file of judgments: one JSON line for each time that somebody said whether an image answers a query.

``{"time": ..., "query": {"q": "storage tanks"}, "id": "id:rsicd:image::7.jpg", "relevant": true, "ranking": "hybrid",
"model": "...", "rank": 3}``. A later line about the same query and image replaces an earlier one, and one with
``"relevant": null`` takes it back. Lines are only ever appended, each in one write that is synced before the page
answers, so what was acknowledged outlives a kill and a power cut. A line that was cut short by one is passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipsearch.errors import InputError


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """What was asked, without how it was ranked: two pages of one query share their judgments.

    ``q``: words; ``like``: a document id; ``img``: the token of an uploaded image; ``terms``: further summands of the
    query vector, ``weight:kind:value`` each; then the filters.
    """

    q: str = ""
    like: str = ""
    img: str = ""
    terms: tuple[str, ...] = ()
    corpus: str = ""
    label: str = ""
    split: str = ""
    size: str = ""

    @classmethod
    def from_json(cls, value: Any) -> JudgedQuery:
        """Read the form of ``as_json``; ``ValueError`` for any other."""
        if not isinstance(value, dict):
            raise ValueError("its query is no object")
        given: dict[str, Any] = {}
        for each in fields(cls):
            found = value.get(each.name, each.default)
            if each.name == "terms":
                if not isinstance(found, list | tuple) or not all(isinstance(term, str) for term in found):
                    raise ValueError("the terms of its query are no list of texts")
                found = tuple(found)
            elif type(found) is not type(each.default):
                raise ValueError(f"the {each.name} of its query is {found!r}")
            given[each.name] = found
        query = cls(**given)
        if not query.asks:
            raise ValueError("its query asks for nothing")
        return query

    def as_json(self) -> dict[str, Any]:
        """Its fields but those that are not set."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v}

    @property
    def asks(self) -> bool:
        """Whether it asks for anything but filters."""
        return bool(self.q or self.like or self.img or self.terms)

    def __str__(self) -> str:
        parts = [f"“{self.q}”"] if self.q else []
        parts += [f"like {self.like}"] if self.like else []
        parts += ["an uploaded image"] if self.img else []
        parts += list(self.terms)
        parts += [
            f"{name}: {getattr(self, name)}" for name in ("corpus", "label", "split", "size") if getattr(self, name)
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Judgment:
    """One line: ``relevant`` None takes an earlier judgment back; ``ranking``, ``model`` and ``rank`` (from 1, 0 when
    unknown) say how the image was found, which is what later measures are biased towards.
    """

    query: JudgedQuery
    id: str
    relevant: bool | None
    ranking: str = ""
    model: str = ""
    rank: int = 0
    time: str = ""

    @classmethod
    def from_json(cls, value: Any) -> Judgment:
        """Read one line's JSON; ``ValueError`` says what is wrong with it."""
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        if not isinstance(value.get("id"), str) or not value["id"]:
            raise ValueError("it has no document id")
        if "relevant" not in value or value["relevant"] not in (True, False, None):
            raise ValueError("its relevant is not true, false or null")
        rank = value.get("rank", 0)
        texts = {name: str(value.get(name) or "") for name in ("ranking", "model", "time")}
        relevant = None if value["relevant"] is None else bool(value["relevant"])
        return cls(
            JudgedQuery.from_json(value.get("query")), value["id"], relevant,
            rank=rank if isinstance(rank, int) else 0, **texts,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The line's JSON."""
        return {
            "time": self.time, "query": self.query.as_json(), "id": self.id, "relevant": self.relevant,
            "ranking": self.ranking, "model": self.model, "rank": self.rank,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgments:
    """What a file says in the end: the last word on each image, by query. ``torn``: lines that were cut short."""

    by_query: Mapping[JudgedQuery, Mapping[str, Judgment]] = field(default_factory=dict)
    torn: tuple[int, ...] = ()

    def __len__(self) -> int:
        return sum(len(found) for found in self.by_query.values())


def read_judgments(path: Path) -> Judgments:
    """Read the file of judgments. Raises ``InputError`` for one that is missing, or whose lines say something else.

    A line that is no JSON was cut short by a kill and is counted; one that is JSON, but no judgment, is an error.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there are no judgments at {path}: record some with 'clipsearch ui --judgments {path}'"
        ) from None
    except OSError as error:
        raise InputError(f"the judgments at {path} cannot be read: {error.strerror}") from error
    by_query: dict[JudgedQuery, dict[str, Judgment]] = {}
    torn = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            if not _apply(line, by_query):
                torn.append(number)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is no judgment: {error}") from error
    return Judgments({query: found for query, found in by_query.items() if found}, tuple(torn))


def _apply(line: bytes, by_query: dict[JudgedQuery, dict[str, Judgment]]) -> bool:
    """Take one line in; False for one that was cut short, ``ValueError`` for one that says something else."""
    if not line.strip():
        return True
    try:
        value = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        return False
    judgment = Judgment.from_json(value)
    found = by_query.setdefault(judgment.query, {})
    found.pop(judgment.id, None)
    if judgment.relevant is not None:
        found[judgment.id] = judgment
    return True


class JudgmentBook:
    """The file of judgments while a page appends to it; thread-safe, and several processes may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[JudgedQuery, dict[str, Judgment]] = {}
        self._read = (0, 0)  # the file's inode, and how many bytes of it are known

    def check(self) -> None:
        """Raise ``InputError`` when the file cannot be written, or holds something else."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise InputError(f"judgments cannot be written to {self.path}: {error.strerror}") from error
        read_judgments(self.path)

    def of(self, query: JudgedQuery) -> dict[str, bool]:
        """What was judged of the images for ``query``, by document id.

        Only what was appended since the last call is read. Raises ``InputError`` when that is no judgment.
        """
        with self._lock:
            self._catch_up()
            found = self._known.get(query, {})
            return {document_id: bool(judgment.relevant) for document_id, judgment in found.items()}

    def _catch_up(self) -> None:
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                inode, known = self._read
                if inode != stat.st_ino or stat.st_size < known:  # another file lies there now
                    self._known, known = {}, 0
                file.seek(known)
                whole = file.read(stat.st_size - known).rpartition(b"\n")[0]
        except FileNotFoundError:
            self._known, self._read = {}, (0, 0)
            return
        except OSError as error:
            raise InputError(f"the judgments at {self.path} cannot be read: {error.strerror}") from error
        try:
            for line in whole.split(b"\n"):
                _apply(line, self._known)
        except ValueError as error:
            raise InputError(f"{self.path} holds a line that is no judgment: {error}") from error
        self._read = (stat.st_ino, known + len(whole) + bool(whole))

    def add(self, judgment: Judgment) -> None:
        """Append ``judgment`` with the present time; it is on the disk when this returns.

        Raises ``OSError`` when it cannot be written; the file is then as it was.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({**judgment.as_json(), "time": time}, ensure_ascii=False) + "\n"
        data = line.encode("utf-8", "replace")  # half a surrogate pair has no form in UTF-8
        with self._lock:
            fresh = not self.path.exists()
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # another page may write to the same file
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data  # the line before was cut short: it must not swallow this one
                try:
                    _write(descriptor, data)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
            if fresh:
                _sync_folder(self.path.parent)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
