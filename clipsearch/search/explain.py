"""Why a hit is where it is: its parts as numbers, and results as a table for the terminal or as JSON."""

from __future__ import annotations

from typing import Any

from clipsearch.records import Hit, Results

_HEAD = ("#", "id", "relevance", "lexical", "complete", "cosine", "caption")


def cosine(semantic: float) -> float | None:
    """The cosine behind Vespa's closeness for prenormalized-angular, which is 1 / (1 + (1 - cosine)).

    None when the query had no vector: Vespa then gives closeness 0.
    """
    return 2 - 1 / semantic if semantic > 0 else None


def as_json(results: Results, first_rank: int = 1) -> dict[str, Any]:
    """Results for machines: the request that was sent without its vector, and each hit with its parts."""
    request = {name: value for name, value in results.request.items() if not name.startswith("input.query(q")}
    return {
        "total": results.total,
        "seconds": round(results.seconds, 4),
        "request": request,
        "hits": [hit_json(hit, rank) for rank, hit in enumerate(results.hits, first_rank)],
    }


def hit_json(hit: Hit, rank: int) -> dict[str, Any]:
    """One hit for machines."""
    return {
        "rank": rank,
        "id": hit.id,
        "relevance": hit.relevance,
        "lexical": hit.lexical,
        "complete": hit.complete,
        "semantic": hit.semantic,
        "cosine": cosine(hit.semantic),
        "fields": dict(hit.fields),
    }


def table(results: Results, width: int = 100) -> str:
    """Results for a terminal of ``width`` columns: one line a hit, the caption cut to what is left."""
    if not results.hits:
        return "No image matches."
    rows = [_HEAD, *(_row(rank, hit) for rank, hit in enumerate(results.hits, 1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    room = max(16, width - sum(widths) - 2 * len(widths))
    lines = []
    for row in rows:
        cells = [
            cell.ljust(size) if column == 1 else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        lines.append("  ".join([*cells, _cut(row[-1], room)]))
    return "\n".join(lines)


def _row(rank: int, hit: Hit) -> tuple[str, ...]:
    angle = cosine(hit.semantic)
    captions = hit.fields.get("captions") or [""]
    return (
        str(rank),
        hit.id,
        f"{hit.relevance:.4f}",
        f"{hit.lexical:.2f}" if hit.lexical else "-",
        f"{hit.complete:.2f}" if hit.complete else "-",
        "-" if angle is None else f"{angle:.3f}",
        " ".join(str(captions[0]).split()),
    )


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"
