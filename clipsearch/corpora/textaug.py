"""CLIP-rsicd's back-translated captions: ``textaug_{train,valid,test}_rsicd.jsonl`` (``filename``, ``captions``).

Training images get the augmented captions. Where RSICD's own file lies beside them, it gives the splits, and the
validation and test captions stay its own: CLIP-rsicd back-translated those too, so that scores on them compare with
nothing (see the file's use in arampacha/CLIP-rsicd, ``data/``). The layout is asked for by name, since the same folder
is RSICD as well.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from clipsearch.captions import clean_captions
from clipsearch.corpora import rsicd, tables
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import base_name
from clipsearch.corpora.source import Source
from clipsearch.errors import CorpusError

NAME = "textaug"
LOOKS_LIKE = "textaug_train_rsicd.jsonl (CLIP-rsicd's back-translated captions; only as FOLDER?layout=textaug)"

_FILE = re.compile(r"textaug_(?P<split>[a-z]+)_\w+\.jsonl")


def find(source: Source) -> list[Path]:
    """The augmented caption files in the folder."""
    return sorted(path for path in source.root.iterdir() if _FILE.fullmatch(path.name))


def read(source: Source) -> Listing:
    """Read the augmented captions, and RSICD's own where its file is there."""
    files = find(source)
    if not files:
        raise CorpusError(f"{source.path} has no textaug_train_NAME.jsonl")
    dataset = rsicd.find(replace_path(source))
    if dataset is None:
        listing = tables.read_files(files, source)
        listing.records = [replace(record, label=rsicd.label_of(record.uri)) for record in listing.records]
        return rsicd.finish(files[0], listing)
    listing = rsicd.read(replace_path(source))
    rows, issues = tables.captions_by_name([path for path in files if "train" in path.name], source)
    listing.issues += issues
    for position, record in enumerate(listing.records):
        captions = clean_captions(rows.get(base_name(record.uri), ()))
        if record.split == "train" and captions:
            listing.records[position] = replace(record, captions=captions)
    return listing


def replace_path(source: Source) -> Source:
    """The same source, named by its folder."""
    return source if source.path.is_dir() else replace(source, path=source.root)
