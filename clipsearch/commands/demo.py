"""``clipsearch demo``: the whole path on one corpus."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option("--corpus", default="sample", show_default=True, help="'sample', or the folder of a corpus.")
@click.option("--home", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True)
@click.option("--app", type=click.Path(path_type=Path), default=Path("vespa_app"), show_default=True)
@click.option("--engine-port", type=int, default=8080, show_default=True)
@click.option("--deploy-port", type=int, default=19071, show_default=True)
@click.option("--ui-port", type=int, default=8000, show_default=True)
@click.option("--max-minutes", type=float, default=None, help="Bound on training; 2.5 for the sample, else 11.")
@click.option("--serve/--no-serve", default=True, help="Stay and serve the page, or exit after the queries.")
def command(
    corpus: str,
    home: Path,
    app: Path,
    engine_port: int,
    deploy_port: int,
    ui_port: int,
    max_minutes: float | None,
    serve: bool,
) -> None:
    """Run the whole path on one corpus and serve it.

    Corpus, training, encoding, engine, feed, three queries in each ranking, search page. Results stay in
    .demo/<corpus>/ and are reused by the next run.

    \b
    Example:
      clipsearch demo
      clipsearch demo --corpus ../shared/data/rsicd --no-serve
    """
    from clipsearch.demo import DemoOptions, run_demo

    run_demo(DemoOptions(corpus, home, app, engine_port, deploy_port, ui_port, max_minutes, serve))
