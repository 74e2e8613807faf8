"""``clipsearch feed``: the front of the ``feeders`` package, whose command is imported when it is asked for."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``command`` is ``feeders.cli``'s, so that its options are written once."""
    if name == "command":
        from feeders.cli import shards_command

        return shards_command
    raise AttributeError(name)
