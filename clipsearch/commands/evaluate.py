"""``clipsearch evaluate``: measure a checkpoint on a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import click

from clipsearch.records import SPLITS


@click.command(short_help="Measure a checkpoint: zero-shot hits@k and retrieval.")
@click.argument("checkpoint")
@click.option("--corpus", required=True, type=click.Path(path_type=Path), help="Corpus to measure on.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Which of its images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def command(checkpoint: str, corpus: Path, split: str, device: str, as_json: bool) -> None:
    """Measure CHECKPOINT, a folder or a hub name: zero-shot hits@k over the classes, and retrieval both ways.

    \b
    Example:
      clipsearch evaluate model --corpus .demo/sample/corpus
      clipsearch evaluate openai/clip-vit-base-patch32 --corpus rsicd --split test --json
    """
    from clipsearch.clip import load_clip
    from clipsearch.corpora import open_corpus
    from clipsearch.evaluation import evaluate, table

    with open_corpus(corpus) as opened:
        result = evaluate(load_clip(checkpoint, device), opened, split, quiet=as_json)
    click.echo(json.dumps(result.to_json()) if as_json else table(result))
