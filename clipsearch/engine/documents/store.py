"""The durable truth about documents and the deployed application: one SQLite file, one writer thread.

Every operation waits in one queue. The writer takes all that wait (to a bound), applies them in order in one
transaction, commits with one fsync (WAL, ``synchronous=FULL``), shows them to the index, and only then acknowledges
each: what is acknowledged is durable and searchable, and fsyncs are shared. Readers have their own connections and
never wait for the writer. A failing disk fails the whole batch, and nothing of it is kept.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from clipsearch.engine.documents.catalog import Catalog
from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.lock import FolderLock
from clipsearch.engine.documents.operations import Operation, Remove
from clipsearch.engine.documents.tables import Row, SchemaTables
from clipsearch.engine.index.documents import FieldValue, StoredDocument
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.errors import DocumentError, EngineError, StoreError

FILE = "documents.sqlite3"
BATCH = 1024
MAX_WAITING = 8192
MAX_WAITING_BYTES = 256 << 20
_SCAN = 256
T = TypeVar("T")
log = logging.getLogger(__name__)


class Sink(Protocol):
    """Who is shown every committed change, in commit order, on the writer's thread: the index."""

    def put(self, schema: str, lid: int, fields: Mapping[str, FieldValue]) -> None:
        """Document ``lid`` of ``schema`` now has ``fields``."""

    def remove(self, schema: str, lid: int) -> None:
        """Document ``lid`` of ``schema`` is gone."""


