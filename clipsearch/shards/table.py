"""Embedded images as columns, and columns as embedded images: the one place that knows a shard's layout.

``embedding`` is ``fixed_size_list<float32>[dim]``, ``thumbnail`` JPEG bytes. On demand: ``patches``
``list<fixed_size_list<float32>[dim]>`` with ``patch_boxes`` ``list<fixed_size_list<int32>[4]>`` (left, top, right,
bottom in px of the upright image), and ``caption_embeddings``, one vector a caption. ``latitude`` and ``longitude``
are there when an image of the shard has a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipsearch.errors import ShardError
from clipsearch.records import Embedded, Record
from clipsearch.shards.files import replace_file

_READ = 256


def to_table(rows: Sequence[Embedded], dim: int, name: str) -> Any:
    """Rows as an Arrow table; ``ShardError`` names ``name`` when an embedding is not ``(dim,)``."""
    records = [row.record for row in rows]
    vectors = np.asarray([np.asarray(row.embedding, dtype=np.float32) for row in rows])
    if vectors.shape != (len(rows), dim):
        raise ShardError(f"{name}: embeddings of shape {vectors.shape[1:]} do not fit dimension {dim}")
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
    if any(record.latitude is not None for record in records):
        for name_of in ("latitude", "longitude"):
            columns[name_of] = pa.array([getattr(record, name_of) for record in records], pa.float64())
    if any(row.patches is not None for row in rows):
        columns["patches"] = _lists([row.patches for row in rows], dim, np.float32, name)
        columns["patch_boxes"] = _lists([row.boxes for row in rows], 4, np.int32, name)
    if any(row.texts is not None for row in rows):
        columns["caption_embeddings"] = _lists([row.texts for row in rows], dim, np.float32, name)
    return pa.table(columns)


def _lists(parts: Sequence[Any], width: int, kind: type[Any], name: str) -> Any:
    """One list of fixed-size vectors a row, from (n, width) arrays; None counts as no vector."""
    arrays = [np.zeros((0, width), kind) if part is None else np.asarray(part, kind) for part in parts]
    wrong = [array.shape for array in arrays if array.ndim != 2 or array.shape[1] != width]
    if wrong:
        raise ShardError(f"{name}: vectors of shape {wrong[0]} do not fit dimension {width}")
    offsets = np.cumsum([0, *(len(array) for array in arrays)]).astype(np.int32)
    flat = pa.array(np.concatenate(arrays).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.FixedSizeListArray.from_arrays(flat, width))


def write_shard(path: Path, rows: Sequence[Embedded], dim: int) -> None:
    """Write rows as one Parquet file, whole or not at all. ``ShardError`` when an embedding is not
    ``(dim,)``."""
    table = to_table(rows, dim, path.name)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    replace_file(path, sink.getvalue())


def read_shard(path: Path, dim: int) -> Iterator[Embedded]:
    """Yield the rows of one shard. ``ShardError`` when it is damaged or has another dimension than the
    manifest."""
    file = open_parquet(path)
    found = file.schema_arrow.field("embedding").type
    if found != pa.list_(pa.float32(), dim):
        raise ShardError(f"{path} holds embeddings of type {found}, and the manifest says {dim} dimensions")
    try:
        for batch in file.iter_batches(batch_size=_READ):
            yield from rows_of(batch, dim)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(_damaged(path, error)) from error


def read_columns(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of one shard as dictionaries, without reading the others."""
    try:
        rows: list[dict[str, Any]] = open_parquet(path).read(columns=list(names)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ShardError(_damaged(path, error)) from error
    return rows


@dataclass(frozen=True, slots=True)
class Facts:
    """What a row says without its vectors. ``size``: width and height in px; ``boxes``: (P, 4), if they were read."""

    record: Record
    content_hash: str
    size: tuple[int, int]
    boxes: NDArray[np.int32] | None = None


RECORD_COLUMNS = ("corpus", "key", "uri", "captions", "split", "label", "latitude", "longitude")


def read_facts(path: Path, boxes: bool = False) -> Iterator[Facts]:
    """The rows of one shard without embeddings and thumbnails; with ``boxes``, where their patches lie."""
    names = (*RECORD_COLUMNS, "content_hash", "width", "height", *(["patch_boxes"] if boxes else []))
    for row in read_columns(path, names):
        found = np.asarray(row.get("patch_boxes") or (), np.int32).reshape(-1, 4) if boxes else None
        yield Facts(record_of(row), row["content_hash"], (row["width"], row["height"]), found)


def record_of(row: Mapping[str, Any]) -> Record:
    """The record in a row of ``RECORD_COLUMNS``; shards without places lack the last two."""
    return Record(
        row["corpus"], row["key"], row["uri"], tuple(row["captions"]), row["split"], row["label"],
        row.get("latitude"), row.get("longitude"),
    )  # fmt: skip


def rows_of(batch: Any, dim: int) -> Iterable[Embedded]:
    """The rows of a record batch with a shard's columns."""
    vectors = _numbers(batch.column("embedding").flatten(), np.float32).reshape(-1, dim)
    patches = _arrays(batch, "patches", dim)
    boxes = _arrays(batch, "patch_boxes", 4)
    texts = _arrays(batch, "caption_embeddings", dim)

    def columns(*names: str) -> Iterator[tuple[Any, ...]]:  # rows as dictionaries would cost twice as much
        return zip(*(batch.column(name).to_pylist() for name in names), strict=True)

    held = [name for name in RECORD_COLUMNS if name in batch.schema.names]
    records = columns(*held)
    others = columns("thumbnail", "width", "height", "content_hash", "model_id")
    for number, (record, other, vector) in enumerate(zip(records, others, vectors, strict=True)):
        corpus, key, uri, captions, split, label, *place = record
        thumbnail, width, height, content_hash, model_id = other
        yield Embedded(
            Record(corpus, key, uri, tuple(captions), split, label, *place), vector,
            thumbnail, width, height, content_hash, model_id,
            patches[number] if patches else None, boxes[number] if boxes else None, texts[number] if texts else None,
        )  # fmt: skip


def _arrays(batch: Any, name: str, width: int) -> list[NDArray[Any]]:
    """A column of lists of vectors as one (n, width) array a row; an empty list when there is no such column."""
    if name not in batch.schema.names:
        return []
    column = batch.column(name)
    flat = _numbers(column.flatten().flatten(), np.int32 if name == "patch_boxes" else np.float32).reshape(-1, width)
    ends = np.cumsum(_numbers(column.value_lengths(), np.int32))
    return [flat[end - count : end] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]


def _numbers(array: Any, kind: type[Any]) -> NDArray[Any]:
    """An Arrow array as it lies in memory.

    Its own ``to_numpy`` imports pandas where that is installed: half a second of each command that reads shards.
    """
    if array.null_count or array.type != pa.from_numpy_dtype(kind):
        raise pa.ArrowInvalid(f"a column of vectors has {array.null_count} gaps and numbers of type {array.type}")
    if not len(array):
        return np.zeros(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * np.dtype(kind).itemsize)


def open_parquet(path: Path) -> Any:
    """Open a shard; ``ShardError`` when it is damaged."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} cannot be read ({first_line}); delete it and run 'clipsearch encode' again"
