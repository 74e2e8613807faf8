"""Hits that show the same picture, collapsed to the first of them.

The threshold was chosen by eye on RSICD's 10,921 images with a model trained on it, where a picture that hides another
is worse than one that shows twice. Of 386 pairs of 0.995 and more nearly all are different deserts or forests, of the
six pairs above 0.999 five; two are left at 0.9995, one the same file. A copy at another size, or in JPEG of quality
75, has 0.9994 at the worst twentieth and 0.9998 in the middle; JPEG of quality 30, a crop or other light (0.99) stay
apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from clipsearch.records import Hit

THRESHOLD = 0.9995
_SHAPES = 1.03  # how far the proportions of copies may differ, by rounding to whole px


@dataclass(frozen=True, slots=True)
class Group:
    """A hit, and those further down the list that show the same picture."""

    first: Hit
    others: tuple[Hit, ...] = ()


def collapse(hits: Iterable[Hit], threshold: float = THRESHOLD) -> tuple[Group, ...]:
    """Groups in rank order: the same file (``content_hash``), or embeddings whose cosine is ``threshold`` or more.

    Images of other proportions (``width`` and ``height``, where both say) are no copies, whatever the model thinks.
    A hit joins the first group whose *first* hit it equals: likeness is not handed on from hit to hit, so that a chain
    of slow changes stays apart. Hits without an embedding are compared by file only.
    """
    firsts: list[Hit] = []
    others: list[list[Hit]] = []
    vectors: list[np.ndarray | None] = []
    by_file: dict[str, int] = {}
    for hit in hits:
        file = str(hit.fields.get("content_hash") or "")
        vector = _unit(getattr(hit, "embedding", None))
        group = by_file.get(file) if file else None
        if group is None and vector is not None:
            near = (number for number, other in enumerate(vectors) if _alike(vector, other, threshold))
            group = next((number for number in near if _same_shape(hit, firsts[number])), None)
        if group is None:
            group = len(firsts)
            firsts.append(hit)
            others.append([])
            vectors.append(vector)
        else:
            others[group].append(hit)
        if file:
            by_file.setdefault(file, group)
    return tuple(Group(first, tuple(rest)) for first, rest in zip(firsts, others, strict=True))


def _alike(vector: np.ndarray, other: np.ndarray | None, threshold: float) -> bool:
    return other is not None and other.shape == vector.shape and float(vector @ other) >= threshold


def _same_shape(hit: Hit, other: Hit) -> bool:
    sides = [float(each.fields.get(side) or 0) for each in (hit, other) for side in ("width", "height")]
    if min(sides) <= 0:
        return True
    ratio = sides[0] * sides[3] / (sides[1] * sides[2])
    return max(ratio, 1 / ratio) <= _SHAPES


def _unit(embedding: object) -> np.ndarray | None:
    if embedding is None:
        return None
    vector = np.asarray(embedding, dtype=np.float32)
    length = float(np.linalg.norm(vector))
    return vector / length if vector.ndim == 1 and np.isfinite(length) and length > 0 else None
