"""The click group ``feed``: one command for each way into the index. ``clipsearch feed`` is its front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from feeders.options import (
    PATH,
    adapter,
    as_json,
    backend,
    delivery,
    name,
    patches,
    precision,
    report,
    slices,
    source,
    url,
)

UPDATABLE = ("embedding", "patches", "captions", "label", "split", "place", "image")


class FeedGroup(click.Group):
    """``feed FOLDER`` means ``feed shards FOLDER``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named, or ``shards`` for a path that names none."""
        if args[0] not in self.commands and Path(args[0]).is_dir():
            args = ["shards", *args]
        return super().resolve_command(ctx, args)


@click.group("feed", cls=FeedGroup)
def feed() -> None:
    """Bring images into Vespa or the local engine; update, remove, verify.

    Each command counts what failed, lists it with the reason in a JSONL file, and then ends with exit code 1.

    \b
    Example:
      clipsearch feed images corpus --model model
      clipsearch feed sync corpus --model model
      clipsearch feed shards shards
      clipsearch feed verify shards
    """


@feed.command("shards")
@click.argument("shards", type=PATH, default="shards")
@adapter
@delivery
def shards_command(shards: Path, adapter: Path | None, delivery: Any, as_json: bool) -> None:
    """Feed embedding shards.

    SHARDS is a folder that "clipsearch encode" wrote, by default ./shards. Feeding twice does no harm; interrupted,
    the next run goes on. Dead letters are kept in SHARDS.

    \b
    Example:
      clipsearch feed shards shards
      clipsearch feed shards shards --url http://vespa.example.org:8080 --json
    """
    from feeders.shards import feed_shards

    summary = feed_shards(
        shards, delivery.url, workers=delivery.workers, patience=delivery.patience,
        dead_letters=delivery.dead_letters, journal=delivery.journal, progress=delivery.progress, adapter=adapter,
    )  # fmt: skip
    report(summary, as_json)


@feed.command("images")
@source
@delivery
def images_command(source: Any, delivery: Any, as_json: bool) -> None:
    """Encode a corpus and feed it, in one pass.

    The shards are kept in WORK/<corpus>/<model>: a second run encodes only what is new or changed, and an interrupted
    one goes on where it stopped. Images that cannot be read are listed in ledger.jsonl there.

    \b
    Example:
      clipsearch feed images corpus --model model
      clipsearch feed images rsicd ucm --model model --url http://vespa.example.org:8080
    """
    from feeders.images import feed_images

    report(feed_images(source, delivery), as_json)


@feed.command("sync")
@source
@click.option("--dry-run", is_flag=True, help="Say what differs, and send nothing.")
@click.option("--yes", is_flag=True, help="Remove even more than half of a corpus's documents.")
@delivery
def sync_command(source: Any, dry_run: bool, yes: bool, delivery: Any, as_json: bool) -> None:
    """Make the index equal to a corpus; only what differs is sent.

    New images are added, replaced image files are put again, changed captions, labels, splits and models are updated,
    and what the corpus no longer has is removed. Documents of other corpora stay.

    \b
    Example:
      clipsearch feed sync corpus --model model --dry-run
      clipsearch feed sync corpus --model model
    """
    from feeders.sync import sync

    report(sync(source, delivery, dry_run=dry_run, yes=yes), as_json)


@feed.command("update")
@click.argument("path", metavar="SHARDS|FILE", type=PATH)
@click.option(
    "--fields", multiple=True, default=("embedding",), show_default=True, type=click.Choice(UPDATABLE),
    help="Of SHARDS, what to update; may be repeated.",
)  # fmt: skip
@click.option("--corpus", default="", help='Of FILE, the corpus of lines with "key" in place of "id".')
@click.option("--missing", type=PATH, help="List of documents that are not in the index (JSONL).")
@adapter
@delivery
def update_command(
    path: Path, fields: tuple[str, ...], corpus: str, missing: Path | None, adapter: Path | None, delivery: Any,
    as_json: bool,
) -> None:  # fmt: skip
    """Update fields of documents that are in the index.

    From SHARDS, by default the embeddings and their model's id, with the patches if there are any and the index's are
    of the same generation ("--fields patches" sends them anyway); from FILE (JSONL), whatever stands beside "id":
    {"id": "id:rsicd:image::a.jpg", "captions": ["a river"], "label": "river"}, or Vespa's own updates. No document is
    made: those that are missing are counted and listed.

    \b
    Example:
      clipsearch feed update shards
      clipsearch feed update captions.jsonl --corpus rsicd
    """
    from feeders.update import feed_updates

    summary = feed_updates(path, delivery, fields=fields, corpus=corpus, adapter=adapter, missing=missing)
    report(summary, as_json)


@feed.command("remove")
@click.argument("path", metavar="[FILE]", required=False, type=PATH)
@click.option("--corpus", default="", help="Without FILE: remove this corpus. With FILE: the corpus of its keys.")
@click.option("--selection", default="", help="Without FILE: what to remove, in Vespa's selection language.")
@click.option("--yes", is_flag=True, help="Needed to remove a corpus or a selection.")
@delivery
def remove_command(path: Path | None, corpus: str, selection: str, yes: bool, delivery: Any, as_json: bool) -> None:
    """Remove documents: those listed in FILE, a corpus, or a selection.

    FILE has an id or a key a line, or JSON with "id"; "-" is standard input.

    \b
    Example:
      clipsearch feed remove ids.txt
      clipsearch feed remove --corpus rsicd --yes
      clipsearch feed remove --corpus rsicd --selection 'image.label == "river"' --yes
    """
    from feeders.remove import count_selected, remove_listed, remove_selected

    if path is not None:
        if selection:
            raise click.UsageError("give FILE or --selection, not both")
        report(remove_listed(path, delivery, corpus=corpus), as_json)
        return
    if not corpus and not selection:
        raise click.UsageError("nothing says what to remove: give FILE, --corpus or --selection")
    if not yes:
        count = count_selected(delivery.url, corpus, selection)
        raise click.UsageError(f"this would remove {count} documents: say --yes to do it")
    report(remove_selected(delivery, corpus=corpus, selection=selection, home=Path()), as_json)


@feed.command("verify")
@click.argument("shards", type=PATH, default="shards")
@click.option("--findings", type=PATH, help="List of what differs (JSONL); default: verify.jsonl in SHARDS.")
@slices
@adapter
@url
@as_json
def verify_command(
    shards: Path, findings: Path | None, slices: int, adapter: Path | None, url: str, as_json: bool
) -> None:
    """Compare the index with embedding shards, document by document.

    All fields but the thumbnail are compared, embeddings cell by cell. Exit code 1 when a document is missing, extra
    or different; --findings lists them.

    \b
    Example:
      clipsearch feed verify shards
    """
    from feeders.verify import verify

    summary = verify(shards, url, adapter=adapter, findings=findings, slices=slices, progress=not as_json)
    report(summary, as_json)


@feed.command("export")
@click.argument("paths", metavar="SHARDS|CORPUS...", nargs=-1, required=True, type=PATH)
@click.option("--model", default="", help="Of a CORPUS: what to encode it with.")
@click.option("--work", type=PATH, default=".clipsearch", show_default=True, help="Where its shards are kept.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--update", "updates", multiple=True, type=click.Choice(UPDATABLE), help="Write updates of these fields, no puts."
)
@click.option("--out", default="-", show_default=True, help='A file; "-" is standard output.')
@name
@backend
@precision
@patches
@adapter
@as_json
def export_command(
    paths: tuple[Path, ...], model: str, work: Path, device: str, name: str, backend: str, precision: str,
    patches: str, updates: tuple[str, ...], out: str, adapter: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write documents as Vespa's feed JSONL, one a line.

    "vespa feed" reads it, which is the bulk road into a large cluster; "feed verify" tells whether all arrived. The
    summary goes to stderr when the documents go to standard output.

    \b
    Example:
      clipsearch feed export shards | vespa feed -
      clipsearch feed verify shards
    """
    from feeders.export import encode_for_export, export_shards, is_shards
    from feeders.images import Source

    folders, failed = list(paths), 0
    if not all(is_shards(path) for path in paths) and model:
        source = Source(
            [str(path) for path in paths], model, work, name=name, device=device, backend=backend, precision=precision,
            patches=patches,
        )  # fmt: skip
        folders, failed = encode_for_export(source, progress=not as_json)
    written = export_shards(folders, out, adapter=adapter, updates=updates, progress=out != "-" and not as_json)
    report(written, as_json, err=out == "-")
    if failed:
        raise SystemExit(1)


