"""The report folder: one page that needs nothing else, and the lists that other programs read.

``report.html`` holds its style and its pictures; ``audit.json`` is what ``--json`` prints; ``duplicates.jsonl`` and
``leakage.jsonl`` have every pair; ``exclude.txt`` is for ``clipsearch finetune --exclude``.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipsearch.audit.audit import Audit
from clipsearch.audit.leakage import Leak
from clipsearch.audit.summary import duplicate_counts, leak_counts, odd_images, split_table, to_json, twin_words
from clipsearch.audit.twins import Twin
from clipsearch.errors import ImageError, InputError
from clipsearch.images import thumbnail
from clipsearch.records import SPLITS, Record

PAIRS = 36
"""Pairs of pictures that the page shows of leaks, and of duplicates; the JSONL files have all."""

_SIDE = 200
_ROWS = 100
_BARS = 40


def write_report(found: Audit, folder: Path) -> Path:
    """Write the report of ``found`` into ``folder`` and return the page's path; files of an earlier one are replaced.

    Raises ``InputError`` when the folder cannot be written.
    """
    files = {
        "audit.json": json.dumps(to_json(found), ensure_ascii=False, indent=2) + "\n",
        "duplicates.jsonl": _lines(duplicate_row(found, twin) for twin in found.twins),
        "leakage.jsonl": _lines(leak_row(found, leak) for leak in found.leaks),
        "exclude.txt": exclude_text(found),
        "report.html": page(found),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            unfinished = folder / f".{name}.tmp"
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, folder / name)  # noqa: PTH105 (one of the two is enough of a line)
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder}: {error.strerror or error}") from error
    return folder / "report.html"


def duplicate_row(found: Audit, twin: Twin) -> dict[str, Any]:
    """A line of ``duplicates.jsonl``: kind, distance, likeness, and both images."""
    left, right = found.records[twin.left], found.records[twin.right]
    alike = {"kind": twin.kind, "distance": twin.distance, "likeness": twin.likeness, "turn": twin.turn}
    return alike | {"across_splits": left.split != right.split, "images": [_image(left), _image(right)]}


def leak_row(found: Audit, leak: Leak) -> dict[str, Any]:
    """A line of ``leakage.jsonl``: the held-out image, its closest twin in an earlier split, and how alike they are."""
    held, source = _image(found.records[leak.held]), _image(found.records[leak.source])
    alike = {key: value for key, value in asdict(leak.twin).items() if key not in {"left", "right"}}
    return {"held_out": held, "twin": source, **alike, "further_twins": leak.others}


def exclude_text(found: Audit) -> str:
    """``exclude.txt``: one document id a line, what follows a ``#`` is a comment."""
    head = (
        "# Images to leave out of training, for `clipsearch finetune --exclude`: broken ones, and twins of held-out\n"
        "# images. Delete a line to keep its image.\n"
    )
    return head + "".join(f"{name}  # {' '.join(reason.split())}\n" for name, reason in found.exclude().items())


def page(found: Audit) -> str:
    """``report.html``: no scripts, nothing loaded from elsewhere, light and dark, for screens from 320 px."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("clipsearch.audit"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["n"] = lambda number: f"{number:,}"
    pictures = Pictures(found)
    doubles = [twin for twin in found.twins if found.records[twin.left].split == found.records[twin.right].split]
    return environment.get_template("report.html").render(
        found=found,
        data=to_json(found),
        splits=split_table(found),
        counts=duplicate_counts(found),
        leak_counts=leak_counts(found),
        leaks=[pictures.pair(leak.held, leak.source, leak.twin, leak.others) for leak in found.leaks[:PAIRS]],
        doubles=[pictures.pair(twin.left, twin.right, twin) for twin in doubles[:PAIRS]],
        all_doubles=len(doubles),
        odd=[
            (name, len(positions), [pictures.one(position) for position in positions[:6]])
            for name, positions in odd_images(found).items()
        ],
        broken=[(found.records[position], found.pictures[position].error) for position in found.broken[:_ROWS]],
        rows=_ROWS,
        lengths=bars(found.captions.lengths.histogram, found.captions.lengths.limit),
        per_image=bars(found.captions.distinct_per_image),
        classes=class_bars(found),
    )


class Pictures:
    """Small JPEGs of a corpus' images as data URLs, each made once."""

    def __init__(self, found: Audit) -> None:
        self._found = found
        self._urls: dict[int, str] = {}

    def one(self, position: int) -> dict[str, Any]:
        """What the template shows of one image: its record, size and picture ("" when it cannot be read any more)."""
        if position not in self._urls:
            try:
                data = thumbnail(self._found.read(position), _SIDE)
                self._urls[position] = "data:image/jpeg;base64," + base64.b64encode(data).decode()
            except ImageError:
                self._urls[position] = ""
        picture = self._found.pictures[position]
        size = f"{picture.width} x {picture.height}"
        return {"record": self._found.records[position], "size": size, "url": self._urls[position]}

    def pair(self, left: int, right: int, twin: Twin, others: int = 0) -> dict[str, Any]:
        """Two images side by side, and how alike they are."""
        return {"images": [self.one(left), self.one(right)], "words": twin_words(twin), "others": others}


def bars(histogram: dict[int, int], limit: int = 0) -> list[dict[str, Any]]:
    """At most 40 bars of a histogram: label, count, height in per cent of the highest, and whether all of it lies over
    ``limit``. Values are put together in ranges of equal width when there are more; the last range ends the data."""
    if not histogram:
        return []
    low, high = min(histogram), max(histogram)
    width = -(-(high - low + 1) // _BARS)
    counts = [0] * (-(-(high - low + 1) // width))
    for value, count in histogram.items():
        counts[(value - low) // width] += count
    top = max(counts)
    return [
        {
            "label": str(start) if width == 1 else f"{start}-{start + width - 1}",
            "count": count,
            "height": max(100 * count / top, 1.5) if count else 0,
            "over": bool(limit) and start > limit,
        }
        for number, count in enumerate(counts)
        if (start := low + number * width) is not None
    ]


def class_bars(found: Audit) -> list[dict[str, Any]]:
    """Each label with its images in each split, the largest first, and its bar's length in per cent."""
    ranked = sorted(found.classes.items(), key=lambda entry: (-entry[1].total(), entry[0]))
    top = ranked[0][1].total() if ranked else 1
    return [
        {"label": label, "splits": _in_order(splits), "count": splits.total(), "width": 100 * splits.total() / top}
        for label, splits in ranked
    ]


def _in_order(splits: Counter[str]) -> dict[str, int]:
    return {split: splits[split] for split in SPLITS if splits[split]}


def _image(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "uri": record.uri,
        "split": record.split,
        "label": record.label,
        "captions": list(record.captions),
    }


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
