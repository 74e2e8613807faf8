"""The results as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from engines import OURS
from rounds import PHASES

_TITLES = {
    "lexical": "lexical",
    "vector": "vector",
    "hybrid": "hybrid",
    "filter_1": "filter 1 %",
    "filter_10": "filter 10 %",
}


def say(line: str) -> None:
    """One line of progress, on stderr."""
    click.echo(line, err=True)


def tables(found: Mapping[str, Any]) -> str:
    """Everything that was measured, as text."""
    parts = [_build(found), _queries(found), _bars(found["in_process"])]
    if "real" in found:
        rows = [[name, f"{one['recall']:.4f}", f"{one['recall_stored']:.4f}"] for name, one in found["real"].items()]
        head = ["images", "against float32", "against its bfloat16 cells"]
        parts.append(table("real CLIP embeddings, recall@10 of ours against exact search", head, rows))
    if "http" in found:
        parts.append(_http(found["http"]))
    return "\n\n".join(parts)


def _build(found: Mapping[str, Any]) -> str:
    rows = []
    for engine, one in found["in_process"].items():
        name = " ".join((engine, found["versions"].get(engine, ""))).strip()
        if "docs_per_s" not in one["build"]:
            rows.append([name, f"failed: {one['failed']}"])
            continue
        cost = one["build"]
        rows.append(
            [
                name,
                f"{cost['docs_per_s']:.0f}",
                f"{cost['cpu_s']:.0f}",
                f"{cost['disk_mb']:.0f}",
                f"{cost['peak_rss_mb']:.0f}",
                f"{one['open_s']:.2f}" if "open_s" in one else "-",
                f"{one.get('rss_mb', 0):.0f} ({one.get('anon_mb', 0):.0f})",
            ]
        )
    title = f"in process, {found['documents']} documents of 512 dimensions with captions ({found['machine']})"
    return table(title, ["build", "docs/s", "CPU s", "disk MB", "peak MB", "open + query s", "RSS (anon) MB"], rows)


def _queries(found: Mapping[str, Any]) -> str:
    engines = {name: one["phases"] for name, one in found["in_process"].items() if one.get("phases")}
    rows = []
    for engine, phases in engines.items():
        row = [engine]
        for phase in PHASES:
            row.append(_phase(phases[phase], engine == OURS) if phase in phases else "-")
        rows.append(row)
        if "failed" in found["in_process"][engine]:
            rows.append([f"  failed: {found['in_process'][engine]['failed']}"])
    title = "queries in process, top 10: p50 / p99 ms, [CPU ms], recall@10 (in brackets: of ours, over bfloat16 cells)"
    return table(title, ["engine", *(_TITLES[phase] for phase in PHASES)], rows)


def _phase(one: Mapping[str, float], ours: bool) -> str:
    shown = f"{one['p50']:.2f} / {one['p99']:.2f} [{one['cpu']:.2f}]"
    if "recall" not in one:
        return shown
    return f"{shown} {one['recall']:.4f}" + (f" ({one['recall_stored']:.4f})" if ours else "")


def _bars(engines: Mapping[str, Any]) -> str:
    """How ours stands against the best peer in this run."""
    lines = []
    peers = {name: one["phases"] for name, one in engines.items() if name != OURS and one.get("phases")}
    ours = engines[OURS].get("phases", {})
    for phase in PHASES:
        times = {name: phases[phase]["p50"] for name, phases in peers.items() if phase in phases}
        if times and phase in ours:
            best = min(times, key=lambda name: times[name])
            ratio = ours[phase]["p50"] / times[best]
            lines.append(f"  {_TITLES[phase]:12} ours / best peer = {ratio:.2f} ({best}, p50 {times[best]:.2f} ms)")
    return "\n".join(["against the best peer of this run", *lines]) if lines else "no peer was measured"


def _http(found: Mapping[str, Any]) -> str:
    feed, memory, restart = found["feed"], found["memory"], found["restart"]
    parts = [
        "over HTTP",
        f"  vespa feed of {found['stored']} documents: {feed['docs_per_s']:.0f} docs/s "
        f"(CPU s: server {feed['server_cpu_s']:.0f}, client {feed['client_cpu_s']:.0f})",
        f"  memory of the server after feed and queries: {memory['rss_mb']:.0f} MB (anon {memory['anon_mb']:.0f}); "
        f"after a restart and one query {restart['memory']['rss_mb']:.0f} MB (anon {restart['memory']['anon_mb']:.0f})",
        f"  restart to first answer: median {restart['median_s']:.2f} s of "
        + ", ".join(f"{one:.2f}" for one in restart["all_s"]),
        "  disk MB: " + ", ".join(f"{name} {size:.0f}" for name, size in found["disk"].items()),
    ]
    queries = [
        [client, *(f"{one['p50']:.2f} / {one['p99']:.2f}" for one in profiles.values())]
        for client, profiles in found["queries"].items()
    ]
    feeds = [
        [name, f"{one['engine']:.0f}", f"{one['ceiling']:.0f}", f"{one['engine'] / one['ceiling']:.2f}"]
        for name, one in found["clients"].items()
    ]
    count = next(iter(found["clients"].values()))["documents"]
    titles = [f"feed, {count} documents", "docs/s", "into a server that does nothing", "ratio"]
    return "\n\n".join(
        [
            "\n".join(parts),
            table("queries over HTTP, one client: p50 / p99 ms", ["client", "lexical", "vector", "hybrid"], queries),
            table("feeding clients", titles, feeds),
        ]
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``title``, then the columns side by side; a row that is shorter than ``head`` is shown but sets no width."""
    full = [row for row in rows if len(row) == len(head)]
    widths = [max(len(row[column]) for row in (head, *full)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in (head, *rows)]
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])
