"""What an encoder has done since its last whole shard: one small Arrow file a batch, so that a kill costs one batch.

A batch is written beside its place and renamed (``journal-00000012.arrow``); when enough rows have come together they
become a shard, and only then their files go. What a killed encoder left behind becomes a shard of the next run. Shards
wait for the disk and batches do not: a power cut may cost the batches since the last shard, and what it leaves of them
is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.records import Embedded
from clipsearch.shards.files import replace_file
from clipsearch.shards.table import rows_of, to_table


class Journal:
    """The batches of one folder; numbering goes on after those that are there."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder = folder
        self._dim = dim
        self._next = max((int(path.stem.split("-")[1]) for path in self.files()), default=-1) + 1

    def files(self) -> list[Path]:
        """The batches that are there, oldest first."""
        return sorted(self._folder.glob("journal-*.arrow"))

    def append(self, rows: Sequence[Embedded]) -> None:
        """Keep one batch, safe before this returns."""
        path = self._folder / f"journal-{self._next:08d}.arrow"
        table = to_table(rows, self._dim, path.name)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        replace_file(path, sink.getvalue(), durable=False)
        self._next += 1

    def read(self) -> list[Embedded]:
        """All rows, oldest first. A batch that cannot be read counts as lost: it is encoded again."""
        rows: list[Embedded] = []
        for path in self.files():
            try:
                reader = pa.ipc.open_file(pa.BufferReader(path.read_bytes()))
                if reader.schema.field("embedding").type != pa.list_(pa.float32(), self._dim):
                    continue
                for number in range(reader.num_record_batches):
                    rows.extend(rows_of(reader.get_batch(number), self._dim))
            except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError):
                continue
        return [row for row in rows if abs(float(np.linalg.norm(row.embedding)) - 1) < 0.1 and row.content_hash]

    def clear(self) -> None:
        """Forget the batches: they are in a shard now."""
        for path in self.files():
            path.unlink(missing_ok=True)
