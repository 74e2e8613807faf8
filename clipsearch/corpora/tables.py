"""Caption tables: ``captions.jsonl`` or ``captions.csv`` (also ``.tsv``, ``metadata.*``), one image or
caption a row.

Columns: the image (``file``, ``filename``, ``file_name``, ``image``, ``path``, ``uri``), its captions
(``caption``, ``captions``, ``text``, ``sentences``; a string or, in JSONL, a list), and optionally
``split``, ``label`` (or ``class``), ``latitude`` and ``longitude``; other names can be given. Rows that name one image
twice join. A row that cannot be used becomes an issue with its line number. Hugging Face's image folders
(``train/metadata.jsonl`` beside its images) and ROCO's ``train/radiologytraindata.csv`` are tables in folders: names
are relative to the table first.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from clipsearch.corpora.building import PLACE_COLUMNS, RecordBuilder, split_in_name, split_name
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import base_name
from clipsearch.corpora.source import CAPTIONS, IMAGE_IDS, IMAGE_PATHS, LABELS, SPLITS, Source
from clipsearch.errors import CorpusError
from clipsearch.records import Issue

NAME = "table"
LOOKS_LIKE = "captions.jsonl, captions.csv or metadata.jsonl (also in train/, validation/, test/)"

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
_FILE = re.compile(r"(?:captions?|metadata|data|dataset|images|textaug)(?:[-_.](?P<split>[a-z_]+))?", re.IGNORECASE)
_NESTED = re.compile(r"metadata\.(?:jsonl|csv)|(?:non)?radiology(?:train|val|test)data\.csv", re.IGNORECASE)
_ROCO = re.compile(r"radiology(train|val|test)data$", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:captions?|text|sentence|raw|comment)_?\d+")

Row = Mapping[str, Any]


def find(source: Source) -> list[Path]:
    """The caption tables: the path itself; those in the folder with a usual name or a split's; those of an image
    folder; else the only table that there is."""
    if source.path.is_file():
        return [source.path]
    tables = [path for path in sorted(source.path.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
    named = [path for path in tables if _FILE.fullmatch(path.stem) or split_name(path.stem)]
    flickr = source.path / "captions.txt"  # Flickr8k's: a CSV by another suffix
    nested = [source.root / path for path in source.lying(3) if _NESTED.fullmatch(path.name)]
    return named or ([flickr] if flickr.is_file() else []) or nested or (tables if len(tables) == 1 else [])


def read(source: Source) -> Listing:
    """Read the caption tables. Raises ``CorpusError`` when a table has no column for the image."""
    return read_files(find(source), source)


def read_files(paths: Sequence[Path], source: Source) -> Listing:
    """Read the given caption tables."""
    builder = RecordBuilder(source)
    fields: set[str] = set()
    for path in paths:
        relative = source.relative(path)
        folder = relative.rpartition("/")[0]
        stem = _ROCO.sub(r"_\1", path.stem)
        file_split = split_in_name(f"{folder}/{stem}")
        for number, row in rows(path, source, builder.listing.issues):
            fields |= row.keys()
            _add(row, file_split, folder, source, builder, f"{relative}, line {number}")
    missing = source.columns.missing_from(sorted(fields)) if fields else None
    if missing:
        raise CorpusError(f"{source.path} has no column {missing!r}: it has {', '.join(sorted(fields))}")
    return builder.finish()


def captions_by_name(paths: Sequence[Path], source: Source) -> tuple[dict[str, list[str]], list[Issue]]:
    """Only the captions: bare file name -> texts, and what could not be read."""
    found: dict[str, list[str]] = {}
    issues: list[Issue] = []
    for path in paths:
        for _, row in rows(path, source, issues):
            name = _first(row, IMAGE_PATHS)
            if isinstance(name, str):
                found.setdefault(base_name(name), []).extend(_texts(row, source))
    return found, issues


def rows(path: Path, source: Source, issues: list[Issue]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row with small-lettered names) of one table; bad lines become issues."""
    return _json_rows(path, issues) if path.suffix.lower() in {".jsonl", ".ndjson"} else _csv_rows(path, source, issues)


def _add(row: Row, file_split: str | None, folder: str, source: Source, builder: RecordBuilder, where: str) -> None:
    columns = source.columns
    name = _first(row, (columns.image.lower(),) if columns.image else (*IMAGE_PATHS, *IMAGE_IDS))
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name.strip():
        builder.issue(where, f"the row names no image: it needs one of {', '.join(IMAGE_PATHS[:4])}")
        return
    said = _first(row, (columns.split.lower(),) if columns.split else SPLITS)
    split = split_name(said) if isinstance(said, str) and said.strip() else file_split
    if split is None and isinstance(said, str) and said.strip():
        builder.issue(name, f"{said!r} is not a split: use train, validation or test ({where})")
        return
    label = _first(row, (columns.label.lower(),) if columns.label else LABELS)
    name = name.strip()
    if folder and source.index.find(f"{folder}/{name}") is not None:
        name = f"{folder}/{name}"
    place = builder.place(name, *(row.get(column) for column in PLACE_COLUMNS))
    builder.add(name, _texts(row, source), split, str(label).strip() if label is not None else "", where, place)


def _texts(row: Row, source: Source) -> list[str]:
    if source.columns.captions:
        cells = [row.get(name.lower()) for name in source.columns.captions]
    else:
        usual = _first(row, CAPTIONS)
        cells = [usual] if usual is not None else [row[name] for name in row if _NUMBERED.fullmatch(name)]
    flat = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    raw = [text.get("raw", "") if isinstance(text, dict) else text for text in flat]
    return [str(text) for text in raw if text is not None]


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _json_rows(path: Path, issues: list[Issue]) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                issues.append(Issue(where, f"the line is not valid JSON: {error}"))
                continue
            if isinstance(row, dict):
                yield number, {str(name).lower(): value for name, value in row.items()}
            else:
                issues.append(Issue(where, "the line is not a JSON object"))


def _csv_rows(path: Path, source: Source, issues: list[Issue]) -> Iterator[tuple[int, Row]]:
    # Undecodable bytes become surrogates, so that one bad caption costs one row and not the file.
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header = [name.strip().lower() for name in next(reader, [])]
    wanted = {source.columns.image.lower()} if source.columns.image else {*IMAGE_PATHS, *IMAGE_IDS}
    if not set(header) & wanted:
        raise CorpusError(
            f"{path} has no column for the image in its first line ({', '.join(header)[:200]}); name one of them "
            f"{', '.join(IMAGE_PATHS[:4])}, or say which it is: {path.name}?image=COLUMN"
        )
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            issues.append(Issue(f"{path.name}, line {reader.line_num}", f"the row is not CSV: {error}"))
            continue
        if values is None:
            return
        if not any(values):
            continue
        if any("\udc80" <= char <= "\udcff" for value in values for char in value):
            where = f"{path.name}, line {reader.line_num}"
            issues.append(Issue(where, "the row is not UTF-8; save the file as UTF-8"))
            continue
        yield reader.line_num, dict(zip(header, values, strict=False))
