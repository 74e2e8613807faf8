"""Query phases of all engines, interleaved in rounds, and their medians."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from engines import EngineFailedError, Place, Worker
from workload import Workload, recall

PHASES = {"lexical": None, "vector": 100, "hybrid": None, "filter_1": 1, "filter_10": 10}
"""Each phase, and the percentage of documents among which its answers are compared with exact search."""


def measure(engines: Sequence[str], place: Place, workload: Workload, repeat: int, budget: float) -> dict[str, Any]:
    """Open every engine once, then ``repeat`` rounds: each phase by each engine, in turn forwards and backwards.

    An engine gets ``budget`` seconds for one phase of one round and answers as many queries as it can, 20 at least,
    so that a slow one does not decide how long the run takes. Returns, by engine, ``open_s``, memory, and by phase
    p50 and p99 (medians over the rounds), CPU ms a query and recall (``recall_stored``: against exact search over
    bfloat16 cells, which is what Vespa does with our field); or ``failed``.
    """
    workers: dict[str, Worker] = {}
    results: dict[str, Any] = {engine: {"phases": {}} for engine in engines}
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    try:
        for engine in engines:
            workers[engine] = Worker(engine, place)
            _try(results, engine, lambda engine=engine: results[engine].update(workers[engine].ask(do="open")))
        for number in range(repeat):
            order = list(engines) if number % 2 == 0 else list(reversed(engines))
            for phase in PHASES:
                for engine in [name for name in order if "failed" not in results[name]]:
                    asked = {"do": "phase", "name": phase, "budget": budget}
                    _try(
                        results,
                        engine,
                        lambda e=engine, p=phase, a=asked: rounds.setdefault((e, p), []).append(workers[e].ask(**a)),
                    )
    finally:
        for worker in workers.values():
            worker.close()
    for (engine, phase), done in rounds.items():
        results[engine]["phases"][phase] = _summary(phase, done, workload)
        results[engine].update({key: done[-1][key] for key in ("rss_mb", "anon_mb")})
    return results


def _try(results: dict[str, Any], engine: str, do: Any) -> None:
    try:
        do()
    except EngineFailedError as error:
        results[engine]["failed"] = str(error)


def _summary(phase: str, done: Sequence[Mapping[str, Any]], workload: Workload) -> dict[str, float]:
    summary = {
        "p50": statistics.median(statistics.median(one["ms"]) for one in done),
        "p99": statistics.median(float(np.percentile(one["ms"], 99)) for one in done),
        "cpu": statistics.median(one["cpu_ms"] for one in done),
        "queries": min(len(one["ms"]) for one in done),
    }
    percent = PHASES[phase]
    if percent is not None:
        found = done[-1]["found"]
        summary["recall"] = recall(found, workload.truth[percent][: len(found)])
        summary["recall_stored"] = recall(found, workload.stored[percent][: len(found)])
    return summary
