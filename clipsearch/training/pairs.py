"""Stored embeddings as pairs to adapt on, and the folds that measure an adapter on groups it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.adapter import Vectors, unit
from clipsearch.errors import InputError
from clipsearch.metrics import position_probabilities, retrieval_ranks

Integers = NDArray[np.int64]
FEWEST = 16
_TEXTS = 16  # texts a class that a fold measures with
_CLUSTERS = 12
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Pairs:
    """Embeddings that belong together: an image and a text with the same group number are a pair.

    ``images`` (N, D) and ``texts`` (M, D) float32, unit norm; ``image_groups`` (N,) and ``text_groups`` (M,) int64.
    ``strata`` (N,) int64: images that are left out together. ``classes``: groups are classes and quality is zero-shot
    hits@1; otherwise each image is a group of its own and quality is MRR@10 of retrieval, the mean of both ways.
    """

    images: Vectors
    texts: Vectors
    image_groups: Integers
    text_groups: Integers
    strata: Integers
    classes: bool


@dataclass(frozen=True, slots=True)
class Fold:
    """``train`` and ``rows``: image rows to train on, and to measure on; ``left_out`` (rows,) bool: whether the row's
    stratum was left out of training; ``texts`` (T,): text rows to measure with."""

    train: Integers
    rows: Integers
    left_out: NDArray[np.bool_]
    texts: Integers


def class_pairs(images: Vectors, labels: Integers, texts: Vectors, text_labels: Integers) -> Pairs:
    """Pairs of labelled images (N, D), (N,) and the prompts (M, D), (M,) of their classes.

    Classes without an image, and images of classes without a prompt, are left out.
    """
    checked(images, "image")
    checked(texts, "text", images.shape[1])
    kept, named = np.isin(labels, text_labels), np.isin(text_labels, labels)
    groups = labels[kept].astype(np.int64)
    _enough(len(groups))
    if len(np.unique(groups)) < 3:
        raise InputError("adapting to classes needs images of at least three of them: adapt to captions, or add data")
    return Pairs(unit(images[kept]), unit(texts[named]), groups, text_labels[named].astype(np.int64), groups, True)


def caption_pairs(
    images: Vectors, texts: Vectors, owners: Integers, labels: Integers | None = None, seed: int = 0
) -> Pairs:
    """Pairs of images (N, D) and captions (M, D); ``owners`` (M,) are rows of ``images``.

    ``labels`` (N,) say what is left out together; without them, or with fewer than three, clusters of the images do.
    """
    checked(images, "image")
    checked(texts, "text", images.shape[1])
    if len(owners) and not 0 <= owners.min() <= owners.max() < len(images):
        raise InputError(f"the captions' owners must be image rows below {len(images)}, and they reach {owners.max()}")
    numbers, groups = np.unique(owners, return_inverse=True)
    _enough(len(numbers))
    kept = unit(images[numbers])
    strata = clusters(kept, seed) if labels is None or len(np.unique(labels[numbers])) < 3 else labels[numbers]
    return Pairs(kept, unit(texts), np.arange(len(numbers)), groups.astype(np.int64), strata.astype(np.int64), False)


def checked(vectors: Vectors, name: str, dim: int = 0) -> None:
    """Raise ``InputError`` unless ``vectors`` are (N, dim) finite numbers, none of them a row of zeros."""
    if vectors.ndim != 2 or not len(vectors):
        raise InputError(f"the {name} embeddings must be rows of numbers, and they have the shape {vectors.shape}")
    if dim and vectors.shape[1] != dim:
        raise InputError(
            f"images have embeddings of {dim} numbers and texts of {vectors.shape[1]}: both must come from one model"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if len(bad):
        raise InputError(
            f"{len(bad)} {name} embeddings are zero or not finite, the first in row {bad[0]}: encode them again"
        )


def _enough(count: int) -> None:
    if count < FEWEST:
        raise InputError(f"an adapter needs at least {FEWEST} images with a text, and there are {count}")


def clusters(vectors: Vectors, seed: int = 0) -> Integers:
    """(N,) numbers of up to 12 clusters: k-means by cosine, with cluster centres drawn as k-means++ does."""
    generator = np.random.default_rng(seed)
    count = max(3, min(_CLUSTERS, len(vectors) // 8))
    centres = vectors[[generator.integers(len(vectors))]]
    while len(centres) < count:
        far = np.clip(1 - (vectors @ centres.T).max(axis=1), 1e-9, None) ** 2
        centres = np.vstack([centres, vectors[generator.choice(len(vectors), p=far / far.sum())]])
    for _ in range(_ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        centres = np.stack([
            unit(vectors[nearest == number].sum(axis=0)) if (nearest == number).any() else centres[number]
            for number in range(count)
        ])  # fmt: skip
    numbers: Integers = (vectors @ centres.T).argmax(axis=1)
    return numbers


def make_folds(pairs: Pairs, count: int, held: int, seed: int) -> list[Fold]:
    """``count`` folds, fewer where there are fewer strata: each stratum is left out once, and of the others one image
    in ``count`` is held out. A fold measures on at most ``held`` images of both kinds."""
    generator = np.random.default_rng(seed)
    names = generator.permutation(np.unique(pairs.strata))
    count = min(count, len(names))
    share = generator.permutation(len(pairs.images)) % max(count, 2)
    folds = []
    for number in range(count):
        out = np.isin(pairs.strata, names[number::count])
        held_out = ~out & (share == number)
        train = np.flatnonzero(~out & ~held_out)
        rows = np.sort(np.concatenate([_some(generator, mask, held) for mask in (out, held_out)]))
        folds.append(Fold(train, rows, out[rows], _measured_texts(pairs, rows, generator)))
    return folds


def quality(pairs: Pairs, fold: Fold, images: Vectors, texts: Vectors) -> NDArray[np.float64]:
    """(R,) quality in [0, 1] of each row of ``fold``; ``images`` (R, D), ``texts`` (T, D): adapted or not."""
    groups, owners = pairs.image_groups[fold.rows], pairs.text_groups[fold.texts]
    if pairs.classes:
        present = np.unique(owners)
        centres = unit(np.stack([texts[owners == group].mean(axis=0) for group in present]))
        return position_probabilities(retrieval_ranks(images, centres, groups, present), 1)[:, 0]
    weights = 1 / np.arange(1, 11)
    there = position_probabilities(retrieval_ranks(images, texts, groups, owners), 10) @ weights
    back = position_probabilities(retrieval_ranks(texts, images, owners, groups), 10) @ weights
    mean: NDArray[np.float64] = (there + back) / 2
    return mean


def _some(generator: np.random.Generator, mask: NDArray[np.bool_], most: int) -> Integers:
    rows = np.flatnonzero(mask)
    return rows if len(rows) <= most else generator.choice(rows, most, replace=False)


def _measured_texts(pairs: Pairs, rows: Integers, generator: np.random.Generator) -> Integers:
    """One caption of each row, in the order of the rows; or some prompts of every class."""
    order = generator.permutation(len(pairs.texts))
    groups = pairs.text_groups[order]
    if not pairs.classes:
        _, first = np.unique(groups, return_index=True)  # caption_pairs gives every image a text, numbered from 0
        return order[first[pairs.image_groups[rows]]]
    return np.concatenate([order[groups == group][:_TEXTS] for group in np.unique(groups)])
