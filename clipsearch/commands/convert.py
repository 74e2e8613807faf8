"""``clipsearch convert``: checkpoints between open_clip's form and Hugging Face's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(short_help="Convert a checkpoint between open_clip and Hugging Face.")
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--to", type=click.Choice(["hf", "open_clip"]), help="Form to write. [the one that SOURCE is not]")
@click.option("--architecture", default="", metavar="NAME|FILE", help="For bare weights: such as ViT-B-32-quickgelu.")
@click.option("--tokenizer", default="", metavar="FOLDER", help="CLIP's vocabulary, where SOURCE has none.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(source: str, out: Path, to: str | None, architecture: str, tokenizer: str, as_json: bool) -> None:
    """Convert SOURCE, a checkpoint folder or hub name, or open_clip's weights as one .safetensors file.

    Plain ViT models go both ways. Each conversion embeds the same images and texts in both forms before it writes
    anything; conversion.json says how far they differ. Weights without a configuration need --architecture: OpenAI's,
    and others trained with its activation, are those with -quickgelu.

    \b
    Example:
      clipsearch convert laion/CLIP-ViT-B-32-laion2B-s34B-b79K --to hf --out start
      clipsearch convert RemoteCLIP-ViT-B-32.safetensors --architecture ViT-B-32-quickgelu --tokenizer clip --out start
      clipsearch convert model --out open_clip_model
    """
    from clipsearch.clip.convert import convert

    result = convert(source, out, to or "", architecture, tokenizer)
    if as_json:
        click.echo(json.dumps({"out": str(out), **asdict(result)}))
        return
    click.echo(f"{out}: {result.architecture}, {result.parameters:,} parameters, in the form {result.to}")
    click.echo(f"Embeddings differ by at most {result.image:.1e} (image) and {result.text:.1e} (text) of their length.")
    for note in result.notes:
        click.echo(f"Note: {note}.")
    if result.to == "open_clip":
        click.echo(f'open_clip loads it with create_model_and_transforms("local-dir:{out.resolve()}")')
