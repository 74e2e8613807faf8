"""Where a corpus keeps its image files: a folder, and the zip archives in it.

A URI is relative to the corpus root: ``images/a.jpg``, or ``images.zip!/rsicd/a.jpg`` for a member of an
archive. Nothing outside the root is ever read, whatever the URI says: URIs come back out of search indexes.
"""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType

from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import MAX_BYTES, SUFFIXES

MEMBER = "!/"
"""Separates an archive from its member in a URI."""


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image's (by its suffix) and is not hidden."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in SUFFIXES  # noqa: PTH122 (500k calls)


class ImageStore:
    """Reads image files below ``root`` by URI; safe to use from many threads.

    Each thread opens an archive once for itself, because one open ``ZipFile`` serialises its readers.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise CorpusError(f"there is no folder {root}")
        self.root = root.resolve()
        self._local = threading.local()
        self._opened: list[zipfile.ZipFile] = []
        self._lock = threading.Lock()

    def uris(self) -> list[str]:
        """List every image below the root: files first, then members of the archives at the top, each
        sorted."""
        members = [uri for archive in sorted(self.root.glob("*.zip")) for uri in self._members(archive.name)]
        return sorted(self._files()) + members

    def read(self, uri: str) -> bytes:
        """Return the bytes of the image at ``uri``; ``ImageError`` says why it cannot be read."""
        archive, separator, member = uri.partition(MEMBER)
        path = self._below_root(archive)
        try:
            return self._read_member(path, archive, member) if separator else _read_file(path, uri)
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
            self._local = threading.local()

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _files(self) -> Iterator[str]:
        top = str(self.root)
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            prefix = os.path.relpath(folder, top).replace(os.sep, "/")
            for name in filter(is_image_name, names):
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

    def _read_member(self, path: Path, archive: str, member: str) -> bytes:
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


def _read_file(path: Path, uri: str) -> bytes:
    if path.exists() and not path.is_file():
        raise ImageError(f"{uri} is not a file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ImageError(f"the file has {size:,} bytes; the limit is {MAX_BYTES:,}")
    return path.read_bytes()
