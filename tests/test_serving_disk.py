"""The store and its disk: damaged files, a disk that is full or fails, kill -9."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import opened, put, reopen

from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.store import FILE, DocumentStore
from clipsearch.errors import DocumentError, StoreError

TESTS = Path(__file__).resolve().parent


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 1000)
    with pytest.raises(StoreError, match=rf"{FILE} cannot be used.*empty --data folder"):
        DocumentStore(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    db.close()
    with pytest.raises(StoreError, match="format 99"):
        DocumentStore(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="--data"):
        DocumentStore(tmp_path / "file" / "data")


def test_a_full_disk_fails_the_batch_with_507_and_the_store_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1)).result(10)
        (pages,) = state.store._db.execute("PRAGMA page_count").fetchone()
        state.store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DocumentError, match="no space left") as caught:
            state.store.submit(put(2, cover=bytes(100_000))).result(10)
        assert caught.value.status == 507
        state.store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
        state.store.submit(put(3, year=3)).result(10)
        assert [row.lid for row in state.store.scan("music")] == [0, 1]


class FailingDisk:
    """A connection whose next statement that starts with ``start`` fails as a disk does."""

    def __init__(self, db: sqlite3.Connection, start: str, error: sqlite3.Error, rolls_back: bool = True) -> None:
        self._db, self._start, self._error = db, start, error
        self._rolls_back = rolls_back

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def _fail(self, sql: str) -> None:
        if sql.startswith("ROLLBACK") and not self._rolls_back:
            self._rolls_back = True
            raise sqlite3.OperationalError("disk I/O error")
        if self._start and sql.startswith(self._start):
            self._start = ""
            raise self._error

    def execute(self, sql: str, *values: Any) -> Any:
        self._fail(sql)
        return self._db.execute(sql, *values)

    def executemany(self, sql: str, *values: Any) -> Any:
        self._fail(sql)
        return self._db.executemany(sql, *values)


@pytest.mark.parametrize("start", ["BEGIN", "SELECT", "INSERT INTO doc", "INSERT INTO changes", "COMMIT"])
@pytest.mark.parametrize(("message", "status"), [("disk I/O error", None), ("database or disk is full", 507)])
@pytest.mark.parametrize("rolls_back", [True, False])
def test_a_disk_error_fails_the_batch_with_what_to_do_and_the_next_one_works(
    tmp_path: Path, start: str, message: str, status: int | None, rolls_back: bool
) -> None:
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1)).result(10)
        real, position = state.store._db, state.store.position
        state.store._db = FailingDisk(real, start, sqlite3.OperationalError(message), rolls_back)  # type: ignore[assignment]
        failed = state.store.submit(put(2, year=2)).exception(10)
        if status is None:
            assert isinstance(failed, StoreError)
            assert "has space and works, and try again: nothing was changed" in str(failed)
        else:
            assert isinstance(failed, DocumentError)
            assert failed.status == status
        assert state.store.position == position
        state.store.submit(put(3, year=3)).result(10)
        assert [row.lid for row in state.store.scan("music")] == [0, 1]
        assert state.store.exclusive(lambda: state.store.changed_since(position)) == {"music": [1]}


def test_a_disk_error_after_the_folder_is_gone_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> Any:
        raise FileNotFoundError(path)

    with opened(tmp_path) as state:
        real = state.store._db
        state.store._db = FailingDisk(real, "COMMIT", sqlite3.OperationalError("disk I/O error"))  # type: ignore[assignment]
        monkeypatch.setattr("clipsearch.engine.documents.store.shutil.disk_usage", gone)
        assert isinstance(state.store.submit(put(1, year=1)).exception(10), StoreError)
        state.store.submit(put(2, year=2)).result(10)


def test_a_read_that_the_disk_fails_says_what_to_do(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1)).result(10)
        state.store._local.db = FailingDisk(state.store._reader(), "SELECT", sqlite3.OperationalError("disk I/O error"))
        with pytest.raises(StoreError, match=r"reading from .* failed: disk I/O error. See that its disk"):
            state.store.get(parse_id("id:space:music::1"))
        assert state.store.get(parse_id("id:space:music::1")) is not None


KILLED = """
import sys, threading
from pathlib import Path
from serving import State, put
state = State(Path(sys.argv[1]))
def feed(worker):
    for n in range(100_000):
        number = n * 4 + worker
        state.store.submit(put(number, year=number, cover=bytes(2000))).result()
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
for worker in range(4):
    threading.Thread(target=feed, args=(worker,)).start()
"""


def test_every_acknowledged_document_survives_kill_9_in_the_middle_of_concurrent_puts(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=TESTS, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().splitlines(keepends=True)
    process.wait(10)
    process.stdout.close()
    numbers = {int(line) for line in acknowledged if line.endswith("\n")}
    assert len(numbers) >= 300
    store = reopen(tmp_path)
    try:
        stored = {int(row.id.user): row for row in store.scan("music")}
        assert numbers <= stored.keys()
        assert len(stored) <= len(numbers) + 4  # at most one operation of each worker was not acknowledged
        assert all(row.fields == {"year": n, "cover": bytes(2000)} for n, row in stored.items())
        assert [row.lid for row in stored.values()] == list(range(len(stored)))
    finally:
        store.close()
