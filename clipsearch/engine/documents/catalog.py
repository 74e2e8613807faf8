"""What the store knows of the deployed application: its files, document types, fields and their types.

A redeploy keeps every document. A field whose type changed, or a document type that is gone, is refused as by Vespa
unless the package has a validation override for it; the values of such a field are then dropped.
Source: Vespa's validation overrides reference.
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
_ALLOW = re.compile(r"<allow\s+until\s*=\s*['\"](\d{4}-\d{2}-\d{2})['\"][^>]*>\s*([\w-]+)\s*</allow>")


class Catalog:
    """The catalog tables of ``db``; ``tables`` maps each document type of the deployed package to its tables."""

    def __init__(self, db: sqlite3.Connection) -> None:
        db.executescript(CATALOG)
        db.execute("INSERT OR IGNORE INTO meta(key, value) VALUES ('format', ?)", (FORMAT,))
        found = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]
        if found != FORMAT:
            raise StoreError(f"it has format {found}, this engine reads format {FORMAT}")
        self._db = db
        self.tables: dict[str, SchemaTables] = {}
        self._read()

    def _read(self) -> None:
        self.files: dict[str, bytes] = dict(self._db.execute("SELECT path, content FROM application"))
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
                if new and "field-type-change" not in allowed:
                    problems.append(
                        f"field-type-change: Document type '{name}': Field '{field}' changed: "
                        f"data type: '{old}' -> '{new}'. " + _how_to_allow("field-type-change")
                    )
        if problems:
            raise PackageError("\n".join(problems))

    def _changed(self, number: int, schema: Schema) -> list[tuple[str, str, str]]:
        """(field, old type, new type) of every field that changed; new type "" for one that is gone."""
        changed = []
        for field, (_, old) in self._types.get(number, {}).items():
            current = schema.fields.get(field)
            new = str(current.type) if current is not None and current.in_document else ""
            if new != old:
                changed.append((field, old, new))
        return changed

    def save(self, package: ApplicationPackage) -> None:
        """Writes ``package`` and its tables inside the caller's transaction; ``use`` follows once it is committed."""
        db = self._db
        db.execute("DELETE FROM application")
        db.executemany("INSERT INTO application(path, content) VALUES (?, ?)", package.files.items())
        for name, number in self._schemas.items():
            if name not in package.schemas:
                self._drop_schema(number)
        for schema in package.schemas.values():
            db.execute("INSERT OR IGNORE INTO schemas(name) VALUES (?)", (schema.name,))
            (number,) = db.execute("SELECT number FROM schemas WHERE name = ?", (schema.name,)).fetchone()
            self._drop_changed(number, schema)
            self._create(number, schema)

    def use(self, package: ApplicationPackage) -> None:
        """Makes ``tables`` those of ``package``, which must be what the file holds."""
        self._read()
        self.tables = {
            name: SchemaTables(self._schemas[name], schema, self._columns(self._schemas[name]))
            for name, schema in package.schemas.items()
        }

    def _columns(self, number: int) -> dict[str, int]:
        return dict(self._db.execute("SELECT field, number FROM columns WHERE schema = ?", (number,)))

    def _create(self, number: int, schema: Schema) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO columns(schema, field, type) VALUES (?, ?, ?)",
            [(number, f.name, str(f.type)) for f in schema.fields.values() if f.in_document],
        )
        SchemaTables(number, schema, self._columns(number)).create(self._db)

    def _drop_changed(self, number: int, schema: Schema) -> None:
        changed = {field: old for field, old, _ in self._changed(number, schema)}
        if not changed:
            return
        big = [self._types[number][field][0] for field, old in changed.items() if old.startswith(BIG)]
        SchemaTables(number, schema, self._columns(number) | dict.fromkeys(schema.fields, 0)).drop_fields(
            self._db, changed, big
        )
        self._db.executemany(
            "DELETE FROM columns WHERE schema = ? AND field = ?", [(number, field) for field in changed]
        )

    def _drop_schema(self, number: int) -> None:
        for column in self._columns(number).values():
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
