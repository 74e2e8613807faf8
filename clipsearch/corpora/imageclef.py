"""The layout of ImageCLEF's caption task: ``captions-{train,valid,test}.tsv`` with ``ID<TAB>caption`` lines.

Images are found by id, with whatever suffix they have (``images/ID.jpg``). Not UTF-8 and lines without a
tab become issues with their line number; the other lines survive.
"""

from __future__ import annotations

import re
from pathlib import Path

from clipsearch.corpora.building import RecordBuilder, split_name
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import ImageIndex

NAME = "imageclef"

_FILE = re.compile(r"captions?[-_.](?P<split>[a-z]+)\.(?:tsv|txt)", re.IGNORECASE)


def find(root: Path) -> list[Path]:
    """Return the caption files in ``root``, train before validation before test."""
    order = ("train", "validation", "test")
    found = [path for path in sorted(root.iterdir()) if path.is_file() and _split(path) is not None]
    return sorted(found, key=lambda path: order.index(_split(path) or "train"))


def read(paths: list[Path], corpus: str, index: ImageIndex) -> Listing:
    """Read caption files; labels stay empty, as the task has none."""
    builder = RecordBuilder(corpus, index)
    for path in paths:
        _read_file(path, builder)
    return builder.listing


def _split(path: Path) -> str | None:
    match = _FILE.fullmatch(path.name)
    return split_name(match["split"]) if match else None


def _read_file(path: Path, builder: RecordBuilder) -> None:
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            name, tab, caption = line.decode("utf-8").partition("\t")
        except UnicodeDecodeError:
            builder.issue(where, "the line is not UTF-8; save the file as UTF-8")
            continue
        if not tab or not name.strip():
            builder.issue(where, "the line is not ID<TAB>caption")
            continue
        builder.add(name.strip(), [caption], _split(path), "", where)
