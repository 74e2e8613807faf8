"""A folder of embedding shards: Parquet files, and a manifest that says what they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import orjson

from clipsearch.errors import ShardError
from clipsearch.records import Embedded
from clipsearch.shards.files import replace_file
from clipsearch.shards.journal import Journal
from clipsearch.shards.table import open_parquet, read_columns, read_shard, write_shard

MANIFEST = "manifest.json"
ROWS = 512
"""Rows in a shard: with thumbnails about 5 MB."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of shards belongs to.

    ``root``: the corpus folder, for reading full-size images; ``complete``: whether the last run got to its
    end; ``patches``, ``captions``, ``bands``, ``quantised``: what else was embedded, of which bands, and whether by an
    8-bit model.
    """

    corpus: str
    model_id: str
    dim: int
    count: int = 0
    root: str = ""
    complete: bool = False
    patches: str = ""
    captions: bool = False
    bands: str = ""
    quantised: bool = False


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
    replace_file(folder / MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2) + b"\n")


def shard_files(folder: Path) -> list[Path]:
    """The folder's finished shards, in the order in which they were written."""
    return sorted(folder.glob("shard-*.parquet"))


class ShardWriter:
    """Collects rows and writes them as shards of ``rows`` rows; numbering goes on after the shards that are
    there.

    Use as a context manager: leaving it, even by an exception, writes the rows that were added. ``journal``: rows
    that are added by ``extend`` are safe at once, even from a kill; the next writer with a journal finds them.
    """

    def __init__(self, folder: Path, dim: int, *, rows: int = ROWS, journal: bool = False) -> None:
        self._folder = folder
        self._dim = dim
        self._rows = rows
        self._pending: list[Embedded] = []
        self._next = max((int(path.stem.split("-")[1]) for path in shard_files(folder)), default=-1) + 1
        self._journal = Journal(folder, dim) if journal else None
        if self._journal is not None:
            self._pending = self._left_behind(self._journal)
            self.flush()

    def _left_behind(self, journal: Journal) -> list[Embedded]:
        """What a killed writer kept, less what it had got into its last shard already."""
        rows = journal.read()
        there = shard_files(self._folder)[-1:] if rows else []
        last = [row for path in there for row in read_columns(path, ("key", "content_hash", "model_id"))]
        known = {(row["key"], row["content_hash"], row["model_id"]) for row in last}
        return [row for row in rows if (row.record.key, row.content_hash, row.model_id) not in known]

    def add(self, row: Embedded) -> None:
        """Add a row; writes a shard when enough rows have come together."""
        self._pending.append(row)
        if len(self._pending) >= self._rows:
            self.flush()

    def extend(self, rows: Sequence[Embedded]) -> None:
        """Add a batch of rows, which is in the journal when this returns, if there is one."""
        if self._journal is not None and rows:
            self._journal.append(rows)
        self._pending.extend(rows)
        if len(self._pending) >= self._rows:
            self.flush()

    def flush(self) -> None:
        """Write the collected rows as one shard, if there are any."""
        if self._pending:
            write_shard(self._folder / f"shard-{self._next:05d}.parquet", self._pending, self._dim)
            self._next += 1
            self._pending = []
        if self._journal is not None:
            self._journal.clear()

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
        self._count: int = sum(open_parquet(path).metadata.num_rows for path in self._files)

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
