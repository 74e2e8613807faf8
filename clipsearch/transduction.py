"""Zero-shot classification of a whole corpus at once: the images' own clusters correct the prompts. No labels.

The images are taken as a Gaussian mixture with one component a class and one diagonal covariance for all. Prompts start
it and stay in it as a prior, neighbours pull each other along (after TransCLIP, Zanella et al. 2024, which RS-TransCLIP
brought to aerial images); what is classified is exactly what is searched, so that its embeddings are at hand anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import InputError

Vectors = NDArray[np.float32]

LOGIT_SCALE = 100.0
MOST = 50_000
"""Images that neighbours are sought for; a larger corpus goes without, because all pairs are compared."""

_ROUNDS = 10
_INNER = 5
_NEIGHBOURS = 3
_PULL = 3.0  # weight of the neighbours
_TRUST = 0.02  # weight of the density: its dimensions are far from independent, and it would drown the prompts
_STARTERS = 8  # images that a class's mean starts from: those that its prompt likes best
_ANCHOR = 4.0  # images that this start counts for, for ever: a class without images stays where its prompt is
_CHUNK = 1024


def transduce(images: Vectors, classes: Vectors, logit_scale: float = LOGIT_SCALE) -> Vectors:
    """(N, C) float32: the logarithm of each image's probabilities over the classes.

    ``images`` (N, D) and ``classes`` (C, D) unit norm: the corpus, and one prompt embedding a class. Fewer images than
    twice the classes are left to the prompts alone, because no cluster can be seen in them. Raises ``InputError`` for
    arrays that do not fit each other or are not finite.
    """
    images, classes = np.asarray(images, np.float32), np.asarray(classes, np.float32)
    _check(images, classes)
    prior = _log_softmax(np.float32(logit_scale) * (images @ classes.T))
    if len(images) < 2 * len(classes) or len(classes) < 2:
        return prior
    anchors = _anchors(images, np.exp(prior))
    means, variance = anchors, np.full(images.shape[1], 1.0 / images.shape[1], np.float32)
    neighbours, weights = _neighbours(images)
    now = prior
    for _ in range(_ROUNDS):
        shares = (np.exp(now).sum(axis=0) + 1) / (len(images) + len(classes))
        fit = prior + np.float32(_TRUST) * _log_density(images, means, variance) + np.log(shares)
        for _ in range(_INNER):
            now = _log_softmax(fit + np.float32(_PULL) * _pull(np.exp(now), neighbours, weights))
        means, variance = _update(images, np.exp(now), anchors)
    return now


def _check(images: Vectors, classes: Vectors) -> None:
    if images.ndim != 2 or classes.ndim != 2 or images.shape[1] != classes.shape[1] or not len(classes):
        raise InputError(
            f"images {images.shape} and class prompts {classes.shape} must be rows of one length: both of one model"
        )
    for name, vectors in (("image", images), ("class prompt", classes)):
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise InputError(f"{len(bad)} {name} embeddings are not finite, the first in row {bad[0]}: encode again")


def _anchors(images: Vectors, prior: Vectors) -> Vectors:
    """(C, D): the mean of the images that each prompt likes best, by how much it likes them."""
    least = np.sort(prior, axis=0)[-_STARTERS:][0]
    likes = np.where(prior >= least, prior, 0.0)
    means: Vectors = (likes.T @ images) / np.maximum(likes.sum(axis=0), 1e-12)[:, None]
    return means


def _log_density(images: Vectors, means: Vectors, variance: Vectors) -> Vectors:
    """(N, C): log of each Gaussian, up to what all classes share."""
    scaled = means / variance
    density: Vectors = images @ scaled.T - 0.5 * (scaled * means).sum(axis=1)
    return density


def _update(images: Vectors, now: Vectors, anchors: Vectors) -> tuple[Vectors, Vectors]:
    """Means (C, D) and shared variance (D,) of the mixture."""
    mass = now.sum(axis=0)  # (C,)
    sums = now.T @ images
    means = (sums + _ANCHOR * anchors) / (mass + _ANCHOR)[:, None]
    spread = ((images**2).sum(axis=0) - 2 * (sums * means).sum(axis=0) + mass @ means**2) / len(images)
    return means.astype(np.float32), np.maximum(spread, 0.01 / images.shape[1]).astype(np.float32)


def _pull(now: Vectors, neighbours: NDArray[np.int64], weights: Vectors) -> Vectors:
    """(N, C): what each image's neighbours are, by their likeness."""
    if not len(neighbours):
        return np.zeros_like(now)
    pulled: Vectors = np.einsum("nk,nkc->nc", weights, now[neighbours])
    return pulled


def _neighbours(images: Vectors) -> tuple[NDArray[np.int64], Vectors]:
    """(N, 3) rows of the nearest other images, and (N, 3) their cosines above 0; empty for a corpus above ``MOST``."""
    count = min(_NEIGHBOURS, len(images) - 1)
    if len(images) > MOST or count < 1:
        return np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32)
    rows, cosines = [], []
    for first in range(0, len(images), _CHUNK):
        similar = images[first : first + _CHUNK] @ images.T
        similar[np.arange(len(similar)), np.arange(first, first + len(similar))] = -np.inf
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        rows.append(nearest)
        cosines.append(np.take_along_axis(similar, nearest, axis=1))
    return np.concatenate(rows), np.maximum(np.concatenate(cosines), 0.0)


def _log_softmax(logits: Vectors) -> Vectors:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Vectors = (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)
    return found
