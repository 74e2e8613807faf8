"""``clipsearch ui``: serve the search page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("ui")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL", help="Endpoint.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    envvar="CLIPSEARCH_MODEL",
    show_envvar=True,
    help="Checkpoint folder that the images were encoded with; without it, words only are searched.",
)
@click.option("--adapter", type=click.Path(path_type=Path), help="The adapter that the images were fed with.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--corpus-root", "roots", multiple=True, metavar="NAME=FOLDER", help="Show a corpus's files full-size.")
def command(url: str, model: Path | None, adapter: Path | None, host: str, port: int, roots: tuple[str, ...]) -> None:
    """Serve the search page.

    It needs nothing but the endpoint to show hits, and recovers by itself when the endpoint comes and goes.

    \b
    Example:
      clipsearch ui --model model
      clipsearch ui --url http://127.0.0.1:8080 --model model --corpus-root rsicd=../data/rsicd --port 8001
    """
    from clipsearch.search import QueryEncoder
    from clipsearch.serving import check_port, exposure_warning
    from clipsearch.web.app import UiConfig
    from clipsearch.web.server import parse_roots, run_ui

    folders = parse_roots(roots)
    check_port(host, port)  # before the seconds that a model takes to load
    if warning := exposure_warning(host):
        click.echo(warning, err=True)
    encoder = None
    if model:
        from clipsearch.adapter import adapted
        from clipsearch.clip import load_clip

        encoder = QueryEncoder(adapted(load_clip(model), adapter))
        encoder.text("warm up")  # the first query of a process costs several times the next
    run_ui(UiConfig(url, encoder, folders), host, port, click.echo)
