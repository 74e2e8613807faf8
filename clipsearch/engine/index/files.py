"""Where an index's parts keep what they have, so that a restart need not build them again.

The files are a cache: the document store is the truth, and an index that cannot be restored is built from it. One
generation of an index has one folder. Its files only grow, and small ones are replaced by others of a new name, so
that what a manifest (``cache.py``) says of them stays true until the next manifest is in its place. Bytes after the
recorded length of a file are left by a writer that was interrupted; the next one writes over them.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_TAIL = 4096


class PartFiles(Protocol):
    """The files of one part (one field's column, vectors or text) of one generation."""

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Writes ``values``, which must not change from now on, after what file ``name`` held at the last save."""
        ...

    def array(self, name: str, dtype: Any) -> NDArray[Any]:
        """All values of file ``name``, in memory and writable; empty when there are none."""
        ...

    def mapped(self, name: str, dtype: Any) -> NDArray[Any]:
        """All values of file ``name`` as a read-only memory map."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Makes ``data`` the whole of the small file ``name``."""
        ...

    def read(self, name: str) -> bytes:
        """What ``replace`` wrote last; b"" when nothing was."""
        ...


class DamagedError(Exception):
    """The files of an index are not what its manifest says; ``str()`` names the file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: ``length`` in bytes, CRC-32 of all, and of the last ``_TAIL``: a mapped file is not read whole."""

    file: str
    length: int = 0
    checksum: int = 0
    tail: int = 0


class GenerationFiles:
    """The files of one generation in ``folder``.

    ``append`` and ``replace`` of its parts only note what is to be written, and fail never; ``flush`` writes it all
    and may be repeated when it failed.
    """

    def __init__(self, folder: Path, entries: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.folder = folder
        try:
            self.entries = {name: Entry(**entry) for name, entry in (entries or {}).items()}
        except TypeError as error:
            raise DamagedError(f"{folder}: {error}") from error
        self._appended: dict[str, list[NDArray[Any]]] = {}
        self._replaced: dict[str, bytes] = {}
        self._number = 0

    def part(self, name: str) -> PartFiles:
        """The files of part ``name``."""
        return _Part(self, f"{name}.")

    def describe(self) -> dict[str, dict[str, Any]]:
        """All entries, as the constructor takes them."""
        return {name: asdict(entry) for name, entry in self.entries.items()}

    def append(self, name: str, values: NDArray[Any]) -> None:
        """As ``PartFiles.append``."""
        self._appended.setdefault(name, []).append(values)

    def replace(self, name: str, data: bytes) -> None:
        """As ``PartFiles.replace``."""
        self._replaced[name] = data

    def flush(self, number: int) -> None:
        """Writes and syncs what was noted; ``number`` is a new one each time. ``OSError``: nothing is recorded."""
        entries = dict(self.entries)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, arrays in self._appended.items():
            entries[name] = self._extend(entries.get(name) or Entry(name), arrays)
        for name, data in self._replaced.items():
            entry = entries.get(name)
            if entry is None or entry.checksum != zlib.crc32(data) or entry.length != len(data):
                entries[name] = self._extend(Entry(f"{name}.{number}"), [np.frombuffer(data, np.uint8)])
        if {entry.file for entry in entries.values()} != {entry.file for entry in self.entries.values()}:
            sync_folder(self.folder)
        self.entries = entries
        self._appended, self._replaced = {}, {}

    def _extend(self, entry: Entry, arrays: list[NDArray[Any]]) -> Entry:
        chunks = [np.ascontiguousarray(each).data.cast("B") for each in arrays if each.size]
        if not chunks and entry.length:
            return entry
        length, checksum = entry.length, entry.checksum
        with _opened(self.folder / entry.file, os.O_RDWR | os.O_CREAT) as file:
            for chunk in chunks:
                write_all(file, chunk, length)
                length, checksum = length + len(chunk), zlib.crc32(chunk, checksum)
            if os.fstat(file).st_size > length:
                os.ftruncate(file, length)
            tail = zlib.crc32(os.pread(file, _TAIL, max(0, length - _TAIL)))
            os.fsync(file)
        return Entry(entry.file, length, checksum, tail)

    # ---- restoring

    def array(self, name: str, dtype: Any) -> NDArray[Any]:
        """As ``PartFiles.array``. Raises ``DamagedError``."""
        entry = self.entries.get(name)
        if entry is None or not entry.length:
            return np.empty(0, dtype)
        self._check_length(entry, dtype)
        values = np.fromfile(self.folder / entry.file, dtype, entry.length // np.dtype(dtype).itemsize)
        if zlib.crc32(values.data.cast("B")) != entry.checksum:
            raise DamagedError(f"{self.folder / entry.file} has other bytes than were written")
        return values

    def mapped(self, name: str, dtype: Any) -> NDArray[Any]:
        """As ``PartFiles.mapped``. Raises ``DamagedError``."""
        entry = self.entries.get(name)
        if entry is None or not entry.length:
            return np.empty(0, dtype)
        self._check_length(entry, dtype)
        path = self.folder / entry.file
        with _opened(path, os.O_RDONLY) as file:
            start = max(0, entry.length - _TAIL)
            tail = os.pread(file, entry.length - start, start)
        if zlib.crc32(tail) != entry.tail:
            raise DamagedError(f"{path} has other bytes than were written")
        return np.memmap(path, dtype, "r", shape=(entry.length // np.dtype(dtype).itemsize,))

    def read(self, name: str) -> bytes:
        """As ``PartFiles.read``. Raises ``DamagedError``."""
        return self.array(name, np.uint8).tobytes()

    def _check_length(self, entry: Entry, dtype: Any) -> None:
        path = self.folder / entry.file
        size = path.stat().st_size if path.is_file() else -1
        if size < entry.length or entry.length % np.dtype(dtype).itemsize:
            raise DamagedError(f"{path} has {size} bytes, {entry.length} were written")


class _Part:
    """One part's share of a generation's files."""

    def __init__(self, files: GenerationFiles, prefix: str) -> None:
        self._files = files
        self._prefix = prefix

    def append(self, name: str, values: NDArray[Any]) -> None:
        self._files.append(self._prefix + name, values)

    def array(self, name: str, dtype: Any) -> NDArray[Any]:
        return self._files.array(self._prefix + name, dtype)

    def mapped(self, name: str, dtype: Any) -> NDArray[Any]:
        return self._files.mapped(self._prefix + name, dtype)

    def replace(self, name: str, data: bytes) -> None:
        self._files.replace(self._prefix + name, data)

    def read(self, name: str) -> bytes:
        return self._files.read(self._prefix + name)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def write_all(file: int, data: memoryview, offset: int) -> None:
    """Writes all of ``data`` at ``offset`` of the descriptor ``file``, in as many calls as the system wants."""
    while data:
        written = os.pwrite(file, data[: 64 << 20], offset)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        data, offset = data[written:], offset + written


def write_atomically(path: Path, data: bytes) -> None:
    """Makes ``data`` the content of ``path``, durably: after a crash it is the old or the new, whole."""
    new = path.with_name(f"{path.name}.new")
    with _opened(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        write_all(file, memoryview(data), 0)
        os.fsync(file)
    new.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes what was created in or renamed into ``folder`` durable."""
    with _opened(folder, os.O_RDONLY) as file:
        os.fsync(file)
