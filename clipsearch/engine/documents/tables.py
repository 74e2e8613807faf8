"""How documents lie in SQLite: one table of small fields per document type, one table of blobs per big field.

``doc_<n>(lid, id, body)`` holds the id and the small fields as JSON; ``blob_<c>(lid, data)`` one tensor or raw field,
as bytes. Embeddings so lie together in lid order, which is what a restart reads, and a query's summary never drags
them along. Schema and field numbers are in the tables ``schemas`` and ``columns``, which also remember every field's
type, so that a redeploy can tell what changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from clipsearch.engine.documents.ids import DocumentId, parse_id
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package.model import FieldType, Schema
from clipsearch.engine.tensors import Tensor, from_bytes, to_bytes

CATALOG = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS application(path TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS schemas(number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS columns(
    number INTEGER PRIMARY KEY, schema INTEGER NOT NULL, field TEXT NOT NULL, type TEXT NOT NULL, UNIQUE(schema, field)
);
"""
BIG = ("tensor", "raw")
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One stored document: its local id ``lid``, document id, and the fields that were asked for."""

    lid: int
    id: DocumentId
    fields: dict[str, FieldValue]


class SchemaTables:
    """The tables of one document type; every method runs on the connection that it is given."""

    def __init__(self, number: int, schema: Schema, columns: Mapping[str, int]) -> None:
        self.schema = schema
        self.docs = f"doc_{number}"
        self._types = {name: field.type for name, field in schema.fields.items() if field.in_document}
        self._blobs = {name: f"blob_{columns[name]}" for name, kind in self._types.items() if kind.kind in BIG}

    def accepts(self, other: Schema) -> bool:
        """Whether values that were read by ``other`` are of this schema's types where both have a field."""
        if other is self.schema:
            return True
        return all(name not in other.fields or other.fields[name].type == kind for name, kind in self._types.items())

    def create(self, db: sqlite3.Connection) -> None:
        """Creates what is missing."""
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {self.docs}"
            "(lid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL)"
        )
        for table in self._blobs.values():
            db.execute(f"CREATE TABLE IF NOT EXISTS {table}(lid INTEGER PRIMARY KEY, data BLOB NOT NULL)")

    def find(self, db: sqlite3.Connection, doc: str) -> int | None:
        """The lid of document ``doc``."""
        row = db.execute(f"SELECT lid FROM {self.docs} WHERE id = ?", (doc,)).fetchone()
        return None if row is None else int(row[0])

    def next_lid(self, db: sqlite3.Connection) -> int:
        """One more than the greatest lid in use; the first is 0."""
        row = db.execute(f"SELECT max(lid) FROM {self.docs}").fetchone()
        return 0 if row[0] is None else int(row[0]) + 1

    def count(self, db: sqlite3.Connection) -> int:
        """How many documents there are."""
        return int(db.execute(f"SELECT count(*) FROM {self.docs}").fetchone()[0])

    def write(self, db: sqlite3.Connection, lid: int, doc: str, fields: Mapping[str, FieldValue], new: bool) -> None:
        """Writes all of a document; ``new``: there are no blobs of an older version to delete."""
        small = {name: value for name, value in fields.items() if name in self._types and name not in self._blobs}
        body = orjson.dumps(small)
        db.execute(f"INSERT OR REPLACE INTO {self.docs}(lid, id, body) VALUES (?, ?, ?)", (lid, doc, body))
        for name, table in self._blobs.items():
            value = fields.get(name)
            if value is not None:
                data = to_bytes(value) if isinstance(value, Tensor) else value
                db.execute(f"INSERT OR REPLACE INTO {table}(lid, data) VALUES (?, ?)", (lid, data))
            elif not new:
                db.execute(f"DELETE FROM {table} WHERE lid = ?", (lid,))

    def delete(self, db: sqlite3.Connection, lid: int) -> None:
        """Deletes all of a document."""
        for table in (self.docs, *self._blobs.values()):
            db.execute(f"DELETE FROM {table} WHERE lid = ?", (lid,))

    def read(
        self, db: sqlite3.Connection, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> dict[int, Row]:
        """The documents ``lids`` that exist; one statement a chunk, so that no row is torn."""
        rows = {}
        for start in range(0, len(lids), _CHUNK):
            marks = ",".join(str(int(lid)) for lid in lids[start : start + _CHUNK])
            for row in self._select(db, f"d.lid IN ({marks})", (), fields):
                rows[row.lid] = row
        return rows

    def find_row(self, db: sqlite3.Connection, doc: str, fields: Collection[str] | None = None) -> Row | None:
        """Document ``doc`` with its fields."""
        return next(self._select(db, "d.id = ?", (doc,), fields), None)

    def scan(
        self, db: sqlite3.Connection, after: int = -1, limit: int = -1, fields: Collection[str] | None = None
    ) -> Iterator[Row]:
        """Documents with a lid greater than ``after`` in lid order, ``limit`` at most (-1: all)."""
        return self._select(db, f"d.lid > ? ORDER BY d.lid LIMIT {int(limit)}", (after,), fields)

    def _select(
        self, db: sqlite3.Connection, where: str, values: tuple[Any, ...], fields: Collection[str] | None
    ) -> Iterator[Row]:
        blobs = {n: t for n, t in self._blobs.items() if fields is None or n in fields}
        joins = " ".join(f"LEFT JOIN {table} ON {table}.lid = d.lid" for table in blobs.values())
        columns = "".join(f", {table}.data" for table in blobs.values())
        query = f"SELECT d.lid, d.id, d.body{columns} FROM {self.docs} d {joins} WHERE {where}"
        for lid, doc, body, *data in db.execute(query, values):
            decoded: dict[str, FieldValue] = orjson.loads(body)
            if fields is not None:
                decoded = {name: value for name, value in decoded.items() if name in fields}
            for name, blob in zip(blobs, data, strict=True):
                if blob is not None:
                    decoded[name] = _decode(self._types[name], blob)
            yield Row(lid, parse_id(doc), decoded)

    def drop_fields(self, db: sqlite3.Connection, names: Collection[str], blobs: Collection[int]) -> None:
        """Forgets the values of fields ``names`` that are gone, and drops the blob tables ``blobs``."""
        for number in blobs:
            db.execute(f"DROP TABLE IF EXISTS blob_{number}")
        for lid, body in db.execute(f"SELECT lid, body FROM {self.docs}").fetchall():
            kept = {name: value for name, value in orjson.loads(body).items() if name not in names}
            db.execute(f"UPDATE {self.docs} SET body = ? WHERE lid = ?", (orjson.dumps(kept), lid))


def _decode(kind: FieldType, blob: bytes) -> FieldValue:
    return blob if kind.tensor is None else from_bytes(blob, kind.tensor)
