"""Run the search page until a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clipsearch.errors import InputError
from clipsearch.serving import Listener, check_port, host_guard, run
from clipsearch.web.app import UiConfig, create_app


def run_ui(config: UiConfig, host: str, port: int, say: Callable[[str], None] = print) -> None:
    """Serve the page on ``host:port`` until SIGINT or SIGTERM, which end the process with exit code 0.

    Raises ``InputError`` for a port in use.
    """
    check_port(host, port)
    listener = Listener(create_app(config, host_guard(host)), host, port)
    shown = f"[{host}]" if ":" in host else host
    run([listener], lambda: say(f"Search page: http://{shown}:{port}/  (Ctrl-C stops it)"))


def parse_roots(pairs: Sequence[str]) -> dict[str, Path]:
    """``["rsicd=/data/rsicd"]`` -> ``{"rsicd": Path("/data/rsicd")}``; ``InputError`` names what is not a folder."""
    roots = {}
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator or not name or not Path(folder).is_dir():
            raise InputError(f"--corpus-root {pair!r}: give NAME=FOLDER, the corpus's name and its folder")
        roots[name] = Path(folder)
    return roots
