"""Parquet files, and data sets that Hugging Face ``datasets`` has saved: images as bytes in a column, or as paths.

* ``data/train-00000-of-00002.parquet`` and the like: the split is in the file's or its folder's name;
* ``save_to_disk``: a folder with ``dataset_dict.json`` and a folder a split, or ``state.json`` and Arrow files.

The image is a column of bytes, a struct of bytes and path (Hugging Face's ``Image``), or a path relative to the
corpus; captions are a string, a list, or several columns; numbers of classes get the names that the schema gives.
Only the light columns are read here; images are read one at a time, when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson
import pyarrow as pa

from clipsearch.corpora.building import PLACE_COLUMNS, RecordBuilder, split_in_name, split_name
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import base_name
from clipsearch.corpora.source import IMAGE_IDS, IMAGE_PATHS, Columns, Source, first_of
from clipsearch.corpora.store import MEMBER
from clipsearch.corpora.tablefiles import Table
from clipsearch.errors import CorpusError, ImageError

NAME = "parquet"
LOOKS_LIKE = "*.parquet with a column of images; a data set saved by Hugging Face datasets (dataset_dict.json)"

_IMAGES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
_FILE_NAMES = ("file_name", "filename", "filepath", "image_path", "image_id", "imageid")
_NOT_UTF8 = object()


@dataclass
class _Layout:
    """Which columns of one table mean what; ``names``: of the classes by number."""

    image: str
    kind: str  # "bytes", "struct" or "path"
    path: str | None = None  # the column or field that names the image, for its key
    captions: list[str] = field(default_factory=list)
    label: str | None = None
    split: str | None = None
    place: tuple[str, str] | None = None
    names: list[str] = field(default_factory=list)
    split_names: list[str] = field(default_factory=list)
    joins: bool = False  # whether ``path`` is a column of its own, so that rows of one name are one image


@dataclass(slots=True)
class _Row:
    """The light columns of one row; ``bad``: a column of it that is not UTF-8."""

    path: str = ""
    captions: list[str] = field(default_factory=list)
    label: str = ""
    split: str = ""
    place: tuple[Any, Any] = (None, None)
    bad: str = ""


def find(source: Source) -> list[str]:
    """The tables: Parquet files that the path means, or the Arrow files of a saved data set."""
    return source.named_files((".parquet", ".arrow")) if source.path.is_file() or source.files else _in_folder(source)


def read(source: Source) -> Listing:
    """Read every table; one that cannot be read is an issue, and the others survive."""
    builder = RecordBuilder(source)
    for name in find(source):
        try:
            _read_table(name, source, builder)
        except (CorpusError, ImageError) as error:
            builder.issue(name, str(error))
    return builder.finish()


def _in_folder(source: Source) -> list[str]:
    files = source.store.files()
    saved = [name for name in files if base_name(name) == "state.json" and name.count("/") <= 1]
    if saved:
        return [arrow for state in saved for arrow in _saved_files(state, source)]
    return [name for name in files if name.lower().endswith(".parquet")]


def _saved_files(state: str, source: Source) -> list[str]:
    path = source.root / state
    try:
        data = orjson.loads(path.read_bytes())
        names = [entry["filename"] for entry in data["_data_files"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is not the state of a saved data set: save it again with save_to_disk") from error
    if data.get("_indices_data_files"):
        raise CorpusError(f"{path} selects rows by an index file: load it and save it again with flatten_indices()")
    folder = state.removesuffix("state.json")
    return [folder + name for name in names]


def _read_table(name: str, source: Source, builder: RecordBuilder) -> None:
    table = source.store.table(name)
    layout = _layout_of(table, name, source.columns)
    without = set(table.without_image(layout.image) or ()) if layout.kind != "path" else set()
    file_split = split_in_name(name)
    problems: list[str] = []
    seen: dict[tuple[str, str | None, str], str] = {}
    for row, values in _rows(table, layout, problems):
        where = f"{name}, row {row}"
        said, given, label, captions = values.split, values.path, values.label, values.captions
        split = split_name(said) if said else file_split
        place = builder.place(where, *values.place)
        if values.bad:
            builder.issue(where, f"column {values.bad} is not UTF-8; save the table again as UTF-8")
        elif split is None and said:
            builder.issue(where, f"{said!r} is not a split: use train, validation or test")
        elif layout.kind == "path" or row in without:
            if given:
                builder.add(given, captions, split, label, where, place)
            else:
                builder.issue(where, f"the row has no image in column {layout.image}")
        else:
            uri = f"{name}{MEMBER}{quote(layout.image, safe='')}/{row}"
            if given and layout.joins:
                uri = seen.setdefault((given, split, label), uri)
            default = f"{base_name(name).rpartition('.')[0]}-{row:06d}"
            builder.add_uri(uri, given or default, captions, split, label, place)
    for problem in problems:
        builder.issue(name, problem)


def _rows(table: Table, layout: _Layout, problems: list[str]) -> Iterator[tuple[int, _Row]]:
    """Yield (row number, what the light columns say of it) without touching an image."""
    wanted = [layout.path, *layout.captions, layout.label, layout.split, *(layout.place or ())]
    light = list(dict.fromkeys(name for name in wanted if name))
    if not light:
        yield from ((row, _Row()) for row in range(table.rows))
        return
    for start, batch in table.batches(light, problems):
        cells = {name: _values(_column(batch, name)) for name in light}
        for position in range(batch.num_rows):
            yield start + position, _row({name: values[position] for name, values in cells.items()}, layout)


def _row(cells: dict[str, Any], layout: _Layout) -> _Row:
    bad = next((name for name, value in cells.items() if value is _NOT_UTF8), "")
    if bad:
        return _Row(bad=bad)
    path = cells.get(layout.path or "")
    return _Row(
        "" if path is None else str(path).strip(),
        [text for name in layout.captions for text in _texts(cells[name])],
        _label(cells.get(layout.label or ""), layout.names),
        _class(cells.get(layout.split or ""), layout.split_names) or "",
        (cells.get(layout.place[0]), cells.get(layout.place[1])) if layout.place else (None, None),
    )


def _layout_of(table: Table, name: str, columns: Columns) -> _Layout:
    schema = table.schema
    names = list(schema.names)
    missing = columns.missing_from(names)
    if missing:
        raise CorpusError(f"{name} has no column {missing!r}: it has {_described(schema)}")
    if {"embedding", "content_hash"} <= set(names):
        raise CorpusError(f"{name} holds embeddings (an output of `clipsearch encode`), not a corpus")
    image = first_of(names, (columns.image,)) if columns.image else _image_column(schema, names)
    kind = _kind(schema.field(image).type) if image else ""
    if image is None or not kind:
        raise CorpusError(
            f"{name} has no column of images: it has {_described(schema)}; say which it is: {name}?image=COLUMN"
        )
    layout = _Layout(image, kind, image if kind == "path" else None)
    own = first_of([other for other in names if other != image], _FILE_NAMES)
    if kind != "path" and own is not None and _is_text(schema.field(own).type):
        layout.path, layout.joins = own, True
    elif kind == "struct" and schema.field(image).type.get_field_index("path") >= 0:
        layout.path = f"{image}.path"
    layout.captions = [caption for caption in columns.captions_in(names) if caption != image]
    layout.label, layout.split = columns.label_in(names), columns.split_in(names)
    north, east = (first_of(names, (column,)) for column in PLACE_COLUMNS)
    layout.place = (north, east) if north and east else None
    layout.names = _class_names(schema, layout.label)
    layout.split_names = _class_names(schema, layout.split)
    return layout


def _image_column(schema: Any, names: Sequence[str]) -> str | None:
    """The column with the images: one of bytes by its name, the only one of bytes, else a path by its name."""
    pixels = [name for name in names if _kind(schema.field(name).type) in {"bytes", "struct"}]
    found = first_of(pixels, _IMAGES) or (pixels[0] if len(pixels) == 1 else None)
    if found or pixels:
        return found
    paths = [name for name in names if _is_text(schema.field(name).type)]
    return first_of(paths, (*IMAGE_PATHS, *IMAGE_IDS))


def _kind(kind: Any) -> str:
    if pa.types.is_struct(kind):
        number = kind.get_field_index("bytes")
        return "struct" if number >= 0 and _kind(kind.field(number).type) == "bytes" else ""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    return "path" if _is_text(kind) else ""


def _is_text(kind: Any) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _described(schema: Any) -> str:
    return ", ".join(f"{item.name} ({item.type})" for item in schema)[:400]


def _class_names(schema: Any, label: str | None) -> list[str]:
    """Names of the classes by number, out of the features that Hugging Face keeps in the schema."""
    metadata = schema.metadata or {}
    try:
        features = orjson.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return [str(name) for name in features[label].get("names") or ()]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []


def _column(batch: Any, name: str) -> Any:
    """A column of a batch, or a field of a struct column (``image.path``)."""
    if name in batch.schema.names:
        return batch.column(name)
    parent, _, leaf = name.rpartition(".")
    column = batch.column(parent)
    return column.field(column.type.get_field_index(leaf))


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _texts(cell: Any) -> Iterator[str]:
    for item in cell if isinstance(cell, list) else [cell]:
        text = item.get("raw") if isinstance(item, dict) else item
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if text is not None:
            yield str(text)


def _label(value: Any, names: list[str]) -> str:
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None  # several labels an image are not a class
    return _class(value, names) or ""


def _class(value: Any, names: list[str]) -> str | None:
    if value is None:
        return None
    if names and isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else ""
    return str(value).strip()
