"""Where an adapter's embeddings come from: the rows of embedding shards, or an archive of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.adapter import Vectors
from clipsearch.errors import InputError, ShardError
from clipsearch.records import Embedded
from clipsearch.training.pairs import Pairs, caption_pairs, checked, class_pairs

EmbedTexts = Callable[[Sequence[str]], Any]
Prompting = Callable[[str], Sequence[str]]


def read_archive(path: Path, seed: int = 0) -> tuple[Pairs, str]:
    """Pairs, and the model's id ("" where it does not say), of an ``.npz`` archive.

    ``image`` (N, D), and either ``text`` (P, C, D) with ``label`` (N,), class numbers below C: P prompts a class; or
    ``text`` (M, D) with ``owner`` (M,), rows of ``image``: captions, and optionally ``label`` (N,). ``model_id``: a
    string. Raises ``InputError`` that names the file.
    """
    arrays = _arrays(path)
    if missing := {"image", "text"} - arrays.keys():
        raise InputError(f"{path} lacks the array {sorted(missing)[0]!r}: it needs image, text, and label or owner")
    try:
        pairs = _archive_pairs(arrays, seed)
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    return pairs, str(arrays.get("model_id", ""))


def row_pairs(
    rows: Iterable[Embedded],
    embed_texts: EmbedTexts,
    prompts: Prompting | None = None,
    split: str = "train",
    seed: int = 0,
) -> Pairs:
    """Pairs of the rows of ``split`` and their captions, which are embedded here, each distinct one once.

    With ``prompts`` (label -> its prompts) the labels are learned instead, from the rows that have one. Raises
    ``ShardError`` for rows of more than one model, and where there is nothing to pair.
    """
    kept = [row for row in _of_one_model(rows) if row.record.split == split]
    if prompts is not None:
        kept = [row for row in kept if row.record.label]
    if not kept or not (prompts or any(row.record.captions for row in kept)):
        wanted = "labelled images" if prompts else "images with captions"
        raise ShardError(f"the shards hold no {wanted} in the {split} split: choose another --split or --by")
    images = np.stack([row.embedding for row in kept]).astype(np.float32)
    checked(images, "image")  # before the seconds that the captions take
    names, labels = np.unique([row.record.label for row in kept], return_inverse=True)
    if prompts is not None:
        lists = [list(prompts(str(name))) for name in names]
        numbers = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
        return class_pairs(images, labels, _embed(embed_texts, [text for each in lists for text in each]), numbers)
    owners = np.repeat(np.arange(len(kept)), [len(row.record.captions) for row in kept])
    captions = [caption for row in kept for caption in row.record.captions]
    return caption_pairs(images, _embed(embed_texts, captions), owners, labels, seed)


def _embed(embed_texts: EmbedTexts, texts: list[str]) -> Vectors:
    return np.asarray(embed_texts(texts), np.float32)


def _of_one_model(rows: Iterable[Embedded]) -> Iterable[Embedded]:
    first = ""
    for row in rows:
        first = first or row.model_id
        if row.model_id != first:
            raise ShardError(
                f"the shards mix embeddings of the models {first} and {row.model_id} ({row.record.id}): encode the "
                "corpus again with --overwrite"
            )
        yield row


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: give a folder of shards, or an .npz archive") from error
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an .npz archive: {str(error).splitlines()[0]}") from error


def _archive_pairs(arrays: dict[str, NDArray[Any]], seed: int) -> Pairs:
    images, texts = arrays["image"].astype(np.float32), arrays["text"].astype(np.float32)
    label = arrays["label"].astype(np.int64) if "label" in arrays else None
    if label is not None and label.shape != images.shape[:1]:
        raise InputError(f"label has the shape {label.shape}, and there are {len(images)} images")
    if texts.ndim == 3:
        if label is None:
            raise InputError("prompts of classes, text (P, C, D), need the array label with the class of each image")
        prompts, classes, dim = texts.shape
        if len(label) and not 0 <= label.min() <= label.max() < classes:
            raise InputError(f"label must lie below the {classes} classes of text, and reaches {label.max()}")
        return class_pairs(images, label, texts.reshape(-1, dim), np.tile(np.arange(classes), prompts))
    if "owner" not in arrays:
        raise InputError("captions, text (M, D), need the array owner with the row of each caption's image")
    owner = arrays["owner"].astype(np.int64)
    if owner.shape != texts.shape[:1]:
        raise InputError(f"owner has the shape {owner.shape}, and there are {len(texts)} captions")
    return caption_pairs(images, texts, owner, label, seed)
