"""Where a corpus keeps its image files: a folder, the archives in it (zip, tar), and tables with images in a column.

A URI is relative to the corpus root: ``images/a.jpg``, ``images.zip!/rsicd/a.jpg`` and ``shards/0.tar!/a.jpg`` for a
member of an archive, ``train.parquet!/image/12`` for row 12 of a column. Nothing outside the root is ever read,
whatever the URI says: URIs come back out of search indexes.
"""

from __future__ import annotations

import os
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import unquote

from clipsearch.corpora import tars
from clipsearch.corpora.blocks import BlockCache
from clipsearch.corpora.tars import TarIndex
from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import MAX_BYTES, SUFFIXES
from clipsearch.records import Issue

if TYPE_CHECKING:
    from clipsearch.corpora.tablefiles import Table

MEMBER = "!/"
"""Separates an archive from its member in a URI."""

_ROW = re.compile(r"[^!]+\.(?:parquet|arrow)!/[^/]+/\d+", re.IGNORECASE)
TABLES = (".parquet", ".arrow")
"""Files with images in a column."""

_OPEN_TABLES = 64


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image's (by its suffix) and is not hidden; rows of tables do."""
    base = name.rsplit("/", 1)[-1]
    if base.startswith("."):
        return False
    return os.path.splitext(base)[1].lower() in SUFFIXES or _ROW.fullmatch(name) is not None  # noqa: PTH122 (500k calls)


