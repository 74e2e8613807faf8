"""``clipsearch ui``: serve the search page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from clipsearch.search import QueryEncoder


@click.command("ui")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL", help="Endpoint.")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    envvar="CLIPSEARCH_MODEL",
    show_envvar=True,
    help="Checkpoint folder that the images were encoded with; again for a further model of the index. Without one, "
    "words only are searched.",
)
@click.option("--adapter", type=click.Path(path_type=Path), help="The adapter of the first model.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--judgments",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Judging: the JSONL file to append to.",
)
@click.option("--corpus-root", "roots", multiple=True, metavar="NAME=FOLDER", help="Show a corpus's files full-size.")
def command(
    url: str,
    models: tuple[Path, ...],
    adapter: Path | None,
    host: str,
    port: int,
    judgments: Path | None,
    roots: tuple[str, ...],
) -> None:
    """Serve the search page.

    It needs nothing but the endpoint to show hits, and recovers by itself when the endpoint comes and goes.

    \b
    Example:
      clipsearch ui --model model
      clipsearch ui --model model --model another --judgments judgments.jsonl
      clipsearch ui --url http://127.0.0.1:8080 --model model --corpus-root rsicd=../data/rsicd --port 8001
    """
    from clipsearch.serving import check_port, exposure_warning
    from clipsearch.web.app import UiConfig, by_model
    from clipsearch.web.server import parse_roots, run_ui

    folders = parse_roots(roots)
    check_port(host, port)  # before the seconds that a model takes to load
    if warning := exposure_warning(host):
        click.echo(warning, err=True)
    encoders = [_encoder(model, None if number else adapter) for number, model in enumerate(models)]
    run_ui(UiConfig(url, by_model(*encoders), folders, judgments), host, port, click.echo)


def _encoder(model: Path, adapter: Path | None) -> QueryEncoder:
    from clipsearch.adapter import adapted
    from clipsearch.clip import load_clip
    from clipsearch.search import QueryEncoder

    encoder = QueryEncoder(adapted(load_clip(model), adapter))
    encoder.text("warm up")  # the first query of a process costs several times the next
    return encoder
