"""WebDataset: tar shards whose members of one name are one sample (``000.jpg``, ``000.txt``, ``000.json``).

A sample's key is its path up to the first dot of its file name, as in the webdataset library. Captions are the
``.txt`` (or ``.caption``) member, one a line only if the JSON says so, and ``caption``/``captions``/``text`` of the
``.json`` member; the class is ``.cls`` or ``label`` of the JSON; the split is the JSON's, else the shard's or its
folder's name (``train-{000..009}.tar``). Images are read at random by their offset, without unpacking.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from clipsearch.corpora.building import RecordBuilder, split_in_name, split_name
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import base_name
from clipsearch.corpora.source import CAPTIONS, LABELS, SPLITS, Source
from clipsearch.corpora.store import MEMBER, is_image_name
from clipsearch.corpora.tars import COMPRESSED, SUFFIXES

NAME = "webdataset"
LOOKS_LIKE = "*.tar with KEY.jpg and KEY.txt or KEY.json (WebDataset shards)"

_TEXTS = ("txt", "caption", "captions", "text")
_SIDES = (*_TEXTS, "json", "cls")
_MAX_TEXT = 1024 * 1024

Members = dict[str, tuple[str, int, int]]  # extension -> member's name, offset, size


def find(source: Source) -> list[str]:
    """The shards, when one of them has more than images in it (a tar of images alone is a folder in a file)."""
    shards = source.named_files(SUFFIXES)
    if source.path.is_file() or source.files:
        return shards
    return shards if any(_has_sides(shard, source) for shard in shards) else []


def read(source: Source) -> Listing:
    """Read the shards' samples; a sample without an image, or with damaged JSON, is an issue."""
    builder = RecordBuilder(source)
    for name in source.named_files(COMPRESSED):
        builder.issue(name, "a compressed tar cannot be read at random: decompress it (gunzip, unxz, unzstd) first")
    for shard in source.named_files(SUFFIXES):
        if not (source.root / shard).is_file():
            builder.issue(shard, "the shard is missing")
            continue
        index = source.store.tar(shard)
        with (source.root / shard).open("rb") as file:
            for key, members in _samples(index.members):
                _add(shard, key, members, file, source, builder)
        # Captions have been read: what is left to find are images.
        index.members = {name: place for name, place in index.members.items() if is_image_name(name)}
    return builder.finish()


def shards_of(pattern: str) -> list[Path]:
    """Expand ``shards/{000..009}.tar`` into its paths, in order; a path without braces is itself."""
    head, brace, rest = pattern.partition("{")
    numbers, closing, tail = rest.partition("}")
    first, dots, last = numbers.partition("..")
    if not (brace and closing and dots and first.isdecimal() and last.isdecimal()):
        return [Path(pattern)]
    return [
        path
        for number in range(int(first), int(last) + 1)
        for path in shards_of(f"{head}{number:0{len(first)}d}{tail}")
    ]


def _has_sides(shard: str, source: Source) -> bool:
    return any(base_name(name).partition(".")[2].lower() in _SIDES for name in source.store.tar(shard).members)


def _samples(members: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Members]]:
    """Group neighbouring members by key."""
    current: str | None = None
    group: Members = {}
    for name, (offset, size) in members.items():
        base = base_name(name)
        if base.startswith("."):
            continue
        stem, _, extension = base.partition(".")
        key = name[: len(name) - len(base)] + stem
        if key != current:
            if current is not None:
                yield current, group
            current, group = key, {}
        group[extension.lower()] = (name, offset, size)
    if current is not None:
        yield current, group


def _add(shard: str, key: str, members: Members, file: BinaryIO, source: Source, builder: RecordBuilder) -> None:
    where = f"{shard}, sample {key}"
    images = sorted((extension.count("."), extension) for extension in members if is_image_name(f"x.{extension}"))
    if not images:
        builder.issue(where, f"the sample has no image: it has {', '.join(sorted(members))}")
        return
    wanted = source.columns.image.lower().removeprefix(".")
    name = members[wanted if wanted in members else images[0][1]][0]
    try:
        captions, label, said = _sides(members, file, source)
    except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
        kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not valid JSON: {error}"
        builder.issue(where, f"its text is {kind}")
        return
    split = split_name(said) if said else split_in_name(shard)
    if split is None and said:
        builder.issue(where, f"{said!r} is not a split: use train, validation or test")
        return
    builder.add_uri(f"{shard}{MEMBER}{name}", name, captions, split, label)


def _sides(members: Members, file: BinaryIO, source: Source) -> tuple[list[str], str, str]:
    """(captions, label, split) of one sample."""
    columns = source.columns
    data = orjson.loads(_bytes(members["json"], file)) if "json" in members else {}
    row: dict[str, Any] = {str(name).lower(): value for name, value in data.items()} if isinstance(data, dict) else {}
    captions = [_bytes(members[side], file).decode() for side in _TEXTS if side in members]
    for name in [name.lower() for name in columns.captions] or [next((n for n in CAPTIONS if row.get(n)), "")]:
        cell = row.get(name)
        texts = cell if isinstance(cell, list) else [cell]
        captions += [str(text) for text in texts if text is not None and str(text) not in captions]
    label = next((row[n] for n in ((columns.label.lower(),) if columns.label else LABELS) if n in row), None)
    if label is None and "cls" in members:
        label = _bytes(members["cls"], file).decode()
    said = next((row[n] for n in ((columns.split.lower(),) if columns.split else SPLITS) if n in row), "")
    return captions, str(label).strip() if isinstance(label, str | int) else "", said if isinstance(said, str) else ""


def _bytes(member: tuple[str, int, int], file: BinaryIO) -> bytes:
    _, offset, size = member
    file.seek(offset)
    return file.read(min(size, _MAX_TEXT))
