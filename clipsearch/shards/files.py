"""Writing a file in one step, and one writer to a folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from clipsearch.errors import ShardError

LOCK = ".encode.lock"


def replace_file(path: Path, data: Any, *, durable: bool = True) -> None:
    """Write bytes beside ``path`` and rename them into it: whoever looks sees all of it or what was there before.

    That survives the end of the process; ``durable`` survives the end of the machine as well, and waits for the disk.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


class FolderLock:
    """Holds a folder against a second writer, of this machine, until it is left or its process ends in any way.

    Use as a context manager; ``ShardError`` says which process has the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def __enter__(self) -> FolderLock:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks: one writer a folder is then the user's own business
            return self
        path = self._folder / LOCK
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(20).decode("ascii", "replace").strip() or "unknown"
            file.close()
            raise ShardError(
                f"another 'clipsearch encode' (process {owner}) is writing to {self._folder}: wait until it has ended, "
                "or choose another --out"
            ) from error
        except OSError:  # a file system without locks
            file.close()
            return self
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
