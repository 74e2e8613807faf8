"""``clipsearch plan``: what a Vespa cluster for so many images needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from clipsearch.planning import Plan


@click.command(short_help="Size a Vespa cluster: memory, disk, nodes, feed time.")
@click.option("--docs", type=float, required=True, help="Images, e.g. 200000 or 1e9.")
@click.option("--dim", type=int, default=512, show_default=True, help="Values of an embedding.")
@click.option("--patches", type=int, default=0, show_default=True, help="Further vectors an image, e.g. 9.")
@click.option("--bits", is_flag=True, help="Find by bits (hamming), rank again by bfloat16 that stays on disk.")
@click.option("--cells", type=click.Choice(["float", "bfloat16"]), default="bfloat16", show_default=True)
@click.option(
    "--links", type=click.Choice(["0", "8", "16"]), default="16", show_default=True, help="HNSW's M; 0: exact."
)
@click.option("--redundancy", type=int, default=2, show_default=True, help="Copies of each document.")
@click.option("--headroom", type=float, default=0.3, show_default=True, help="Share of each node that stays free.")
@click.option("--node-memory", type=float, default=256, show_default=True, help="GB of a node.")
@click.option("--node-disk", type=float, default=4000, show_default=True, help="GB of a node.")
@click.option("--document-bytes", type=float, default=12000, show_default=True, help="Captions and thumbnail.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool, links: str, node_memory: float, node_disk: float, **options: Any) -> None:
    """Size a Vespa cluster for so many images, from figures that Vespa has published, each with its source.

    \b
    Example:
      clipsearch plan --docs 200000
      clipsearch plan --docs 1e9 --patches 9 --bits --node-memory 512
    """
    from clipsearch.planning import Workload, plan

    found = plan(Workload(links=int(links), node_memory=node_memory * 1e9, node_disk=node_disk * 1e9, **options))
    click.echo(json.dumps(found.as_json()) if as_json else table(found))


def table(found: Plan) -> str:
    """The plan for people."""
    from clipsearch.planning import FIGURES

    work = found.workload
    numbers = {key: number for number, key in enumerate(found.figures, 1)}
    kind = "bits, then bfloat16 from disk" if work.bits else f"{work.cells} in memory"
    lines = [
        f"{work.docs:,.0f} images, {work.dim} values, {work.patches} patches, {kind}",
        "",
        f"{'one copy of':44} {'memory':>10} {'disk':>10}",
    ]
    for part in found.parts:
        marks = "".join(f"[{numbers[key]}]" for key in part.figures)
        lines.append(f"{part.name:44} {size(part.memory):>10} {size(part.disk):>10}  {marks}")
    lines += [
        f"{f'all {work.redundancy} copies':44} {size(found.memory):>10} {size(found.disk):>10}",
        "",
        f"nodes: {found.nodes} of {size(work.node_memory)} memory and {size(work.node_disk)} disk, of which "
        f"{work.headroom:.0%} stays free [{numbers['limit']}]; bound by {found.bound_by}",
        f"first feed: {duration(found.seconds)} at least, on nodes and with clients as in "
        + "".join(f"[{numbers[key]}]" for key in found.figures if key.startswith(("feed", "client"))),
        *(f"note: {note}" for note in found.notes),
        "",
        *(f"[{number}] {FIGURES[key].says}. {FIGURES[key].source}" for key, number in numbers.items()),
    ]
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes in powers of ten, three digits: 205 MB, 1.02 TB."""
    if not count:
        return "-"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    digits = 0 if count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
