"""``clipsearch audit``: look at a corpus before training on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Find broken images, duplicates, leakage and odd captions.")
@click.argument("corpora", metavar="CORPUS...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report page and the lists.")
@click.option("--model", default="", help="Checkpoint whose tokenizer counts tokens, and which finds look-alikes.")
@click.option("--shards", type=click.Path(path_type=Path), help="Take embeddings from these shards instead.")
@click.option("--distance", default=12, show_default=True, help="Bits of 64 between hashes of near duplicates.")
@click.option("--cosine", default=0.98, show_default=True, help="Least cosine of look-alikes.")
@click.option("--flips", is_flag=True, help="Also find mirrored copies and copies turned by right angles.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--fail-on-leakage", is_flag=True, help="Exit with 1 when a held-out picture is in an earlier split.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    corpora: tuple[str, ...], out: Path | None, model: str, shards: Path | None, distance: int, cosine: float,
    flips: bool, device: str, fail_on_leakage: bool, as_json: bool,
) -> None:  # fmt: skip
    """Look at every image and caption of CORPUS, one or several: splits, classes, broken and odd images, exact and near
    duplicates, twins across splits (leakage), caption lengths in tokens, repeated captions, languages.

    \b
    Example:
      clipsearch audit rsicd --out audit
      clipsearch audit rsicd rsitmd --model model --flips --fail-on-leakage
    """
    from clipsearch.audit import AuditOptions, audit, summary_lines, to_json, write_report
    from clipsearch.corpora import open_corpora

    options = AuditOptions(distance=distance, flips=flips, cosine=cosine).check()
    with open_corpora(corpora) as opened:
        found = audit(opened, options, quiet=as_json, **_model_arguments(model, shards, device))
        page = write_report(found, out) if out else None
    if as_json:
        click.echo(json.dumps(to_json(found), ensure_ascii=False))
    else:
        click.echo("\n".join(summary_lines(found)))
        click.echo(f"Report: {page}" if page else "--out FOLDER writes the report page and the lists of all pairs.")
    if fail_on_leakage and any(leak.sure for leak in found.leaks):
        click.echo("Held-out pictures are in an earlier split (--fail-on-leakage).", err=True)
        raise SystemExit(1)


def _model_arguments(model: str, shards: Path | None, device: str) -> dict[str, Any]:
    """What ``audit`` takes of a checkpoint and of shards; embeddings of the shards are not computed again."""
    arguments: dict[str, Any] = {}
    if model:
        from clipsearch.clip import load_clip

        clip = load_clip(model, device)
        arguments = {
            "count_tokens": lambda texts: [len(ids) for ids in clip.tokenizer(list(texts), verbose=False)["input_ids"]],
            "counted_with": f"the tokenizer of {clip.model_id}",
            "limit": clip.text_length,
        }
        if shards is None:
            arguments["model"] = clip
    if shards is not None:
        from clipsearch.shards import open_shards

        rows = open_shards(shards)
        arguments["vectors"] = {row.record.id: row.embedding for row in rows}
        arguments["embedded_by"] = rows.manifest.model_id
    return arguments
