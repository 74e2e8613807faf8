"""``clipsearch engine``: serve a Vespa application package from this machine."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(short_help="Serve a Vespa application package from this machine.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the documents; made when missing.",
)
@click.option("--app", type=click.Path(path_type=Path), help="Application package to deploy at the start (folder).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of queries and documents."
)
@click.option(
    "--deploy-port", type=click.IntRange(1, 65535), default=19071, show_default=True, help="Port of deployments."
)
def command(data: Path, app: Path | None, host: str, port: int, deploy_port: int) -> None:
    """Serve a Vespa application package from this machine.

    Speaks Vespa's HTTP APIs: queries and document/v1 on one port, deployment on another, so the vespa command line
    and pyvespa work unchanged. Documents survive restarts; Ctrl-C stops it. Without --app it serves what was last
    deployed into the folder, or waits for a deploy.

    \b
    Example:
      clipsearch engine --data index --app vespa_app
      clipsearch engine --data index --port 8081 --deploy-port 19072
    """
    # Read when numpy is loaded. A second thread of OpenBLAS waits in a loop, and takes a tenth of a feed's time so.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from clipsearch.engine.engine import serve

    serve(data, app, host, port, deploy_port)