class ImageStore:
    """Reads image files below ``root`` by URI; safe to use from many threads.

    Each thread opens a zip once for itself, because one open ``ZipFile`` serialises its readers. ``problems``: what
    ``uris`` found wrong with archives.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise CorpusError(f"there is no folder {root}")
        self.root = root.resolve()
        self.problems: list[Issue] = []
        self._local = threading.local()
        self._opened: list[zipfile.ZipFile] = []
        self._tars: dict[str, TarIndex] = {}
        self._tables: dict[str, Table] = {}
        self._blocks = BlockCache()
        self._lock = threading.Lock()
        self._listed: list[str] | None = None

    def files(self) -> list[str]:
        """Every file below the root that is not hidden, sorted; walked once."""
        if self._listed is None:
            self._listed = sorted(self._walk())
        return self._listed

    def uris(self) -> list[str]:
        """List every image below the root: files first, then members of the zips at the top and of all tars, each
        sorted."""
        zips = [name for name in self.files() if name.endswith(".zip") and "/" not in name]
        members = [uri for archive in zips for uri in self._members(archive)]
        for archive in (name for name in self.files() if name.lower().endswith(tars.SUFFIXES)):
            members += sorted(f"{archive}{MEMBER}{name}" for name in self._tar_names(archive) if is_image_name(name))
        return list(filter(is_image_name, self.files())) + members

    def tar(self, archive: str) -> TarIndex:
        """The index of a tar; made on the first call. What is wrong with the archive goes into ``problems``."""
        with self._lock:
            known = self._tars.get(archive)
            if known is None:
                known = self._tars[archive] = TarIndex(self._below_root(archive))
                self.problems += [Issue(archive, reason) for reason in known.problems]
        return known

    def table(self, name: str) -> Table:
        """An open Parquet or Arrow file; raises ``CorpusError`` when it cannot be opened."""
        from clipsearch.corpora.tablefiles import open_table  # pyarrow: only where there is such a file

        with self._lock:
            known = self._tables.pop(name, None)
            if known is None:
                known = open_table(self._below_root(name), name, self._blocks)
            self._tables[name] = known  # last again: the least recently used one is dropped
            if len(self._tables) > _OPEN_TABLES:
                del self._tables[next(iter(self._tables))]
        return known

    def read(self, uri: str) -> bytes:
        """Return the bytes of the image at ``uri``; ``ImageError`` says why it cannot be read."""
        archive, separator, member = uri.partition(MEMBER)
        path = self._below_root(archive)
        try:
            if not separator:
                return _read_file(path, uri)
            suffix = path.suffix.lower()
            if suffix in TABLES:
                return self._read_row(path, archive, member)
            return self._read_tar(path, archive, member) if suffix == ".tar" else self._read_zip(path, archive, member)
        except FileNotFoundError as error:
            raise ImageError(f"{uri} is missing in {self.root}") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"{uri} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def close(self) -> None:
        """Close the archives that any thread opened."""
        with self._lock:
            for archive in self._opened:
                archive.close()
            self._opened.clear()
            self._tables.clear()
            self._blocks.clear()
            self._local = threading.local()

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _walk(self) -> Iterator[str]:
        top = str(self.root)
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            prefix = os.path.relpath(folder, top).replace(os.sep, "/")
            for name in names:
                if not name.startswith("."):
                    yield name if prefix == "." else f"{prefix}/{name}"

    def _members(self, archive: str) -> list[str]:
        try:
            names = self._zip(self.root / archive, archive).namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise CorpusError(f"{self.root / archive} is not a readable zip archive: {error}") from error
        hidden = "__MACOSX/"
        return sorted(
            f"{archive}{MEMBER}{name}" for name in names if is_image_name(name) and not name.startswith(hidden)
        )

    def _tar_names(self, archive: str) -> list[str]:
        try:
            return list(self.tar(archive).members)
        except (OSError, ImageError) as error:
            self.problems.append(Issue(archive, str(error)))
            return []

    def _below_root(self, uri: str) -> Path:
        pure = PurePosixPath(uri)
        if not uri or "\0" in uri or "\\" in uri or pure.is_absolute() or ".." in pure.parts:
            raise ImageError(f"{uri!r} is not a file below the corpus root")
        path = (self.root / pure).resolve()
        if not path.is_relative_to(self.root):
            raise ImageError(f"{uri!r} is a link that leads out of the corpus root {self.root}")
        return path

    def _zip(self, path: Path, name: str) -> zipfile.ZipFile:
        opened: dict[str, zipfile.ZipFile] | None = getattr(self._local, "archives", None)
        if opened is None:
            opened = self._local.archives = {}
        if name not in opened:
            opened[name] = zipfile.ZipFile(path)
            with self._lock:
                self._opened.append(opened[name])
        return opened[name]

    def _read_zip(self, path: Path, archive: str, member: str) -> bytes:
        try:
            zipped = self._zip(path, archive)
            size = zipped.getinfo(member).file_size
            if size > MAX_BYTES:
                raise ImageError(f"the file has {size:,} bytes; the limit is {MAX_BYTES:,}")
            return zipped.read(member)
        except KeyError as error:
            raise ImageError(f"{archive} has no member {member}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ImageError(f"{archive}{MEMBER}{member} cannot be unpacked: {error}") from error

    def _read_tar(self, path: Path, archive: str, member: str) -> bytes:
        if not path.is_file():
            raise ImageError(f"{archive} is missing in {self.root}")
        try:
            return self.tar(archive).read(member)
        except KeyError as error:
            raise ImageError(f"{archive} has no member {member}") from error

    def _read_row(self, path: Path, name: str, member: str) -> bytes:
        column, _, row = member.rpartition("/")
        if not path.is_file():
            raise ImageError(f"{name} is missing in {self.root}")
        if not column or not row.isdecimal():
            raise ImageError(f"{name}{MEMBER}{member} is not COLUMN/ROW")
        try:
            data = self.table(name).image(unquote(column), int(row))
        except CorpusError as error:
            raise ImageError(str(error)) from error
        if len(data) > MAX_BYTES:
            raise ImageError(f"the image has {len(data):,} bytes; the limit is {MAX_BYTES:,}")
        return data


def _read_file(path: Path, uri: str) -> bytes:
    if path.exists() and not path.is_file():
        raise ImageError(f"{uri} is not a file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ImageError(f"the file has {size:,} bytes; the limit is {MAX_BYTES:,}")
    return path.read_bytes()
