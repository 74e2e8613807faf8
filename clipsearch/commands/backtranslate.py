"""``clipsearch backtranslate``: further captions for training images that have too few."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(short_help="Write further training captions by back-translation.")
@click.argument("corpus")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSONL file for `finetune --captions`.")
@click.option("--split", default="train", show_default=True, help="Only train is taken; others are refused.")
@click.option("--languages", default="fr,es,it,pt", show_default=True, help="Through which languages, in this order.")
@click.option("--wanted", default=5, show_default=True, help="Different captions that an image should have.")
@click.option("--there", default="Helsinki-NLP/opus-mt-en-ROMANCE", show_default=True, help="Model from English.")
@click.option("--back", default="Helsinki-NLP/opus-mt-ROMANCE-en", show_default=True, help="Model back to English.")
@click.option("--beams", default=4, show_default=True, type=click.IntRange(1, 64), help="Width of the beam search.")
@click.option("--batch-size", default=64, show_default=True, help="Captions translated at once.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    corpus: str, out: Path, split: str, languages: str, wanted: int, there: str, back: str, beams: int,
    batch_size: int, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Translate training captions of CORPUS into other languages and back, where an image has too few different ones.

    Originals are kept, repeats make way. An interrupted run goes on where it stopped: OUT.journal has every translation
    that was made, and a second run makes none twice.

    \b
    Example:
      clipsearch backtranslate rsicd --out more-captions.jsonl
      clipsearch finetune rsicd --preset tiny --captions more-captions.jsonl --out model
    """
    from clipsearch.corpora import open_corpus
    from clipsearch.errors import InputError
    from clipsearch.training.backtranslate import backtranslate, to_json

    if split != "train":
        raise InputError(f"--split {split}: only training captions are back-translated, so that scores stay comparable")
    with open_corpus(corpus) as opened:
        from clipsearch.training.marian import MarianTranslator

        translator = MarianTranslator(there, back, beams=beams, device=device)
        done = backtranslate(
            opened, translator, out, languages=tuple(filter(None, map(str.strip, languages.split(",")))),
            wanted=wanted, batch_size=batch_size, quiet=as_json,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(to_json(done)))
        return
    click.echo(
        f"{done.changed:,} of {done.images:,} training images got new captions: {done.out}\n"
        f"{done.added:,} captions added; {done.unchanged:,} translations say the same, {done.runaway:,} ran away\n"
        f"{done.translated:,} sentences translated, {done.reused:,} taken from the journal; "
        f"{done.still_lacking:,} of {done.lacking:,} images still have fewer than {wanted}"
    )
