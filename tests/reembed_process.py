"""``reembed`` in a process of its own that kills itself after N updates: N URL DEPLOY_URL APP CORPUS WORK."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from small_models import Colours

from clipsearch.corpora import open_corpus
from clipsearch.generations import filling
from clipsearch.generations.reembedding import Judging, Place, Sources, reembed


def main(kill_after: int, url: str, deploy_url: str, app: Path, corpus: Path, work: Path) -> None:
    """Run it; the update after the last one that is allowed is never made."""
    made, original = [], filling._update

    def update(*arguments: Any) -> Any:
        if len(made) >= kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(arguments)
        return original(*arguments)

    filling._update = update
    with open_corpus(corpus) as opened:
        sources = Sources([opened], work=work, batch=16)
        reembed(Colours("new", 16), Place(url, deploy_url, app), sources, Judging(switch=False))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4], *map(Path, sys.argv[4:]))
