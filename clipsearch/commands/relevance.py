"""``clipsearch relevance``: which ranking answers best, by what people judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from clipsearch.commands.search import PROFILES as SEARCHED
from clipsearch.errors import InputError

PROFILES = (*SEARCHED, "vector_patches")


@click.command("relevance", short_help="Measure rankings by what people judged on the page.")
@click.argument("judgments", type=click.Path(path_type=Path))
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL", help="Endpoint.")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    envvar="CLIPSEARCH_MODEL",
    show_envvar=True,
    help="Checkpoint folder that the images were encoded with; several are compared. Without, words only.",
)
@click.option("--adapter", type=click.Path(path_type=Path), help="The adapter that the images were fed with.")
@click.option("--profile", "profiles", multiple=True, type=click.Choice(PROFILES), help="The rankings. [all]")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of hybrid_linear.")
@click.option("--queries", type=click.Path(path_type=Path), help="JUDGMENTS are TREC qrels: number<TAB>words a line.")
@click.option("--corpus", default="", help="The corpus whose keys the qrels name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(judgments: Path, models: tuple[Path, ...], profiles: tuple[str, ...], **options: Any) -> None:
    """Measure the rankings by JUDGMENTS: the file of "clipsearch ui --judgments", or TREC qrels with --queries.

    Each judged query is asked again under each ranking. MRR, nDCG, P and recall are of the first ten hits, MAP of the
    first hundred; pyvespa computes them. A star marks the best; whether its lead may be chance is said below.

    \b
    Example:
      clipsearch relevance judgments.jsonl --model model
      clipsearch relevance judgments.jsonl --model old --model new --profile vector --profile hybrid --json
      clipsearch relevance qrels.txt --queries topics.tsv --corpus rsicd --model model
    """
    from clipsearch.relevance.judgments import read_judgments
    from clipsearch.relevance.report import as_json, evaluate, table
    from clipsearch.relevance.topics import seen_under, topics_of
    from clipsearch.relevance.trec import read_qrels

    torn: tuple[int, ...] = ()
    seen: dict[str, int] = {}
    if options["queries"]:
        topics = read_qrels(judgments, options["queries"], options["corpus"])
    else:
        read = read_judgments(judgments)
        topics, torn, seen = topics_of(read), read.torn, seen_under(read)
    if not topics:
        raise InputError(f"nothing is judged in {judgments}: mark some hits as relevant or not on the search page")
    report = evaluate(
        options["url"], topics, _encoders(models, options["adapter"], options["url"]),
        profiles or PROFILES, options["alpha"],
    )  # fmt: skip
    if options["as_json"]:
        beside = {"torn_lines": list(torn), "judged_under": seen}
        click.echo(json.dumps({**as_json(report), **beside}, indent=2, ensure_ascii=False))
        return
    click.echo(table(report))
    if seen:
        click.echo("Judged under: " + ", ".join(f"{name} {count}" for name, count in seen.items()) + ".")
    if torn:
        lines = "1 line was" if len(torn) == 1 else f"{len(torn)} lines were"
        click.echo(f"{lines} cut short and passed over: {', '.join(map(str, torn[:5]))}", err=True)


def _encoders(models: tuple[Path, ...], adapter: Path | None, url: str) -> list[Any]:
    if not models:
        return []
    if adapter and len(models) > 1:
        raise InputError("--adapter goes with one model: give one --model")
    from clipsearch.search import QueryEncoder, SearchClient

    with SearchClient(url) as client:
        client.check()  # before the seconds that a model takes to load
    from clipsearch.adapter import adapted
    from clipsearch.clip import load_clip

    return [QueryEncoder(adapted(load_clip(model), adapter)) for model in models]
