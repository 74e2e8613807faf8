"""``clipsearch feed``: the front of the ``feeders`` package, whose commands are imported when they are asked for."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``command`` is ``feeders.cli``'s group, so that its options are written once."""
    if name == "command":
        from feeders.cli import feed

        return feed
    raise AttributeError(name)
