"""The options that the commands of ``feed`` have in common, each written once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)

url = click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL", help="Where Vespa answers."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
adapter = click.option("--adapter", type=PATH, help='Adapt the embeddings: what "adapt" wrote.')
slices = click.option(
    "--slices", default=1, show_default=True, type=click.IntRange(1, 64), help="Parts of the index to read at once."
)

backend = click.option(
    "--backend", default="torch", show_default=True, type=click.Choice(["torch", "onnx", "onnx-int8"]),
    help="What runs the model.",
)  # fmt: skip

precision = click.option(
    "--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Numbers that the model computes with.",
)  # fmt: skip

patches = click.option(
    "--patches", default="", metavar="PLAN", help="Embed parts of each image too: 3x3, 3x3+0.5, 224/112."
)
name = click.option("--name", default="", help="Corpus name in document ids; default: the folder's name.")

_DELIVERY = (
    url,
    click.option(
        "--workers", type=click.IntRange(0, 256), default=0, show_default="the feed finds out",
        help="Most requests in flight.",
    ),
    click.option("--patience", default=60.0, show_default=True, help="Seconds to wait for a lost endpoint."),
    click.option("--dead-letters", type=PATH, help="List of what failed, and why (JSONL)."),
    click.option("--journal", type=PATH, help="What an interrupted run has done, for the next one."),
    as_json,
)  # fmt: skip
_SOURCE = (
    click.argument("corpora", metavar="CORPUS...", nargs=-1, required=True, type=click.Path()),
    click.option("--model", required=True, help="Checkpoint folder, or a Hugging Face model name."),
    click.option(
        "--work", type=PATH, default=".clipsearch", show_default=True, help="Folder where the shards are kept."
    ),
    name,
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    backend,
    precision,
    click.option("--batch", default=64, show_default=True, type=click.IntRange(1, 4096), help="Images at once."),
    adapter,
    patches,
)


def delivery(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that sends; the command gets ``delivery`` (a ``Delivery``) and ``as_json``."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        from feeders.images import Delivery

        names = ("url", "workers", "patience", "dead_letters", "journal")
        given = {name: options.pop(name) for name in names}
        return command(delivery=Delivery(**given, progress=not options["as_json"]), **options)

    return _with(_DELIVERY, wrapped)


def source(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that encodes; the command gets ``source`` (a ``Source``)."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        from feeders.images import Source

        names = ("corpora", "model", "work", "name", "device", "backend", "precision", "batch", "adapter", "patches")
        return command(source=Source(**{name: options.pop(name) for name in names}), **options)

    return _with(_SOURCE, wrapped)


def _with(options: tuple[Callable[[Any], Any], ...], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def report(summary: Any, as_json: bool, *, err: bool = False) -> None:
    """Print a summary for people or for machines (``err``: on stderr), and exit with 1 when it is not complete.

    After Ctrl-C ``KeyboardInterrupt`` is raised once the summary is printed: the exit code is 130, as everywhere.
    """
    click.echo(json.dumps(summary.as_json()) if as_json else str(summary), err=err)
    if getattr(summary, "interrupted", False):
        raise KeyboardInterrupt
    if not summary.complete:
        raise SystemExit(1)
