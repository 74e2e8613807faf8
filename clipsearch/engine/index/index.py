"""The in-memory index of one schema: put, remove, and snapshots that searches read without a lock.

Each put appends one row to every column and retires the row that the document had before; rows are never changed.
A snapshot is a number of rows and which of them are live, so a search sees each document wholly or not at all, however
many are written meanwhile. When a third of the rows are dead the live ones are rebuilt into a new generation; searches
under way keep the old one.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import Column, make_column
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.files import GenerationFiles
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.postings import Frequencies, Rows
from clipsearch.engine.index.text import TextIndex, TextSnapshot
from clipsearch.engine.index.vectors import TensorColumn
from clipsearch.engine.package.model import Field, Schema
from clipsearch.errors import DocumentError, PackageError

COMPACT_AT_DEAD_ROWS = 4096
FORMAT = 1  # of the parts' files: raise it when any of them changes
_CHUNK = 256  # documents that are added while a search that wants postings waits
Fields = Mapping[str, FieldValue]
_REFUSED = (TypeError, ValueError, OverflowError, AttributeError)


class Generation:
    """The storage of one index between two compactions."""

    def __init__(self, schema: Schema) -> None:
        fields = schema.fields.values()
        self.columns: dict[str, Column] = {
            f.name: make_column(f) for f in fields if f.attribute and f.type.kind not in ("tensor", "raw")
        }
        self.tensors = {f.name: TensorColumn(f) for f in fields if f.attribute and f.type.kind == "tensor"}
        self.texts = {f.name: TextIndex(f) for f in fields if is_text(f)}
        self.lids = GrowableArray(np.int64)
        self.live = GrowableArray(np.bool_)
        self._saved = 0
        self._parts: list[tuple[Any, str]] = []
        for group in (self.columns, self.tensors, self.texts):
            self._parts += [(part, name) for name, part in group.items()]

    def extend(self, lids: Sequence[int], documents: Sequence[Fields]) -> dict[int, DocumentError]:
        """Adds a row for each of ``documents``; gives those (position) that hold a value that cannot be indexed.

        Their rows are there, without that value and dead, so that all parts have the same rows.
        """
        first, failures = self.lids.size, dict[int, DocumentError]()
        for part, name in self._parts:
            values = [fields.get(name) for fields in documents]
            try:
                part.extend(first, values)
            except _REFUSED:
                self._append_each(part, name, values, failures)
        self.lids.extend(lids)
        self.live.extend(np.ones(len(lids), np.bool_))
        self.retire(np.array([first + position for position in failures], np.int64))
        return failures

    def _append_each(self, part: Any, name: str, values: list[Any], failures: dict[int, DocumentError]) -> None:
        """Appends ``values`` one by one to a part that refused them together."""
        for position, value in enumerate(values):
            try:
                part.append(self.lids.size + position, value)
            except _REFUSED as error:
                part.append(self.lids.size + position, None)
                failures.setdefault(position, DocumentError(f"Field '{name}' cannot be indexed: {error}"))

    def save(self, files: GenerationFiles) -> None:
        """Notes in ``files`` what was added since the last save, and which rows are live."""
        for number, (part, name) in enumerate(self._parts):
            part.save(files.part(f"{number:02}.{name}"))
        files.append("lids", self.lids.view()[self._saved :])
        self._saved = self.lids.size
        files.replace("live", np.packbits(self.live.view()).tobytes())

    def restore(self, files: GenerationFiles, rows: int) -> None:
        """Gives this empty generation the ``rows`` that were saved. Raises ``DamagedError`` or ``ValueError``."""
        self.lids.adopt(files.array("lids", np.int64))
        live = np.unpackbits(np.frombuffer(files.read("live"), np.uint8), count=rows) if rows else np.empty(0, np.uint8)
        self.live.adopt(live.astype(np.bool_))
        if self.lids.size != rows or (rows and int(self.lids.view().min()) < 0):
            raise ValueError(f"{self.lids.size} local ids were saved, not {rows}")
        for number, (part, name) in enumerate(self._parts):
            part.restore(files.part(f"{number:02}.{name}"), rows)
        self._saved = rows

    def compacted(self, schema: Schema) -> Generation:
        """A copy that has the live rows only, in the same order."""
        rows = np.flatnonzero(self.live.view())
        copy = Generation(schema)
        for (part, _), (target, _) in zip(self._parts, copy._parts, strict=True):
            part.copy_rows(rows, target)
        copy.lids.extend(self.lids.view()[rows])
        copy.live.extend(np.ones(len(rows), np.bool_))
        return copy

    def retire(self, rows: NDArray[Any]) -> None:
        """Marks live ``rows`` dead."""
        self.live.view()[rows] = False
        for text in self.texts.values():
            for row in rows.tolist():
                text.forget(row)


def is_text(field: Field) -> bool:
    """Whether ``field`` is searched as an index of terms."""
    return field.index and str(field.type) in ("string", "array<string>", "weightedset<string>")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one search sees: ``size`` rows, which are ``live``, and how many documents that makes."""

    index: Index
    generation: Generation
    version: int
    size: int
    live: NDArray[np.bool_]
    documents: int
    total_lengths: Mapping[str, int]
    texts: Mapping[str, TextSnapshot]

    @property
    def lids(self) -> NDArray[np.int64]:
        """The lid of each row."""
        return self.generation.lids.view(self.size)

    def postings(self, field: str, term: str) -> tuple[Rows, Frequencies, int]:
        """Rows (also dead ones), frequencies, and the number of live documents with ``term`` in ``field``."""
        return self.texts[field].postings(term)

    def average_length(self, field: str) -> float:
        """Mean number of tokens of ``field`` over all live documents; 0 when there are none."""
        return self.total_lengths[field] / self.documents if self.documents else 0.0


