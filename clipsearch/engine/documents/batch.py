"""What one transaction writes to the tables of one document type, gathered so that SQLite gets it in a few statements.

Operations are applied in order. Where one needs to see a document, what was decided before it counts: ids that the
transaction has touched are answered from here, and written first when the whole document is wanted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

from clipsearch.engine.documents.tables import Encoded, Row, SchemaTables
from clipsearch.engine.index.documents import FieldValue


class Writes:
    """The pending writes of one document type. ``new_lid`` gives a lid that no document ever had."""

    def __init__(self, db: sqlite3.Connection, tables: SchemaTables, new_lid: Callable[[], int]) -> None:
        self.tables = tables
        self._db = db
        self._new_lid = new_lid
        self._lids: dict[str, int | None] = {}
        self._pending: dict[int, tuple[str, Encoded] | None] = {}
        self._inserted: set[int] = set()
        self.changed: dict[int, None] = {}

    def expect(self, docs: Iterable[str]) -> None:
        """Looks up ``docs`` together, because their operations follow."""
        unknown = [doc for doc in docs if doc not in self._lids]
        self._lids |= dict.fromkeys(unknown)
        self._lids |= self.tables.find_many(self._db, unknown)

    def find(self, doc: str) -> int | None:
        """The lid of ``doc`` as the operations before leave it."""
        if doc not in self._lids:
            self.expect([doc])
        return self._lids[doc]

    def find_row(self, doc: str) -> Row | None:
        """The whole document, as the operations before leave it."""
        lid = self.find(doc)
        if lid is None:
            return None
        if lid in self._pending:
            self.flush()
        return self.tables.find_row(self._db, doc)

    def put(self, doc: str, fields: Mapping[str, FieldValue]) -> int:
        """Makes ``fields`` the whole of ``doc``; returns its lid."""
        content = self.tables.encode(fields)
        lid = self.find(doc)
        if lid is None:
            lid = self._lids[doc] = self._new_lid()
            self._inserted.add(lid)
        self._pending[lid] = (doc, content)
        self.changed[lid] = None
        return lid

    def remove(self, doc: str) -> int | None:
        """Removes ``doc``; returns the lid that it had, None when it was missing."""
        lid = self.find(doc)
        if lid is not None:
            self._lids[doc] = None
            self._pending[lid] = None
            self.changed[lid] = None
        return lid

    def flush(self) -> None:
        """Writes what is pending: removals first, because a removed id may be there again under another lid."""
        inserts, updates, deletes = [], [], []
        for lid, content in self._pending.items():
            if content is None:
                if lid not in self._inserted:
                    deletes.append(lid)
            elif lid in self._inserted:
                inserts.append((lid, *content))
            else:
                updates.append((lid, content[1]))
        if deletes:
            self.tables.delete(self._db, deletes)
        if updates:
            self.tables.update(self._db, updates)
        if inserts:
            self.tables.insert(self._db, inserts)
        self._pending.clear()
        self._inserted.clear()
