"""The indexes on disk: generations of files, and one manifest that says which of their bytes are an index.

::

    index/manifest            which change of the store it holds, and per schema its folder, files, lengths, checksums
    index/<number>.<schema>/  the files of one generation (``files.py``)

A save appends to the files, syncs them, and then puts a new manifest in the old one's place by a rename: after a crash
at any moment the manifest that is found describes bytes that were synced before it was written. A compacted index gets
a folder of its own, and what no manifest names any more is removed after the rename. Nothing here is needed to be
right: whatever does not fit is built again from the store.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from clipsearch.engine.index.files import DamagedError, GenerationFiles, sync_folder, write_atomically
from clipsearch.engine.index.index import Generation, Index

MANIFEST = "manifest"
_FORMAT = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """Up to which change an index holds the store: the change's number, and its token (random, so that a file of
    another store, or of this one before it was set back, is not taken for this one's)."""

    number: int
    token: int


class IndexCache:
    """The folder ``index`` of a data folder; used by one thread at a time."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "index"
        self.position: Position | None = None
        self._number = 0
        self._schemas: dict[str, dict[str, Any]] = {}
        self._saved: dict[str, tuple[Generation, GenerationFiles | None]] = {}
        try:
            self._read()
        except (OSError, DamagedError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be used, the index is built from the documents: %s", self.folder / MANIFEST, error)

    def _read(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            return
        checksum, _, text = path.read_bytes().partition(b"\n")
        if checksum != b"%08x" % zlib.crc32(text):
            raise DamagedError("it is damaged")
        manifest = orjson.loads(text)
        if manifest["format"] != _FORMAT:
            raise DamagedError(f"it has format {manifest['format']}, this engine reads {_FORMAT}")
        self._number, self._schemas = int(manifest["number"]), dict(manifest["schemas"])
        self.position = Position(*manifest["position"])

    def restore(self, index: Index, signature: str) -> bool:
        """Gives the empty ``index`` what was saved of its schema; False when that is nothing that fits.

        The index is then empty still, or to be thrown away.
        """
        saved, name = self._schemas.get(index.schema.name), index.schema.name
        if saved is None or saved.get("signature") != signature:
            return False
        try:
            files = GenerationFiles(self.folder / saved["folder"], saved["files"])
            index.restore(files, int(saved["rows"]))
        except Exception as error:  # whatever damaged files lead to
            log.warning("the index of '%s' is built from the documents, because its files are damaged: %s", name, error)
            return False
        self._saved[name] = (index.generation, files)
        return True

    def save(self, indexes: Mapping[str, tuple[Index, str]], position: Position) -> None:
        """Makes ``indexes`` (schema -> index, signature), which hold the store up to ``position``, durable.

        Raises ``OSError``: the folder holds what it did before, and the same indexes may be saved again later.
        """
        self._number += 1
        schemas = {}
        for name, (index, signature) in indexes.items():
            files = self._note(name, index)
            if files is not None:
                files.flush(self._number)
                rows = index.generation.lids.size
                files_of = files.describe()
                schemas[name] = {"signature": signature, "folder": files.folder.name, "rows": rows, "files": files_of}
        text = orjson.dumps(
            {
                "format": _FORMAT,
                "number": self._number,
                "position": [position.number, position.token],
                "schemas": schemas,
            }
        )
        sync_folder(self.folder)
        write_atomically(self.folder / MANIFEST, b"%08x\n" % zlib.crc32(text) + text)
        self._schemas, self.position = schemas, position
        self._saved = {name: saved for name, saved in self._saved.items() if name in indexes}
        self._clean()

    def _note(self, name: str, index: Index) -> GenerationFiles | None:
        """The files of the index, which know what is to be written; None when it cannot be saved."""
        generation, files = self._saved.get(name, (None, None))
        if generation is not index.generation:
            self.folder.mkdir(exist_ok=True)
            files = GenerationFiles(self.folder / f"{self._number}.{name}")
        self._saved[name] = (index.generation, None)
        if files is not None:
            try:
                with index.lock:
                    index.generation.save(files)
                self._saved[name] = (index.generation, files)
            except Exception:  # a bug of one part: searches go on, and the next start builds the index
                log.exception("the index of '%s' cannot be saved", name)
                return None
        return files

    def _clean(self) -> None:
        """Removes what the manifest does not name."""
        named = {saved["folder"]: saved["files"].values() for saved in self._schemas.values()}
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name not in named and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name in named:
                    kept = {entry["file"] for entry in named[path.name]}
                    for file in path.iterdir():
                        if file.name not in kept:
                            file.unlink()
