"""What is measured over HTTP: feeding by four clients, queries by three, memory, disk, restarts."""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import servers
from app import embedded, fields, write_application
from engines import Place
from vespa.application import Vespa
from workload import Workload, batches

from clipsearch.search import query
from clipsearch.search.client import SearchClient
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from feeders.shards import feed_shards

Json = dict[str, Any]
VESPA = Path(sys.executable).with_name("vespa")


def measure(place: Place, workload: Workload, ports: tuple[int, int], repeat: int, clients: int) -> Json:
    """Everything over HTTP; ``clients`` documents for those clients that are slower than ``vespa feed``."""
    place.work.joinpath("home").mkdir(parents=True, exist_ok=True)
    data, found = place.index("over-http"), Json()
    shutil.rmtree(data, ignore_errors=True)
    with servers.engine(data, *ports, write_application(data.with_name("over-http-app"))) as server:
        server.wait()
        found["feed"] = _vespa_feed(place, workload, server)
        found["stored"] = SearchClient(server.url).document_count("bench")
        found["queries"] = queries(server.url, ports[0], workload, repeat)
        found["memory"] = server.memory_mb()
    found["restart"] = restarts(data, ports, workload)
    found["disk"] = disk(data)
    found["clients"] = _clients(place, workload, ports, clients)
    return found


def _vespa_feed(place: Place, workload: Workload, server: servers.Server) -> Json:
    """``vespa feed`` of all documents, with default options; docs/s, and CPU seconds of both sides."""
    lines = place.workload / "documents.jsonl"
    if not lines.is_file():
        _write_lines(lines, workload, len(workload.buckets))
    cpu, own = server.cpu_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    summary = _run_vespa_feed(place, server.url, lines)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
    if summary["feeder.ok.count"] != len(workload.buckets):
        raise RuntimeError(f"vespa feed: {json.dumps(summary)}")
    rate = len(workload.buckets) / seconds
    return {"docs_per_s": rate, "server_cpu_s": server.cpu_seconds() - cpu, "client_cpu_s": client}


