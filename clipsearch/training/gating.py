"""Adapt to classes in closed form: an image that is like the training images of a class moves towards its name.

The bottleneck has a unit for each class. It answers where an embedding, with the mean taken off and the variation
within classes whitened (linear discriminant analysis with a shrunken covariance), points to the mean of the class; a
threshold keeps it silent elsewhere. So an image unlike everything trained on keeps its embedding, and what the
model knows of other classes stays. How far an image moves is what its class lacks: classes whose images are
nearest to their own name by a good margin already do not move. Texts are not touched at all.

How alike an image and its class are is measured without that image (leave-one-out by a rank-one downdate), since on
few images the whitening makes those it has seen look much more alike than new ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsearch.adapter import Tower, Vectors, unit
from clipsearch.training.pairs import Integers

Floats = NDArray[np.float64]
MOST = 128  # images a class; more change the covariance little, and cost time
QUANTILE = 10  # percent of a class's training images that may stay below the margin


def fit_gate(
    images: Vectors, labels: Integers, names: Vectors, threshold: float, margin: float, shrinkage: float
) -> Tower:
    """The image tower for ``images`` (N, D) of the classes ``labels`` (N,), rows of ``names`` (C, D); all unit norm.

    ``threshold`` in [0, 1): likeness to a class, in units of its own images' mean likeness, below which an image does
    not move; ``margin``: the lead in cosine that a class's own name shall have over others, for its typical images;
    ``shrinkage``: what is added to the covariance's diagonal, in units of its mean. Classes with fewer than two images
    are not adapted to; with fewer than two classes left, or names that are all alike, the tower is empty.
    """
    rows = _at_most(labels, MOST)
    rows = rows[np.bincount(labels[rows], minlength=len(names))[labels[rows]] > 1]
    kept, owners = np.unique(labels[rows], return_inverse=True)
    pushes = _directions(names[kept]) if len(kept) > 1 else None
    if pushes is None:
        return Tower.empty(images.shape[1])
    images = images[rows]
    means: Floats = np.stack([images[owners == number].mean(axis=0, dtype=np.float64) for number in range(len(kept))])
    centre: Floats = means.mean(axis=0)
    precision = _precision(images - means[owners], shrinkage)
    likeness = _mean_likeness(images - means[owners], owners, means - centre, precision)
    white = np.linalg.cholesky(precision)
    keys = unit((means - centre) @ white)
    lacking = np.maximum(margin - _margins(images, owners, names[kept]), 0.0)
    alike = likeness > 0  # a class whose images have nothing in common has no key
    down = np.where(alike, keys.T / np.where(alike, likeness, 1.0), 0.0)
    return Tower(
        down.astype(np.float32), ((lacking / (1 - threshold))[:, None] * pushes).astype(np.float32),
        np.full(len(kept), threshold, np.float32), centre.astype(np.float32), white.astype(np.float32),
    )  # fmt: skip


def _at_most(labels: Integers, most: int) -> Integers:
    """Rows of the first ``most`` of each label."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    rows: Integers = np.sort(order[np.arange(len(labels)) - np.searchsorted(ranked, ranked) < most])
    return rows


def _directions(names: Vectors) -> Vectors | None:
    """(C, D): for each name the step that makes it nearer than the closest other name by 1; None for equal names."""
    directions = unit(names - names.mean(axis=0))
    cosines = directions @ names.T
    nearer = np.diag(cosines) - np.where(np.eye(len(names), dtype=bool), -np.inf, cosines).max(axis=1)
    usual = float(np.median(nearer))
    if usual < 1e-6:
        return None
    at_least = np.maximum(nearer, usual / 4)[:, None].astype(np.float32)  # two names of one thing: no leap
    steps: Vectors = directions / at_least
    return steps


def _precision(residuals: Floats, shrinkage: float) -> Floats:
    """Inverse (D, D) of the shrunken covariance of ``residuals`` (N, D)."""
    covariance = residuals.T @ residuals / len(residuals)
    size = len(covariance)
    mean = max(float(np.trace(covariance)) / size, 1e-12)
    inverse: Floats = np.asarray(np.linalg.inv(covariance + shrinkage * mean * np.eye(size)), np.float64)
    return inverse


def _mean_likeness(residuals: Floats, owners: Integers, means: Floats, precision: Floats) -> Floats:
    """(C,) mean cosine of a class's images with the class's mean under ``precision``, both without the image.

    With r the image's residual and d the class's mean, taking the image out of covariance and mean leaves products of
    r and d that follow from r'Pr, r'Pd and d'Pd (Sherman-Morrison).
    """
    count = np.bincount(owners)[owners].astype(np.float64)
    turned = means @ precision
    own = ((residuals @ precision) * residuals).sum(axis=1)
    both = (residuals * turned[owners]).sum(axis=1)
    mean = (turned * means).sum(axis=1)[owners]
    weight = count / (count - 1) / len(owners)
    left = np.maximum(1 - weight * own, 1e-9)
    own, both, mean = own / left, both / left, mean + weight * both * both / left
    share = 1 / (count - 1)  # the class's mean without the image is d - share * r
    product = both + mean - share * (own + both)
    lengths = (own + 2 * both + mean) * (mean - 2 * share * both + share * share * own)
    cosines = product / np.sqrt(np.maximum(lengths, 1e-24))
    likeness: Floats = np.bincount(owners, cosines) / np.bincount(owners)
    return likeness


def _margins(images: Vectors, owners: Integers, names: Vectors) -> Floats:
    """(C,) low quantile over a class's images of how much nearer they are to its own name than to any other."""
    cosines = images @ names.T
    rows = np.arange(len(owners))
    own = cosines[rows, owners].copy()
    cosines[rows, owners] = -np.inf
    margins = own - cosines.max(axis=1)
    return np.array([np.percentile(margins[owners == number], QUANTILE) for number in range(len(names))])
