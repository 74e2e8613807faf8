"""Embedding shards: Parquet files with one embedded image a row, and a manifest that says what they belong
to.

A folder holds ``shard-00000.parquet`` and so on, each written beside its place and renamed into it, so that
a file that has its name is whole; and ``manifest.json`` (corpus, corpus root, model id, dimension, count).
Any Parquet reader opens them; ``table.py`` has the columns. While an encoder runs, ``journal-*.arrow`` are its
batches since the last whole shard.
"""

from clipsearch.shards.files import FolderLock
from clipsearch.shards.folder import (
    MANIFEST,
    ROWS,
    Manifest,
    Shards,
    ShardWriter,
    open_shards,
    read_manifest,
    shard_files,
    write_manifest,
)
from clipsearch.shards.table import RECORD_COLUMNS, read_columns, read_facts, read_shard, record_of, write_shard

__all__ = [
    "MANIFEST",
    "RECORD_COLUMNS",
    "ROWS",
    "FolderLock",
    "Manifest",
    "ShardWriter",
    "Shards",
    "open_shards",
    "read_columns",
    "read_facts",
    "read_manifest",
    "read_shard",
    "record_of",
    "shard_files",
    "write_manifest",
    "write_shard",
]