@dataclass(slots=True)
class _Waiting:
    """Something for the writer: an operation, or a function that runs alone between two batches.

    ``schema``: what the operation was read by; a redeploy may come between reading and applying it.
    ``change``: the lid that was written and its new fields (None: removed); ``error``: why it failed.
    """

    operation: Operation | None
    function: Callable[[], Any] | None = None
    size: int = 0
    schema: Schema | None = None
    future: Future[Any] = field(default_factory=Future)
    change: tuple[int, Mapping[str, FieldValue] | None] | None = None
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
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._waiting_bytes = 0
        self._next_lid: dict[str, int] = {}
        try:
            self._db = self._connect()
            self._db.execute("PRAGMA cache_size = -16000")  # KiB: the index over ids is written at random
            self._db.execute("PRAGMA wal_autocheckpoint = 2000")  # pages: 16 MB
            self.catalog = Catalog(self._db)
        except (sqlite3.Error, StoreError) as error:
            self._close_files()
            raise StoreError(
                f"{self.path} cannot be used: {error}. Restore it, or start with an empty --data folder"
            ) from error
        self._writer = threading.Thread(target=self._run, name="document-writer", daemon=True)
        self._writer.start()

    # ---- writing

    def submit(self, operation: Operation, size: int = 0, schema: Schema | None = None) -> Future[None]:
        """Queues ``operation``, whose values are of ``schema``; the future is done once it is durable and searchable.

        It fails with ``DocumentError`` (400 no such type, 412 condition, 503 fields have other types since a redeploy,
        507 disk full) or ``StoreError``. Raises ``DocumentError`` (429) at once when too many operations wait, or too
        many bytes; ``size`` is the request's.
        """
        waiting = self._queue.qsize()
        if waiting >= MAX_WAITING or self._waiting_bytes + size > max(size, MAX_WAITING_BYTES):
            raise DocumentError(f"Rejecting execution due to overload: {waiting} requests already enqueued", status=429)
        item = _Waiting(operation, size=size, schema=schema)
        self._enqueue(item)
        return item.future

    def exclusive(self, function: Callable[[], T]) -> T:
        """Runs ``function`` on the writer's thread while no operation runs, and returns what it returns."""
        item = _Waiting(None, function)
        self._enqueue(item)
        result: T = item.future.result()
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
        with self._transaction():
            self.catalog.save(package)
        self.catalog.use(package)

    # ---- reading, from any thread

    def get(self, doc: DocumentId, fields: Collection[str] | None = None) -> Row | None:
        """The stored document, or None; ``fields``: only these."""
        return self._tables(doc.type).find_row(self._reader(), str(doc), fields)

    def read(
        self, schema: str, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> list[StoredDocument | None]:
        """The documents ``lids`` in that order, None where there is none; ``fields``: only these."""
        rows = self._tables(schema).read(self._reader(), lids, fields)
        return [StoredDocument(str(row.id), row.fields) if (row := rows.get(lid)) else None for lid in lids]

    def scan(self, schema: str, after: int = -1, fields: Collection[str] | None = None) -> Iterator[Row]:
        """All documents of ``schema`` with a lid above ``after``, in lid order, read in short chunks."""
        tables = self._tables(schema)
        while rows := list(tables.scan(self._reader(), after, _SCAN, fields)):
            yield from rows
            after = rows[-1].lid

    def count(self, schema: str) -> int:
        """How many documents of ``schema`` there are."""
        return self._tables(schema).count(self._reader())

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
            batch, alone = self._take_batch(item)
            if batch:
                self._apply_batch(batch)
            if alone is not None and alone.function is not None:
                _resolve(alone.future, alone.function)

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
            with self._transaction():
                for item in batch:
                    self._apply(item)
        except (sqlite3.Error, OSError) as error:
            self._next_lid = next_lid
            self._fail(batch, _disk_error(error, self.path))
        except Exception as error:  # a bug met by one operation: it alone is told, and the writer lives on
            self._next_lid = next_lid
            if len(batch) > 1:
                for item in batch:
                    self._apply_batch([item])
                return
            log.exception("a document operation failed")
            self._fail(batch, StoreError(f"the operation failed: {type(error).__name__}: {error}"))
        for item in batch:
            self._show(item)
        with self._guard:
            self._waiting_bytes -= sum(item.size for item in batch)
        for item in batch:
            if item.error is None:
                item.future.set_result(None)
            else:
                item.future.set_exception(item.error)

    def _fail(self, batch: list[_Waiting], error: EngineError) -> None:
        """Nothing of ``batch`` was kept."""
        for item in batch:
            item.change, item.error = None, error

    def _apply(self, item: _Waiting) -> None:
        """Writes one operation; what is wrong with it is found before anything is written."""
        operation = item.operation
        item.change, item.error = None, None
        if operation is None:
            return
        try:
            tables = self._tables(operation.id.type)
            if item.schema is not None and not tables.accepts(item.schema):
                raise DocumentError("the application was redeployed meanwhile: send the operation again", status=503)
            if isinstance(operation, Remove):
                lid = operation.check(self._db, tables)
                if lid is not None:
                    tables.delete(self._db, lid)
                    item.change = (lid, None)
                return
            lid, fields = operation.resolve(self._db, tables)
        except EngineError as error:
            item.error = error
            return
        if fields is not None:
            new = lid is None
            lid = self._new_lid(tables) if lid is None else lid
            tables.write(self._db, lid, str(operation.id), fields, new)
            item.change = (lid, fields)

    def _new_lid(self, tables: SchemaTables) -> int:
        """A lid that no document had since the start, so that a search under way never reads another's fields."""
        name = tables.schema.name
        lid = self._next_lid[name] if name in self._next_lid else tables.next_lid(self._db)
        self._next_lid[name] = lid + 1
        return lid

    def _show(self, item: _Waiting) -> None:
        if self.sink is None or item.change is None or item.operation is None:
            return
        schema, (lid, fields) = item.operation.id.type, item.change
        try:
            if fields is None:
                self.sink.remove(schema, lid)
            else:
                self.sink.put(schema, lid, fields)
        except Exception as error:  # the document is durable: tell its feeder, and go on with the others
            log.exception("%s is stored but not indexed", item.operation.id)
            item.error = StoreError(f"{item.operation.id} is stored, but cannot be searched: {error}")

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
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # handed to whoever waits on the future
        future.set_exception(error)


def _disk_error(error: Exception, path: Path) -> EngineError:
    if "full" in str(error).lower() or "No space" in str(error):
        return DocumentError(f"no space left for {path}: free some, then feed again", status=507)
    return StoreError(f"writing to {path} failed: {error}")
