"""How documents lie in SQLite: one table of small fields per document type, one table of blobs per big field.

``doc_<n>(lid, id, body)`` holds the id and the small fields as JSON; ``blob_<c>(lid, data)`` one tensor or raw field,
as bytes. Embeddings so lie together in lid order, which is what a restart reads, and a query's summary never drags
them along. Schema and field numbers are in the tables ``schemas`` and ``columns``, which also remember every field's
type, so that a redeploy can tell what changed; numbers are never given twice, so that a reader that knows the tables
of before a redeploy finds none instead of another's. A field that is gone keeps its values, unseen, until its document
is put again, as Vespa's document store does. ``changes`` lists what each transaction wrote (``changes.py``).
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from clipsearch.engine.documents.ids import DocumentId, parse_id
from clipsearch.engine.index.documents import FieldValue, StoredDocument
from clipsearch.engine.package.model import FieldType, Schema
from clipsearch.engine.tensors import Tensor, from_bytes, to_bytes

CATALOG = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS application(path TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS schemas(number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS columns(
    number INTEGER PRIMARY KEY AUTOINCREMENT, schema INTEGER NOT NULL, field TEXT NOT NULL, type TEXT NOT NULL,
    UNIQUE(schema, field)
);
CREATE TABLE IF NOT EXISTS changes(
    number INTEGER PRIMARY KEY, schema INTEGER NOT NULL, token INTEGER NOT NULL, lids BLOB NOT NULL
);
"""
BIG = ("tensor", "raw")
_CHUNK = 500
_ROWS = 128  # that one statement inserts at most
Encoded = tuple[bytes, tuple[bytes | None, ...]]  # the body, and the data of each blob table


@dataclass(frozen=True, slots=True)
class Row:
    """One stored document: its local id ``lid``, document id, and the fields that were asked for."""

    lid: int
    id: DocumentId
    fields: dict[str, FieldValue]


