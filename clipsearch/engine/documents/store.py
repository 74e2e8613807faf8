"""The durable truth about documents and the deployed application: one SQLite file, one writer thread.

Every operation waits in one queue. The writer takes all that wait (to a bound), applies them in order in one
transaction, commits with one fsync (WAL, ``synchronous=FULL``), shows them to the index, and only then acknowledges
each: what is acknowledged is durable and searchable, and fsyncs are shared. Readers have their own connections and
never wait for the writer. A failing disk fails the whole batch, and nothing of it is kept; the next one tries anew.

Power loss: a commit returns after its pages in the write-ahead log were synced, and what a new file is called is synced
with its folder. An operation that failed while its commit was synced may still be found after a crash, whole: nobody
can say whether it reached the disk.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from clipsearch.engine.documents.batch import Writes
from clipsearch.engine.documents.catalog import Catalog
from clipsearch.engine.documents.changes import DROPPED, ChangeLog
from clipsearch.engine.documents.gathering import Gathering
from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.lock import FolderLock
from clipsearch.engine.documents.operations import Operation, Remove
from clipsearch.engine.documents.outcome import Outcome
from clipsearch.engine.documents.tables import Row, SchemaTables
from clipsearch.engine.index.cache import Position
from clipsearch.engine.index.documents import FieldValue, StoredDocument
from clipsearch.engine.index.files import sync_folder
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError, StoreError

FILE = "documents.sqlite3"
BATCH = 1024
MAX_WAITING = 8192
MAX_WAITING_BYTES = 256 << 20
_SCAN = 512
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
T = TypeVar("T")
log = logging.getLogger(__name__)


Change = tuple[int, Mapping[str, FieldValue] | None]
"""A lid, and the document's new fields; None: it is gone."""


class Sink(Protocol):
    """Who is shown every committed change, in commit order, on the writer's thread: the index."""

    def show(self, schema: str, changes: Sequence[Change]) -> Mapping[int, Exception]:
        """Documents of ``schema`` are now so; gives, by lid, why one cannot be searched."""

    def rest(self) -> None:
        """Called when a batch was acknowledged: time to keep house. Raises nothing."""


@dataclass(slots=True)
class _Waiting:
    """Something for the writer: an operation, or a function that runs alone between two batches.

    ``schema``: what the operation was read by; a redeploy may come between reading and applying it.
    ``change``: what was written; ``error``: why it failed.
    """

    operation: Operation | None
    function: Callable[[], Any] | None = None
    size: int = 0
    schema: Schema | None = None
    outcome: Outcome[Any] = field(default_factory=Outcome)
    change: Change | None = None
    error: EngineError | None = None


