"""The list of what a run could not encode: one JSON object a line, written at once."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import orjson

LEDGER = "ledger.jsonl"
EXAMPLES = 5  # failures that a summary quotes; the ledger has them all


class Ledger:
    """Use as a context manager. ``lines``: how many there are; ``examples``: the first of them, for people."""

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self.examples: list[str] = []
        self._file = path.open("wb")

    def write(self, corpus: str, item: str, reason: str) -> None:
        """Add one line."""
        entry = {"corpus": corpus, "item": _printable(item), "reason": _printable(reason)}
        self._file.write(orjson.dumps(entry) + b"\n")
        self._file.flush()
        self.lines += 1
        if self.lines <= EXAMPLES:
            self.examples.append(f"{entry['item']}: {entry['reason']}")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _printable(text: str) -> str:
    """File names need not be UTF-8, and JSON must be."""
    return text.encode("utf-8", "replace").decode("utf-8")
