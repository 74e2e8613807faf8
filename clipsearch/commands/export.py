"""``clipsearch export``: a checkpoint's towers as ONNX, each compared with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.errors import CorpusError

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.clip.export import Export, Samples


@click.command(short_help="Write a checkpoint's towers as ONNX, also in int8.")
@click.argument("checkpoint")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--int8", is_flag=True, help="Also files with 8-bit weights: smaller, and faster on a CPU.")
@click.option("--corpus", default="", help="Compare on its images and captions. [made-up ones]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(checkpoint: str, out: Path, int8: bool, corpus: str, as_json: bool) -> None:
    """Write both towers of CHECKPOINT, a folder or hub name, as ONNX files with outputs of unit length.

    The folder also holds the tokenizer, the component for services.xml with which Vespa and the local engine embed
    query texts themselves (embed(clip, "a text")), and export.json: how to prepare images, and how close each file
    comes to the model. Where a float32 file does not give the model's embeddings, nothing is written.

    \b
    Example:
      clipsearch export model --out onnx --int8 --corpus corpus
    """
    from clipsearch.clip import load_clip
    from clipsearch.clip.export import export_onnx, report

    clip = load_clip(checkpoint, "cpu")
    result = export_onnx(clip, out, int8, _samples(clip, corpus) if corpus else None)
    if as_json:
        click.echo(json.dumps({"out": str(out), **report(result)}))
    else:
        click.echo("\n".join(_table(result, out)))


def _samples(clip: Clip, path: str, count: int = 64) -> Samples:
    """Images and captions, evenly spread over the corpus; those that cannot be read are left out."""
    import numpy as np

    from clipsearch.clip.export import TEXTS, Samples, sample_texts
    from clipsearch.corpora import open_corpus
    from clipsearch.errors import ImageError
    from clipsearch.images import load_image

    with open_corpus(path) as opened:
        records = list(opened.records)
        pixels = []
        for record in records[:: max(len(records) // count, 1)][:count]:
            try:
                pixels.append(clip.preprocess(load_image(opened.read(record))))
            except ImageError:
                continue
        texts = sample_texts([caption for record in records for caption in record.captions], count)
    if not pixels:
        raise CorpusError(f"{path} has no image that can be read: leave --corpus out, or give another corpus")
    return Samples(
        np.stack(pixels), texts or TEXTS, f"{len(pixels)} images and {len(texts or TEXTS)} captions of {path}"
    )


def _table(result: Export, out: Path) -> list[str]:
    lines = [f"{out}: {result.model_id}, {result.dim} dimensions, compared on {result.samples}"]
    lines.append(f"  {'file':<16}{'MB':>8}  {'cosine min':>10}  {'mean':>8}  {'per core and second':>20}")
    for file in result.files:
        speed = f"{file.per_core_second:,.0f} {file.unit}"
        torch = f" (PyTorch: {file.torch_per_core_second:,.0f})" if file.torch_per_core_second else ""
        lines.append(
            f"  {file.name:<16}{file.megabytes:>8.1f}  {file.cosine_min:>10.6f}  {file.cosine_mean:>8.6f}  "
            f"{speed:>20}{torch}"
        )
    lines += [f"Note: {warning}." for warning in result.warnings]
    lines.append(
        f"{out / 'embedder.xml'} is the component for services.xml: Vespa and the local engine then embed texts."
    )
    return lines
