"""The store's log of changes: which documents each transaction wrote, so that an index on disk can catch up.

A row is written in the transaction that it tells of. A checkpoint of the index notes the last row's number and token;
a start replays the documents of the rows after it. Rows before it are deleted, it itself is kept, to be recognised.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable

import numpy as np

from clipsearch.engine.index.cache import Position

DROPPED = (-1,)  # logged for schema 0: a deploy dropped values of documents, which it does not list


class ChangeLog:
    """The table ``changes``; written on the writer's thread only."""

    def __init__(self, db: sqlite3.Connection) -> None:
        row = db.execute("SELECT number, token FROM changes ORDER BY number DESC LIMIT 1").fetchone()
        self.position = Position(*row) if row else Position(0, 0)
        self._next = self.position
        self._trim: Position | None = None

    def add(self, db: sqlite3.Connection, schema: int, lids: Iterable[int]) -> None:
        """Logs in the caller's transaction that documents ``lids`` of schema number ``schema`` were written."""
        if self._trim is not None:
            db.execute("DELETE FROM changes WHERE number < ?", (self._trim.number,))
        position = Position(self._next.number + 1, secrets.randbits(62))
        data = np.fromiter(lids, "<i8").tobytes()
        db.execute(
            "INSERT INTO changes(number, schema, token, lids) VALUES (?, ?, ?, ?)",
            (position.number, schema, position.token, data),
        )
        self._next = position

    def committed(self) -> None:
        """The transaction of the last ``add`` is durable."""
        self.position, self._trim = self._next, None

    def rolled_back(self) -> None:
        """It is not."""
        self._next = self.position

    def trim(self, position: Position) -> None:
        """Forgets with the next transaction what lies before ``position``."""
        self._trim = position

    def since(self, db: sqlite3.Connection, position: Position) -> dict[int, list[int]] | None:
        """The lids that were written after ``position``, by schema number; None when the log does not know it."""
        known = db.execute("SELECT token FROM changes WHERE number = ?", (position.number,)).fetchone()
        if known != (position.token,):
            return None
        found: dict[int, dict[int, None]] = {}
        rows = db.execute("SELECT schema, lids FROM changes WHERE number > ? ORDER BY number", (position.number,))
        for schema, data in rows:
            if not schema and data:
                return None
            found.setdefault(schema, {}).update(dict.fromkeys(np.frombuffer(data, "<i8").tolist()))
        return {schema: list(lids) for schema, lids in found.items()}
