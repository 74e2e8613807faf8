"""What the store knows of the deployed application: its files, document types, fields and their types.

A redeploy keeps every document. A field whose type changed, or a document type that is gone, is refused as by Vespa
unless the package has a validation override for it; the values of such a field are then dropped. A field that is gone
keeps its values, as in Vespa's document store: they are there again when it comes back with the same type.
Source: Vespa's validation overrides reference; ``StructFieldValue`` keeps serialized fields that its type has not.
"""

from __future__ import annotations

import datetime
import re
import sqlite3

from clipsearch.engine.documents.tables import BIG, CATALOG, SchemaTables
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import PackageError, StoreError

FORMAT = "1"
OVERRIDES = "validation-overrides.xml"
REMOVED = "removed "  # before the type of a field that is gone
_ALLOW = re.compile(r"<allow\s+until\s*=\s*['\"](\d{4}-\d{2}-\d{2})['\"][^>]*>\s*([\w-]+)\s*</allow>")


class Catalog:
    """The catalog tables of ``db``; ``tables`` maps each document type of the deployed package to its tables."""

    def __init__(self, db: sqlite3.Connection) -> None:
        for statement in CATALOG.split(";"):
            db.execute(statement)
        db.execute("INSERT OR IGNORE INTO meta(key, value) VALUES ('format', ?)", (FORMAT,))
        found = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]
        if found != FORMAT:
            raise StoreError(f"it has format {found}, this engine reads format {FORMAT}")
        self._db = db
        self.tables: dict[str, SchemaTables] = {}
        self._read()

    def _read(self) -> None:
        self.files: dict[str, bytes] = dict(self._db.execute("SELECT path, content FROM application"))
        found = self._db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
        self.generation = 1 if found is None else int(found[0])  # of the deployed application; 1: none yet, as in Vespa
        self._schemas: dict[str, int] = dict(self._db.execute("SELECT name, number FROM schemas"))
        self._types: dict[int, dict[str, tuple[int, str]]] = {}
        for number, schema, field, kind in self._db.execute("SELECT number, schema, field, type FROM columns"):
            self._types.setdefault(schema, {})[field] = (number, kind)

    def check(self, package: ApplicationPackage) -> None:
        """Raises ``PackageError`` in Vespa's words when ``package`` would lose documents' values."""
        allowed = allowed_overrides(package)
        problems = []
        for name, number in self._schemas.items():
            schema = package.schemas.get(name)
            if schema is None:
                if "schema-removal" not in allowed:
                    problems.append(
                        f"schema-removal: Schema '{name}' is removed in content cluster '{package.content_cluster}'. "
                        "This will cause loss of all data in this schema. " + _how_to_allow("schema-removal")
                    )
                continue
            for field, old, new in self._changed(number, schema):
                if new and not old.startswith(REMOVED) and "field-type-change" not in allowed:
                    problems.append(
                        f"field-type-change: Document type '{name}': Field '{field}' changed: "
                        f"data type: '{old}' -> '{new}'. " + _how_to_allow("field-type-change")
                    )
        if problems:
            raise PackageError("\n".join(problems))

    def _changed(self, number: int, schema: Schema) -> list[tuple[str, str, str]]:
        """(field, recorded type, new type) of every field that changed; new type "" for one that is gone."""
        changed = []
        for field, (_, old) in self._types.get(number, {}).items():
            current = schema.fields.get(field)
            new = str(current.type) if current is not None and current.in_document else ""
            if new != old.removeprefix(REMOVED):
                changed.append((field, old, new))
        return changed

    def save(self, package: ApplicationPackage) -> bool:
        """Writes ``package`` and its tables inside the caller's transaction; ``use`` follows once it is committed.

        Returns whether values of documents were dropped.
        """
        db = self._db
        generation = package.generation or self.generation + 1
        db.execute("INSERT OR REPLACE INTO meta(key, value) VALUES ('generation', ?)", (str(generation),))
        db.execute("DELETE FROM application")
        db.executemany("INSERT INTO application(path, content) VALUES (?, ?)", package.files.items())
        dropped = False
        for name, number in self._schemas.items():
            if name not in package.schemas:
                self._drop_schema(number)
                dropped = True
        for schema in package.schemas.values():
            db.execute("INSERT OR IGNORE INTO schemas(name) VALUES (?)", (schema.name,))
            (number,) = db.execute("SELECT number FROM schemas WHERE name = ?", (schema.name,)).fetchone()
            dropped |= self._drop_changed(number, schema)
            self._create(number, schema)
        return dropped

    def use(self, package: ApplicationPackage) -> None:
        """Makes ``tables`` those of ``package``, which must be what the file holds."""
        self._read()
        self.tables = {name: self._tables_of(self._schemas[name], schema) for name, schema in package.schemas.items()}

    def _columns(self, number: int) -> dict[str, tuple[int, str]]:
        query = "SELECT field, number, type FROM columns WHERE schema = ?"
        return {field: (column, kind) for field, column, kind in self._db.execute(query, (number,))}

    def _tables_of(self, number: int, schema: Schema) -> SchemaTables:
        columns = self._columns(number)
        hidden = [n for n, kind in columns.values() if kind.startswith(tuple(REMOVED + big for big in BIG))]
        return SchemaTables(number, schema, {field: column for field, (column, _) in columns.items()}, hidden)

    def _create(self, number: int, schema: Schema) -> None:
        self._db.executemany(
            "INSERT INTO columns(schema, field, type) VALUES (?, ?, ?) "
            "ON CONFLICT(schema, field) DO UPDATE SET type = excluded.type",
            [(number, f.name, str(f.type)) for f in schema.fields.values() if f.in_document],
        )
        self._tables_of(number, schema).create(self._db)

    def _drop_changed(self, number: int, schema: Schema) -> bool:
        """Forgets the values of fields whose type changed (and returns whether any did), hides those of gone ones."""
        changed = self._changed(number, schema)
        gone = [(REMOVED + old, number, field) for field, old, new in changed if not new]
        self._db.executemany(
            "UPDATE columns SET type = ? WHERE schema = ? AND field = ? AND type NOT LIKE 'removed %'", gone
        )
        retyped = {field: old.removeprefix(REMOVED) for field, old, new in changed if new}
        if not retyped:
            return False
        blobs = [self._types[number][field][0] for field, old in retyped.items() if old.startswith(BIG)]
        columns = dict.fromkeys(schema.fields, 0)  # only its table of small fields is asked
        SchemaTables(number, schema, columns).drop_fields(self._db, retyped, blobs)
        self._db.executemany(
            "DELETE FROM columns WHERE schema = ? AND field = ?", [(number, field) for field in retyped]
        )
        return True

    def _drop_schema(self, number: int) -> None:
        for column, _ in self._columns(number).values():
            self._db.execute(f"DROP TABLE IF EXISTS blob_{column}")
        self._db.execute(f"DROP TABLE IF EXISTS doc_{number}")
        self._db.execute("DELETE FROM columns WHERE schema = ?", (number,))
        self._db.execute("DELETE FROM schemas WHERE number = ?", (number,))


def allowed_overrides(package: ApplicationPackage, today: datetime.date | None = None) -> frozenset[str]:
    """The validation ids that the package's validation-overrides.xml allows until a day not yet past."""
    text = package.files.get(OVERRIDES, b"").decode("utf-8", "replace")
    today = today or datetime.datetime.now(tz=datetime.UTC).date()
    return frozenset(name for until, name in _ALLOW.findall(text) if until >= today.isoformat())


def _how_to_allow(name: str) -> str:
    return f"To allow this add <allow until='yyyy-mm-dd'>{name}</allow> to {OVERRIDES}"