class SchemaTables:
    """The tables of one document type; every method runs on the connection that it is given."""

    def __init__(self, number: int, schema: Schema, columns: Mapping[str, int], hidden: Collection[int] = ()) -> None:
        """``columns``: the number of each of the schema's document fields; ``hidden``: of fields that are gone."""
        self.number = number
        self.schema = schema
        self.docs = f"doc_{number}"
        self._types = {name: field.type for name, field in schema.fields.items() if field.in_document}
        self._blobs = {name: f"blob_{columns[name]}" for name, kind in self._types.items() if kind.kind in BIG}
        self._encoders = [(name, _encoder(self._types[name])) for name in self._blobs]
        self._hidden = tuple(f"blob_{column}" for column in hidden)

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

    def find_many(self, db: sqlite3.Connection, docs: Sequence[str]) -> dict[str, int]:
        """The lids of those of ``docs`` that exist."""
        query = f"SELECT d.id, d.lid FROM json_each(?) j CROSS JOIN {self.docs} d WHERE d.id = j.value"
        return dict(db.execute(query, (orjson.dumps(docs).decode(),)))

    def next_lid(self, db: sqlite3.Connection) -> int:
        """One more than the greatest lid in use; the first is 0."""
        row = db.execute(f"SELECT max(lid) FROM {self.docs}").fetchone()
        return 0 if row[0] is None else int(row[0]) + 1

    def count(self, db: sqlite3.Connection) -> int:
        """How many documents there are."""
        return int(db.execute(f"SELECT count(*) FROM {self.docs}").fetchone()[0])

    def encode(self, fields: Mapping[str, FieldValue]) -> Encoded:
        """A document's fields as they lie in the tables."""
        blobs, types = self._blobs, self._types
        body = orjson.dumps({name: value for name, value in fields.items() if name in types and name not in blobs})
        return body, tuple([encode(fields.get(name)) for name, encode in self._encoders])

    def insert(self, db: sqlite3.Connection, rows: Collection[tuple[int, str, Encoded]]) -> None:
        """Writes new documents (lid, id, content)."""
        _insert(db, f"INSERT INTO {self.docs}(lid, id, body)", [(lid, doc, body) for lid, doc, (body, _) in rows])
        for position, table in enumerate(self._blobs.values()):
            values = [(lid, data) for lid, _, (_, blobs) in rows if (data := blobs[position]) is not None]
            _insert(db, f"INSERT OR REPLACE INTO {table}(lid, data)", values)

    def update(self, db: sqlite3.Connection, rows: Collection[tuple[int, Encoded]]) -> None:
        """Writes new content (lid, content) of existing documents."""
        db.executemany(f"UPDATE {self.docs} SET body = ? WHERE lid = ?", [(body, lid) for lid, (body, _) in rows])
        for position, table in enumerate(self._blobs.values()):
            values = [(lid, data) for lid, (_, blobs) in rows if (data := blobs[position]) is not None]
            db.executemany(f"INSERT OR REPLACE INTO {table}(lid, data) VALUES (?, ?)", values)
            gone = [(lid,) for lid, (_, blobs) in rows if blobs[position] is None]
            db.executemany(f"DELETE FROM {table} WHERE lid = ?", gone)
        self._delete(db, self._hidden, [lid for lid, _ in rows])

    def delete(self, db: sqlite3.Connection, lids: Collection[int]) -> None:
        """Deletes all of the documents ``lids``."""
        self._delete(db, (self.docs, *self._blobs.values(), *self._hidden), lids)

    def _delete(self, db: sqlite3.Connection, tables: Collection[str], lids: Collection[int]) -> None:
        for table in tables:
            db.executemany(f"DELETE FROM {table} WHERE lid = ?", [(lid,) for lid in lids])

    def read(
        self, db: sqlite3.Connection, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> dict[int, Row]:
        """The documents ``lids`` that exist; one statement a chunk, so that no row is torn."""
        return {lid: Row(lid, parse_id(doc), held) for lid, doc, held in self._read(db, lids, fields)}

    def read_stored(
        self, db: sqlite3.Connection, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> dict[int, StoredDocument]:
        """What ``read`` gives, with ids as text: all that a summary needs."""
        return {lid: StoredDocument(doc, held) for lid, doc, held in self._read(db, lids, fields)}

    def _read(
        self, db: sqlite3.Connection, lids: Sequence[int], fields: Collection[str] | None
    ) -> Iterator[tuple[int, str, dict[str, FieldValue]]]:
        for start in range(0, len(lids), _CHUNK):
            part = lids[start : start + _CHUNK]
            marks = ("?," * len(part))[:-1]  # values that are bound let SQLite keep the prepared statement
            yield from self._select(db, f"d.lid IN ({marks})", tuple(map(int, part)), fields)

    def find_row(self, db: sqlite3.Connection, doc: str, fields: Collection[str] | None = None) -> Row | None:
        """Document ``doc`` with its fields."""
        found = next(self._select(db, "d.id = ?", (doc,), fields), None)
        return None if found is None else Row(found[0], parse_id(found[1]), found[2])

    def scan(
        self, db: sqlite3.Connection, after: int = -1, limit: int = -1, fields: Collection[str] | None = None
    ) -> Iterator[Row]:
        """Documents with a lid greater than ``after`` in lid order, ``limit`` at most (-1: all)."""
        found = self._select(db, f"d.lid > ? ORDER BY d.lid LIMIT {int(limit)}", (after,), fields)
        return (Row(lid, parse_id(doc), held) for lid, doc, held in found)

    def _select(
        self, db: sqlite3.Connection, where: str, values: tuple[Any, ...], fields: Collection[str] | None
    ) -> Iterator[tuple[int, str, dict[str, FieldValue]]]:
        """Lid, id and fields of documents."""
        blobs = {n: t for n, t in self._blobs.items() if fields is None or n in fields}
        joins = " ".join(f"LEFT JOIN {table} ON {table}.lid = d.lid" for table in blobs.values())
        columns = "".join(f", {table}.data" for table in blobs.values())
        query = f"SELECT d.lid, d.id, d.body{columns} FROM {self.docs} d {joins} WHERE {where}"
        wanted = self._types.keys() if fields is None else self._types.keys() & set(fields)
        small = wanted - blobs.keys()
        for lid, doc, body, *data in db.execute(query, values):
            held: dict[str, FieldValue] = orjson.loads(body) if small else {}
            decoded = {name: value for name, value in held.items() if name in wanted}
            for name, blob in zip(blobs, data, strict=True):
                if blob is not None:
                    decoded[name] = _decode(self._types[name], blob)
            yield lid, doc, decoded

    def drop_fields(self, db: sqlite3.Connection, names: Collection[str], blobs: Collection[int]) -> None:
        """Forgets the values of fields ``names`` that are gone, and drops the blob tables ``blobs``."""
        for number in blobs:
            db.execute(f"DROP TABLE IF EXISTS blob_{number}")
        after = -1
        while True:
            query = f"SELECT lid, body FROM {self.docs} WHERE lid > ? ORDER BY lid LIMIT {_CHUNK}"
            rows = [(lid, orjson.loads(body)) for lid, body in db.execute(query, (after,))]
            if not rows:
                return
            after = rows[-1][0]
            kept = [(lid, {name: held for name, held in body.items() if name not in names}) for lid, body in rows]
            bodies = [(orjson.dumps(body), lid) for lid, body in kept]
            db.executemany(f"UPDATE {self.docs} SET body = ? WHERE lid = ?", bodies)


def _insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts ``rows``, many a statement: after each statement the thread waits for Python's lock anew.

    Powers of two, so that there are few statements to keep prepared.
    """
    start, size = 0, _ROWS
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        part = rows[start : start + size]
        marks = "(" + ",".join("?" * len(part[0])) + ")"
        db.execute(f"{into} VALUES {','.join([marks] * size)}", [value for row in part for value in row])
        start += size


def _encode(value: FieldValue | None) -> bytes | None:
    return to_bytes(value) if isinstance(value, Tensor) else value  # type: ignore[return-value]  # raw: bytes, or None


def _encode_bfloat16(value: FieldValue | None) -> bytes | None:
    """What ``to_bytes`` gives of a dense bfloat16 tensor, at a third of its cost: the upper halves of the floats."""
    if isinstance(value, Tensor) and value.cells.ndim and value.cells.flags.c_contiguous:
        return value.cells.view(np.uint16)[..., 1::2].tobytes()
    return _encode(value)


def _encoder(kind: FieldType) -> Callable[[FieldValue | None], bytes | None]:
    dense16 = kind.tensor is not None and kind.tensor.cell == "bfloat16" and not kind.tensor.mapped
    return _encode_bfloat16 if dense16 and sys.byteorder == "little" else _encode


def _decode(kind: FieldType, blob: bytes) -> FieldValue:
    return blob if kind.tensor is None else from_bytes(blob, kind.tensor)
