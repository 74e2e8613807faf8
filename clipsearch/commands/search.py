"""``clipsearch search``: one query from the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from clipsearch.errors import InputError

PROFILES = ("lexical", "vector", "hybrid", "hybrid_linear")  # clipsearch.search has them too, but imports numpy
MODEL_HELP = "Checkpoint folder that the images were encoded with."


@click.command("search")
@click.argument("text", default="")
@click.option("--profile", type=click.Choice(PROFILES), default="hybrid", show_default=True, help="The ranking.")
@click.option("--model", type=click.Path(path_type=Path), envvar="CLIPSEARCH_MODEL", show_envvar=True, help=MODEL_HELP)
@click.option("--adapter", type=click.Path(path_type=Path), help="The adapter that the images were fed with.")
@click.option("--image", type=click.Path(path_type=Path), help="Search by this image instead of by words.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Weight of meaning.")
@click.option("--corpus", default="", help="Only this corpus.")
@click.option("--label", default="", help="Only this label.")
@click.option("--split", default="", help="Only this split.")
@click.option("--hits", type=click.IntRange(1, 400), default=10, show_default=True)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="CLIPSEARCH_URL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    text: str,
    profile: str,
    model: Path | None,
    adapter: Path | None,
    image: Path | None,
    alpha: float,
    corpus: str,
    label: str,
    split: str,
    hits: int,
    url: str,
    as_json: bool,
) -> None:
    """Search from the terminal, with scores explained.

    relevance is the score of the ranking; lexical is BM25 over the captions; cosine is between query and
    image.

    \b
    Example:
      clipsearch search "a stadium next to a river" --profile hybrid --model model
      clipsearch search "storage tanks" --profile lexical --json
      clipsearch search --image photo.jpg --model model --hits 20
    """
    if image and (text or profile == "lexical"):
        raise InputError("--image searches by the image alone: leave out the words and --profile lexical")
    if not image and not text.strip():
        raise click.UsageError("give some words to search for, or an image with --image FILE")
    from clipsearch.images import load_image
    from clipsearch.search import Filters, QueryEncoder, SearchClient, by_profile, explain

    pixels = load_image(image) if image else None
    with SearchClient(url) as client:
        embedding = None
        bounds: dict[str, Any] = {"filters": Filters(corpus, label, split), "hits": hits}
        if profile != "lexical":
            if model is None:
                raise InputError(
                    f"--profile {profile} needs the model that the images were encoded with: give --model DIR "
                    "(or set CLIPSEARCH_MODEL), or search words with --profile lexical"
                )
            client.check()  # before the seconds that a model takes to load
            from clipsearch.adapter import adapted
            from clipsearch.clip import load_clip

            encoder = QueryEncoder(adapted(load_clip(model), adapter))
            bounds["generation"] = client.generation_of(encoder.model.model_id)
            embedding = encoder.text(text) if pixels is None else encoder.image(pixels)
        results = client.search(by_profile(profile, text, embedding, alpha=alpha, **bounds))
    if as_json:
        click.echo(json.dumps(explain.as_json(results), indent=2, ensure_ascii=False))
    else:
        click.echo(explain.table(results, shutil.get_terminal_size((120, 24)).columns))
        click.echo(f"{results.total} images match, {results.seconds * 1000:.0f} ms", err=True)
