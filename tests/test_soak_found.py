"""What the soak tests found, one small test each."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest
import soak_app
from soak_scenario import PACKAGES, PREPARE

from clipsearch.engine.documents import lock
from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request
from clipsearch.engine.package import write_zip

PATH = "/document/v1/n/note/docid/1"


def ask(engine: Engine, method: str, fields: Any = None) -> tuple[int, Any]:
    body = b"" if fields is None else orjson.dumps({"fields": fields})
    answer = engine.container.handle(Request(method, PATH, (), {}, body))
    assert isinstance(answer.body, bytes)
    return answer.status, orjson.loads(answer.body)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return soak_app.write_app(tmp_path / "app", PACKAGES[0])


def test_a_cell_of_a_mapped_tensor_is_modified_also_after_a_restart(tmp_path: Path, app: Path) -> None:
    engine = Engine(tmp_path / "data", app)
    assert ask(engine, "POST", {"parts": {"cells": {"a": 2, "b": 3}}})[0] == 200
    engine.close()
    engine = Engine(tmp_path / "data")
    change = {"modify": {"operation": "multiply", "cells": {"a": 5}}}
    assert ask(engine, "PUT", {"parts": change}) == (200, {"pathId": PATH, "id": "id:n:note::1"})
    assert ask(engine, "GET")[1]["fields"]["parts"]["cells"] == {"a": 10.0, "b": 3.0}
    engine.close()


def test_a_mapped_tensor_without_cells_is_stored_and_indexed(tmp_path: Path, app: Path) -> None:
    engine = Engine(tmp_path / "data", app)
    assert ask(engine, "POST", {"parts": {}, "number": 1})[0] == 200
    assert ask(engine, "GET")[1]["fields"]["number"] == 1
    engine.close()


def test_a_deploy_that_the_disk_refuses_is_answered_with_a_sentence(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tmp_path / "data", app)

    def full(_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(engine.store.catalog, "save", full)
    request = Request("POST", PREPARE, (), {"content-type": "application/zip"}, write_zip(PACKAGES[1]))
    answer = engine.deploy.handle(request)
    assert answer.status == 507
    assert isinstance(answer.body, bytes)
    assert "no space left" in orjson.loads(answer.body)["message"]
    monkeypatch.undo()
    assert engine.deploy.handle(request).status == 200
    engine.close()


def test_an_engine_starts_on_a_full_disk_whose_lock_file_cannot_name_it(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "ftruncate", full)
    held = lock.FolderLock(tmp_path / "a" / "b")
    monkeypatch.undo()
    held.release()
