"""A bounded memory of decoded blocks of images, shared by all tables of one corpus."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

CACHE_BYTES = 128 * 1024 * 1024


class BlockCache:
    """Keeps the blocks that were used last, up to ``limit`` bytes and at least one; thread-safe."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._held = 0
        self._blocks: OrderedDict[tuple[object, ...], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Any:
        """The block, or None when it is not held (any more)."""
        with self._lock:
            found = self._blocks.get(key)
            if found is None:
                return None
            self._blocks.move_to_end(key)
            return found[0]

    def put(self, key: tuple[object, ...], block: Any, size: int) -> None:
        """Hold ``block`` of ``size`` bytes."""
        with self._lock:
            old = self._blocks.pop(key, None)
            self._held += size - (old[1] if old else 0)
            self._blocks[key] = (block, size)
            while self._held > self._limit and len(self._blocks) > 1:
                _, (_, freed) = self._blocks.popitem(last=False)
                self._held -= freed

    def clear(self) -> None:
        """Let go of all blocks."""
        with self._lock:
            self._blocks.clear()
            self._held = 0
