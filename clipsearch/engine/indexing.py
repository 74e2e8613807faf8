"""Between the store and the indexes: filled at a start, changed as the store changes, checkpointed, kept at a redeploy.

The store is the truth. An index on disk (``index/cache.py``) is taken when it was made by a like schema and the store
still knows what was written since; else the index is built from the documents.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from clipsearch.engine.documents.store import Change, DocumentStore
from clipsearch.engine.documents.tables import Row
from clipsearch.engine.index.cache import IndexCache
from clipsearch.engine.index.index import Index, signature
from clipsearch.engine.memory import trim
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.engine.package.synthetic import with_synthetic
from clipsearch.errors import EngineError, StoreError

CHECKPOINT_CHANGES = 16_384  # documents that a start after kill -9 reads from the store at most, but for one batch
_CHUNK = 1024
log = logging.getLogger(__name__)


class StoppedError(StoreError):
    """Documents were being loaded when the engine was asked to stop."""


class Indexing:
    """Keeps the indexes of one engine; every method but ``stop`` runs on the store's writer thread."""

    def __init__(self, store: DocumentStore, data: Path) -> None:
        self._store = store
        self._cache = IndexCache(data)
        self._stopping = threading.Event()
        self._changes = 0  # since the last checkpoint

    def stop(self) -> None:
        """Documents that are being loaded are not worth the wait any more."""
        self._stopping.set()

    # ---- opening

    def opened(self, package: ApplicationPackage) -> dict[str, Index]:
        """The indexes of ``package``, which is the stored one, with all documents in them.

        Raises ``StoppedError``, or ``StoreError``: documents cannot be read.
        """
        changed = self._changed()
        return {name: self._opened(package, schema, changed) for name, schema in package.schemas.items()}

    def _changed(self) -> Mapping[str, list[int]] | None:
        """What was written since the index on disk was, by document type; None when it is of no use."""
        position = self._cache.position
        changed = None if position is None else self._store.changed_since(position)
        if position is not None and changed is None:
            log.warning("the index in %s is of another store: it is built from the documents", self._cache.folder)
        return changed

    def _opened(self, package: ApplicationPackage, schema: Schema, changed: Mapping[str, list[int]] | None) -> Index:
        index = Index(schema, package.snowball_english)
        if changed is not None and self._cache.restore(index, signature_of(schema, package)):
            self._replay(index, schema, changed[schema.name])
            return index
        index = Index(schema, package.snowball_english)
        self._fill(index, schema, schema)
        return index

    def reopened(
        self, package: ApplicationPackage, before: ApplicationPackage | None, indexes: Mapping[str, Index]
    ) -> dict[str, Index]:
        """The indexes for ``package``: those of ``before`` where nothing that they hold changes, others built anew.

        ``indexes``: of ``before``, none at a start. The store still has ``before``; documents are read with the fields
        whose types stay. Raises as ``opened``.
        """
        found = {}
        changed = self._changed() if before is not None and not indexes else None
        for name, schema in package.schemas.items():
            old = None if before is None else before.schemas.get(name)
            if before is None or old is None:
                found[name] = Index(schema, package.snowball_english)
            elif signature_of(old, before) == signature_of(schema, package):
                found[name] = indexes[name] if name in indexes else self._opened(package, schema, changed)
            else:
                found[name] = Index(schema, package.snowball_english)
                self._fill(found[name], schema, old)
        return found

    def _fill(self, index: Index, schema: Schema, stored: Schema) -> None:
        """Shows every document to the empty ``index`` of ``schema``; they are stored by schema ``stored``."""
        names = _fields_of(schema, stored)
        rows = self._store.scan(schema.name, fields=names)
        try:
            while chunk := list(islice(rows, _CHUNK)):
                self._show_rows(index, schema, chunk)
                self._changes += len(chunk)
        except (sqlite3.Error, ValueError, EngineError) as error:
            raise self._unreadable(schema, error) from error

    def _replay(self, index: Index, schema: Schema, lids: Sequence[int]) -> None:
        """Brings ``index`` up to date with documents ``lids``."""
        names = _fields_of(schema, schema)
        try:
            for start in range(0, len(lids), _CHUNK):
                chunk = lids[start : start + _CHUNK]
                rows = self._store.rows(schema.name, chunk, names)
                index.put_many([(lid, None) for lid in chunk if lid not in rows])
                self._show_rows(index, schema, list(rows.values()))
            self._changes += len(lids)
        except (sqlite3.Error, ValueError, EngineError) as error:
            raise self._unreadable(schema, error) from error

    def _show_rows(self, index: Index, schema: Schema, rows: Sequence[Row]) -> None:
        if self._stopping.is_set():
            raise StoppedError("the engine was stopped while it loaded its documents")
        ids = {row.lid: row.id for row in rows}
        for lid, error in self.show(schema, index, [(row.lid, row.fields) for row in rows]).items():
            log.warning("%s is stored but cannot be searched: %s", ids[lid], error)

    def _unreadable(self, schema: Schema, error: Exception) -> StoreError:
        if isinstance(error, StoppedError):
            return error
        return StoreError(
            f"documents of '{schema.name}' in {self._store.path} are damaged ({type(error).__name__}: {error}). "
            "Restore the folder from a copy, or feed an empty one"
        )

    # ---- changing

    def show(self, schema: Schema, index: Index, changes: Sequence[Change]) -> dict[int, Exception]:
        """Puts and removes documents; gives, by lid, why one cannot be searched. It then stays as it was."""
        computed = changes
        failed: dict[int, Exception] = {}
        if schema.computed:
            computed = []
            for lid, fields in changes:
                try:
                    computed.append((lid, None if fields is None else with_synthetic(schema, fields)))
                except EngineError as error:
                    failed[lid] = error
        failed |= index.put_many(computed)
        self._changes += len(changes)
        return failed

    def checkpoint(self, package: ApplicationPackage, indexes: Mapping[str, Index], at: int = 0) -> bool:
        """Writes the indexes to disk when ``at`` documents changed since the last time; whether it did.

        A failing disk is logged.
        """
        if self._changes < at:
            return False
        self._changes = 0
        signed = {name: (index, signature_of(package.schemas[name], package)) for name, index in indexes.items()}
        position = self._store.position
        try:
            self._cache.save(signed, position)
        except OSError as error:
            log.warning(
                "the index could not be written to %s (%s): a restart before the next try reads more documents",
                self._cache.folder,
                error.strerror or error,
            )
            return False
        self._store.forget_changes(position)
        trim()
        return True


def signature_of(schema: Schema, package: ApplicationPackage) -> str:
    """What the index of ``schema`` depends on, as a digest."""
    also = hashlib.sha256()
    if any("embed" in field.source for field in schema.computed):
        for name, data in sorted(package.files.items()):
            if not name.endswith((".sd", ".profile")):
                also.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    return signature(schema, package.snowball_english, also.digest())


def _fields_of(schema: Schema, stored: Schema) -> set[str]:
    """The document fields that an index of ``schema`` is made of, among those that are stored with the same type."""
    fields: Iterable[str] = schema.fields
    if not schema.computed:
        fields = (name for name, field in schema.fields.items() if field.attribute or field.index)
    same = {name for name in fields if name in stored.fields and stored.fields[name].type == schema.fields[name].type}
    return {name for name in same if stored.fields[name].in_document and schema.fields[name].type.kind != "raw"}
