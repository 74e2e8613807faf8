"""Embedding shards: Parquet files with one embedded image a row, and a manifest that says what they belong
to.

A folder holds ``shard-00000.parquet`` and so on, each written beside its place and renamed into it, so that
a file that has its name is whole; and ``manifest.json`` (corpus, corpus root, model id, dimension, count).
Any Parquet reader opens them: ``embedding`` is ``fixed_size_list<float32>[dim]``, ``thumbnail`` is JPEG
bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.errors import ShardError
from clipsearch.records import Embedded, Record

MANIFEST = "manifest.json"
ROWS = 512
"""Rows in a shard: with thumbnails about 5 MB, and what a killed run has to do again at most."""

_READ = 256


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of shards belongs to.

    ``root``: the corpus folder, for reading full-size images; ``complete``: whether the last run got to its
    end.
    """

    corpus: str
    model_id: str
    dim: int
    count: int = 0
    root: str = ""
    complete: bool = False


def read_manifest(folder: Path) -> Manifest | None:
    """Return the folder's manifest, or None when there is none; ``ShardError`` when it is damaged."""
    path = folder / MANIFEST
    try:
        data = orjson.loads(path.read_bytes())
        return Manifest(**{field.name: data[field.name] for field in fields(Manifest) if field.name in data})
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError, TypeError) as error:
        raise ShardError(f"{path} is damaged ({error}); encode the corpus again with --overwrite") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one step."""
    _replace(folder / MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2) + b"\n")


def shard_files(folder: Path) -> list[Path]:
    """The folder's finished shards, in the order in which they were written."""
    return sorted(folder.glob("shard-*.parquet"))


class ShardWriter:
    """Collects rows and writes them as shards of ``rows`` rows; numbering goes on after the shards that are
    there.

    Use as a context manager: leaving it, even by an exception, writes the rows that were added.
    """

    def __init__(self, folder: Path, dim: int, *, rows: int = ROWS) -> None:
        self._folder = folder
        self._dim = dim
        self._rows = rows
        self._pending: list[Embedded] = []
        self._next = max((int(path.stem.split("-")[1]) for path in shard_files(folder)), default=-1) + 1

    def add(self, row: Embedded) -> None:
        """Add a row; writes a shard when enough rows have come together."""
        self._pending.append(row)
        if len(self._pending) >= self._rows:
            self.flush()

    def flush(self) -> None:
        """Write the collected rows as one shard, if there are any."""
        if self._pending:
            write_shard(self._folder / f"shard-{self._next:05d}.parquet", self._pending, self._dim)
            self._next += 1
            self._pending = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


class Shards:
    """A folder of shards, read row by row; memory does not grow with its size."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._files = shard_files(folder)
        self._count: int = sum(_open(path).metadata.num_rows for path in self._files)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Embedded]:
        for path in self._files:
            yield from read_shard(path, self.manifest.dim)


def open_shards(folder: str | Path) -> Shards:
    """Open a folder that ``clipsearch encode`` wrote; ``ShardError`` says what is wrong with it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ShardError(f"there is no folder {folder}: write it with 'clipsearch encode CORPUS --out {folder}'")
    manifest = read_manifest(folder)
    if manifest is None:
        raise ShardError(f"{folder} has no {MANIFEST}: it is not a folder that 'clipsearch encode' wrote")
    return Shards(folder, manifest)


def write_shard(path: Path, rows: Sequence[Embedded], dim: int) -> None:
    """Write rows as one Parquet file, whole or not at all. ``ShardError`` when an embedding is not
    ``(dim,)``."""
    records = [row.record for row in rows]
    vectors = np.asarray([np.asarray(row.embedding, dtype=np.float32) for row in rows])
    if vectors.shape != (len(rows), dim):
        raise ShardError(f"{path.name}: embeddings of shape {vectors.shape[1:]} do not fit dimension {dim}")
    columns: dict[str, Any] = {
        "id": [record.id for record in records],
        "corpus": [record.corpus for record in records],
        "key": [record.key for record in records],
        "uri": [record.uri for record in records],
        "captions": pa.array([list(record.captions) for record in records], pa.list_(pa.string())),
        "split": [record.split for record in records],
        "label": [record.label for record in records],
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "content_hash": [row.content_hash for row in rows],
        "model_id": [row.model_id for row in rows],
        "thumbnail": pa.array([row.thumbnail for row in rows], pa.binary()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), dim),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    _replace(path, sink.getvalue())


def read_shard(path: Path, dim: int) -> Iterator[Embedded]:
    """Yield the rows of one shard. ``ShardError`` when it is damaged or has another dimension than the
    manifest."""
    file = _open(path)
    found = file.schema_arrow.field("embedding").type
    if found != pa.list_(pa.float32(), dim):
        raise ShardError(f"{path} holds embeddings of type {found}, and the manifest says {dim} dimensions")
    try:
        for batch in file.iter_batches(batch_size=_READ):
            yield from _rows(batch, dim)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(_damaged(path, error)) from error


def read_columns(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of one shard as dictionaries, without reading the others."""
    try:
        rows: list[dict[str, Any]] = _open(path).read(columns=list(names)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ShardError(_damaged(path, error)) from error
    return rows


def _rows(batch: Any, dim: int) -> Iterable[Embedded]:
    vectors = batch.column("embedding").flatten().to_numpy().reshape(-1, dim)
    names = [name for name in batch.schema.names if name != "embedding"]
    for row, vector in zip(batch.select(names).to_pylist(), vectors, strict=True):
        record = Record(row["corpus"], row["key"], row["uri"], tuple(row["captions"]), row["split"], row["label"])
        yield Embedded(
            record, vector, row["thumbnail"], row["width"], row["height"], row["content_hash"], row["model_id"]
        )


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} cannot be read ({first_line}); delete it and run 'clipsearch encode' again"


def _replace(path: Path, data: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
