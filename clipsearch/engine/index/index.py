"""The in-memory index of one schema: put, remove, and snapshots that searches read without a lock.

Each put appends one row to every column and retires the row that the document had before; rows are never changed.
A snapshot is a number of rows and which of them are live, so a search sees each document wholly or not at all, however
many are written meanwhile. When a third of the rows are dead the live ones are rebuilt into a new generation; searches
under way keep the old one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import Column, make_column
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.text import Frequencies, Rows, TextIndex
from clipsearch.engine.index.vectors import TensorColumn
from clipsearch.engine.package.model import Field, Schema
from clipsearch.errors import DocumentError, PackageError

COMPACT_AT_DEAD_ROWS = 4096


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
        self._parts: list[tuple[Any, str]] = []
        for group in (self.columns, self.tensors, self.texts):
            self._parts += [(part, name) for name, part in group.items()]

    def append(self, lid: int, fields: Mapping[str, FieldValue]) -> int:
        """Adds one document version as the next row and returns the row."""
        row = self.lids.size
        failure: Exception | None = None
        for part, name in self._parts:
            try:
                part.append(row, fields.get(name))
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                part.append(row, None)  # every column keeps the same number of rows, whatever one value is
                failure = failure or DocumentError(f"Field '{name}' cannot be indexed: {error}")
        self.lids.append(lid)
        self.live.append(True)
        if failure is not None:
            self.retire(row)
            raise failure
        return row

    def compacted(self, schema: Schema) -> Generation:
        """A copy that has the live rows only, in the same order."""
        rows = np.flatnonzero(self.live.view())
        copy = Generation(schema)
        for (part, _), (target, _) in zip(self._parts, copy._parts, strict=True):
            part.copy_rows(rows, target)
        copy.lids.extend(self.lids.view()[rows])
        copy.live.extend(np.ones(len(rows), np.bool_))
        return copy

    def retire(self, row: int) -> None:
        """Marks ``row`` dead."""
        self.live.view()[row] = False
        for text in self.texts.values():
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

    @property
    def lids(self) -> NDArray[np.int64]:
        """The lid of each row."""
        return self.generation.lids.view(self.size)

    def postings(self, field: str, term: str) -> tuple[Rows, Frequencies, int]:
        """Rows (also dead ones), frequencies, and the number of live documents with ``term`` in ``field``."""
        with self.index.lock:
            rows, frequencies, count = self.generation.texts[field].postings(term)
            current = self.index.version == self.version
        if not current:
            end = int(np.searchsorted(rows, self.size))
            rows, frequencies = rows[:end], frequencies[:end]
            count = int(np.count_nonzero(self.live[rows]))
        return rows, frequencies, count

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
                    "supported by the local engine; set snowballStemmingForEnglish of ai.vespa.opennlp.open-nlp to "
                    "true in services.xml, or the field to 'stemming: none'",
                    line=field.line,
                )
        self.schema = schema
        self.lock = threading.RLock()
        self.version = 0
        self._generation = Generation(schema)
        self._rows: dict[int, int] = {}
        self._snapshot: Snapshot | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, lid: int, fields: Mapping[str, FieldValue]) -> None:
        """Makes ``fields`` the whole content of document ``lid``.

        Raises ``DocumentError`` for a value that its field cannot hold; the document then stays as it was.
        """
        with self.lock:
            before = self._rows.get(lid)
            try:
                self._rows[lid] = self._generation.append(lid, fields)
                if before is not None:
                    self._generation.retire(before)
            finally:
                self._changed()

    def remove(self, lid: int) -> None:
        """Takes document ``lid`` out; nothing happens when it is not in."""
        with self.lock:
            row = self._rows.pop(lid, None)
            if row is not None:
                self._generation.retire(row)
                self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._snapshot = None
        dead = self._generation.lids.size - len(self._rows)
        if dead >= COMPACT_AT_DEAD_ROWS and dead * 2 > len(self._rows):
            self._compact()

    def snapshot(self) -> Snapshot:
        """The state now; costs a copy of one bit mask after a change, nothing otherwise."""
        with self.lock:
            if self._snapshot is None:
                generation = self._generation
                self._snapshot = Snapshot(
                    index=self,
                    generation=generation,
                    version=self.version,
                    size=generation.lids.size,
                    live=generation.live.view().copy(),
                    documents=len(self._rows),
                    total_lengths={name: text.total_length for name, text in generation.texts.items()},
                )
            return self._snapshot

    def _compact(self) -> None:
        self._generation = self._generation.compacted(self.schema)
        self._rows = {int(lid): row for row, lid in enumerate(self._generation.lids.view())}
