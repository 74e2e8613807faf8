"""``clipsearch feed`` beside ``vespa feed`` and pyvespa's two feed loops: the same documents into the local engine.

Each client is a process of its own and feeds a fresh engine; clients take turns, in rounds, and figures are medians
over rounds. Printed are documents a second, CPU of both sides, the client's peak memory, and the ratios that the
project promises. Our feeder's peak memory is measured at a quarter of the documents, too: it must not grow. What it
fed is read back with ``clipsearch feed verify``.

    .venv/bin/python bench/bench_feed.py --documents 20000 --rounds 3
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import servers
from app import embedded, write_application
from engines import ROOT
from report import say, table
from workload import Workload, make

from clipsearch.records import Embedded
from clipsearch.search.client import SearchClient
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from feeders.documents import document_fields

Json = dict[str, Any]
CLIENTS = {
    "clipsearch": "clipsearch feed",
    "vespa": "vespa feed",
    "feed_iterable": "pyvespa feed_iterable",
    "feed_async_iterable": "pyvespa feed_async_iterable",
}

_COLUMNS = {"docs_per_s": 0, "client_ms": 2, "server_ms": 2, "peak_mb": 0}  # with their digits


def write_documents(folder: Path, workload: Workload, count: int, thumbnail: int) -> Path:
    """The first ``count`` documents as shards and as Vespa's JSONL, with ``thumbnail`` bytes of image each."""
    if (folder / "complete").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shards").mkdir(parents=True)
    dimension = workload.vectors.shape[1]
    with ShardWriter(folder / "shards", dimension) as writer, (folder / "documents.jsonl").open("w") as lines:
        for row in _rows(workload, count, thumbnail):
            writer.add(row)
            lines.write(json.dumps({"put": row.record.id, "fields": document_fields(row)}) + "\n")
    write_manifest(folder / "shards", Manifest("bench", "bench/clip-vit-base-patch32", dimension, count, "", True))
    (folder / "complete").write_text("")
    return folder


def _rows(workload: Workload, count: int, thumbnail: int) -> Iterator[Embedded]:
    for row in range(count):
        made = embedded(row, workload.captions[row], workload.vectors[row])
        yield replace(made, thumbnail=os.urandom(thumbnail)) if thumbnail else made


def one_feed(client: str, server: servers.Server, folder: Path, count: int) -> Json:
    """What ``client`` took, with the server's share. Raises ``RuntimeError`` unless every document was acknowledged."""
    cpu = server.cpu_seconds()
    command = [sys.executable, str(ROOT / "bench" / "feed_client.py"), client, server.url, str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: Json = json.loads(done.stdout.splitlines()[-1])
    if found["fed"] != count:
        raise RuntimeError(f"{CLIENTS[client]} fed {found['fed']} of {count} documents")
    return {
        "docs_per_s": count / found["seconds"],
        "client_ms": found["cpu_s"] / count * 1000,
        "server_ms": (server.cpu_seconds() - cpu) / count * 1000,
        "peak_mb": found["peak_mb"],
    }


def into_engine(client: str, folder: Path, work: Path, ports: tuple[int, int], count: int, verify: bool) -> Json:
    """One feed into a fresh engine, and whether everything is there."""
    data = work / "engine"
    shutil.rmtree(data, ignore_errors=True)
    with servers.engine(data, *ports, write_application(work / "application")) as server:
        server.wait()
        found = one_feed(client, server, folder, count)
        stored = SearchClient(server.url).document_count("bench")
        if stored != count:
            raise RuntimeError(f"{CLIENTS[client]} stored {stored} of {count} documents")
        if verify:
            command = [
                sys.executable,
                "-m",
                "clipsearch",
                "feed",
                "verify",
                str(folder / "shards"),
                "--url",
                server.url,
            ]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            found["verify"] = {"code": done.returncode, "said": (done.stdout or done.stderr).strip().splitlines()[-1:]}
    shutil.rmtree(data, ignore_errors=True)
    return found


def measure(work: Path, workload: Workload, count: int, rounds: int, ports: tuple[int, int], thumbnail: int) -> Json:
    """All clients in alternating order; then our feeder's memory and ceiling against a server that does nothing."""
    folder = write_documents(work / f"feed-{count}-{thumbnail}", workload, count, thumbnail)
    found: dict[str, list[Json]] = {client: [] for client in CLIENTS}
    for number in range(rounds):
        for client in CLIENTS if number % 2 == 0 else reversed(CLIENTS):
            verify = client == "clipsearch" and number == rounds - 1
            found[client].append(into_engine(client, folder, work, ports, count, verify))
            say(f"round {number + 1}, {CLIENTS[client]}: {found[client][-1]['docs_per_s']:.0f} docs/s")
    memory = {}
    for size in (count // 4, count):
        small = write_documents(work / f"feed-{size}-{thumbnail}", workload, size, thumbnail)
        with servers.stub(ports[0]) as server:
            server.wait()
            memory[str(size)] = one_feed("clipsearch", server, small, size)
    clients = {client: _median(feeds) for client, feeds in found.items()}
    best = max(clients[name]["docs_per_s"] for name in ("feed_iterable", "feed_async_iterable"))
    ours = clients["clipsearch"]["docs_per_s"]
    ratios = {"pyvespa": ours / best, "vespa feed": ours / clients["vespa"]["docs_per_s"]}
    return {"clients": clients, "rounds": found, "ratios": ratios, "without_engine": memory}


def _median(feeds: list[Json]) -> Json:
    return {name: statistics.median(feed[name] for feed in feeds) for name in feeds[0] if name != "verify"}


def tables(found: Mapping[str, Any]) -> str:
    """Everything that was measured, as text."""
    rows = [
        [CLIENTS[client], *(f"{one[name]:.{digits}f}" for name, digits in _COLUMNS.items())]
        for client, one in found["clients"].items()
    ]
    head = [f"{found['documents']} documents", "docs/s", "client CPU ms", "engine CPU ms", "client peak MB"]
    parts = [table(f"feeding the local engine ({found['machine']})", head, rows)]
    rows = [
        [size, f"{one['docs_per_s']:.0f}", f"{one['peak_mb']:.1f}"] for size, one in found["without_engine"].items()
    ]
    head = ["documents", "docs/s", "peak MB"]
    parts.append(table("clipsearch feed into a server that does nothing", head, rows))
    ratios = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in found["ratios"].items())
    verify = found["rounds"]["clipsearch"][-1]["verify"]
    parts.append(f"clipsearch feed: {ratios} (pyvespa: the better of its loops)")
    parts.append(f"feed verify: exit code {verify['code']}: {' '.join(verify['said'])}")
    return "\n\n".join(parts)


@click.command()
@click.option("--documents", default=200_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--thumbnail", default=0, show_default=True, help="Bytes of thumbnail in each document.")
@click.option("--work", type=click.Path(path_type=Path), help="Kept for the next run. Default: a temporary folder.")
@click.option("--port", default=29670, show_default=True, help="This port and the next are used.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of tables.")
def main(documents: int, rounds: int, thumbnail: int, work: Path | None, port: int, as_json: bool) -> None:
    """Measure everything and print tables."""
    with tempfile.TemporaryDirectory() as temporary:
        place = (work or Path(temporary)).absolute()
        say(f"making {documents} documents ...")
        workload = make(place / f"workload-{documents}", documents)
        found: Json = {"documents": documents, "machine": f"{os.cpu_count()} CPUs, {platform.machine()}"}
        found |= measure(place, workload, documents, rounds, (port, port + 1), thumbnail)
    click.echo(json.dumps(found, indent=2) if as_json else tables(found))


if __name__ == "__main__":
    main()
