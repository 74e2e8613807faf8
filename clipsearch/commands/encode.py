"""``clipsearch encode``: a corpus and a checkpoint become embedding shards."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Checkpoint folder, or a Hugging Face model name.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the shards.")
@click.option("--name", default="", help="Corpus name in document ids; default: the folder's name.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1, 4096), help="Images at once.")
@click.option(
    "--backend", default="torch", show_default=True, type=click.Choice(["torch", "onnx", "onnx-int8"]),
    help="What runs the image tower; onnx-int8 is the fastest on a CPU.",
)  # fmt: skip
@click.option(
    "--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Of torch; auto: bf16 where the device multiplies it natively.",
)  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Compile the image tower; pays on a GPU.")
@click.option(
    "--patches", default="", metavar="PLAN",
    help="Also embed parts of each image: 3x3, 3x3+0.5 (neighbours share half), or 224/112 (windows, px).",
)  # fmt: skip
@click.option("--captions", is_flag=True, help="Also embed each caption.")
@click.option("--bands", default="", metavar="R,G,B", help="Bands of many-band TIFFs to see, counted from 1: 3,2,1.")
@click.option("--overwrite", is_flag=True, help="Replace shards of another model or corpus.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    corpus: Path, model: str, out: Path, name: str, device: str, batch: int, backend: str, precision: str,
    compiled: bool, patches: str, captions: bool, bands: str, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Turn a corpus into embedding shards.

    Only new and changed images are encoded; an interrupted run goes on where it stopped, and a killed one does at
    most one batch again. Images that cannot be read are listed in OUT/ledger.jsonl, and the exit code is then 1.

    \b
    Example:
      clipsearch encode corpus --model model --out shards
      clipsearch encode corpus --model model --out shards --backend onnx-int8 --patches 3x3
    """
    from clipsearch.encoding import Encoder, encode_corpus

    summary = encode_corpus(
        corpus, model, out, name=name, encoder=Encoder(device, backend, precision, compiled), batch=batch,
        overwrite=overwrite, progress=not as_json, patches=patches, captions=captions, bands=bands,
    )  # fmt: skip
    for example in summary.examples:
        click.echo(f"Left out: {example}", err=True)
    if as_json:
        import dataclasses
        import json

        click.echo(json.dumps({**dataclasses.asdict(summary), "rate": summary.rate, "ledger": summary.ledger}))
    else:
        click.echo(
            f"{summary.encoded} images encoded, {summary.reused} taken over, {summary.removed} removed, "
            f"{summary.failed} failed, in {summary.seconds:.1f} s ({summary.rate:.0f} images/s): {summary.out}"
        )
        if summary.failed:
            click.echo(f"All that failed, and why: {summary.ledger}", err=True)
    if summary.failed:
        raise SystemExit(1)
