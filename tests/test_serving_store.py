"""The store: local ids, group commit, what the sink is shown, restarts, the folder's lock."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import STRING, music, opened, put, reopen, tensor

from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.operations import Modify, Put, Remove
from clipsearch.engine.documents.outcome import Outcome
from clipsearch.engine.documents.selection import compile_selection
from clipsearch.engine.documents.store import Change, DocumentStore
from clipsearch.engine.documents.updates import parse_update
from clipsearch.engine.index.cache import Position
from clipsearch.engine.tensors import parse_feed, parse_type, to_bytes
from clipsearch.errors import DocumentError, StoreError


class Recorder:
    """A sink that remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Any]] = []

    def show(self, schema: str, changes: Sequence[Change]) -> dict[int, Exception]:
        self.seen += [(lid, None if fields is None else dict(fields)) for lid, fields in changes]
        return {}

    def rest(self) -> None:
        """Nothing to keep."""


def test_documents_get_local_ids_in_feed_order_and_keep_them(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        sink = state.store.sink = Recorder()
        for done in [state.store.submit(put(n, year=n)) for n in range(5)]:
            done.result(10)
        state.store.submit(put(2, year=20)).result(10)
        state.store.submit(Remove(parse_id("id:space:music::3"))).result(10)
        assert sink.seen == [(n, {"year": n}) for n in range(5)] + [(2, {"year": 20}), (3, None)]


def test_a_local_id_is_not_given_again_while_a_search_may_still_read_by_it(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        sink = state.store.sink = Recorder()
        state.store.submit(put(1)).result(10)
        state.store.submit(Remove(parse_id("id:space:music::1"))).result(10)
        state.store.exclusive(lambda: state.store.save_package(music()))
        state.store.submit(put(2)).result(10)
        assert [lid for lid, _ in sink.seen] == [0, 0, 1]


def test_an_operation_read_before_a_redeploy_never_writes_a_value_of_the_old_type(tmp_path: Path) -> None:
    changed = music(year=STRING)
    with opened(tmp_path) as state:
        go_on = threading.Event()

        def redeploy() -> None:
            go_on.wait(10)
            state.store.save_package(changed)

        deployer = threading.Thread(target=state.store.exclusive, args=(redeploy,))
        deployer.start()
        answers: list[int] = []
        body = {"fields": {"year": 1985}}
        feeder = threading.Thread(target=lambda: answers.append(state.ask("POST", "/space/music/docid/1", body)[0]))
        feeder.start()
        while state.store._queue.empty() and feeder.is_alive():
            feeder.join(0.001)
        go_on.set()
        deployer.join()
        feeder.join()
        state.package = changed
        assert answers == [503]
        assert state.ask("GET", "/space/music/docid/1")[0] == 404
        assert state.ask("POST", "/space/music/docid/1", body)[0] == 200
        assert state.ask("GET", "/space/music/docid/1")[1]["fields"] == {"year": "1985"}


def test_what_is_acknowledged_is_shown_to_the_sink_before(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        sink = state.store.sink = Recorder()
        for number in range(50):
            state.store.submit(put(number)).result(10)
            assert sink.seen[-1][0] == number


def test_operations_that_wait_share_one_transaction(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        go_on = threading.Event()
        statements: list[str] = []
        holder = threading.Thread(target=state.store.exclusive, args=(lambda: go_on.wait(10),))
        holder.start()
        state.store._db.set_trace_callback(statements.append)
        waiting = [state.store.submit(put(n)) for n in range(100)]
        go_on.set()
        for done in waiting:
            done.result(10)
        holder.join()
        state.store._db.set_trace_callback(None)
        assert statements.count("COMMIT") <= 2


def test_a_refused_operation_leaves_its_neighbours_in_the_batch_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        operations = [put(1, year=1), Put(parse_id("id:space:house::2"), {}), put(3, year=3)]
        waiting = [state.store.submit(operation) for operation in operations]
        waiting[0].result(10)
        with pytest.raises(DocumentError, match="Document type house does not exist"):
            waiting[1].result(10)
        waiting[2].result(10)
        assert state.store.count("music") == 2


@pytest.mark.parametrize("seed", range(4))
def test_operations_of_one_transaction_leave_what_they_leave_one_after_the_other(tmp_path: Path, seed: int) -> None:
    random, model = np.random.default_rng(seed), dict[str, dict[str, Any]]()
    with opened(tmp_path) as state:
        sink = state.store.sink = Recorder()
        schema = state.package.schemas["music"]
        for _ in range(15):
            go_on = threading.Event()
            holder = threading.Thread(target=state.store.exclusive, args=(lambda event=go_on: event.wait(10),))
            holder.start()
            waiting: list[tuple[Outcome[None], bool]] = []
            for _ in range(int(random.integers(1, 60))):
                key, year = str(random.integers(0, 12)), int(random.integers(0, 9))
                doc = parse_id(f"id:space:music::{key}")
                only = compile_selection("music.year > 3", state.package.schemas) if random.random() < 0.3 else None
                met = only is None or model.get(key, {}).get("year", 0) > 3
                kind = random.random()
                if kind < 0.4:
                    fields = {"year": year} | ({"cover": bytes([year])} if random.random() < 0.5 else {})
                    waiting.append((state.store.submit(Put(doc, fields, only)), met))
                    if met:
                        model[key] = fields
                elif kind < 0.7:
                    waiting.append((state.store.submit(Remove(doc, only)), met))
                    if met:
                        model.pop(key, None)
                else:
                    update = parse_update(schema, {"year": {"increment": 1}}, str(doc))
                    waiting.append((state.store.submit(Modify(doc, update, only)), met))
                    if met and key in model:
                        model[key] = model[key] | {"year": model[key]["year"] + 1}
            before = state.store.position
            go_on.set()
            holder.join()
            assert [done.exception(10) is None for done, _ in waiting] == [met for _, met in waiting]
            assert {row.id.user: row.fields for row in state.store.scan("music")} == model
            lids = {row.lid: row.fields for row in state.store.scan("music")}
            seen = dict(sink.seen)  # the last of each lid
            assert {lid: fields for lid, fields in seen.items() if fields is not None} == lids
            written = {lid for lid, _ in sink.seen}
            changed = state.store.exclusive(lambda start=before: state.store.changed_since(start))
            assert changed is not None
            assert set(changed["music"]) <= written


def test_the_log_of_changes_knows_what_was_written_since_and_forgets_what_is_not_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        store = state.store
        positions = []
        for number in range(4):
            positions.append(store.position)
            store.submit(put(number)).result(10)
        store.submit(Remove(parse_id("id:space:music::1"))).result(10)
        since = [store.exclusive(lambda at=at: store.changed_since(at)) for at in positions]
        assert since == [{"music": [0, 1, 2, 3]}, {"music": [1, 2, 3]}, {"music": [2, 3, 1]}, {"music": [3, 1]}]
        assert store.exclusive(lambda: store.changed_since(Position(positions[2].number, 1))) is None
        store.exclusive(lambda: store.forget_changes(positions[2]))
        store.submit(put(4)).result(10)
        assert store.exclusive(lambda: store.changed_since(positions[1])) is None
        assert store.exclusive(lambda: store.changed_since(positions[2])) == {"music": [2, 3, 1, 4]}
        last = store.position
    store = reopen(tmp_path)
    try:
        assert store.position == last
        assert store.exclusive(lambda: store.changed_since(last)) == {"music": []}
    finally:
        store.close()


@pytest.mark.parametrize("cell", ["bfloat16", "float", "int8"])
@pytest.mark.parametrize("shape", ["x[4]", "x[2],y[2]", "p{},x[4]"])
def test_tensors_lie_in_the_store_as_to_bytes_writes_them(tmp_path: Path, cell: str, shape: str) -> None:
    kind = tensor(f"tensor<{cell}>({shape})")
    value = parse_feed({"a": [1.5, -2, 3, 4]} if "p" in shape else [1.5, -2, 3, 4], parse_type(str(kind)))
    with opened(tmp_path, music(embedding=kind)) as state:
        state.store.submit(put(1, embedding=value)).result(10)
        (table,) = state.store.catalog.tables["music"]._blobs.keys() & {"embedding"}
        name = state.store.catalog.tables["music"]._blobs[table]
        assert state.store._db.execute(f"SELECT data FROM {name}").fetchall() == [(to_bytes(value),)]
        assert next(state.store.scan("music")).fields == {"embedding": value}


def test_an_operation_that_meets_a_bug_fails_alone_and_the_writer_lives_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        """A value that cannot be stored."""

    with opened(tmp_path) as state:
        sink = state.store.sink = Recorder()
        go_on = threading.Event()
        holder = threading.Thread(target=state.store.exclusive, args=(lambda: go_on.wait(10),))
        holder.start()
        waiting = [state.store.submit(operation) for operation in (put(1), put(2, artist=Broken()), put(3))]
        go_on.set()
        holder.join()
        waiting[0].result(10)
        with caplog.at_level("ERROR"), pytest.raises(StoreError, match="TypeError"):
            waiting[1].result(10)
        waiting[2].result(10)
        assert [row.id.user for row in state.store.scan("music")] == ["1", "3"]
        assert [lid for lid, _ in sink.seen] == [0, 1]


def test_a_bug_in_keeping_house_does_not_stop_the_writer(tmp_path: Path) -> None:
    class Untidy:
        def show(self, schema: str, changes: Sequence[Change]) -> dict[int, Exception]:
            return {}

        def rest(self) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    with opened(tmp_path) as state:
        store = state.store
        store.sink = Untidy()
        for number in range(3):
            store.submit(put(number, artist="Coldplay")).result(10)
        assert store.count("music") == 3


@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_every_document_of_a_large_batch_is_written_as_it_was_fed(tmp_path: Path, count: int) -> None:
    with opened(tmp_path) as state:
        store = state.store
        held = threading.Event()
        waiter = threading.Thread(target=lambda: store.exclusive(held.wait))
        waiter.start()
        futures = [store.submit(put(number, artist=f"artist {number}")) for number in range(count)]
        held.set()
        waiter.join()
        for future in futures:
            future.result(10)
        rows = list(store.scan("music"))
        assert [row.fields["artist"] for row in rows] == [f"artist {number}" for number in range(count)]


def test_a_document_that_the_index_refuses_does_not_keep_others_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(Recorder):
        def show(self, schema: str, changes: Sequence[Change]) -> dict[int, Exception]:
            liked = [(lid, fields) for lid, fields in changes if not fields or fields.get("year") != 2]
            super().show(schema, liked)
            return {lid: DocumentError("I do not like 2") for lid, fields in changes if (lid, fields) not in liked}

    with opened(tmp_path) as state, caplog.at_level("ERROR"):
        sink = state.store.sink = Picky()
        waiting = [state.store.submit(put(n, year=n)) for n in range(5)]
        with pytest.raises(StoreError, match="id:space:music::2 is stored, but cannot be searched: I do not like 2"):
            waiting[2].result(10)
        waiting[4].result(10)
        assert [fields["year"] for _, fields in sink.seen] == [0, 1, 3, 4]


def test_bytes_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.engine.documents.store.MAX_WAITING_BYTES", 100)
    with opened(tmp_path) as state:
        go_on = threading.Event()
        holder = threading.Thread(target=state.store.exclusive, args=(lambda: go_on.wait(10),))
        holder.start()
        first = state.store.submit(put(1), size=80)
        with pytest.raises(DocumentError, match="overload") as caught:
            state.store.submit(put(2), size=30)
        assert caught.value.status == 429
        go_on.set()
        holder.join()
        first.result(10)
        state.store.submit(put(3), size=1000).result(10)  # a large one alone is never refused


def test_a_restart_finds_documents_tensors_and_the_application(tmp_path: Path) -> None:
    embedding = parse_feed([1, 2, 3], parse_type("tensor(x[3])"))
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1, cover=b"\x00\xff", embedding=embedding)).result(10)
        state.store.submit(put(2, year=2)).result(10)
        state.store.submit(put(1, year=10, embedding=embedding)).result(10)
    store = reopen(tmp_path)
    try:
        assert store.catalog.files == music().files
        first, second = store.scan("music")
        assert (first.lid, first.fields) == (0, {"year": 10, "embedding": embedding})
        assert (second.lid, second.fields) == (1, {"year": 2})
        documents = store.read("music", [1, 7, 0], fields=["year"])
        assert documents[1] is None
        assert [document.fields for document in documents if document] == [{"year": 2}, {"year": 10}]
    finally:
        store.close()


def test_a_folder_is_used_by_one_engine_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StoreError, match=rf"another engine \(pid {os.getpid()}\) uses .*--data"):
        DocumentStore(tmp_path)
    reopen(tmp_path).close()


def test_a_closed_store_refuses_operations(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        pass
    with pytest.raises(StoreError, match="stopping"):
        state.store.submit(put(1))