@feed.command("visit")
@click.option("--corpus", default="", help="Only this corpus.")
@click.option("--selection", default="", help="Only these documents, in Vespa's selection language.")
@click.option("--fields", default="[document]", show_default=True, help='Names with commas; "[id]": none.')
@slices
@click.option("--out", default="-", show_default=True, help='A file; "-" is standard output.')
@url
@as_json
def visit_command(corpus: str, selection: str, fields: str, slices: int, out: str, url: str, as_json: bool) -> None:
    """Write the documents of the index as Vespa's feed JSONL, one a line.

    "feed jsonl" and "vespa feed" take it back. The summary goes to stderr when the documents go to standard output.

    \b
    Example:
      clipsearch feed visit --out backup.jsonl
      clipsearch feed visit --corpus rsicd --fields captions,label
    """
    from feeders.visit import dump_index

    written = dump_index(
        out, url, corpus=corpus, selection=selection, fields=fields, slices=slices,
        progress=out != "-" and not as_json,
    )  # fmt: skip
    report(written, as_json, err=out == "-")


@feed.command("jsonl")
@click.argument("path", metavar="FILE", type=PATH)
@delivery
def jsonl_command(path: Path, delivery: Any, as_json: bool) -> None:
    """Feed a file of Vespa's feed JSONL: puts, updates and removes.

    FILE is what "feed export", "feed visit" or a program of yours wrote; "-" is standard input.

    \b
    Example:
      clipsearch feed jsonl backup.jsonl
    """
    from feeders.lines import read_operations

    report(delivery.feed(read_operations(path), path.parent), as_json)
