"""The search page, measured as people meet it: server time, first paint in Chromium, weight.

Queries are content words of the corpus's own captions, each asked once, so that no cache answers. Server time is a GET
of the hybrid results page over a kept connection, the text encoder included. Chromium opens the same pages: first
contentful paint, the first hit painted, and the largest paint (a picture). Weight is HTML, CSS and JavaScript, as they
are and as they travel. Times are of this machine while nothing else runs.

The sample corpus, with a model that it trains for --minutes:

    .venv/bin/python bench/bench_ui.py

Another corpus, with its model and, to save the encoding, its shards:

    .venv/bin/python bench/bench_ui.py --corpus ../shared/data/rsicd --model MODEL --shards SHARDS --queries 500 --json
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import click
import servers
from engines import ROOT
from report import say, table

from clipsearch.corpora import open_corpus

Json = dict[str, Any]
GOALS = {"server_p50_ms": 50.0, "paint_ms": 300.0, "weight_kb": 60.0}  # the weight as sent: what a browser transfers
CHROMIUM = Path("/usr/bin/chromium")
WORD = re.compile(r"[a-z]{3,}")
STOPPED = frozenset(
    ("the", "and", "are", "with", "there", "some", "many", "this", "that", "its", "near", "next", "from", "has", "have")
)
# When a hit has been painted: the frame after the one that first has it laid out.
FIRST_HIT = """
const look = () => {
  if (!document.querySelector(".card")?.getBoundingClientRect().height) return requestAnimationFrame(look);
  requestAnimationFrame(() => setTimeout(() => { window.__firstHit = performance.now(); }));
};
requestAnimationFrame(look);
new PerformanceObserver(list => { window.__largest = list.getEntries().at(-1).startTime; })
  .observe({type: "largest-contentful-paint", buffered: true});
"""
PAINTS = """() => ({
  first_paint_ms: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  first_hit_ms: window.__firstHit, largest_ms: window.__largest,
  response_ms: performance.getEntriesByType("navigation")[0].responseEnd,
})"""


def words_of(corpus: Path, count: int, seed: int = 1) -> list[str]:
    """``count`` different queries of 2 to 5 words, each of one caption."""
    generator = random.Random(seed)
    with open_corpus(corpus) as opened:
        captions = [caption for record in opened.records for caption in record.captions]
    found: dict[str, None] = {}
    for _ in range(100 * count):
        content = [word for word in WORD.findall(generator.choice(captions).lower()) if word not in STOPPED]
        if len(content) > 1:
            found[" ".join(generator.sample(content, min(len(content), generator.randint(2, 5))))] = None
        if len(found) == count:
            return list(found)
    raise click.UsageError(f"the captions of {corpus} give {len(found)} different queries only")


def run(*arguments: object) -> None:
    """One clipsearch command, which must not fail."""
    say("$ clipsearch " + " ".join(map(str, arguments)))
    subprocess.run(
        [sys.executable, "-m", "clipsearch", *map(str, arguments)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


@contextmanager
def serving(work: Path, corpus: Path, model: Path, shards: Path, ports: Sequence[int]) -> Iterator[str]:
    """Engine, feed and page, as their commands start them; yields the page's address."""
    engine_port, deploy_port, port = ports
    with servers.engine(work / "data", engine_port, deploy_port, ROOT / "vespa_app") as engine:
        engine.wait()
        run("feed", "shards", shards, "--url", engine.url)
        root = f"{corpus.name}={corpus}"
        command = ["ui", "--url", engine.url, "--model", model, "--port", port, "--corpus-root", root]
        with servers.Server(port, "-m", "clipsearch", *map(str, command)) as page:
            page.wait("/health")
            yield page.url


def server_times(url: str, queries: Sequence[str], ranking: str) -> list[float]:
    """Milliseconds from each request until its whole page is here."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    times = []
    for words in queries:
        start = time.perf_counter()
        connection.request("GET", f"/?q={quote_plus(words)}&ranking={ranking}")
        answer = connection.getresponse()
        answer.read()
        times.append(1000 * (time.perf_counter() - start))
        if answer.status != 200:
            raise RuntimeError(f"{words!r} was answered {answer.status}")
    connection.close()
    return times


def paints(url: str, queries: Sequence[str]) -> list[Json]:
    """What Chromium painted when, in ms from the start of each navigation; stylesheet and script come once."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        program = CHROMIUM if CHROMIUM.exists() else None
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.add_init_script(FIRST_HIT)
        for words in queries:
            page.goto(f"{url}/?q={quote_plus(words)}&ranking=hybrid", wait_until="load")
            while page.evaluate("window.__firstHit === undefined"):  # the page's policy allows no function to wait for
                page.wait_for_timeout(10)
            found.append(page.evaluate(PAINTS))
        browser.close()
    return found