class DocumentStore:
    """Opens ``folder`` and loads what it holds; ``sink`` is set by the engine before the first write.

    Raises ``StoreError``: another engine uses the folder, or its file is damaged or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.sink: Sink | None = None
        self._lock = FolderLock(folder)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._layout = threading.Lock()  # held while the tables and what is known of them differ
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._gathering = Gathering()
        self._closed = False
        self._waiting_bytes = 0
        self._next_lid: dict[str, int] = {}
        try:
            new = not self.path.exists()
            self._db = self._connect()
            self._db.execute("PRAGMA cache_size = -16000")  # KiB: the index over ids is written at random
            self._db.execute("PRAGMA wal_autocheckpoint = 2000")  # pages: 16 MB
            with self._transaction():
                self.catalog = Catalog(self._db)
            self._log = ChangeLog(self._db)
            if new:
                sync_folder(folder)
        except (sqlite3.Error, OSError, StoreError) as error:
            self._close_files()
            raise StoreError(f"{self.path} cannot be used: {error}. {_what_to_do(error)}") from error
        self._writer = threading.Thread(target=self._run, name="document-writer", daemon=True)
        self._writer.start()

    # ---- writing

    def submit(self, operation: Operation, size: int = 0, schema: Schema | None = None) -> Outcome[None]:
        """Queues ``operation``, whose values are of ``schema``; the outcome is there once it is durable and searchable.

        It fails with ``DocumentError`` (400 no such type, 412 condition, 503 fields have other types since a redeploy,
        507 disk full) or ``StoreError``. Raises ``DocumentError`` (429) at once when too many operations wait, or too
        many bytes; ``size`` is the request's.
        """
        waiting = self._queue.qsize()
        if waiting >= MAX_WAITING or self._waiting_bytes + size > max(size, MAX_WAITING_BYTES):
            raise DocumentError(f"Rejecting execution due to overload: {waiting} requests already enqueued", status=429)
        item = _Waiting(operation, size=size, schema=schema)
        self._enqueue(item)
        return item.outcome

    def exclusive(self, function: Callable[[], T]) -> T:
        """Runs ``function`` on the writer's thread while no operation runs, and returns what it returns."""
        item = _Waiting(None, function)
        self._enqueue(item)
        result: T = item.outcome.result()
        return result

    def _enqueue(self, item: _Waiting) -> None:
        with self._guard:
            if self._closed:
                raise StoreError("the engine is stopping")
            self._waiting_bytes += item.size
            self._queue.put(item)

    def save_package(self, package: ApplicationPackage) -> None:
        """Stores ``package`` and makes its tables, in one transaction; only inside ``exclusive``.

        Values of fields that it no longer has, or has with another type, are dropped: ask ``catalog.check`` first.
        """
        with self._layout:
            try:
                with self._transaction():
                    dropped = self.catalog.save(package)
                    self._log.add(self._db, 0, DROPPED if dropped else ())
            except BaseException as error:
                self._log.rolled_back()
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise _disk_error(error, self.path) from error
                raise
            self._log.committed()
            self.catalog.use(package)

    # ---- the log of changes; only inside ``exclusive``, or in the sink

    @property
    def position(self) -> Position:
        """What an index holds now that was shown every change."""
        return self._log.position

    def changed_since(self, position: Position) -> dict[str, list[int]] | None:
        """The documents that were written after ``position``, by document type; None when that is not known."""
        found = self._log.since(self._db, position)
        if found is None:
            return None
        return {name: found.get(tables.number, []) for name, tables in self.catalog.tables.items()}

    def forget_changes(self, position: Position) -> None:
        """Nobody will ask for what was written before ``position``."""
        self._log.trim(position)

    # ---- reading, from any thread

    def get(self, doc: DocumentId, fields: Collection[str] | None = None) -> Row | None:
        """The stored document, or None; ``fields``: only these."""
        return self._read(doc.type, lambda tables, db: tables.find_row(db, str(doc), fields))

    def read(
        self, schema: str, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> list[StoredDocument | None]:
        """The documents ``lids`` in that order, None where there is none; ``fields``: only these."""
        found = self._read(schema, lambda tables, db: tables.read_stored(db, lids, fields))
        return [found.get(lid) for lid in lids]

    def rows(self, schema: str, lids: Sequence[int], fields: Collection[str] | None = None) -> dict[int, Row]:
        """Those of the documents ``lids`` that there are."""
        return self._read(schema, lambda tables, db: tables.read(db, lids, fields))

    def scan(self, schema: str, after: int = -1, fields: Collection[str] | None = None) -> Iterator[Row]:
        """All documents of ``schema`` with a lid above ``after``, in lid order, read in short chunks."""

        def chunk(tables: SchemaTables, db: sqlite3.Connection) -> list[Row]:
            return list(tables.scan(db, after, _SCAN, fields))

        while rows := self._read(schema, chunk):
            yield from rows
            after = rows[-1].lid

    def count(self, schema: str) -> int:
        """How many documents of ``schema`` there are."""
        return self._read(schema, lambda tables, db: tables.count(db))

    def _read(self, schema: str, read: Callable[[SchemaTables, sqlite3.Connection], T]) -> T:
        """What ``read`` gives; read anew when a redeploy came between. Raises ``StoreError`` for a failing disk."""
        while True:
            tables = self._tables(schema)
            try:
                return read(tables, self._reader())
            except (sqlite3.Error, EngineError, ValueError) as error:
                with self._layout:
                    same = self.catalog.tables.get(schema) is tables
                if same and isinstance(error, sqlite3.Error):
                    raise StoreError(f"reading from {self.path} failed: {error}. {_what_to_do(error)}") from error
                if same:
                    raise

    def close(self) -> None:
        """Finishes what waits, then closes every file and gives the folder back."""
        with self._guard:
            already, self._closed = self._closed, True
            if not already:
                self._queue.put(None)
        self._writer.join()
        if not already:
            self._close_files()

    # ---- the writer's thread

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if item.function is None:
                self._gathering.wait(self._queue.qsize())
            batch, alone = self._take_batch(item)
            if batch:
                self._apply_batch(batch)
                self._gathering.wrote(len(batch))
                self._rest()
            if alone is not None and alone.function is not None:
                _resolve(alone.outcome, alone.function)

    def _rest(self) -> None:
        """Lets the sink keep house; whatever goes wrong there, the writer lives on."""
        try:
            if self.sink is not None:
                self.sink.rest()
        except Exception:
            log.exception("keeping house after a batch failed")

    def _take_batch(self, item: _Waiting) -> tuple[list[_Waiting], _Waiting | None]:
        batch: list[_Waiting] = []
        while True:
            if item.function is not None:
                return batch, item
            batch.append(item)
            if len(batch) == BATCH:
                return batch, None
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                return batch, None
            if following is None:
                self._queue.put(None)  # closing: finish this batch, then see it again
                return batch, None
            item = following

    def _apply_batch(self, batch: list[_Waiting]) -> None:
        next_lid = dict(self._next_lid)
        try:
            self._write(batch)
        except (sqlite3.Error, OSError) as error:
            self._take_back(next_lid)
            self._fail(batch, _disk_error(error, self.path))
        except Exception as error:  # a bug met by one operation: it alone is told, and the writer lives on
            self._take_back(next_lid)
            if len(batch) > 1:
                for item in batch:
                    self._apply_batch([item])
                return
            log.exception("a document operation failed")
            self._fail(batch, StoreError(f"the operation failed: {type(error).__name__}: {error}"))
        self._show(batch)
        with self._guard:
            self._waiting_bytes -= sum(item.size for item in batch)
        for item in batch:
            item.outcome.finish(item.error)

    def _write(self, batch: list[_Waiting]) -> None:
        """One transaction."""
        with self._transaction():
            writes = self._expect(batch)
            for item in batch:
                self._apply(item, writes)
            changed = [each for each in writes.values() if each.changed]
            for each in changed:
                each.flush()
                self._log.add(self._db, each.tables.number, each.changed)
        self._log.committed()

    def _take_back(self, next_lid: dict[str, int]) -> None:
        self._next_lid = next_lid
        self._log.rolled_back()

    def _fail(self, batch: list[_Waiting], error: EngineError) -> None:
        """Nothing of ``batch`` was kept."""
        for item in batch:
            item.change, item.error = None, error

    def _expect(self, batch: list[_Waiting]) -> dict[str, Writes]:
        """The pending writes of each document type in ``batch``, which know what their operations will look up."""
        docs: dict[str, list[str]] = {}
        for item in batch:
            if item.operation is not None:
                docs.setdefault(item.operation.id.type, []).append(str(item.operation.id))
        found = {}
        for name, ids in docs.items():
            tables = self.catalog.tables.get(name)
            if tables is not None:
                found[name] = Writes(self._db, tables, self._lids_of(tables))
                found[name].expect(ids)
        return found

    def _lids_of(self, tables: SchemaTables) -> Callable[[], int]:
        """Gives lids that no document had since the start, so that a search under way never reads another's fields."""
        name = tables.schema.name

        def new_lid() -> int:
            lid = self._next_lid[name] if name in self._next_lid else tables.next_lid(self._db)
            self._next_lid[name] = lid + 1
            return lid

        return new_lid

    def _apply(self, item: _Waiting, writes_of: Mapping[str, Writes]) -> None:
        """Decides what one operation writes; what is wrong with it is found before anything is."""
        operation = item.operation
        item.change, item.error = None, None
        if operation is None:
            return
        try:
            doc = operation.id
            tables, writes = self._tables(doc.type), writes_of[doc.type]
            if item.schema is not None and not tables.accepts(item.schema):
                raise DocumentError("the application was redeployed meanwhile: send the operation again", status=503)
            if isinstance(operation, Remove):
                operation.check(writes)
                lid = writes.remove(str(doc))
                item.change = None if lid is None else (lid, None)
                return
            fields = operation.content(writes)
            if fields is not None:
                item.change = (writes.put(str(doc), fields), fields)
        except EngineError as error:
            item.error = error

    def _show(self, batch: Iterable[_Waiting]) -> None:
        """Shows what was written to the sink; the last change of a document counts for all."""
        if self.sink is None:
            return
        by_schema: dict[str, list[_Waiting]] = {}
        for item in batch:
            if item.change is not None and item.operation is not None:
                by_schema.setdefault(item.operation.id.type, []).append(item)
        for schema, items in by_schema.items():
            try:
                failed = self.sink.show(schema, [item.change for item in items if item.change is not None])
            except Exception as error:
                log.exception("documents of '%s' are stored but not indexed", schema)
                failed = {item.change[0]: error for item in items if item.change is not None}
            for item in items if failed else ():
                why = failed.get(item.change[0]) if item.change is not None else None
                if why is not None and item.operation is not None:
                    doc = item.operation.id
                    log.error("%s is stored but not indexed: %s", doc, why)
                    item.error = StoreError(f"{doc} is stored, but cannot be searched: {why}")

    # ---- connections

    def _tables(self, schema: str) -> SchemaTables:
        tables = self.catalog.tables.get(schema)
        if tables is None:
            raise DocumentError(f"Document type {schema} does not exist")
        return tables

    def _reader(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            db.execute("PRAGMA query_only = ON")
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
        with self._guard:
            self._connections.append(db)
        db.execute("PRAGMA page_size = 8192")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _close_files(self) -> None:
        for db in self._connections:
            db.close()
        self._connections.clear()
        self._lock.release()


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when anything is raised."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        if self._db.in_transaction:  # a disk error kept the last one from being rolled back
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")


def _resolve(outcome: Outcome[Any], function: Callable[[], Any]) -> None:
    try:
        value = function()
    except BaseException as error:  # handed to whoever waits
        outcome.finish(error)
    else:
        outcome.finish(None, value)


def _disk_error(error: Exception, path: Path) -> EngineError:
    full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or "full" in str(error).lower()
    full = full or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
    with contextlib.suppress(OSError):  # the folder is gone, or its disk is
        full = full or not shutil.disk_usage(path.parent).free
    if full:
        return DocumentError(f"no space left for {path}: free some, then feed again", status=507)
    return StoreError(f"writing to {path} failed: {error}. {_what_to_do(error)}")


def _what_to_do(error: Exception) -> str:
    if getattr(error, "sqlite_errorname", "") in _DAMAGED or isinstance(error, StoreError):
        return "Restore it from a copy, or start with an empty --data folder"
    return "See that its disk has space and works, and try again: nothing was changed"
