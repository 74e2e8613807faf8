"""Opening a corpus: which layout a folder has, its name, and its classes' words."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import orjson

from clipsearch.corpora import folders, hub, imageclef, rsicd, tables, textaug, webdataset
from clipsearch.corpora.corpus import Corpus, Listing
from clipsearch.corpora.source import Columns, Source
from clipsearch.corpora.store import TABLES, ImageStore
from clipsearch.corpora.tars import SUFFIXES as TARS
from clipsearch.errors import CorpusError, InputError
from clipsearch.keys import corpus_name_from, valid_corpus_name

CLASSES_FILE = "classes.json"
"""Optional in any corpus: ``{"name": ..., "prompt": "an aerial photograph of {}", "classes": {label:
words}, "layout": ..., "columns": {"image": ..., "caption": ..., "label": ..., "split": ...}}``."""

LAYOUTS = ("rsicd", "textaug", "imageclef", "table", "parquet", "webdataset", "folders")
"""Names for ``layout``; they are tried in this order, ``textaug`` only when it is asked for."""


_OPTIONS = ("layout", "name", "image", "caption", "label", "split")


def open_corpus(
    path: str | Path,
    name: str = "",
    *,
    layout: str | None = None,
    image_column: str = "",
    caption_column: str | Sequence[str] = (),
    label_column: str = "",
    split_column: str = "",
) -> Corpus:
    """Open a corpus: a folder, one caption table, one or several Parquet files or tar shards, or ``hf:OWNER/NAME``.

    ``path`` may be a pattern of shards, ``shards/{000..009}.tar``. The layout is detected, or one of ``LAYOUTS``;
    columns of tables are guessed from their names, or given. ``name`` (small letters, digits, ``-``, ``_``) becomes the
    namespace of document ids and is the folder's name by default. All of this can also be said after the path, as on
    a command line: ``pairs.parquet?image=scan&caption=report``, and by ``classes.json`` in the folder; what is given
    here comes first. Items that cannot be used are in the corpus's ``issues``. Raises ``CorpusError`` when there is no
    corpus, or no image in it, and says what was looked for and what was found.
    """
    path, given = _options_in(path)
    name, layout = name or given.get("name", ""), layout or given.get("layout")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if str(path).startswith(hub.PREFIX):
        path, hub_name = hub.saved(str(path))
        name = name or corpus_name_from(hub_name)
    path = Path(path)
    files = _pattern(path)
    root = _root(path, files)
    about = _about(root)
    store = ImageStore(root)
    captions = (caption_column,) if isinstance(caption_column, str) else tuple(caption_column)
    said = about.get("columns", {}) | given
    columns = Columns(
        image_column or said.get("image", ""),
        tuple(text for text in captions if text) or _as_tuple(said.get("caption", "")),
        label_column or said.get("label", ""),
        split_column or said.get("split", ""),
    )
    try:
        corpus = valid_corpus_name(name) if name else corpus_name_from(about.get("name") or store.root.name)
        source = Source(path, store, corpus, columns, files)
        reader = _reader(source, layout or about.get("layout"))
        listing: Listing = reader.read(source)
        listing.issues[:0] = store.problems
        _apply(about, listing)
        if not listing.records:
            raise CorpusError(_nothing(source, reader.NAME, listing))
    except BaseException:
        store.close()
        raise
    return Corpus(corpus, reader.NAME, store, listing)


def _options_in(path: str | Path) -> tuple[str | Path, dict[str, str]]:
    """Split ``pairs.parquet?image=scan`` into the path and what it says; a path that exists is only a path."""
    address, mark, query = str(path).partition("?")
    if not mark or Path(path).exists():
        return path, {}
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(given.keys() - _OPTIONS):
        raise InputError(f"{path}: there is no {unknown[0]!r} to say of a corpus: choose from {', '.join(_OPTIONS)}")
    return address, given


def _pattern(path: Path) -> list[Path]:
    """The files that a path with braces means; none for a path without."""
    expanded = webdataset.shards_of(str(path))
    if len(expanded) == 1 and expanded[0] == path:
        return []
    if not any(shard.exists() for shard in expanded):
        raise CorpusError(f"there is no corpus at {path}: none of {expanded[0]} ... {expanded[-1]} exists")
    return expanded


def _root(path: Path, files: list[Path]) -> Path:
    if files:
        return Path(os.path.commonpath([file.parent for file in files]))
    if not path.exists():
        raise CorpusError(f"there is no corpus at {path}: no such file or folder")
    return path if path.is_dir() else path.parent


def _reader(source: Source, layout: str | None) -> ModuleType:
    """The module that reads the layout: the one asked for, else the first that finds its files."""
    if layout == textaug.NAME:
        return textaug
    if layout in {None, "parquet"} and (layout or _columnar_first(source)):
        from clipsearch.corpora import columnar  # pyarrow: only where there is such a file

        return columnar
    known: tuple[ModuleType, ...] = (rsicd, imageclef, tables, webdataset, folders)
    if layout is not None:
        return next(module for module in known if layout == module.NAME)
    if source.files or source.path.is_file():
        return _reader_of_file(source)
    for module in (rsicd, imageclef, tables):
        if module.find(source):
            return module
    if _has_parquet(source):
        from clipsearch.corpora import columnar

        return columnar
    if webdataset.find(source):
        return webdataset
    if folders.find(source):
        return folders
    raise CorpusError(_unknown(source))


def _columnar_first(source: Source) -> bool:
    """Whether this is a Parquet or Arrow file, or a data set saved by Hugging Face ``datasets``."""
    first = source.files[0] if source.files else source.path
    return first.suffix.lower() in TABLES or any(
        (source.path / name).is_file() for name in ("dataset_dict.json", "state.json")
    )


def _has_parquet(source: Source) -> bool:
    return any(name.lower().endswith(".parquet") for name in source.store.files())


def _reader_of_file(source: Source) -> ModuleType:
    path = source.files[0] if source.files else source.path
    if path.suffix.lower() in TARS:
        return webdataset
    for module in (rsicd, imageclef):
        if not source.files and module.find(source):
            return module
    if path.suffix.lower() in tables.SUFFIXES or path.name == "captions.txt":
        return tables
    raise CorpusError(
        f"{path} is not a corpus: give a folder, a caption table ({', '.join(tables.SUFFIXES)}), "
        f"a data set file (dataset_rsicd.json), or {', '.join((*TABLES, *TARS))}"
    )


def _about(root: Path) -> dict[str, Any]:
    """What ``classes.json`` says."""
    path = root / CLASSES_FILE
    if not path.is_file():
        return {}
    try:
        data = orjson.loads(path.read_bytes())
        about: dict[str, Any] = {key: str(data[key]) for key in ("name", "prompt", "layout") if key in data}
        about["classes"] = {str(label): str(words) for label, words in data.get("classes", {}).items()}
        about["columns"] = {
            key: value if key == "caption" and isinstance(value, list) else str(value)
            for key, value in data.get("columns", {}).items()
        }
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise CorpusError(f'{path} is not JSON like {{"prompt": "a photo of {{}}", "classes": {{...}}}}') from error
    if "{}" not in about.get("prompt", "{}"):
        raise CorpusError(f"the prompt in {path} has no {{}} where the class's words go")
    if about.get("layout", LAYOUTS[0]) not in LAYOUTS:
        raise CorpusError(f"the layout in {path} is none: choose one of {', '.join(LAYOUTS)}")
    return about


def _as_tuple(value: Any) -> tuple[str, ...]:
    """Caption columns: a list in ``classes.json``, or names with commas after a path."""
    return tuple(map(str, value)) if isinstance(value, list) else tuple(filter(None, str(value).split(",")))


def _apply(about: dict[str, Any], listing: Listing) -> None:
    listing.prompt = about.get("prompt", listing.prompt)
    for label in listing.classes:
        listing.classes[label] = about.get("classes", {}).get(label, listing.classes[label])


def _looked_for() -> str:
    modules = (rsicd, imageclef, tables, webdataset, folders)
    parquet = "*.parquet with a column of images, or a data set saved by Hugging Face datasets"
    return "; ".join([*(module.LOOKS_LIKE for module in modules), parquet, hub.LOOKS_LIKE])


def _unknown(source: Source) -> str:
    files = source.store.files()
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in files)
    found = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(8)) or "nothing"
    packed = [name for name in files if name.lower().endswith((".gz", ".tgz", ".xz", ".zst", ".bz2", ".7z", ".rar"))]
    unpack = f" Unpack {packed[0]} first." if packed else ""
    problems = "".join(f" {issue.item}: {issue.reason}." for issue in source.store.problems[:1])
    return (
        f"{source.path} is an empty corpus: no images below it. Looked for: {_looked_for()}. "
        f"Found: {found}.{problems}{unpack}"
    )


def _nothing(source: Source, layout: str, listing: Listing) -> str:
    first = f" The first problem: {listing.issues[0].item}: {listing.issues[0].reason}." if listing.issues else ""
    images = f" and has {len(source.index.uris)} images" if layout in {"rsicd", "imageclef", "table"} else ""
    return (
        f"{source.path} looks like the {layout} layout{images}, but none of its {len(listing.issues)} entries could "
        f"be used.{first}"
    )
