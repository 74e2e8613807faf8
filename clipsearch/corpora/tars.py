"""Tar archives, read at random without unpacking: where each member's bytes begin, and how many there are.

A tar has no table of contents, so its headers are read once, one after the other; a member is then one seek and
one read. A compressed tar has no such places and is refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from clipsearch.errors import ImageError
from clipsearch.images import MAX_BYTES

SUFFIXES = (".tar",)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class TarIndex:
    """Members of one tar: name -> (offset of the bytes in the file, their number).

    ``problems``: what is wrong with the archive; members before the damage are kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, tuple[int, int]] = {}
        self.problems: list[str] = []
        self._scan()

    def read(self, member: str) -> bytes:
        """Return a member's bytes; safe in many threads, as each call opens the file for itself.

        Raises ``KeyError`` when there is none, ``ImageError`` when it is too large or no longer whole.
        """
        offset, size = self.members[member]
        if size > MAX_BYTES:
            raise ImageError(f"the file has {size:,} bytes; the limit is {MAX_BYTES:,}")
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ImageError(f"{self.path.name} ends before its member {member} does")
        return data

    def _scan(self) -> None:
        length = self.path.stat().st_size
        for info in _headers(self.path, self.problems):
            if not info.isreg():
                continue
            if info.offset_data + info.size > length:
                self.problems.append(f"the archive ends before its member {info.name} does: it is truncated")
            elif info.name in self.members:
                self.problems.append(f"the archive has two members {info.name}; the first is used")
            else:
                self.members[info.name.removeprefix("./")] = (info.offset_data, info.size)


def _headers(path: Path, problems: list[str]) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as archive:  # "r:": not compressed, since members are found by offset
            while (info := archive.next()) is not None:
                setattr(archive, "members", [])  # noqa: B010 (tarfile keeps every header otherwise: 1 KB each)
                yield info
            end = archive.offset
        problems += _at_the_end(path, end)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        problems.append(f"not a readable tar archive: {error}")


def _at_the_end(path: Path, offset: int) -> list[str]:
    """What is wrong where tarfile stopped: it takes a damaged header for the end, without a word."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if not any(block) and len(block) == tarfile.BLOCKSIZE:
        return []
    if block:
        return [f"the archive is damaged at byte {offset:,}; what comes after is lost"]
    return ["the archive has no end mark; it may be truncated"]
