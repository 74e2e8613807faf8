"""RSICD as it is distributed (Lu et al. 2017, "Exploring Models and Data for Remote Sensing Image Caption
Generation"), and its family: UCM captions, Sydney captions (``dataset.json``), RSITMD (``dataset_RSITMD.json``).

``dataset_rsicd.json`` (Karpathy's layout: ``images[].filename, split, sentences[].raw``), the images in a
folder or in a zip beside it, and optionally ``txtclasses_rsicd/CLASS NAME.txt``, which spell the class
names and list their images.

Labels come from file names (``airport_12.jpg``), as in CLIP-rsicd's evaluation: 921 images of RSICD have bare
numbers and no label; the class lists name some of those, but one of them (playfields) never occurs in a
file name. Where no file name has a class (UCM's and Sydney's are ``1.tif``), the class lists give the labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from clipsearch.corpora.building import RecordBuilder, split_name, words_of
from clipsearch.corpora.corpus import AERIAL_PROMPT, PHOTO_PROMPT, Listing
from clipsearch.corpora.index import base_name
from clipsearch.corpora.source import Source
from clipsearch.errors import CorpusError

NAME = "rsicd"
LOOKS_LIKE = "dataset_rsicd.json or dataset.json (RSICD, UCM and Sydney captions, RSITMD)"

_FILE = re.compile(r"dataset(?:_(?P<name>\w+))?\.json", re.IGNORECASE)
_OTHERS = {"dict", "info", "infos"}  # dataset_info.json and the like are Hugging Face's
_EVERYDAY = re.compile(r"coco|flickr", re.IGNORECASE)
_LABELLED = re.compile(r"([A-Za-z]+)_\d+\.\w+")
# RSICD runs its class names together in file names; used where the class lists are not there.
_SPELLINGS = (
    "bare land", "baseball field", "dense residential", "medium residential", "railway station",
    "sparse residential", "storage tanks",
)  # fmt: skip


def find(source: Source) -> Path | None:
    """The data set file: the path itself or one in the folder; None when this is another layout."""
    if source.path.is_file():
        return source.path if _is_dataset(source.path) else None
    found = [path for path in sorted(source.path.iterdir()) if path.is_file() and _is_dataset(path)]
    usual = [path for path in found if path.name in {"dataset_rsicd.json", "dataset.json"}]
    if len(found) > 1 and not usual:
        names = ", ".join(path.name for path in found)
        raise CorpusError(f"{source.path} has several data sets ({names}): give the path of one of them")
    return next(iter(usual[-1:] or found), None)


def read(source: Source) -> Listing:
    """Read the data set file. Raises ``CorpusError`` when it is not what it should be."""
    path = find(source)
    assert path is not None
    builder = RecordBuilder(source)
    for position, entry in enumerate(entries(path)):
        where = f"{path.name}, image {position}"
        name = entry.get("filename")
        said = str(entry.get("split") or "train")
        split = split_name(said.removeprefix("rest"))
        if not isinstance(name, str) or not name:
            builder.issue(where, "the entry has no filename")
        elif split is None:
            builder.issue(name, f"{said!r} is not a split: use train, val or test ({where})")
        else:
            folder = entry.get("filepath")
            named = f"{folder}/{name}" if isinstance(folder, str) and folder else name
            builder.add(named, _captions(entry), split, label_of(name), where)
    return finish(path, builder.listing)


def finish(path: Path, listing: Listing) -> Listing:
    """Give a listing the labels, class words and prompt of the data set at ``path``."""
    lists = sorted(path.parent.glob("txtclasses*/*.txt"))
    if not any(record.label for record in listing.records):
        _label_by_lists(lists, listing)
    names = [file.stem for file in lists] or list(_SPELLINGS)
    spelled = {name.replace(" ", "").lower(): name.lower() for name in names}
    labels = {record.label for record in listing.records if record.label}
    listing.classes = {label: spelled.get(label, words_of(label)) for label in labels}
    listing.prompt = PHOTO_PROMPT if _EVERYDAY.search(path.name) else AERIAL_PROMPT
    return listing


def entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """The entries of a data set file; raises ``CorpusError`` when it has none."""
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CorpusError(f"{path} is not valid JSON: {error}") from error
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise CorpusError(f'{path} has no list "images", which RSICD\'s layout begins with')
    return (entry if isinstance(entry, dict) else {} for entry in images)


def label_of(name: str) -> str:
    """The class in a file name: ``airport_12.jpg`` -> ``airport``, else ""."""
    match = _LABELLED.fullmatch(base_name(name))
    return match[1].lower() if match else ""


def _is_dataset(path: Path) -> bool:
    match = _FILE.fullmatch(path.name)
    return match is not None and (match["name"] or "").lower() not in _OTHERS


def _captions(entry: Mapping[str, Any]) -> list[str]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        return []
    return [
        str(sentence.get("raw") or " ".join(map(str, sentence.get("tokens") or ())))
        for sentence in sentences
        if isinstance(sentence, dict)
    ]


def _label_by_lists(lists: list[Path], listing: Listing) -> None:
    labels = {
        line.strip(): file.stem.replace(" ", "").lower()
        for file in lists
        for line in file.read_text("utf-8", "replace").splitlines()
        if line.strip()
    }
    for position, record in enumerate(listing.records if labels else ()):
        listing.records[position] = replace(record, label=labels.get(base_name(record.uri), ""))
