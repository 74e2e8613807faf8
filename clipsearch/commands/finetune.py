"""``clipsearch finetune``: train CLIP on one corpus or several."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from clipsearch.training import FinetuneSummary

FLAG = "flag"
OPTIONS: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "Length and selection": {
        "--epochs": (int, "Passes over the images at most. [10; tiny: 40]"),
        "--max-minutes": (float, "Wall clock at most, decoding and evaluation included. [no bound]"),
        "--epoch-size": (int, "Images drawn for an epoch; 0: all. Fewer measure more often. [0]"),
        "--metric": (
            ["mrr10", "recall1", "recall5", "recall10", "mean-recall", "hits1", "hits3", "hits5", "hits10", "loss"],
            "What chooses the best epoch of the validation split. [mrr10]",
        ),
        "--patience": (int, "Stop after this many epochs without a better metric; 0: never. [3; tiny: 0]"),
        "--seed": (int, "Same seed, same run. [0]"),
    },
    "Learning": {
        "--augment": (["aerial", "natural", "medical", "none"], "Image augmentation. [aerial]"),
        "--batch-size": (int, "Pairs per step, all devices together. [128]"),
        "--chunk": (int, "Pairs in memory at once, with the whole batch's exact gradients; 0: all. [0]"),
        "--loss": (["clip", "multi-positive", "siglip"], "Contrastive loss. [clip]"),
        "--optimiser": (["adamw", "adafactor", "muon"], "What turns gradients into steps. [adamw; tiny: muon]"),
        "--learning-rate": (float, "Peak learning rate. [1e-5; tiny: 1.5e-3]"),
        "--weight-decay": (float, "AdamW's weight decay. [0.1]"),
        "--warmup": (float, "Share of the run in which the learning rate rises. [0.1; tiny: 0.05]"),
        "--layer-decay": (float, "Factor on the learning rate from each layer to the one below. [1]"),
        "--freeze": (["image", "text"], "A tower that stays as it is."),
        "--lora": (int, "Rank of low-rank updates, merged at the end, instead of full training; 0: none. [0]"),
        "--ema": (float, "Decay of averaged weights, which are then measured and kept; 0: none. [0]"),
        "--image-size": (int, "Side of the tiny model's input in px. [64]"),
    },
    "Forgetting": {
        "--interpolate": (FLAG, "Mix the start model in at the end (WiSE-FT). [on]"),
        "--ood-loss": (float, "Points that the mix may lose out of domain. [1]"),
    },
    "Speed and memory": {
        "--device": (str, "auto, cpu, cuda, cuda:1, mps. [auto]"),
        "--precision": (["auto", "fp32", "bf16", "fp16"], "Arithmetic of the towers. [auto]"),
        "--compile": (FLAG, "Compile the towers: minutes at first, then faster on a GPU. [off]"),
        "--checkpointing": (FLAG, "Recompute activations: slower, less memory. [off]"),
        "--pixel-cache": (["memory", "disk", "device"], "Where the decoded images are kept. [memory]"),
        "--workers": (int, "Threads that decode images. [4]"),
        "--save-minutes": (float, "Time between saved states within an epoch; 0: at its end only. [5]"),
    },
}


class GroupedHelp(click.Command):
    """A command whose help lists the options of ``OPTIONS`` by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The ungrouped options first, then each group under its name."""
        rows = {p.opts[0]: row for p in self.get_params(ctx) if (row := p.get_help_record(ctx)) is not None}
        grouped = {name for group in OPTIONS.values() for name in group}
        groups = {"Options": [name for name in rows if name not in grouped], **OPTIONS}
        for title, names in groups.items():
            with formatter.section(title):
                formatter.write_dl([rows[name] for name in names])


def _option(name: str, kind: Any, text: str) -> click.Option:
    if kind is FLAG:
        return click.Option([f"{name}/--no-{name.removeprefix('--')}"], default=None, help=text)
    return click.Option([name], type=click.Choice(kind) if isinstance(kind, list) else kind, help=text)


@click.command(cls=GroupedHelp, short_help="Fine-tune CLIP on a corpus of images and captions.")
@click.argument("corpora", metavar="CORPUS...", nargs=-1)
@click.option("--corpus", "more", multiple=True, help="A further corpus; repeatable.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to write.")
@click.option(
    "--model", default="", help="CLIP to start from: a folder or a hub name such as openai/clip-vit-base-patch32."
)
@click.option(
    "--preset", type=click.Choice(["tiny"]), help="Train a small model from scratch instead; needs no weights."
)
@click.option("--ood", multiple=True, help="A corpus measured before and after, never trained on; repeatable.")
@click.option(
    "--captions", type=click.Path(path_type=Path), help="Other training captions, as `clipsearch backtranslate` writes."
)
@click.option(
    "--exclude", type=click.Path(path_type=Path), help="Images to leave out, as `clipsearch audit` lists them."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    corpora: tuple[str, ...],
    more: tuple[str, ...],
    out: Path,
    model: str,
    preset: str | None,
    ood: tuple[str, ...],
    captions: Path | None,
    exclude: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Fine-tune CLIP on the images and captions of CORPUS, or of several corpora.

    Keeps the best epoch of the validation split, measures the test split once, and writes a standard Hugging Face
    checkpoint folder. Ctrl-C saves the run at its step; the same command goes on from there.

    \b
    Example:
      clipsearch finetune .demo/sample/corpus --preset tiny --max-minutes 2 --out model
      clipsearch finetune rsicd --model openai/clip-vit-base-patch32 --ood whu-rs19 --out clip-rsicd
    """
    if bool(model) == bool(preset):
        raise click.UsageError("give either --model NAME_OR_FOLDER or --preset tiny")
    if not (paths := [*corpora, *more]):
        raise click.UsageError("give a CORPUS: a folder or file of images and captions")
    from clipsearch.corpora import open_corpora
    from clipsearch.corpora.overlay import overlaid
    from clipsearch.training import TrainOptions, finetune, tiny_options

    changes = {name: value for name, value in given.items() if value is not None} | {"ood": ood}
    options = tiny_options(**changes) if preset else TrainOptions(model=model, **changes)
    with open_corpora(paths) as opened:
        data = overlaid(opened, captions, exclude)
        if exclude and not as_json:
            left = len(opened) - len(data)
            click.echo(f"{left} image{'s' * (left != 1)} left out by {exclude}")
        summary = finetune(data, out, options, command=shlex.join(["clipsearch", *sys.argv[1:]]), quiet=as_json)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts this command several times
        _print(summary, as_json)


command.params[-1:-1] = [_option(name, *rest) for group in OPTIONS.values() for name, rest in group.items()]


def _print(summary: FinetuneSummary, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary.to_json()))
        return
    click.echo(f"before, on {summary.measured_on}: {summary.before.line()}")
    click.echo(f"after,  on {summary.measured_on}: {summary.after.line()}")
    for name, (before, after) in summary.out_of_domain.items():
        click.echo(f"before, out of domain, {name}: {before.line()}")
        click.echo(f"after,  out of domain, {name}: {after.line()}")
    if summary.interpolation:
        click.echo(summary.interpolation["reason"])
    click.echo(f"{summary.model_id} in {summary.checkpoint}: {summary.epochs} epochs, {summary.seconds:.0f} s")
