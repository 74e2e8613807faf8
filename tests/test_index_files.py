"""Indexes on disk: what is saved comes back, whatever fails in between, and damage is noticed and told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from query_support import make_schema
from test_index_index import WORDS, check, random_document

from clipsearch.engine.index import Index
from clipsearch.engine.index import index as index_module
from clipsearch.engine.index.cache import MANIFEST, IndexCache, Position
from clipsearch.engine.index.columns import StringColumn, make_column
from clipsearch.engine.index.files import GenerationFiles
from clipsearch.engine.index.words import Words
from clipsearch.engine.package.model import Field, FieldType

Model = dict[int, dict[str, Any]]
STRING = FieldType("string")


class Disk:
    """An index, its model and the cache that they are saved in."""

    def __init__(self, folder: Path, seed: int = 5) -> None:
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.index, self.model, self.number = Index(make_schema(), True), dict[int, dict[str, Any]](), 0
        self.cache = IndexCache(folder)

    def change(self, count: int = 40) -> None:
        for _ in range(count):
            lid = int(self.random.integers(0, 50))
            if self.random.random() < 0.3:
                self.index.remove(lid)
                self.model.pop(lid, None)
            else:
                self.model[lid] = random_document(self.random)
                self.index.put(lid, self.model[lid])

    def save(self) -> None:
        self.number += 1
        self.cache.save({"image": (self.index, "s")}, Position(self.number, self.number * 7))


def restored(folder: Path, signature: str = "s") -> tuple[IndexCache, Index | None]:
    cache, index = IndexCache(folder), Index(make_schema(), True)
    return cache, index if cache.restore(index, signature) else None


@pytest.mark.parametrize("compact_at", [5, 10**9])
def test_what_was_saved_comes_back_after_any_puts_updates_and_removals(
    tmp_path: Path, compact_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "COMPACT_AT_DEAD_ROWS", compact_at)
    disk = Disk(tmp_path)
    disk.save()
    for step in range(12):
        disk.change()
        disk.save()
        cache, index = restored(tmp_path)
        assert cache.position == Position(disk.number, disk.number * 7)
        assert index is not None
        check(index, disk.model)
        if step % 4 == 3:  # go on with what was restored, as after a restart
            disk.index, disk.cache = index, cache
    assert len(list((tmp_path / "index").iterdir())) == 2  # one generation, and the manifest


def test_what_an_interrupted_writer_left_behind_the_recorded_length_is_not_read(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.change()
    disk.save()
    for path in tmp_path.glob("index/*/*"):
        with path.open("ab") as file:
            file.write(b"left" * 3)
    disk.cache, index = restored(tmp_path)
    assert index is not None
    check(index, disk.model)
    disk.index = index
    disk.change()
    disk.save()
    index = restored(tmp_path)[1]
    assert index is not None
    check(index, disk.model)


def test_an_index_of_another_signature_is_not_taken(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.change()
    disk.save()
    assert restored(tmp_path, "other")[1] is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flipped", "missing"])
def test_a_damaged_file_is_told_and_the_index_not_taken(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(tmp_path)
    disk.change()
    disk.save()
    files = [path for path in tmp_path.glob("index/*/*") if path.stat().st_size]
    assert len(files) > 10
    for path in files:
        whole = path.read_bytes()
        damage(path)
        caplog.clear()
        assert restored(tmp_path)[1] is None, path
        assert "is built from the documents" in caplog.text
        path.write_bytes(whole)
    assert restored(tmp_path)[1] is not None


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "empty"])
def test_a_damaged_manifest_is_told_and_replaced(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(tmp_path)
    disk.change()
    disk.save()
    damage(tmp_path / "index" / MANIFEST)
    cache, index = restored(tmp_path)
    assert (cache.position, index) == (None, None)
    assert "manifest cannot be used, the index is built from the documents" in caplog.text
    disk.cache, disk.index = cache, Index(make_schema(), True)
    disk.index.put_many(list(disk.model.items()))
    disk.save()
    index = restored(tmp_path)[1]
    assert index is not None
    check(index, disk.model)


class Faults:
    """Makes call number ``at`` of those that change files fail with ENOSPC; 0: none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = self.calls = 0
        for module, name in ((os, "pwrite"), (os, "fsync"), (os, "open"), (os, "ftruncate"), (Path, "rename")):
            monkeypatch.setattr(module, name, self._failing(getattr(module, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        return call


def test_a_disk_that_fails_at_any_call_leaves_the_old_index_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: Callable[[int, int], int]
) -> None:
    disk = Disk(tmp_path)
    disk.change()
    disk.save()
    faults = Faults(monkeypatch)
    for at in range(1, 500, rounds(3, 1)):
        before, old = dict(disk.model), Position(disk.number, disk.number * 7)
        disk.change(10)
        faults.calls, faults.at = 0, at
        try:
            disk.save()
            failed = False
        except OSError:
            failed = True
        calls, faults.at = faults.calls, 0
        if failed:
            cache, index = restored(tmp_path)
            assert index is not None
            check(index, before if cache.position == old else disk.model)
            disk.save()  # the disk works again
        cache, index = restored(tmp_path)
        assert index is not None
        check(index, disk.model)
        if at % 2 == 0:  # go on as after a restart
            disk.index, disk.cache = index, cache
        if not failed and calls < at:
            assert at > 30
            return
    raise AssertionError("every call failed")


def test_words_have_the_codes_of_a_dictionary_however_they_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.engine.index.words.RECENT", 8)
    random = np.random.default_rng(3)
    for cased in (True, False):
        words, model = Words(cased), dict[str, int]()
        files = GenerationFiles(tmp_path / str(cased))
        for step in range(30):
            size = int(random.integers(1, 60))
            texts = [str(random.choice(["Mixed", "ß", "\N{GRINNING FACE}", ""])) + str(n % 90) for n in range(size)]
            texts = [text.upper() if random.random() < 0.3 else text for text in texts]
            for text in texts:
                model.setdefault(text, len(model))
            assert words.codes(texts).tolist() == [model[text] for text in texts]
            if step % 7 == 6:
                words.save(files.part("w"))
                files.flush(step)
                words = Words(cased)
                words.restore(files.part("w"))
        assert list(words) == list(model)
        for text in model:
            assert words.find(words.key(text)) == [
                code for held, code in model.items() if words.key(held) == words.key(text)
            ]
        assert list(words.pairs()) == [(words.key(text), code) for text, code in model.items()]
        assert words.find("nowhere") == []


def test_a_column_of_codes_without_strings_is_refused(tmp_path: Path) -> None:
    column = make_column(Field("f", STRING, attribute=True))
    assert isinstance(column, StringColumn)
    column.extend(0, WORDS)
    files = GenerationFiles(tmp_path)
    column.save(files.part("f"))
    files.part("f").append("codes", np.array([99], np.int32))
    files.flush(1)
    with pytest.raises(ValueError, match="codes without a string"):
        make_column(Field("f", STRING, attribute=True)).restore(files.part("f"), len(WORDS) + 1)
