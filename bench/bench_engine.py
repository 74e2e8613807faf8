"""Feed and query rates of the local engine over HTTP, by every client a user may have, side by side in one run.

Documents are generated: captions of 6 to 12 words drawn from a Zipf law over 4,000 words, 512-d unit vectors around
300 centres, no thumbnail. Each feeding client gets a fresh engine. Ratios are against ``clipsearch feed``.

    .venv/bin/python bench/bench_engine.py --documents 5000
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from vespa.application import Vespa

from clipsearch.records import Embedded, Record
from clipsearch.search import query
from clipsearch.search.client import SearchClient
from clipsearch.shards import Manifest, ShardWriter, open_shards, write_manifest
from feeders.documents import document_fields
from feeders.shards import feed_shards

ROOT = Path(__file__).resolve().parent.parent
PORT, DEPLOY = 28480, 29471
URL = f"http://127.0.0.1:{PORT}"


def generate(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Write ``count`` documents as shards; returns 200 queries, each three words of one caption."""
    random = np.random.default_rng(seed)
    words = np.array([f"word{number}" for number in range(4000)])
    weights = 1 / np.arange(1, 4001)
    centres = random.normal(size=(300, 512))
    queries = []
    folder.mkdir()
    with ShardWriter(folder, 512) as writer:
        for number in range(count):
            vector = centres[number % 300] + 0.8 * random.normal(size=512)
            chosen = random.choice(words, size=random.integers(6, 13), p=weights / weights.sum())
            record = Record("bench", f"image{number:07}", f"{number}.jpg", (" ".join(chosen),), "train", "")
            unit = (vector / np.linalg.norm(vector)).astype(np.float32)
            writer.add(Embedded(record, unit, b"", 224, 224, f"{number:064x}", "bench"))
            if number % max(1, count // 200) == 0:
                queries.append(" ".join(chosen[:3]))
    write_manifest(folder, Manifest(corpus="bench", model_id="bench", dim=512, count=count, root="", complete=True))
    return queries[:200]


@contextmanager
def engine(folder: Path) -> Iterator[None]:
    """A fresh engine with the committed application package."""
    command = [sys.executable, "-m", "clipsearch", "engine", "--data", str(folder), "--app", str(ROOT / "vespa_app")]
    child = subprocess.Popen([*command, "--port", str(PORT), "--deploy-port", str(DEPLOY)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if Vespa(url=URL).get_application_status() is not None:
                break
            time.sleep(0.1)
        yield
    finally:
        child.terminate()
        child.wait(timeout=30)


def feeders(shards: Path, work: Path) -> dict[str, Callable[[], object]]:
    """Every way in, by name."""
    documents = [(row.record.key, document_fields(row)) for row in open_shards(shards)]
    operations = [{"id": key, "fields": fields} for key, fields in documents]
    lines = work / "documents.jsonl"
    lines.write_text("".join(json.dumps({"put": f"id:bench:image::{k}", "fields": f}) + "\n" for k, f in documents))
    cli = Path(sys.executable).with_name("vespa")
    return {
        "clipsearch feed": lambda: feed_shards(shards, URL, progress=False),
        "pyvespa feed_iterable": lambda: Vespa(url=URL).feed_iterable(operations, schema="image", namespace="bench"),
        "pyvespa feed_async_iterable": lambda: Vespa(url=URL).feed_async_iterable(
            operations, schema="image", namespace="bench"
        ),
        "vespa feed": lambda: subprocess.run(
            [cli, "feed", "-t", URL, str(lines)], check=True, capture_output=True, env={"HOME": str(work)}
        ),
    }


def measure_queries(queries: list[str]) -> dict[str, list[float]]:
    """Milliseconds for each query, as the client sees them, by rank profile."""
    client, random = SearchClient(URL), np.random.default_rng(1)
    times: dict[str, list[float]] = {profile: [] for profile in query.PROFILES}
    for text in queries:
        vector = random.normal(size=512)
        unit = (vector / np.linalg.norm(vector)).astype(np.float32)
        for profile in query.PROFILES:
            times[profile].append(client.search(query.by_profile(profile, text, unit)).seconds * 1000)
    return times


@click.command()
@click.option("--documents", default=5000, show_default=True)
def main(documents: int) -> None:
    """Print a table of feed rates and one of query latencies."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        queries = generate(work / "shards", documents)
        rates = {}
        for number, (title, feed) in enumerate(feeders(work / "shards", work).items()):
            with engine(work / f"index{number}"):
                start = time.monotonic()
                feed()
                rates[title] = documents / (time.monotonic() - start)
                stored = SearchClient(URL).document_count("bench")
                assert stored == documents, f"{title} stored {stored} of {documents}"
                if not number:
                    latencies = measure_queries(queries)
        print(f"\nfeed, {documents} documents of 512 dimensions over HTTP on this machine")
        for title, rate in rates.items():
            print(f"  {title:28} {rate:8.0f} docs/s   {rate / rates['clipsearch feed']:.2f} x")
        print("query, one client, ms")
        for profile, times in latencies.items():
            print(f"  {profile:14} p50 {statistics.median(times):6.1f}   p99 {np.percentile(times, 99):6.1f}")


if __name__ == "__main__":
    main()