def weight(url: str, queries: Sequence[str]) -> Json:
    """KB of the heaviest results page, its stylesheets and scripts: as they are, and as a browser is sent them."""
    most = {"raw_kb": 0.0, "sent_kb": 0.0}
    for words in queries:
        html, sent = _fetch(url, f"/?q={quote_plus(words)}&ranking=hybrid")
        parts = [(html, sent)]
        names = re.findall(r'(?:href|src)="(/static/[^"]+\.(?:css|js)[^"]*)"', html.decode())
        parts += [_fetch(url, name) for name in dict.fromkeys(names)]
        most["raw_kb"] = max(most["raw_kb"], sum(len(body) for body, _ in parts) / 1000)
        most["sent_kb"] = max(most["sent_kb"], sum(size for _, size in parts) / 1000)
    return most


def _fetch(url: str, path: str) -> tuple[bytes, int]:
    import gzip

    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return (gzip.decompress(body) if answer.getheader("Content-Encoding") == "gzip" else body), len(body)


def measure(url: str, corpus: Path, count: int, opened: int) -> Json:
    """Everything; ``count`` queries for each ranking, ``opened`` pages in Chromium."""
    queries = words_of(corpus, 20 + 3 * count + opened + 10)
    server_times(url, queries[:20], "hybrid")  # the first queries of a process cost several times the next
    at = 20
    found: Json = {"machine": f"{os.cpu_count()} CPUs, {platform.machine()}", "queries": count, "server": {}}
    for ranking in ("hybrid", "lexical", "vector"):
        found["server"][ranking] = spread(server_times(url, queries[at : at + count], ranking))
        at += count
        say(f"server time, {ranking}: {found['server'][ranking]}")
    shown = paints(url, queries[at : at + opened])
    found["paint"] = {name: spread([one[name] for one in shown if one[name]]) for name in shown[0]}
    found["weight"] = weight(url, queries[at + opened :])
    met = {
        "server_p50_ms": found["server"]["hybrid"]["p50"] < GOALS["server_p50_ms"],
        "paint_ms": found["paint"]["first_hit_ms"]["p50"] < GOALS["paint_ms"],
        "weight_kb": found["weight"]["sent_kb"] < GOALS["weight_kb"],
    }
    return found | {"goals": GOALS, "met": met}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and the worst."""
    ordered = sorted(values)
    worst = ordered[-1]
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"p50": round(statistics.median(ordered), 1), "p95": round(p95, 1), "max": round(worst, 1)}


def tables(found: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    rows = [[f"server, {name}", *_cells(one)] for name, one in found["server"].items()]
    names = {"response_ms": "Chromium has the page", "first_paint_ms": "first contentful paint",
             "first_hit_ms": "first hit painted", "largest_ms": "largest paint"}  # fmt: skip
    rows += [[names[name], *_cells(found["paint"][name])] for name in names]
    title = f"the hybrid results page, {found['queries']} new queries a ranking ({found['machine']})"
    size = found["weight"]
    goals = [f"{name} < {found['goals'][name]:g}: {'met' if met else 'MISSED'}" for name, met in found["met"].items()]
    return "\n\n".join(
        [
            table(title, ["", "p50 ms", "p95 ms", "worst ms"], rows),
            f"weight without images: {size['sent_kb']:.1f} KB as sent (gzip), {size['raw_kb']:.1f} KB unpacked",
            "\n".join(goals),
        ]
    )


def _cells(one: Mapping[str, float]) -> list[str]:
    return [f"{one[name]:.1f}" for name in ("p50", "p95", "max")]


@click.command()
@click.option("--corpus", type=click.Path(exists=True, path_type=Path), help="Corpus folder. [the sample, drawn]")
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="Its checkpoint. [trained]")
@click.option("--shards", type=click.Path(exists=True, path_type=Path), help="Its shards. [encoded]")
@click.option("--queries", default=200, show_default=True, help="For each ranking.")
@click.option("--pages", default=30, show_default=True, help="Pages that Chromium opens.")
@click.option("--minutes", default=1.0, show_default=True, help="Bound on training, where no model is given.")
@click.option("--port", default=28590, show_default=True, help="Of the engine; the next two are taken too.")
@click.option("--url", default="", help="Measure this search page, over CORPUS, instead of starting one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    corpus: Path | None, model: Path | None, shards: Path | None, queries: int, pages: int, minutes: float, port: int,
    url: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure the search page over a corpus, by default the sample."""
    with tempfile.TemporaryDirectory(prefix="bench-ui-") as folder:
        work = Path(folder)
        if corpus is None:
            corpus = work / "sample"
            run("sample", "--out", corpus, "--images", 1000)
        if url:
            found = measure(url, corpus, queries, pages)
        else:
            if model is None:
                model = work / "model"
                run("finetune", corpus, "--preset", "tiny", "--max-minutes", minutes, "--out", model)
            if shards is None:
                shards = work / "shards"
                run("encode", corpus, "--model", model, "--out", shards, "--patches", "3x3")
            with serving(work, corpus, model, shards, (port, port + 1, port + 2)) as started:
                found = measure(started, corpus, queries, pages)
    click.echo(json.dumps(found, indent=2) if as_json else tables(found))


if __name__ == "__main__":
    main()
