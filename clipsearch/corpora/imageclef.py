"""The layout of ImageCLEF's caption task and of ROCO: text files with ``ID<TAB>caption`` lines.

* ``captions-{train,valid,test}.tsv``, images anywhere below the folder;
* ImageCLEF 2017 as distributed: ``training/CaptionPredictionTraining2017-Captions.csv`` (tabs, in spite of the
  suffix), ``validation/CaptionPredictionValidation2017-Captions.csv``, and ``test/...-List.txt``, whose images have
  no captions; concept files (``...-Concepts.txt``) are several labels an image and are not read;
* ROCO: ``{train,validation,test}/{radiology,non-radiology}/captions.txt``, images in ``images/``, and
  ``licences.txt``.

Images are found by id, with whatever suffix they have. Not UTF-8 and lines without a tab become issues with their
line number; the other lines survive.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from clipsearch.corpora.building import RecordBuilder, split_in_name, split_name
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import base_name, stem
from clipsearch.corpora.source import Source

NAME = "imageclef"
LOOKS_LIKE = "captions-train.tsv, CaptionPredictionTraining2017-Captions.csv or captions.txt (ImageCLEF, ROCO)"

_FILES = (
    re.compile(r"captions?(?:_[ft]p)?[-_.](?P<split>[a-z]+)(?:_revised)?\.(?:tsv|txt)", re.IGNORECASE),
    re.compile(r"caption(?:prediction)?_?(?P<split>[a-z]+)\d{4}[-_](?:captions|list)\.(?:txt|csv|tsv)", re.IGNORECASE),
    re.compile(r"captions\.txt", re.IGNORECASE),
)
_LICENCES = re.compile(r"licen[cs]es?\.(?:tsv|txt|csv)", re.IGNORECASE)
_ORDER = ("train", "validation", "test", None)
_DEPTH = 3


def find(source: Source) -> list[PurePosixPath]:
    """The caption files, train before validation before test."""
    path = source.path
    named = [PurePosixPath(source.relative(path))] if path.is_file() else source.lying(_DEPTH)
    found = [path for path in named if _is_caption_file(path, source)]
    top = min((len(path.parts) for path in found), default=0)
    if top == 1:  # files at the top speak for the folder; others below it are another corpus
        found = [path for path in found if len(path.parts) == 1]
    return sorted(found, key=lambda path: (_ORDER.index(_split(path)), str(path)))


def read(source: Source) -> Listing:
    """Read caption files; labels stay empty, as the task has none."""
    builder = RecordBuilder(source)
    files = find(source)
    for path in files:
        _read_file(path, source, builder)
    builder.listing.licences = _licences(files, source, builder.listing)
    return builder.listing


def _is_caption_file(path: PurePosixPath, source: Source) -> bool:
    match = next((match for pattern in _FILES if (match := pattern.fullmatch(path.name))), None)
    if match is None or ("split" in match.groupdict() and split_name(match["split"]) is None):
        return False
    if path.name.lower().startswith("captions") and path.suffix != ".txt":
        return True
    with (source.root / path).open("rb") as file:
        return b"\t" in file.readline() or _is_list(path)  # else a CSV with commas, which is another layout


def _is_list(path: PurePosixPath) -> bool:
    return path.stem.lower().endswith("list")


def _split(path: PurePosixPath) -> str | None:
    return split_in_name(str(path))


def _read_file(path: PurePosixPath, source: Source, builder: RecordBuilder) -> None:
    split, captionless = _split(path), _is_list(path)
    for number, line in _lines(path, source):
        where = f"{path.name}, line {number}"
        try:
            name, tab, caption = line.decode("utf-8").partition("\t")
        except UnicodeDecodeError:
            builder.issue(where, "the line is not UTF-8; save the file as UTF-8")
            continue
        if (not tab and not captionless) or not name.strip():
            builder.issue(where, "the line is not ID<TAB>caption")
            continue
        builder.add(name.strip(), [caption], split, "", where)


def _lines(path: PurePosixPath, source: Source) -> Iterator[tuple[int, bytes]]:
    data = (source.root / path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    return ((number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip())


def _licences(files: list[PurePosixPath], source: Source, listing: Listing) -> dict[str, int]:
    """Licence -> number of the listing's images, out of ``ID<TAB>licence...`` or ROCO's ``ROCO_ID,PMC_ID,CC``."""
    folders = {path.parent for path in files}
    said: dict[str, str] = {}
    for path in source.lying(_DEPTH):
        if not _LICENCES.fullmatch(path.name) or path.parent not in folders:
            continue
        for _, line in _lines(path, source):
            cells = line.decode("utf-8", "replace").split("\t" if b"\t" in line else ",")
            if len(cells) > 1:
                said[stem(cells[0].strip())] = (cells[1] if b"\t" in line else cells[-1]).strip()
    found = Counter(said.get(stem(base_name(record.uri)), "") for record in listing.records)
    return {licence: count for licence, count in found.most_common() if licence}
