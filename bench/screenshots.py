"""Pictures of the search page: results, compare, heat map, parts over the corpus, mobile dark, engine down, and more.

Over the built-in sample, drawn and learned here, or under CLIPSEARCH_SOAK=1 over RSICD (see tests/ui_support.py). What
is kept in the README and docs is made of the sample.

    .venv/bin/python bench/screenshots.py OUT --query "storage tanks near a river"
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import click
from engines import ROOT
from report import say

sys.path.insert(0, str(ROOT / "tests"))
WIDE = {"width": 1280, "height": 860}
NARROW = {"width": 390, "height": 844}


def free_port() -> int:
    """A TCP port on loopback which nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shots(query: str, feature: str, like: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """File name -> path of the page, and how it is opened."""
    words, thing, image = quote_plus(query), quote_plus(feature), quote(like)
    return {
        "results": (f"/?q={words}", {}),
        "results-dark": (f"/?q={words}&view=list", {"color_scheme": "dark"}),
        "compare": (f"/compare?q={words}&a=lexical&b=vector", {}),
        "heat-map": (f"/inside?like={image}&q={thing}", {}),
        "parts": (f"/?q={thing}&parts=1", {}),
        "map": ("/map", {}),
        "judging": (f"/?q={words}&judge=1", {}),
        "mobile-dark": (f"/?q={words}", {"color_scheme": "dark", "viewport": NARROW}),
        "mobile-compare": (f"/compare?q={words}&a=lexical&b=vector", {"viewport": NARROW}),
        "mobile-heat-map": (f"/inside?like={image}&q={thing}", {"viewport": NARROW, "color_scheme": "dark"}),
        "home": ("/", {}),
        "error": ("/?ranking=nonsense", {}),
    }


def best(world: Any, query: str) -> str:
    """The id of the first hit of ``query``, by words."""
    return str(world.get(f"/index.json?q={quote_plus(query)}&ranking=lexical")["hits"][0]["id"])


def take(world: Any, out: Path, query: str, feature: str) -> None:
    """All pictures, into ``out``."""
    from ui_browsing import chromium

    with chromium() as browser:
        for name, (path, how) in shots(query, feature, best(world, feature)).items():
            save(browser, world.url + path, out / f"{name}.png", how)
        world.stop_engine()
        save(browser, f"{world.url}/?q={quote_plus(query)}", out / "engine-down.png", {})
        world.start_engine()


def save(browser: Any, url: str, path: Path, how: Mapping[str, Any]) -> None:
    """What one sees of the page without scrolling, at twice the pixels on a phone."""
    scale = 2 if how.get("viewport") else 1
    context = browser.new_context(**{"viewport": WIDE, "device_scale_factor": scale, **how})
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
    page.screenshot(path=path)
    context.close()
    say(f"{path}")


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--query", default="storage tanks near a river", show_default=True, help="What is searched for.")
@click.option("--feature", default="storage tanks", show_default=True, help="What is looked for inside images.")
def main(out: Path, query: str, feature: str) -> None:
    """Draw the pages into the folder OUT."""
    from ui_support import open_world

    out.mkdir(parents=True, exist_ok=True)
    shared = ROOT.parent / "shared" if os.environ.get("CLIPSEARCH_SOAK") else None
    with tempfile.TemporaryDirectory() as home, open_world(Path(home), free_port, shared) as world:
        take(world, out, query, feature)


if __name__ == "__main__":
    main()
