"""Parquet and Arrow files with images in a column: light columns batch by batch, one image at a time.

Nothing here holds more than a bounded number of images: a Parquet file is decoded forwards in small blocks, of which
the last ones used are kept; an Arrow file is mapped into memory and its pages come and go with the system's cache.
Reading images in the order of the file, which is what training, encoding and evaluation do, decodes each block once.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.corpora.blocks import BlockCache
from clipsearch.errors import CorpusError, ImageError

BROKEN = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises on damaged files."""

_BLOCK_BYTES = 4 * 1024 * 1024
_BLOCK_ROWS = 512
_LIGHT_ROWS = 8192
_CURSORS = 4


class Table(Protocol):
    """An open table. ``schema``: pyarrow's; ``rows``: how many there are."""

    schema: Any
    rows: int

    def batches(self, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the first row, record batch) of the columns, which may be fields (``image.path``); what
        cannot be read goes into ``problems``, and the rest is yielded."""
        ...

    def without_image(self, column: str) -> list[int] | None:
        """Rows whose image is null, where that can be told without reading images; else None."""
        ...

    def image(self, column: str, row: int) -> bytes:
        """The bytes of one image; ``ImageError`` says why there are none. Thread-safe."""
        ...


def open_table(path: Path, name: str, blocks: BlockCache) -> Table:
    """Open a Parquet or Arrow file; raises ``CorpusError`` when it is neither, or damaged."""
    try:
        table: Table = ParquetTable(path, name, blocks) if path.suffix.lower() == ".parquet" else ArrowTable(path, name)
        _ = [
            (item.name, str(item.type)) for item in table.schema
        ]  # a damaged name is noticed here, and not by whoever reads it first
        return table
    except BROKEN as error:
        kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
        raise CorpusError(f"{path} is not a readable {kind} file: {_one_line(error)}") from error


class ParquetTable:
    """A Parquet file, read through a memory map: row groups of any size cost a block of memory, not their own size."""

    def __init__(self, path: Path, name: str, blocks: BlockCache) -> None:
        self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        self._name = name
        self._blocks = blocks
        self.schema = self._file.schema_arrow
        meta = self._file.metadata
        self.rows: int = meta.num_rows
        sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        self._starts = [0, *accumulate(sizes)]
        self._leaves = [meta.schema.column(number).path for number in range(meta.num_columns)]
        self._cursors: dict[tuple[str, int], _Cursor] = {}
        self._lock = threading.Lock()

    def batches(self, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield light columns, row group by row group."""
        for group, start in enumerate(self._starts[:-1]):
            row = start
            try:
                for batch in self._file.iter_batches(_LIGHT_ROWS, [group], list(columns), use_threads=False):
                    yield row, batch
                    row += batch.num_rows
            except BROKEN as error:
                problems.append(f"rows {row} to {self._starts[group + 1] - 1} cannot be read: {_one_line(error)}")

    def without_image(self, column: str) -> list[int] | None:
        """Null images by the file's own statistics; only row groups that have some are read."""
        leaf = _leaf(self.schema, column)
        number = self._leaves.index(leaf) if leaf in self._leaves else -1
        if number < 0:
            return None
        found: list[int] = []
        for group, start in enumerate(self._starts[:-1]):
            statistics = self._file.metadata.row_group(group).column(number).statistics
            if statistics is None or not statistics.has_null_count:
                return None
            if statistics.null_count:
                found += self._nulls(column, leaf, group, start)
        return found

    def image(self, column: str, row: int) -> bytes:
        """One image, out of the block that holds it."""
        group = bisect.bisect_right(self._starts, row) - 1
        if not 0 <= row < self.rows:
            raise ImageError(f"{self._name} has no row {row}")
        if column not in self.schema.names:
            raise ImageError(f"{self._name} has no column {column}")
        try:
            with self._lock:
                block, first = self._cursor(column, group).block(row - self._starts[group])
            return _bytes_of(block[row - self._starts[group] - first], self._name, row)
        except BROKEN as error:
            raise ImageError(f"row {row} of {self._name} cannot be read: {_one_line(error)}") from error

    def _nulls(self, column: str, leaf: str, group: int, start: int) -> list[int]:
        found, row = [], start
        for batch in self._file.iter_batches(self._block_rows(leaf, group), [group], [leaf], use_threads=False):
            nulls = _bytes_array(batch.column(column)).is_null()
            found += [row + position for position, null in enumerate(nulls.to_pylist()) if null]
            row += batch.num_rows
        return found

    def _cursor(self, column: str, group: int) -> _Cursor:
        cursor = self._cursors.pop((column, group), None)
        if cursor is None:
            rows = self._block_rows(_leaf(self.schema, column), group)
            cursor = _Cursor(self._file, self._name, column, group, rows, self._blocks)
            while len(self._cursors) >= _CURSORS:
                del self._cursors[next(iter(self._cursors))]
        self._cursors[column, group] = cursor
        return cursor

    def _block_rows(self, leaf: str, group: int) -> int:
        meta = self._file.metadata.row_group(group)
        number = self._leaves.index(leaf) if leaf in self._leaves else -1
        size = meta.column(number).total_uncompressed_size if number >= 0 else meta.total_byte_size
        return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES * int(meta.num_rows) // max(1, int(size))))


