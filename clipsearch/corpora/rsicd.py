"""RSICD as it is distributed (Lu et al. 2017, "Exploring Models and Data for Remote Sensing Image Caption
Generation").

``dataset_rsicd.json`` (Karpathy's layout: ``images[].filename, split, sentences[].raw``), the images in a
folder or in a zip beside it, and optionally ``txtclasses_rsicd/CLASS NAME.txt``, which spell the class
names. UCM and Sydney captions (``dataset.json``) have the same layout.

Labels come from file names (``airport_12.jpg``), as in CLIP-rsicd's evaluation: 921 images have bare
numbers and no label; the class lists name some of those, but one of them (playfields) never occurs in a
file name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from clipsearch.corpora.building import RecordBuilder, split_name, words_of
from clipsearch.corpora.corpus import AERIAL_PROMPT, Listing
from clipsearch.corpora.index import ImageIndex
from clipsearch.errors import CorpusError

NAME = "rsicd"
FILES = ("dataset_rsicd.json", "dataset.json")

_LABELLED = re.compile(r"([A-Za-z]+)_\d+\.\w+")
# RSICD runs its class names together in file names; used where the class lists are not there.
_SPELLINGS = (
    "bare land", "baseball field", "dense residential", "medium residential", "railway station",
    "sparse residential", "storage tanks",
)  # fmt: skip


def find(root: Path) -> Path | None:
    """Return the data set file in ``root``, or None when this is another layout."""
    return next((root / name for name in FILES if (root / name).is_file()), None)


def read(path: Path, corpus: str, index: ImageIndex) -> Listing:
    """Read the data set file at ``path``. Raises ``CorpusError`` when it is not what it should be."""
    builder = RecordBuilder(corpus, index)
    for position, entry in enumerate(_entries(path)):
        where = f"{path.name}, image {position}"
        name = entry.get("filename")
        said = str(entry.get("split") or "train")
        split = split_name(said.removeprefix("rest"))
        if not isinstance(name, str) or not name:
            builder.issue(where, "the entry has no filename")
        elif split is None:
            builder.issue(name, f"{said!r} is not a split: use train, val or test ({where})")
        else:
            builder.add(name, _captions(entry), split, _label(name), where)
    listing = builder.listing
    spelled = _spellings(path.parent)
    labels = {record.label for record in listing.records if record.label}
    listing.classes = {label: spelled.get(label, words_of(label)) for label in labels}
    listing.prompt = AERIAL_PROMPT
    return listing


def _entries(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CorpusError(f"{path} is not valid JSON: {error}") from error
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise CorpusError(f'{path} has no list "images", which RSICD\'s layout begins with')
    return (entry if isinstance(entry, dict) else {} for entry in images)


def _captions(entry: Mapping[str, Any]) -> list[str]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        return []
    return [
        str(sentence.get("raw") or " ".join(map(str, sentence.get("tokens") or ())))
        for sentence in sentences
        if isinstance(sentence, dict)
    ]


def _label(name: str) -> str:
    match = _LABELLED.fullmatch(name.rsplit("/", 1)[-1])
    return match[1].lower() if match else ""


def _spellings(root: Path) -> dict[str, str]:
    lists = sorted(root.glob("txtclasses*/*.txt"))
    names = [path.stem for path in lists] or list(_SPELLINGS)
    return {name.replace(" ", "").lower(): name.lower() for name in names}
