"""``clipsearch evaluate``: measure checkpoints on a corpus, inside and outside the domain."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from clipsearch.records import SPLITS

_SPLIT = click.Choice([*SPLITS, "all"])


@click.command(short_help="Measure checkpoints: zero-shot, retrieval, probes, robustness.")
@click.argument("paths", nargs=-1, metavar="CORPUS...")
@click.option("--model", "models", multiple=True, help="Checkpoint folder or hub name; several are compared.")
@click.option("--corpus", "corpora", multiple=True, help="The other way round: arguments are models, this the corpus.")
@click.option("--split", type=_SPLIT, default="test", show_default=True, help="Which of its images.")
@click.option("--prompts", help='Preset, file, or text with {}; "list" prints the presets. [the corpus\'s own prompt]')
@click.option("--ood", multiple=True, help="Corpus outside the domain, measured beside; may be repeated.")
@click.option("--ood-split", type=_SPLIT, default="test", show_default=True, help="Which of its images.")
@click.option("--ood-prompts", help="Prompts for the corpora outside. [those of --prompts]")
@click.option("--start", default="", help="The model that fine-tuning started from: the curve between both.")
@click.option("--adapter", type=click.Path(), default="", help="What clipsearch adapt wrote for the model.")
@click.option("--transduce", "transductive", is_flag=True, help="Classify all images of a split together, label-free.")
@click.option("--probe", is_flag=True, help="Linear probe, trained on the train split.")
@click.option("--few-shot", is_flag=True, help="Accuracy with 1, 2, 4, 8 and 16 labelled images a class.")
@click.option("--resamples", type=click.IntRange(1), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap and of the few-shot draws.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.md, .json, .html.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def command(paths: tuple[str, ...], models: tuple[str, ...], corpora: tuple[str, ...], **options: Any) -> None:
    """Measure one or several models on CORPUS: zero-shot hits@k over the classes, and retrieval both ways.

    \b
    Example:
      clipsearch evaluate .demo/sample/corpus --model model
      clipsearch evaluate rsicd --model openai/clip-vit-base-patch32 --model model --prompts resisc45
      clipsearch evaluate rsicd --model model --start openai/clip-vit-base-patch32 --ood eurosat --report report
      clipsearch evaluate model --corpus rsicd --probe --few-shot --json
    """
    if options["prompts"] == "list":
        return _list_presets()
    if not paths or bool(models) == bool(corpora):
        raise click.UsageError("give the corpus and --model, or the models and --corpus")
    paths, models = (corpora, paths) if corpora else (paths, models)
    _run(paths, models, options)


def _run(paths: tuple[str, ...], models: tuple[str, ...], options: dict[str, Any]) -> None:
    from clipsearch.corpora import open_corpora, open_corpus
    from clipsearch.evaluation.report import to_json, write_report
    from clipsearch.evaluation.running import Plan, measure_models
    from clipsearch.evaluation.shift import Target
    from clipsearch.evaluation.tables import comparison, table
    from clipsearch.prompts import read_prompts

    prompts = read_prompts(options["prompts"]) if options["prompts"] else None
    others = read_prompts(options["ood_prompts"]) if options["ood_prompts"] else prompts
    with ExitStack() as opened:
        corpus = opened.enter_context(open_corpora(paths))
        outside = [opened.enter_context(open_corpus(path)) for path in options["ood"]]
        plan = Plan(
            inside=Target(corpus, options["split"], prompts),
            outside=tuple(Target(each, options["ood_split"], others) for each in outside),
            quiet=options["as_json"],
            **{
                name: options[name]
                for name in ("adapter", "transductive", "start", "probe", "few_shot", "resamples", "seed", "device")
            },
        )
        results = measure_models(models, plan)
        page = write_report(options["report"], results, corpus) if options["report"] else None
    if options["as_json"]:
        click.echo(json.dumps(to_json(results)))
        return
    click.echo("\n\n".join(table(each) for each in results))
    if len(results) > 1:
        click.echo("\n" + comparison(results))
    if page:
        click.echo(f"\nreport: {page}")


def _list_presets() -> None:
    from clipsearch.prompts import about, template_names, templates

    for name in template_names():
        count = len(templates(name))
        click.echo(f"{name}: {count} template{'s' if count > 1 else ''}, {about(name)}")