def _run_vespa_feed(place: Place, url: str, lines: Path) -> Json:
    environment = os.environ | {"VESPA_CLI_HOME": str(place.work / "home")}
    command = [str(VESPA), "feed", "-t", url, str(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    summary: Json = json.loads(done.stdout)
    return summary


def _write_lines(path: Path, workload: Workload, count: int) -> None:
    with path.open("w") as file:
        for row, made in _documents(workload, count):
            file.write(json.dumps({"put": f"id:bench:image::{row:07}", "fields": made}) + "\n")


def _documents(workload: Workload, count: int) -> Iterator[tuple[int, Json]]:
    for rows, vectors in batches(workload):
        for row, vector in zip(rows, vectors, strict=True):
            if row >= count:
                return
            yield row, fields(row, workload.captions[row], vector, int(workload.buckets[row]))


# ---- the other feeding clients, against the engine and against a server that does nothing


def _clients(place: Place, workload: Workload, ports: tuple[int, int], count: int) -> Json:
    """Docs/s of every client into a fresh engine, and into the stub: the client's own ceiling."""
    count = min(count, len(workload.buckets))
    rates: Json = {}
    for name, feed in _feeders(place, workload, count).items():
        rates[name] = {"documents": count}
        for side, opened in (("engine", _fresh_engine(place, ports)), ("ceiling", _stub(ports[0]))):
            with opened as server:
                start = time.perf_counter()
                feed(server.url)
                rates[name][side] = count / (time.perf_counter() - start)
                if side == "engine":
                    stored = SearchClient(server.url).document_count("bench")
                    if stored != count:
                        raise RuntimeError(f"{name} stored {stored} of {count} documents")
    return rates


def _feeders(place: Place, workload: Workload, count: int) -> dict[str, Callable[[str], object]]:
    documents = list(_documents(workload, count))
    operations = [{"id": f"{row:07}", "fields": made} for row, made in documents]
    lines, shards = place.work / "some.jsonl", place.work / "shards"
    lines.write_text(
        "".join(json.dumps({"put": f"id:bench:image::{row:07}", "fields": made}) + "\n" for row, made in documents)
    )
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    with ShardWriter(shards, workload.vectors.shape[1]) as writer:
        for row in range(count):
            writer.add(embedded(row, workload.captions[row], workload.vectors[row]))
    manifest = Manifest("bench", "bench", workload.vectors.shape[1], count, "", True)
    write_manifest(shards, manifest)
    known = {"schema": "image", "namespace": "bench"}
    return {
        "vespa feed": lambda url: _run_vespa_feed(place, url, lines),
        "clipsearch feed": lambda url: feed_shards(shards, url, progress=False),
        "pyvespa feed_iterable": lambda url: Vespa(url=url).feed_iterable(operations, **known),
        "pyvespa feed_async_iterable": lambda url: Vespa(url=url).feed_async_iterable(operations, **known),
    }


@contextmanager
def _fresh_engine(place: Place, ports: tuple[int, int]) -> Iterator[servers.Server]:
    data = place.index("clients")
    shutil.rmtree(data, ignore_errors=True)
    with servers.engine(data, *ports, write_application(data.with_name("clients-app"))) as server:
        server.wait()
        yield server
    shutil.rmtree(data, ignore_errors=True)


@contextmanager
def _stub(port: int) -> Iterator[servers.Server]:
    with servers.stub(port) as server:
        server.wait()
        yield server


# ---- queries, restarts, disk


def queries(url: str, port: int, workload: Workload, repeat: int) -> Json:
    """p50 and p99 in ms by client and profile, medians over interleaved rounds; one request at a time."""
    bodies = {profile: _bodies(profile, workload) for profile in ("lexical", "vector", "hybrid")}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client, application = SearchClient(url, timeout=60), Vespa(url=url)

    def plain(body: Json) -> int:
        data = json.dumps(body).encode()
        connection.request("POST", "/search/", data, {"Content-Type": "application/json"})
        return len(json.loads(connection.getresponse().read())["root"].get("children", ()))

    times: dict[tuple[str, str], list[list[float]]] = {}
    with application.syncio() as session:
        asks: dict[str, Callable[[Json], int]] = {
            "http.client": plain,
            "clipsearch": lambda body: len(client.search(body).hits),
            "pyvespa": lambda body: len(session.query(body).hits),
        }
        for number in range(repeat + 1):  # the first round warms up
            for profile, wanted in bodies.items():
                for name in asks if number % 2 else reversed(asks):
                    spent = _ask_all(asks[name], wanted)
                    if number:
                        times.setdefault((name, profile), []).append(spent)
    connection.close()
    return {
        name: {
            profile: {
                "p50": statistics.median(statistics.median(one) for one in times[name, profile]),
                "p99": statistics.median(float(np.percentile(one, 99)) for one in times[name, profile]),
            }
            for profile in bodies
        }
        for name in asks
    }


def _bodies(profile: str, workload: Workload) -> list[Json]:
    """What the application itself sends: all shown fields and match features of ten hits."""
    pairs = zip(workload.texts, workload.queries, strict=True)
    return [query.by_profile(profile, text, vector) | {"timeout": "60s"} for text, vector in pairs]


def _ask_all(ask: Callable[[Json], int], bodies: list[Json], budget: float = 15.0) -> list[float]:
    spent = []
    for body in bodies:
        start = time.perf_counter()
        if ask(body) == 0 and body["ranking.profile"] != "lexical":
            raise RuntimeError("a query found nothing")
        spent.append((time.perf_counter() - start) * 1000)
        budget -= spent[-1] / 1000
        if budget < 0 and len(spent) >= 20:
            break
    return spent


def restarts(data: Path, ports: tuple[int, int], workload: Workload, times: int = 5) -> Json:
    """Seconds from starting the process to the first answered hybrid query, over ``times`` starts."""
    body = json.dumps(_bodies("hybrid", workload)[0]).encode()
    spent = []
    for _ in range(times):
        with servers.engine(data, *ports) as server:
            spent.append(server.wait("/search/", body))
            memory = server.memory_mb()
    return {"median_s": statistics.median(spent), "all_s": spent, "memory": memory}


def disk(data: Path) -> dict[str, float]:
    """MB on disk by file below ``data``, small ones together, and ``total``."""
    sizes = {
        str(path.relative_to(data)): path.stat().st_blocks * 512 / 1e6 for path in data.rglob("*") if path.is_file()
    }
    parts = {name: size for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if size >= 1}
    small = sum(sizes.values()) - sum(parts.values())
    return {**parts, "all others": small, "total": sum(sizes.values())}
