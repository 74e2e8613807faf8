"""What the measured engines share: the worker protocol, one JSON line in, one JSON line out.

Every engine runs in a process of its own, with the interpreter of its own virtual environment, so nothing here may
import more than numpy and the workload (``engines.py`` sets PYTHONPATH). Requests: ``{"do": "build"}``, ``{"do":
"open"}``, ``{"do": "phase", "name": ...}``. What a library prints must not reach the protocol, so stdout is set aside.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from workload import Workload, load

PHASES = ("lexical", "vector", "hybrid", "filter_1", "filter_10")
TOP = 10
DEPTH = 100
"""How many hits of each list are fused in a hybrid query, where the engine lets one say so."""
RRF = 60

Answer = Sequence[tuple[int, str]]
"""The hits of one query: document number and caption, best first."""


class Peer(Protocol):
    """One engine, opened over an index that it built."""

    def lexical(self, text: str) -> Answer:
        """The ``TOP`` documents for any of the words."""

    def vector(self, vector: Any) -> Answer:
        """The ``TOP`` nearest documents."""

    def hybrid(self, text: str, vector: Any) -> Answer:
        """Both lists, fused by reciprocal rank."""

    def filtered(self, vector: Any, below: int) -> Answer:
        """The ``TOP`` nearest documents whose bucket is less than ``below``."""


class Maker(Protocol):
    """How an engine is built and opened."""

    def build(self, folder: Path, workload: Workload) -> None:
        """Write an index of all documents to ``folder``, ready for queries."""

    def open(self, folder: Path) -> Peer:
        """Open the index in ``folder``."""


def serve(maker: Maker) -> None:
    """Answers requests on stdin until it closes: ``python peer.py WORKLOAD INDEX``."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(maker, Path(sys.argv[1]), Path(sys.argv[2]))
    for line in sys.stdin:
        answers.write(json.dumps(worker.do(json.loads(line))) + "\n")


class Worker:
    """Carries out requests for one engine, and times them."""

    def __init__(self, maker: Maker, workload: Path, folder: Path) -> None:
        self._maker, self._workload, self._folder = maker, load(workload), folder
        self._peer: Peer | None = None
        self._before: dict[str, float] = {}

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carries out one request."""
        if request["do"] == "build":
            return self._build()
        if request["do"] == "open":
            return self._open()
        return self._phase(request["name"], request.get("budget", 1e9))

    def _build(self) -> dict[str, Any]:
        wall, cpu = time.perf_counter(), cpu_seconds()
        self._maker.build(self._folder, self._workload)
        seconds, used = time.perf_counter() - wall, cpu_seconds() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        documents = len(self._workload.buckets)
        return {"docs_per_s": documents / seconds, "cpu_s": used, "disk_mb": disk_mb(self._folder), "peak_rss_mb": peak}

    def _open(self) -> dict[str, Any]:
        text, vector = self._workload.texts[0], self._workload.queries[0]
        self._before = memory_mb("self")
        wall = time.perf_counter()
        self._peer = self._maker.open(self._folder)
        self._peer.hybrid(text, vector)
        return {"open_s": time.perf_counter() - wall}

    def _phase(self, name: str, budget: float) -> dict[str, Any]:
        """Runs the queries of one phase, 20 at least and then until ``budget`` seconds are spent.

        The milliseconds of each, CPU ms a query, the numbers found, and what memory grew by since before ``open``.
        """
        assert self._peer is not None, "open comes first"
        peer, workload = self._peer, self._workload
        below = int(name.split("_")[1]) if name.startswith("filter_") else 0
        times, found = [], []
        cpu = cpu_seconds()
        for text, vector in zip(workload.texts, np.asarray(workload.queries), strict=True):
            start = time.perf_counter()
            if name == "lexical":
                answer = peer.lexical(text)
            elif name == "vector":
                answer = peer.vector(vector)
            elif name == "hybrid":
                answer = peer.hybrid(text, vector)
            else:
                answer = peer.filtered(vector, below)
            times.append((time.perf_counter() - start) * 1000)
            budget -= times[-1] / 1000
            found.append([number for number, _ in answer])
            if budget < 0 and len(times) >= 20:
                break
        used = (cpu_seconds() - cpu) * 1000 / len(times)
        grown = {key: value - self._before[key] for key, value in memory_mb("self").items()}
        return {"ms": times, "cpu_ms": used, "found": found, **grown}


def cpu_seconds() -> float:
    """CPU seconds of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb(process: int | str) -> dict[str, float]:
    """Resident memory of a process in MB: ``rss_mb`` with mapped files, ``anon_mb`` without."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {"rss_mb": int(values["VmRSS"]) / 1024, "anon_mb": int(values["RssAnon"]) / 1024}


def disk_mb(folder: Path) -> float:
    """What the files below ``folder`` take on disk, holes not counted, in MB of 1,000,000 bytes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


def fuse(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Reciprocal rank fusion of two lists, best first: the ``TOP`` of both."""
    scores: dict[int, float] = {}
    for ranked in (first, second):
        for rank, number in enumerate(ranked, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (RRF + rank)
    return sorted(scores, key=lambda number: -scores[number])[:TOP]
