"""Caption tables: ``captions.jsonl`` or ``captions.csv`` (also ``.tsv``, ``metadata.*``), one image or
caption a row.

Columns: the image (``file``, ``filename``, ``file_name``, ``image``, ``path``, ``uri``), its captions
(``caption``, ``captions``, ``text``, ``sentences``; a string or, in JSONL, a list), and optionally
``split`` and ``label`` (or ``class``). Rows that name one image twice join. A row that cannot be used
becomes an issue with its line number.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from clipsearch.corpora.building import RecordBuilder, split_name, words_of
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import ImageIndex
from clipsearch.errors import CorpusError

NAME = "table"

_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
_FILE = re.compile(r"(?:captions?|metadata|data|dataset|images)(?:[-_.](?P<split>[a-z]+))?", re.IGNORECASE)
_IMAGE = ("file", "filename", "file_name", "image", "path", "uri", "filepath", "image_path")
_CAPTIONS = ("captions", "caption", "text", "sentences", "title")
_LABEL = ("label", "class", "category")

Row = Mapping[str, Any]


def find(root: Path) -> list[Path]:
    """Return the caption tables in ``root``: those with a usual name, else the only table that there is."""
    tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in _SUFFIXES and path.is_file()]
    named = [path for path in tables if _FILE.fullmatch(path.stem)]
    return named or (tables if len(tables) == 1 else [])


def read(paths: list[Path], corpus: str, index: ImageIndex) -> Listing:
    """Read caption tables. Raises ``CorpusError`` when a table has no column for the image."""
    builder = RecordBuilder(corpus, index)
    for path in paths:
        match = _FILE.fullmatch(path.stem)
        file_split = split_name(match["split"] or "") if match else None
        for number, row in _rows(path, builder):
            _add(row, file_split, builder, f"{path.name}, line {number}")
    listing = builder.listing
    listing.classes = {record.label: words_of(record.label) for record in listing.records if record.label}
    return listing


def _add(row: Row, file_split: str | None, builder: RecordBuilder, where: str) -> None:
    name = _first(row, _IMAGE)
    if not isinstance(name, str) or not name.strip():
        builder.issue(where, f"the row names no image: it needs one of {', '.join(_IMAGE[:4])}")
        return
    captions = _first(row, _CAPTIONS)
    texts = captions if isinstance(captions, list) else [captions]
    texts = [text.get("raw", "") if isinstance(text, dict) else text for text in texts]
    said = row.get("split")
    split = split_name(said) if isinstance(said, str) and said.strip() else file_split
    if split is None and isinstance(said, str) and said.strip():
        builder.issue(name, f"{said!r} is not a split: use train, validation or test ({where})")
        return
    label = _first(row, _LABEL)
    texts = [str(text) for text in texts if text is not None]
    builder.add(name.strip(), texts, split, str(label).strip() if label is not None else "", where)


def _first(row: Row, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _rows(path: Path, builder: RecordBuilder) -> Iterator[tuple[int, Row]]:
    if path.suffix.lower() in {".csv", ".tsv"}:
        return _csv_rows(path, builder)
    return _json_rows(path, builder)


def _json_rows(path: Path, builder: RecordBuilder) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            builder.issue(where, f"the line is not valid JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, {str(name).lower(): value for name, value in row.items()}
        else:
            builder.issue(where, "the line is not a JSON object")


def _csv_rows(path: Path, builder: RecordBuilder) -> Iterator[tuple[int, Row]]:
    # Undecodable bytes become surrogates, so that one bad caption costs one row and not the file.
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip().lower() for name in next(reader, [])]
    if not set(header) & set(_IMAGE):
        raise CorpusError(
            f"{path} has no column for the image in its first line; name one of them {', '.join(_IMAGE[:4])}"
        )
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            builder.issue(f"{path.name}, line {reader.line_num}", f"the row is not CSV: {error}")
            continue
        if values is None:
            return
        if not any(values):
            continue
        if any("\udc80" <= char <= "\udcff" for value in values for char in value):
            builder.issue(f"{path.name}, line {reader.line_num}", "the row is not UTF-8; save the file as UTF-8")
            continue
        yield reader.line_num, dict(zip(header, values, strict=False))