class _Cursor:
    """Decodes the image column of one row group forwards, block by block; goes back by starting again."""

    def __init__(self, file: Any, name: str, column: str, group: int, rows: int, blocks: BlockCache) -> None:
        self._file, self._column, self._group, self._rows, self._blocks = file, column, group, rows, blocks
        self._leaf = _leaf(file.schema_arrow, column)
        self._key = (name, column, group)
        self._starts: list[int] = []
        self._batches: Iterator[Any] = iter(())
        self._next = -1  # first row of the batch that the iterator gives next; -1: not started

    def block(self, row: int) -> tuple[Any, int]:
        """The block that holds ``row`` of the row group, and the number of its first row."""
        known = bisect.bisect_right(self._starts, row) - 1
        if known >= 0:
            start = self._starts[known]
            block = self._blocks.get((*self._key, start))
            if block is not None and row < start + len(block):
                return block, start
        if self._next < 0 or row < self._next:
            self._batches = self._file.iter_batches(self._rows, [self._group], [self._leaf], use_threads=False)
            self._next = 0
        while True:
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError("the file ends early")
            start, block = self._next, _bytes_array(batch.column(self._column))
            self._next += len(block)
            if not self._starts or start > self._starts[-1]:
                self._starts.append(start)
            self._blocks.put((*self._key, start), block, batch.nbytes)
            if row < self._next:
                return block, start


class ArrowTable:
    """An Arrow IPC file or stream, as Hugging Face ``datasets`` saves them, mapped into memory."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        source = pa.memory_map(str(path), "rb")
        self._problems: list[str] = []
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            source.seek(0)
            reader = pa.ipc.open_stream(source)
            batches = iter(reader)
        self._batches = list(self._whole(batches))
        self.schema = reader.schema
        self._starts = [0, *accumulate(batch.num_rows for batch in self._batches)]
        self.rows = self._starts[-1]

    def batches(self, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield light columns; fields of a struct come as the whole struct, which costs nothing here."""
        problems += self._problems
        names = list(dict.fromkeys(column if column in self.schema.names else _parent(column) for column in columns))
        for start, batch in zip(self._starts, self._batches, strict=False):
            for offset in range(0, batch.num_rows, _LIGHT_ROWS):
                yield start + offset, batch.slice(offset, _LIGHT_ROWS).select(names)

    def without_image(self, column: str) -> list[int] | None:
        """Null images: the bitmap of nulls is read, and no image."""
        found: list[int] = []
        for start, batch in zip(self._starts, self._batches, strict=False):
            images = _bytes_array(batch.column(column))
            if images.null_count:
                found += [start + position for position, null in enumerate(images.is_null().to_pylist()) if null]
        return found

    def image(self, column: str, row: int) -> bytes:
        """One image, copied out of the mapped file."""
        if not 0 <= row < self.rows:
            raise ImageError(f"{self._name} has no row {row}")
        if column not in self.schema.names:
            raise ImageError(f"{self._name} has no column {column}")
        number = bisect.bisect_right(self._starts, row) - 1
        images = _bytes_array(self._batches[number].column(column))
        return _bytes_of(images[row - self._starts[number]], self._name, row)

    def _whole(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches that can be read without leaving their buffers: Arrow itself takes the file's word for it."""
        try:
            for batch in batches:
                if reason := _unsound(batch):
                    self._problems.append(f"{batch.num_rows} rows are damaged: {reason}")
                else:
                    yield batch
        except BROKEN as error:
            self._problems.append(f"the file is damaged; the rows before the damage are used: {_one_line(error)}")


def _unsound(batch: Any) -> str:
    """Why a batch's columns do not fit their buffers, or "" (looks at lengths and offsets, and at no image)."""
    for column in batch.columns:
        try:
            column.validate(full=True)
        except BROKEN as error:
            # Text that is not UTF-8 is one row's trouble, and found there. A list is checked after what it holds.
            if "UTF8" not in str(error) or not _offsets_fit(column):
                return _one_line(error)
    return ""


def _offsets_fit(column: Any) -> bool:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return True  # its offsets are checked before its text
    if not (pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type)):
        return False
    offsets = column.offsets.to_pylist()
    return bool(offsets[0] >= 0 and offsets[-1] <= len(column.values) and offsets == sorted(offsets))


def _leaf(schema: Any, column: str) -> str:
    kind = schema.field(column).type if column in schema.names else None
    return f"{column}.bytes" if kind is not None and pa.types.is_struct(kind) else column


def _parent(column: str) -> str:
    return column.rpartition(".")[0]


def _bytes_array(column: Any) -> Any:
    if not pa.types.is_struct(column.type):
        return column
    return column.field(column.type.get_field_index("bytes"))


def _bytes_of(scalar: Any, name: str, row: int) -> bytes:
    value = scalar.as_py()
    if isinstance(value, bytes):
        return value
    raise ImageError(f"row {row} of {name} has no image" if value is None else f"row {row} of {name} is not an image")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
