"""Shards keep every row and number, are whole or not there, and say what they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsearch.errors import ShardError
from clipsearch.records import Embedded, Record
from clipsearch.shards import (
    Manifest,
    ShardWriter,
    open_shards,
    read_manifest,
    shard_files,
    write_manifest,
    write_shard,
)  # fmt: skip

DIM = 8


def row(number: int, dim: int = DIM) -> Embedded:
    rng = np.random.default_rng(number)
    vector = rng.standard_normal(dim).astype(np.float32)
    record = Record("c", f"{number}.jpg", f"images/{number}.jpg", ("one é", "two")[: number % 3], "test", "pond")
    return Embedded(record, vector / np.linalg.norm(vector), b"\xff\xd8" + bytes([number % 256]), 40, 30, "ab", "m-1")


def folder(root: Path, count: int, rows: int = 10) -> Path:
    root.mkdir(exist_ok=True)
    with ShardWriter(root, DIM, rows=rows) as writer:
        for number in range(count):
            writer.add(row(number))
    write_manifest(root, Manifest("c", "m-1", DIM, count, "/corpus", complete=True))
    return root


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    shards = open_shards(folder(tmp_path / "s", 25))
    assert len(shards) == 25
    assert len(shard_files(tmp_path / "s")) == 3
    for number, (found, wanted) in enumerate(zip(shards, map(row, range(25)), strict=True)):
        assert found.record == wanted.record, number
        np.testing.assert_array_equal(found.embedding, wanted.embedding)
        assert found.embedding.dtype == np.float32
        assert (found.thumbnail, found.width, found.height) == (wanted.thumbnail, 40, 30)
        assert (found.content_hash, found.model_id) == ("ab", "m-1")


def test_shards_can_be_read_twice(tmp_path: Path) -> None:
    shards = open_shards(folder(tmp_path / "s", 300, rows=300))
    assert [item.record.key for item in shards] == [item.record.key for item in shards]


def test_any_parquet_reader_sees_the_documented_columns(tmp_path: Path) -> None:
    schema = pq.read_schema(shard_files(folder(tmp_path / "s", 3))[0])
    assert str(schema.field("embedding").type) == f"fixed_size_list<element: float>[{DIM}]"
    assert {"id", "corpus", "key", "uri", "captions", "split", "label", "content_hash"} <= set(schema.names)


def test_the_manifest_says_what_the_shards_belong_to(tmp_path: Path) -> None:
    manifest = open_shards(folder(tmp_path / "s", 2)).manifest
    assert manifest == Manifest("c", "m-1", DIM, 2, "/corpus", True)


def test_an_unknown_field_of_a_later_version_does_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"corpus": "c", "model_id": "m", "dim": 3, "new": 1}')
    assert read_manifest(tmp_path) == Manifest("c", "m", 3)


def test_a_writer_goes_on_after_the_shards_that_are_there(tmp_path: Path) -> None:
    folder(tmp_path / "s", 10)
    folder(tmp_path / "s", 5)
    assert [path.name for path in shard_files(tmp_path / "s")] == ["shard-00000.parquet", "shard-00001.parquet"]


def test_rows_are_written_even_when_the_run_is_interrupted(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, DIM) as writer:
            writer.add(row(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(shard_files(tmp_path)) == 1


def test_a_row_of_another_dimension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="do not fit dimension 8"):
        write_shard(tmp_path / "shard-00000.parquet", [row(0, dim=4)], DIM)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_or_something_else_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="clipsearch encode"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        open_shards(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = shard_files(folder(tmp_path / "s", 30, rows=30))[0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"shard-00000\.parquet cannot be read"):
        open_shards(tmp_path / "s")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        open_shards(tmp_path)


def test_shards_of_another_dimension_than_the_manifest_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "s", 2)
    write_manifest(tmp_path / "s", Manifest("c", "m-1", 16, 2))
    with pytest.raises(ShardError, match="16 dimensions"):
        list(open_shards(tmp_path / "s"))


def test_a_vector_with_gaps_is_a_damaged_shard_and_no_wrong_numbers(tmp_path: Path) -> None:
    root = folder(tmp_path / "out", 3)
    (path,) = shard_files(root)
    table = pq.read_table(path)
    numbers = table.column("embedding").combine_chunks().flatten().to_pylist()
    numbers[DIM + 1] = None
    gaps = pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float32()), DIM)
    at = table.schema.get_field_index("embedding")
    pq.write_table(table.set_column(at, "embedding", gaps), path)
    with pytest.raises(ShardError, match="1 gaps"):
        list(open_shards(root))
