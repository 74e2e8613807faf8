"""The click group ``feed``: one command for each way into the index. ``clipsearch feed`` is its front."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group("feed")
def feed() -> None:
    """Bring documents into Vespa or the local engine."""


@feed.command("shards")
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL")
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Connections in use.")
@click.option("--patience", type=float, default=60.0, show_default=True, help="Seconds to wait for a lost endpoint.")
@click.option("--dead-letters", type=click.Path(path_type=Path), help="Default: dead-letters.jsonl in SHARDS.")
@click.option("--adapter", type=click.Path(path_type=Path), help='Adapt the embeddings: what "adapt" wrote.')
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def shards_command(
    context: click.Context,
    shards: Path,
    url: str,
    workers: int,
    patience: float,
    dead_letters: Path | None,
    adapter: Path | None,
    as_json: bool,
) -> None:
    """Push embedding shards into Vespa or the local engine.

    SHARDS is a folder that "clipsearch encode" wrote. Feeding twice does no harm. Exit code 1 when a document
    failed; the dead letters say which and why.

    \b
    Example:
      clipsearch feed shards
      clipsearch feed shards --url http://vespa.example.org:8080 --json
    """
    from feeders.shards import feed_shards

    summary = feed_shards(shards, url, workers=workers, patience=patience, dead_letters=dead_letters, adapter=adapter)
    click.echo(json.dumps(summary.as_json()) if as_json else str(summary))
    if not summary.complete:
        context.exit(1)
