"""``clipsearch sample``: draw the built-in sample corpus."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write the corpus to.")
@click.option("--images", default=3000, show_default=True, help="How many images.")
@click.option("--size", default=128, show_default=True, help="Width and height of an image, in px.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same pixels and captions.")
@click.option("--processes", default=0, show_default=True, help="Drawing processes; 0: one per core.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(out: Path, images: int, size: int, seed: int, processes: int, as_json: bool) -> None:
    """Draw the built-in sample corpus of aerial scenes.

    24 classes, five captions an image, in the JSONL layout. A second run with the same options does
    nothing; an interrupted one continues.

    \b
    Example:
      clipsearch sample --out .demo/sample/corpus --images 3000
    """
    from clipsearch.corpora.sample import write_sample

    summary = write_sample(out, images=images, size=size, seed=seed, processes=processes, progress=not as_json)
    if as_json:
        import dataclasses
        import json

        click.echo(json.dumps(dataclasses.asdict(summary)))
        return
    click.echo(
        f"{summary.images} images of {summary.classes} classes in {summary.folder} "
        f"({summary.drawn} drawn, {summary.reused} already there, {summary.seconds:.1f} s)"
    )
