"""One feeding client in a process of its own: feeds a folder's documents and says how long it took.

python bench/feed_client.py CLIENT URL FOLDER

FOLDER holds the same documents twice: ``shards/`` for our client, ``documents.jsonl`` for the others.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

VESPA = Path(sys.executable).with_name("vespa")


def _operations(folder: Path) -> Iterator[dict[str, Any]]:
    """Documents as pyvespa takes them, read one by one: its loops may hold as many as they like."""
    with (folder / "documents.jsonl").open("rb") as lines:
        for line in lines:
            document = orjson.loads(line)
            yield {"id": document["put"].rsplit(":", 1)[1], "fields": document["fields"]}


def _clipsearch(url: str, folder: Path) -> Callable[[], int]:
    from feeders.shards import feed_shards

    return lambda: feed_shards(folder / "shards", url, progress=False).fed


def _pyvespa(name: str, url: str, folder: Path) -> Callable[[], int]:
    from vespa.application import Vespa

    fed = [0]

    def answered(response: Any, document_id: str) -> None:
        fed[0] += response.status_code == 200

    def feed() -> int:
        loop = getattr(Vespa(url=url), name)
        loop(_operations(folder), schema="image", namespace="bench", callback=answered)
        return fed[0]

    return feed


def _vespa(url: str, folder: Path) -> Callable[[], int]:
    def feed() -> int:
        command = [str(VESPA), "feed", "-t", url, str(folder / "documents.jsonl")]
        environment = os.environ | {"VESPA_CLI_HOME": str(folder / "home")}
        (folder / "home").mkdir(exist_ok=True)
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return int(json.loads(done.stdout)["feeder.ok.count"])

    return feed


def _own_peak_mb() -> float:
    """Not ``ru_maxrss``, which starts at the size of the process that this one was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Feed, and print one line of JSON: documents acknowledged, seconds, CPU seconds, peak memory in MB."""
    client, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if client == "clipsearch":
        feed = _clipsearch(url, folder)
    elif client == "vespa":
        feed = _vespa(url, folder)
    else:
        feed = _pyvespa(client, url, folder)
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    start = time.perf_counter()
    fed = feed()
    seconds = time.perf_counter() - start
    cpu = -own.ru_utime - own.ru_stime - children.ru_utime - children.ru_stime
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        cpu += used.ru_utime + used.ru_stime
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if client == "vespa" else _own_peak_mb()
    print(json.dumps({"fed": fed, "seconds": seconds, "cpu_s": cpu, "peak_mb": peak}))


if __name__ == "__main__":
    main()
