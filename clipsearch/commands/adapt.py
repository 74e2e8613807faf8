"""``clipsearch adapt``: a small adapter for a model, trained on stored embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.errors import CheckpointError, InputError
from clipsearch.records import SPLITS

if TYPE_CHECKING:
    from clipsearch.training.adapting import Adapted
    from clipsearch.training.pairs import Pairs


@click.command(short_help="Adapt a model to a domain in a second, from stored embeddings.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The adapter, one safetensors file.")
@click.option("--model", envvar="CLIPSEARCH_MODEL", show_envvar=True, help="The model that SOURCE was encoded with.")
@click.option("--by", type=click.Choice(["captions", "classes"]), default="captions", show_default=True, help="Learn.")
@click.option("--prompts", default="a photo of {}", show_default=True, help="With --by classes: preset, file or text.")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Which of its images.")
@click.option("--loss", type=click.FloatRange(0), default=1.0, show_default=True, help="Points others may lose.")
@click.option("--alpha", type=click.FloatRange(0, 1), help="Share of the adapted embedding. [chosen]")
@click.option("--steps", type=click.IntRange(1), default=400, show_default=True, help="Captions: at most.")
@click.option(
    "--rank", type=click.IntRange(1), default=64, show_default=True, help="Captions: width of the bottleneck."
)
@click.option("--seed", default=0, show_default=True, help="Same seed, same adapter.")
@click.option("--device", default="auto", show_default=True, help="For the captions: auto, cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    source: Path, out: Path, model: str | None, by: str, prompts: str, split: str, loss: float, alpha: float | None,
    steps: int, rank: int, seed: int, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Train a small adapter on stored embeddings; images need not be encoded again.

    SOURCE is a folder that "clipsearch encode" wrote (its captions go through the model once), or an .npz archive with
    image, text, and label or owner. Classes are adapted to in closed form: images like those of a class move towards
    its name, others stay. With captions a bottleneck on both towers is trained. How much of it is applied (and how long
    it trains) is chosen on classes (without labels: clusters) that are left out in turn, so that what was not trained
    on is kept. Give the file with --adapter to feed, search, ui and evaluate.

    \b
    Example:
      clipsearch adapt shards --model model --out adapter.safetensors
      clipsearch feed shards shards --adapter adapter.safetensors
      clipsearch search "a stadium next to a river" --model model --adapter adapter.safetensors
    """
    from clipsearch.adapter import save_adapter
    from clipsearch.training.adapting import AdaptOptions, fit_adapter

    if alpha == 0:
        raise InputError("--alpha 0 would change nothing: leave it out to have it chosen, or give more than 0")
    options = AdaptOptions(loss=loss, alpha=alpha or 0.0, steps=steps, rank=rank, seed=seed)
    if source.is_dir():
        pairs, base = _from_shards(source, model, by, prompts, split, seed, device)
    else:
        pairs, base = _from_archive(source, model, seed)
    result = fit_adapter(pairs, base, options)
    save_adapter(out, result.adapter)
    click.echo(json.dumps(_as_json(result, out, pairs)) if as_json else _table(result, out, pairs))


def _from_shards(
    source: Path, model: str | None, by: str, prompts: str, split: str, seed: int, device: str
) -> tuple[Pairs, str]:
    from clipsearch.clip import load_clip
    from clipsearch.corpora.building import words_of
    from clipsearch.prompts import read_prompts
    from clipsearch.shards import open_shards
    from clipsearch.training.adaptsources import row_pairs

    shards = open_shards(source)
    if not model:
        raise InputError("shards hold no text embeddings: give the model that they were encoded with, --model DIR")
    templates = read_prompts(prompts) if by == "classes" else None
    clip = load_clip(model, device)
    if clip.model_id != shards.manifest.model_id:
        raise CheckpointError(
            f"{source} was encoded with {shards.manifest.model_id}, and --model {model} is {clip.model_id}: give that "
            "model, or encode again"
        )

    def of_class(label: str) -> list[str]:
        assert templates is not None
        return [texts[0] for texts in templates.texts({label: words_of(label)})]

    return row_pairs(shards, clip.embed_texts, of_class if templates else None, split, seed), clip.model_id


def _from_archive(source: Path, model: str | None, seed: int) -> tuple[Pairs, str]:
    from clipsearch.training.adaptsources import read_archive

    pairs, base = read_archive(source, seed)
    if model:
        from clipsearch.clip import checkpoint_info

        given = checkpoint_info(model)[0]
        if base and base != given:
            raise CheckpointError(f"{source} holds embeddings of {base}, and --model {model} is {given}")
        base = given
    return pairs, base or source.stem


def _as_json(result: Adapted, out: Path, pairs: Pairs) -> dict[str, Any]:
    choice = result.choice
    return {
        "adapter": str(out), "model_id": result.adapter.model_id, "base": result.adapter.base, "alpha": choice.alpha,
        "steps": choice.step, "steps_trained": result.steps, "seconds": round(result.seconds, 3),
        "images": len(pairs.images), "texts": len(pairs.texts), "measure": _measure(pairs),
        "trained_on": {"before": choice.seen_before, "after": choice.seen},
        "left_out": {"before": choice.left_out_before, "after": choice.left_out},
    }  # fmt: skip


def _table(result: Adapted, out: Path, pairs: Pairs) -> str:
    choice = result.choice
    kind = "classes" if pairs.classes else "groups"
    after = "" if pairs.classes else f" after {choice.step} steps"
    lines = [
        f"{out}: {result.adapter.model_id}, alpha {choice.alpha:g}{after}, on {len(pairs.images):,} "
        f"images and {len(pairs.texts):,} texts in {result.seconds:.1f} s",
        f"{_measure(pairs)} on held-out images, by leaving {kind} out in turn:",
        f"  {kind} trained on   {choice.seen_before:.4f} -> {choice.seen:.4f} ({choice.gain:+.1f} points)",
        f"  {kind} left out     {choice.left_out_before:.4f} -> {choice.left_out:.4f} ({choice.change:+.1f} points)",
    ]
    if not choice.alpha:
        lines.append(
            "Nothing won without losing more than allowed elsewhere: the adapter changes nothing (see --loss)."
        )
    return "\n".join(lines)


def _measure(pairs: Pairs) -> str:
    return "zero-shot hits@1" if pairs.classes else "MRR@10"
