"""sqlite-vec with FTS5: an exact scan and SQLite's own full text, fused by reciprocal rank in SQL, as its docs do.

Through apsw, because many builds of Python's own sqlite3 cannot load extensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import sqlite_vec
from common import DEPTH, RRF, TOP, Answer, Workload, serve
from workload import batches

_HYBRID = f"""
WITH near AS (SELECT rowid, row_number() OVER (ORDER BY distance) AS rank FROM vectors
              WHERE embedding MATCH :vector AND k = {DEPTH}),
     said AS (SELECT rowid, row_number() OVER (ORDER BY rank) AS rank FROM texts
              WHERE texts MATCH :words ORDER BY rank LIMIT {DEPTH}),
     both AS (SELECT rowid, 1.0 / ({RRF} + rank) AS score FROM near
              UNION ALL SELECT rowid, 1.0 / ({RRF} + rank) FROM said)
SELECT both.rowid, documents.caption FROM both JOIN documents ON documents.id = both.rowid
GROUP BY both.rowid ORDER BY sum(score) DESC LIMIT {TOP}
"""


def _connect(folder: Path) -> apsw.Connection:
    db = apsw.Connection(str(folder / "index.sqlite3"))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("PRAGMA mmap_size = 2000000000")
    return db


class Maker:
    """Builds and opens."""

    def build(self, folder: Path, workload: Workload) -> None:
        """One table of captions, its FTS5 index and a vec0 table with the bucket as metadata."""
        folder.mkdir(parents=True)
        db = _connect(folder)
        db.execute(
            "CREATE TABLE documents (id INTEGER PRIMARY KEY, caption TEXT);"
            "CREATE VIRTUAL TABLE texts USING fts5(caption, content='documents', content_rowid='id');"
            "CREATE VIRTUAL TABLE vectors USING vec0(embedding float[512] distance_metric=cosine, bucket integer);"
        )
        db.execute("BEGIN")
        for rows, vectors in batches(workload):
            captions = [(row, workload.captions[row]) for row in rows]
            db.executemany("INSERT INTO documents VALUES (?, ?)", captions)
            db.executemany("INSERT INTO texts (rowid, caption) VALUES (?, ?)", captions)
            db.executemany(
                "INSERT INTO vectors (rowid, embedding, bucket) VALUES (?, ?, ?)",
                [(row, vector, int(workload.buckets[row])) for row, vector in zip(rows, vectors, strict=True)],
            )
        db.execute("INSERT INTO texts (texts) VALUES ('optimize')")
        db.execute("COMMIT")
        db.close()

    def open(self, folder: Path) -> SqliteVec:
        """A connection that maps the file."""
        return SqliteVec(_connect(folder))


class SqliteVec:
    """Queries, all in SQL."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def lexical(self, text: str) -> Answer:
        """FTS5's bm25 over an OR of the words."""
        return self._db.execute(
            f"SELECT rowid, caption FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT {TOP}", (_words(text),)
        ).fetchall()

    def vector(self, vector: Any) -> Answer:
        """An exact scan."""
        return self._near("", vector, ())

    def filtered(self, vector: Any, below: int) -> Answer:
        """An exact scan of the rows whose metadata passes."""
        return self._near("AND bucket < ?", vector, (below,))

    def hybrid(self, text: str, vector: Any) -> Answer:
        """Both, fused in one statement."""
        return self._db.execute(_HYBRID, {"vector": vector, "words": _words(text)}).fetchall()

    def _near(self, condition: str, vector: Any, values: tuple[int, ...]) -> Answer:
        return self._db.execute(
            f"SELECT rowid, caption FROM (SELECT rowid, distance FROM vectors WHERE embedding MATCH ? AND k = {TOP} "
            f"{condition}) JOIN documents ON documents.id = rowid ORDER BY distance",
            (vector, *values),
        ).fetchall()


def _words(text: str) -> str:
    return " OR ".join(f'"{word}"' for word in text.split())


if __name__ == "__main__":
    serve(Maker())
