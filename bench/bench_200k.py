"""The local engine beside the embedded hybrid engines that pip installs, on one workload, in one run; then over HTTP.

In process, every engine is asked from Python and gives back the ids and captions of its ten best: ours from the bytes
of a request with YQL. Peers run as their own documentation recommends for hybrid search, each in its own environment
and process, their graphs searched just wide enough to find 99 % of the nearest. Rounds are interleaved and figures are
medians over rounds. Two lists are fused by reciprocal rank, 100 deep where the engine lets one say so. Everything made
is kept in ``--work``; ``--reuse`` builds no peer's index twice.

    .venv/bin/python bench/bench_200k.py --documents 20000 --peers sqlite-vec
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import click
import over_http
import real
import report
import rounds
from engines import OURS, PACKAGES, EngineFailedError, Place, build, install, versions
from workload import make


def in_process(place: Place, workload: Any, peers: list[str], repeat: int, budget: float, reuse: bool) -> Any:
    """Builds and phases by engine; an engine that cannot be installed or built says so under ``failed``."""
    costs: dict[str, Any] = {}
    for engine in (OURS, *peers):
        report.say(f"building {engine} ...")
        try:
            install(engine, place.work)
            costs[engine] = build(engine, place, reuse and engine != OURS)
        except EngineFailedError as error:
            costs[engine] = {"failed": str(error)}
    able = [engine for engine, cost in costs.items() if "failed" not in cost]
    report.say("asking " + ", ".join(able) + " ...")
    found = rounds.measure(able, place, workload, repeat, budget)
    return {
        engine: {"build": cost, **found.get(engine, {"failed": cost.get("failed")})} for engine, cost in costs.items()
    }


@click.command()
@click.option("--documents", default=200_000, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept for the next run. Default: a temporary folder.")
@click.option("--peers", default=",".join(PACKAGES), show_default=True, help='Comma separated; "" for none.')
@click.option("--repeat", default=3, show_default=True, help="Rounds of queries.")
@click.option("--budget", default=8.0, show_default=True, help="Seconds for one phase of one engine in one round.")
@click.option("--reuse", is_flag=True, help="Use the peers' indexes that an earlier run left in --work.")
@click.option("--http/--no-http", default=True, show_default=True, help="Also measure over HTTP.")
@click.option("--clients", default=5000, show_default=True, help="Documents for each feeding client.")
@click.option("--real-documents", default=50_000, show_default=True, help="Blown-up real CLIP embeddings; 0 for none.")
@click.option("--port", default=29660, show_default=True, help="This port and the next are used.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of tables.")
def main(
    documents: int,
    work: Path | None,
    peers: str,
    repeat: int,
    budget: float,
    reuse: bool,
    http: bool,
    clients: int,
    real_documents: int,
    port: int,
    as_json: bool,
) -> None:
    """Measure everything and print tables."""
    chosen = [name for name in peers.split(",") if name]
    if unknown := [name for name in chosen if name not in PACKAGES]:
        raise click.BadParameter(
            f"there is no peer {unknown[0]}: choose of {', '.join(PACKAGES)}", param_hint="--peers"
        )
    with tempfile.TemporaryDirectory() as temporary:
        place = Place((work or Path(temporary)).absolute(), str(documents))
        report.say(f"making the workload of {documents} documents ...")
        workload = make(place.workload, documents)
        found: dict[str, Any] = {"documents": documents, "machine": f"{os.cpu_count()} CPUs, {platform.machine()}"}
        found["in_process"] = in_process(place, workload, chosen, repeat, budget, reuse)
        found["versions"] = versions(chosen, place.work)
        if real_documents and real.EMBEDDINGS.is_dir():
            report.say("real CLIP embeddings ...")
            found["real"] = real.measure(place.work, real_documents)
        if http:
            report.say("over HTTP ...")
            found["http"] = over_http.measure(place, workload, (port, port + 1), repeat, clients)
    click.echo(json.dumps(found, indent=2) if as_json else report.tables(found))


if __name__ == "__main__":
    main()
