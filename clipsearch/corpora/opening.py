"""Opening a corpus: which layout a folder has, its name, and its classes' words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson

from clipsearch.corpora import folders, imageclef, rsicd, tables
from clipsearch.corpora.corpus import Corpus, Listing
from clipsearch.corpora.index import ImageIndex
from clipsearch.corpora.store import ImageStore
from clipsearch.errors import CorpusError
from clipsearch.keys import corpus_name_from, valid_corpus_name

CLASSES_FILE = "classes.json"
"""Optional in any corpus: ``{"name": ..., "prompt": "an aerial photograph of {}", "classes": {label:
words}}``."""

_LOOKED_FOR = (
    "dataset_rsicd.json (RSICD), captions-train.tsv (ImageCLEF), captions.jsonl or captions.csv, "
    "or folders of images named after their class"
)


def open_corpus(path: str | Path, name: str = "") -> Corpus:
    """Open the corpus at ``path``: a folder, or one caption table in a folder.

    The layout is detected; ``name`` (small letters, digits, ``-``, ``_``) becomes the namespace of document
    ids and is the folder's name by default. Items that cannot be used are in the corpus's ``issues``.
    Raises ``CorpusError`` when there is no corpus, or no image in it, and says what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"there is no corpus at {path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    about = _about(root)
    store = ImageStore(root)
    try:
        corpus = valid_corpus_name(name) if name else corpus_name_from(about.get("name") or store.root.name)
        index = ImageIndex(store.uris())
        layout, read = _layout(path, corpus, index)
        listing = read()
        _apply(about, listing)
        if not listing.records:
            raise CorpusError(_nothing(path, layout, index, listing))
    except BaseException:
        store.close()
        raise
    return Corpus(corpus, layout, store, listing)


def _layout(path: Path, corpus: str, index: ImageIndex) -> tuple[str, Callable[[], Listing]]:
    if path.is_file():
        if path.name in rsicd.FILES:
            return rsicd.NAME, lambda: rsicd.read(path, corpus, index)
        return tables.NAME, lambda: tables.read([path], corpus, index)
    dataset = rsicd.find(path)
    if dataset is not None:
        return rsicd.NAME, lambda: rsicd.read(dataset, corpus, index)
    captions = imageclef.find(path)
    if captions:
        return imageclef.NAME, lambda: imageclef.read(captions, corpus, index)
    found = tables.find(path)
    if found:
        return tables.NAME, lambda: tables.read(found, corpus, index)
    return folders.NAME, lambda: folders.read(corpus, index)


def _about(root: Path) -> dict[str, str]:
    """What ``classes.json`` says, flattened: ``name``, ``prompt`` and ``class:LABEL`` -> words."""
    path = root / CLASSES_FILE
    if not path.is_file():
        return {}
    try:
        data = orjson.loads(path.read_bytes())
        about = {key: str(data[key]) for key in ("name", "prompt") if key in data}
        classes = {f"class:{label}": str(words) for label, words in data.get("classes", {}).items()}
    except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
        raise CorpusError(f'{path} is not JSON like {{"prompt": "a photo of {{}}", "classes": {{...}}}}') from error
    if "{}" not in about.get("prompt", "{}"):
        raise CorpusError(f"the prompt in {path} has no {{}} where the class's words go")
    return about | classes


def _apply(about: dict[str, str], listing: Listing) -> None:
    listing.prompt = about.get("prompt", listing.prompt)
    for label in listing.classes:
        listing.classes[label] = about.get(f"class:{label}", listing.classes[label])


def _nothing(path: Path, layout: str, index: ImageIndex, listing: Listing) -> str:
    if not index.uris:
        return f"{path} is an empty corpus: no images below it. Looked for image files, for {_LOOKED_FOR}"
    first = f" The first problem: {listing.issues[0].item}: {listing.issues[0].reason}." if listing.issues else ""
    return (
        f"{path} looks like the {layout} layout and has {len(index.uris)} images, but none of its "
        f"{len(listing.issues)} entries could be used.{first}"
    )