class Index:
    """The searchable documents of one schema; every method is safe to call from many threads.

    ``snowball``: the package's linguistics switch. Raises ``PackageError`` for a schema that Vespa would stem with
    KStem, which this engine does not have.
    """

    def __init__(self, schema: Schema, snowball: bool) -> None:
        for field in schema.fields.values():
            if is_text(field) and field.match == "text" and field.stemming != "none" and not snowball:
                raise PackageError(
                    f"schema '{schema.name}', field '{field.name}': Vespa's default English stemmer (KStem) is not "
                    'supported by the local engine. Write <config name="ai.vespa.opennlp.open-nlp">'
                    "<snowballStemmingForEnglish>true</snowballStemmingForEnglish></config> in services.xml (pyvespa: "
                    "ApplicationPackage(configurations=[ApplicationConfiguration('ai.vespa.opennlp.open-nlp', "
                    "{'snowballStemmingForEnglish': 'true'})])), or set the field to 'stemming: none'",
                    line=field.line,
                )
        self.schema = schema
        self.lock = threading.RLock()
        self.version = 0
        self.generation = Generation(schema)
        self._rows = np.full(16, -1, np.int32)  # of each lid
        self._count = 0
        self._snapshot: Snapshot | None = None
        self._wanted = False  # whether anyone searched since the last change: then the next search shall not wait

    def __len__(self) -> int:
        return self._count

    def put(self, lid: int, fields: Fields) -> None:
        """Makes ``fields`` the whole content of document ``lid``.

        Raises ``DocumentError`` for a value that its field cannot hold; the document then stays as it was.
        """
        for failure in self.put_many([(lid, fields)]).values():
            raise failure

    def remove(self, lid: int) -> None:
        """Takes document ``lid`` out; nothing happens when it is not in."""
        self.put_many([(lid, None)])

    def put_many(self, changes: Sequence[tuple[int, Fields | None]]) -> dict[int, DocumentError]:
        """Puts, and removes (None), in order; gives the errors by lid, of documents that stay as they were.

        A search sees each document whole, and what it saw stays; it may see some of ``changes`` before the others.
        """
        last = list(dict(changes).items())
        failures: dict[int, DocumentError] = {}
        for start in range(0, len(last), _CHUNK):
            with self.lock:
                failures |= self._change(last[start : start + _CHUNK])
        return failures

    def _change(self, changes: list[tuple[int, Fields | None]]) -> dict[int, DocumentError]:
        written = [(lid, fields) for lid, fields in changes if fields is not None]
        gone = np.array([lid for lid, fields in changes if fields is None], np.int64)
        lids = np.array([lid for lid, _ in written], np.int64)
        self._reserve(max((lid for lid, _ in changes), default=0) + 1)
        first = self.generation.lids.size
        refused = self.generation.extend([lid for lid, _ in written], [fields for _, fields in written])
        rows = np.arange(first, first + len(lids))
        if refused:
            kept = np.array([position not in refused for position in range(len(lids))])
            lids_kept, rows = lids[kept], rows[kept]
        else:
            lids_kept = lids
        before = np.concatenate([self._rows[lids_kept], self._rows[gone]])
        before = before[before >= 0]
        self.generation.retire(before)
        self._rows[lids_kept], self._rows[gone] = rows, -1
        self._count += len(lids_kept) - len(before)
        if written or len(before):
            self._changed()
        return {int(lids[position]): error for position, error in refused.items()}

    def _reserve(self, size: int) -> None:
        if size > len(self._rows):
            grown = np.full(max(size, 2 * len(self._rows)), -1, np.int32)
            grown[: len(self._rows)] = self._rows
            self._rows = grown

    def _changed(self) -> None:
        self.version += 1
        dead = self.generation.lids.size - self._count
        if dead >= COMPACT_AT_DEAD_ROWS and dead * 2 > self._count:
            self._compact()
        self._snapshot, self._wanted = (self._take_snapshot() if self._wanted else None), False

    def snapshot(self) -> Snapshot:
        """The state after the last change that is complete; costs nothing while a writer is at work."""
        self._wanted = True
        snapshot = self._snapshot
        if snapshot is None:
            with self.lock:
                snapshot = self._snapshot = self._snapshot or self._take_snapshot()
        return snapshot

    def _take_snapshot(self) -> Snapshot:
        generation = self.generation
        live = generation.live.view().copy()
        return Snapshot(
            index=self,
            generation=generation,
            version=self.version,
            size=generation.lids.size,
            live=live,
            documents=self._count,
            total_lengths={name: text.total_length for name, text in generation.texts.items()},
            texts={name: text.snapshot(live) for name, text in generation.texts.items()},
        )

    def restore(self, files: GenerationFiles, rows: int) -> None:
        """Gives this empty index the ``rows`` that its generation saved. Raises ``DamagedError`` or ``ValueError``."""
        with self.lock:
            self.generation.restore(files, rows)
            self._number_rows()

    def _number_rows(self) -> None:
        live = np.flatnonzero(self.generation.live.view())
        lids = self.generation.lids.view()[live]
        self._rows = np.full(max(16, int(lids.max(initial=0)) + 1), -1, np.int32)
        self._rows[lids] = live
        self._count = len(live)

    def _compact(self) -> None:
        self.generation = self.generation.compacted(self.schema)
        self._number_rows()


def signature(schema: Schema, snowball: bool, also: bytes = b"") -> str:
    """What an index of ``schema`` depends on, as a digest; equal ones hold the same of the same documents.

    ``also``: whatever else its fields are computed by.
    """
    fields = [replace(field, line=0) for field in schema.fields.values()]
    if all(field.in_document for field in fields):
        fields = [field for field in fields if field.attribute or field.index]
    return hashlib.sha256(repr((FORMAT, sys.byteorder, snowball, fields, also)).encode()).hexdigest()
