"""Where an index's parts keep what they have, so that a restart need not build them again.

The files are a cache: the document store is the truth, and an index that cannot be restored is built from it.
"""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class PartFiles(Protocol):
    """The files of one part (one field's column, vectors or text) of one generation."""

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Writes ``values`` after what file ``name`` held at the last save."""
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
