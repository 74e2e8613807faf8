"""``clipsearch finetune``: train CLIP on a corpus."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Fine-tune CLIP on a corpus of images and captions.")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to write.")
@click.option(
    "--model", default="", help="CLIP to start from: a folder or a hub name such as openai/clip-vit-base-patch32."
)
@click.option(
    "--preset", type=click.Choice(["tiny"]), help="Train a small model from scratch instead; needs no weights."
)
@click.option(
    "--augment", type=click.Choice(["aerial", "natural", "medical", "none"]), help="Image augmentation. [aerial]"
)
@click.option("--epochs", type=int, help="Passes over the images at most. [10; tiny: 40]")
@click.option("--max-minutes", type=float, help="Wall clock at most, decoding and evaluation included. [no bound]")
@click.option("--batch-size", type=int, help="Pairs per step. [128]")
@click.option("--learning-rate", type=float, help="Peak learning rate. [1e-5; tiny: 1.5e-3]")
@click.option("--weight-decay", type=float, help="AdamW's weight decay. [0.1]")
@click.option(
    "--patience", type=int, help="Stop after this many epochs without a better MRR@10; 0: never. [3; tiny: 0]"
)
@click.option("--image-size", type=int, help="Side of the tiny model's input in px. [64]")
@click.option("--seed", type=int, help="Same seed, same run. [0]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps. [auto]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(corpus: Path, out: Path, model: str, preset: str | None, as_json: bool, **given: Any) -> None:
    """Fine-tune CLIP on the images and captions of CORPUS.

    Keeps the best epoch of the validation split, measures the test split once, and writes a standard Hugging Face
    checkpoint folder. Ctrl-C leaves the best checkpoint so far; the same command goes on from there.

    \b
    Example:
      clipsearch finetune .demo/sample/corpus --preset tiny --max-minutes 2 --out model
      clipsearch finetune rsicd --model openai/clip-vit-base-patch32 --out clip-rsicd
    """
    if bool(model) == bool(preset):
        raise click.UsageError("give either --model NAME_OR_FOLDER or --preset tiny")
    from clipsearch.corpora import open_corpus
    from clipsearch.training import TrainOptions, finetune, tiny_options

    changes = {name: value for name, value in given.items() if value is not None}
    options = tiny_options(**changes) if preset else TrainOptions(model=model, **changes)
    with open_corpus(corpus) as opened:
        summary = finetune(opened, out, options, command=shlex.join(["clipsearch", *sys.argv[1:]]), quiet=as_json)
    if as_json:
        click.echo(json.dumps(summary.to_json()))
        return
    click.echo(f"before, on {summary.measured_on}: {summary.before.line()}")
    click.echo(f"after,  on {summary.measured_on}: {summary.after.line()}")
    click.echo(f"{summary.model_id} in {summary.checkpoint}: {summary.epochs} epochs, {summary.seconds:.0f} s")
