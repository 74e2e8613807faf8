"""``clipsearch reembed``: a new model for a running index, without downtime."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.errors import InputError
from clipsearch.records import SPLITS

if TYPE_CHECKING:
    from clipsearch.generations.reembedding import Outcome, Place

_PATH = click.Path(path_type=Path)


@click.command(short_help="Give a running index a new model, without downtime.")
@click.argument("checkpoint", required=False)
@click.option("--app", type=_PATH, required=True, help="Folder of the deployed application package; it is changed.")
@click.option("--corpus", "corpora", type=_PATH, multiple=True, help="Images and captions. May be repeated.")
@click.option("--shards", type=_PATH, multiple=True, help='What "encode" wrote with the new model. May be repeated.')
@click.option("--adapter", type=_PATH, help='The new model is CHECKPOINT with this adapter, which "adapt" wrote.')
@click.option("--old", envvar="CLIPSEARCH_MODEL", show_envvar=True, help="The model that is active now, to compare.")
@click.option("--old-adapter", type=_PATH, help="The adapter that is active now.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Held-out captions.")
@click.option("--queries", type=click.IntRange(1), default=1000, show_default=True, help="Captions to compare by.")
@click.option("--force", is_flag=True, help="Switch to the new model even if it is not better.")
@click.option("--no-switch", is_flag=True, help="Fill and compare only.")
@click.option("--activate", metavar="gN", help="Only make this generation the active one.")
@click.option("--drop", metavar="gN", help="Only remove this generation, its field and its profiles.")
@click.option(
    "--allow", multiple=True, metavar="ID", help="With --drop: a validation that Vespa says must be overridden."
)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL", help="Endpoint.")
@click.option("--deploy-url", default="http://127.0.0.1:19071", show_default=True, help="Config server.")
@click.option("--work", type=_PATH, default=Path("reembed"), show_default=True, help="Folder for new shards.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images at once.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def command(context: click.Context, /, as_json: bool, app: Path, url: str, deploy_url: str, **options: Any) -> None:
    """Give a running index the embeddings of a new model beside the old ones, compare both on held-out captions through
    the query API, and switch to the new ones when they find more.

    Queries are answered all the time: each search uses the embeddings of its own model, and is refused when the index
    has none. Stopped at any point, the same command goes on. With --adapter, what the index holds of CHECKPOINT is
    adapted, and no image is opened. New and changed images that are fed meanwhile get their new embedding by running
    the command again. The old embeddings stay until --drop.

    \b
    Example:
      clipsearch reembed new_model --old model --corpus corpus --app my_app
      clipsearch reembed model --adapter adapter.safetensors --old model --corpus corpus --app my_app
      clipsearch reembed --drop g1 --app my_app
    """
    from clipsearch.generations.package import parse_generation
    from clipsearch.generations.reembedding import Place, activate, drop

    place = Place(url, deploy_url, app)
    if sum(map(bool, (options["checkpoint"], options["activate"], options["drop"]))) != 1:
        raise click.UsageError("give the new model's CHECKPOINT, or --activate gN, or --drop gN")
    if not options["checkpoint"]:
        name = options["activate"] or options["drop"]
        generation = parse_generation(name)
        now = activate(place, generation) if options["activate"] else drop(place, generation, options["allow"])
        models = {each.generation.name: each.model_id for each in now.generations}
        answer = {"active": now.active.name, "generations": models}
        text = f"{now.active.name} is active; the index has {', '.join(f'{g} ({m})' for g, m in models.items())}"
        click.echo(json.dumps(answer) if as_json else text)
        return
    outcome = _reembed(place, options, quiet=as_json)
    click.echo(json.dumps(outcome.as_json()) if as_json else _table(outcome))
    if not outcome.complete:
        context.exit(1)


def _reembed(place: Place, options: dict[str, Any], *, quiet: bool) -> Outcome:
    from clipsearch.adapter import AdaptedModel, adapted, load_adapter
    from clipsearch.clip import load_clip
    from clipsearch.corpora import open_corpus
    from clipsearch.generations.reembedding import Judging, Sources, reembed

    if options["force"] and options["no_switch"]:
        raise InputError("--force and --no-switch exclude each other")

    def say(line: str) -> None:
        click.echo(line, err=quiet)

    def old() -> Any:
        return adapted(load_clip(options["old"], options["device"]), options["old_adapter"])

    with ExitStack() as stack:
        corpora = [stack.enter_context(open_corpus(path)) for path in options["corpora"]]
        adapter = load_adapter(options["adapter"]) if options["adapter"] else None
        base = load_clip(options["checkpoint"], options["device"])
        model = AdaptedModel(base, adapter) if adapter else base
        sources = Sources(corpora, options["shards"], adapter, base, options["work"], options["batch"])
        judging = Judging(
            old if options["old"] else None, options["split"], options["queries"], options["force"],
            not options["no_switch"],
        )  # fmt: skip
        return reembed(model, place, sources, judging, say)


def _table(outcome: Outcome) -> str:
    from clipsearch.generations.judging import difference

    lines = [
        f"{outcome.generation.name} ({outcome.model_id}): {outcome.filled} documents filled now, {outcome.had} before, "
        f"{outcome.lacking} lack it, {outcome.failed} failed"
    ]
    if outcome.old and outcome.new:
        old, new = outcome.old.as_json(), outcome.new.as_json()
        lines.append(f"on {outcome.queries} held-out captions, ranking 'vector', through the query API:")
        lines += [
            f"  {name:10} {old[name]:.4f} -> {new[name]:.4f}   ({mean:+.4f}, 95 % from {low:+.4f} to {high:+.4f})"
            for name, (mean, low, high) in difference(outcome.old, outcome.new).items()
        ]
    state = "is active" if outcome.switched else "is not active"
    lines.append(f"{outcome.generation.name} {state}: {outcome.reason}")
    if outcome.switched:
        lines.append("The old embeddings answer their own model's queries until 'clipsearch reembed --drop'.")
    return "\n".join([*lines, *outcome.warnings])
