"""One engine per data folder: an advisory lock that the kernel releases even after kill -9."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from clipsearch.errors import StoreError

LOCK_FILE = "engine.lock"


class FolderLock:
    """Holds ``folder``/engine.lock exclusively until ``release``. Raises ``StoreError`` when another engine has it."""

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_FILE
        try:
            _make(folder)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"the data folder {folder} cannot be used: {error.strerror}. Choose another with --data"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 32).decode("ascii", "replace").strip()
            os.close(self._file)
            pid = f" (pid {holder})" if holder else ""
            raise StoreError(
                f"another engine{pid} uses {folder}: stop it, or choose another folder with --data"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, it only names nobody
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the folder back; the file stays, so that two engines never lock two files of one name."""
        os.close(self._file)


def _make(folder: Path) -> None:
    """Makes ``folder`` and what is missing above it, so that a loss of power does not take the name back."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(above)
    finally:
        os.close(above)
