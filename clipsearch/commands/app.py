"""``clipsearch app``: write the Vespa application package for a model's embedding size."""

from __future__ import annotations

import json
from pathlib import Path

import click

from clipsearch.errors import InputError


@click.command(short_help="Write the application package for another embedding size.")
@click.option("--dim", type=int, default=512, show_default=True, help="Size of the model's embeddings.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write the package into.")
@click.option(
    "--field",
    "extra",
    multiple=True,
    metavar="NAME:DIM:KIND",
    help="A further embedding field; kinds: image, patches, bits. May be repeated.",
)
@click.option(
    "--generation",
    "generations",
    multiple=True,
    metavar="DIM[:MODEL]",
    help="A further generation of the image embedding, as 'reembed' adds one. May be repeated.",
)
@click.option("--force", is_flag=True, help="Write into a folder that holds other files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    dim: int, out: Path, extra: tuple[str, ...], generations: tuple[str, ...], force: bool, as_json: bool
) -> None:
    """Write the Vespa application package for embeddings of another size, or with further embedding fields.

    \b
    Example:
      clipsearch app --dim 256 --out my_app
      clipsearch app --dim 512 --field embedding_bits:512:bits --out my_app
    """
    from clipsearch.appwriter import EmbeddingField, application_of, parse_field, write_application

    application = application_of([EmbeddingField("embedding", dim), *(parse_field(text) for text in extra)])
    for text in generations:
        size, _, model_id = text.partition(":")
        if not size.isdecimal():
            raise InputError(f"'{text}' is no generation: expected DIM or DIM:MODEL, e.g. 768:vit-l-14")
        application = application.adding(int(size), model_id)
    fields = application.fields
    paths = write_application(application, out, force=force)
    if as_json:
        click.echo(json.dumps({"out": str(out), "files": [str(path) for path in paths]}))
    else:
        click.echo(f"Wrote {len(paths)} files into {out}: {', '.join(f'{f.name} {f.tensor}' for f in fields)}")
