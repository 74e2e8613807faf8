"""Which images of a corpus are the same picture: copies of the file, equal pixels, near duplicates, turned ones.

Near duplicates are found in three steps, each looking closer at fewer pairs: pHashes within a few bits, then the grey
32 x 32 squares, then the details of the pictures read again at 64 px. The last two slide one picture over the other, as
crops of one scene are shifted, and both compare contrast, not brightness, as one scene is often recoloured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from clipsearch.audit.hashing import MAX_PAIRS, SIDE, TURNS, near_across, near_pairs, perceptual_hashes
from clipsearch.audit.pictures import Picture

Floats = NDArray[np.float64]
Square = NDArray[np.uint8]

DISTANCE = 12
"""Bits of 64 in which the hashes of near duplicates may differ before the pictures themselves are compared."""

FLIP_DISTANCE = 6
ROUGHLY, EXACTLY = 0.7, 0.8
"""Least correlation of near duplicates' grey squares, and of their details. Of RSICD's 162 pairs within 12 bits, 27
pass the first and 8 the second; all 8 show one place (counted by eye)."""

DETAIL = 64
COSINE = 0.98
_MARGIN = {SIDE: 4, DETAIL: 8}  # px that a picture may be shifted by: an eighth of its side
_NEIGHBOURS = 50  # pairs kept for one image by cosine: enough to join a heap of equal ones
_BLOCK = 1 << 25  # cosines held at once: 128 MB


@dataclass(frozen=True, slots=True)
class Twin:
    """Two images of one picture, by position. ``kind``: "file", "pixels", "near", "turned" or "embedding".

    ``distance``: bits between the hashes; ``likeness``: correlation of details, or cosine of embeddings; ``turn``: what
    turns the right picture into the left (one of ``TURNS``).
    """

    left: int
    right: int
    kind: str
    distance: int = 0
    likeness: float = 1.0
    turn: str = ""


def exact_groups(pictures: Sequence[Picture]) -> list[list[int]]:
    """Positions of readable images with equal pixels, groups of two and more in corpus order."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position, picture in enumerate(pictures):
        if not picture.error:
            groups[picture.pixel_hash].append(position)
    return [group for group in groups.values() if len(group) > 1]


def exact_twins(pictures: Sequence[Picture], groups: Iterable[Sequence[int]]) -> list[Twin]:
    """Each group's first image with each of its others."""
    return [
        Twin(group[0], other, "file" if pictures[group[0]].data_hash == pictures[other].data_hash else "pixels")
        for group in groups
        for other in group[1:]
    ]


def distinct_pictures(pictures: Sequence[Picture]) -> list[int]:
    """The first position of each different readable picture that is not all one colour (those have no hash)."""
    seen: dict[bytes, int] = {}
    for position, picture in enumerate(pictures):
        if not picture.error and not picture.plain:
            seen.setdefault(picture.pixel_hash, position)
    return list(seen.values())


def near_twins(
    pictures: Sequence[Picture], read: Callable[[int], Square], *, distance: int = DISTANCE, flips: bool = False
) -> tuple[list[Twin], bool]:
    """Near duplicates among ``distinct_pictures``, and whether the search was whole (see ``near_pairs``).

    ``read``: the picture at a position as (64, 64) uint8 grey levels. ``flips``: also mirrored and by right angles
    turned ones, within ``FLIP_DISTANCE`` bits at most.
    """
    positions = distinct_pictures(pictures)
    if not positions:
        return [], True
    squares = np.stack([square for position in positions if (square := pictures[position].square) is not None])
    hashes = perceptual_hashes(squares, turns=flips).reshape(len(squares), -1)
    best: dict[tuple[int, int], Twin] = {}
    whole = True

    @lru_cache(maxsize=4096)
    def detail(position: int) -> Floats:
        return details(read(position))

    for turn in range(hashes.shape[1]):
        if turn == 0:
            pairs, bits, done = near_pairs(hashes[:, 0], distance)
        else:
            pairs, bits, done = near_across(hashes[:, 0], hashes[:, turn], min(distance, FLIP_DISTANCE), MAX_PAIRS)
        whole &= done
        for (i, j), between in zip(pairs.tolist(), bits.tolist(), strict=True):
            if i < j and correlation(squares[i], turned(squares[j], turn)) >= ROUGHLY:
                likeness = _slid(detail(positions[i]), turned(detail(positions[j]), turn))
                twin = Twin(positions[i], positions[j], "turned" if turn else "near", between, likeness, TURNS[turn])
                if likeness >= EXACTLY and ((i, j) not in best or likeness > best[i, j].likeness):
                    best[i, j] = replace(twin, likeness=round(likeness, 3))
    return [best[pair] for pair in sorted(best)], whole


def embedding_twins(vectors: NDArray[np.float32], positions: Sequence[int], cosine: float = COSINE) -> list[Twin]:
    """Pairs of (N, D) unit vectors whose cosine is at least ``cosine``, as twins of ``positions`` (N).

    In blocks of rows; each image keeps its first 50 partners, so that a heap of equal images stays a heap of pairs.
    """
    twins = []
    rows = max(1, _BLOCK // max(1, len(vectors)))
    for start in range(0, len(vectors), rows):
        alike = vectors[start : start + rows] @ vectors[start:].T
        close = np.triu(alike >= cosine, k=1)
        if close.sum(axis=1).max() > _NEIGHBOURS:
            close &= close.cumsum(axis=1, dtype=np.int32) <= _NEIGHBOURS
        for row, column in zip(*(side.tolist() for side in np.nonzero(close)), strict=True):
            left, right = positions[start + row], positions[start + column]
            twins.append(Twin(left, right, "embedding", likeness=round(float(alike[row, column]), 3)))
    return twins


def families(twins: Iterable[Twin]) -> list[list[int]]:
    """The connected groups of images that twins join, each sorted, in order of their first image."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for twin in twins:
        low, high = sorted((root(twin.left), root(twin.right)))
        parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for node in sorted(parent):
        groups[root(node)].append(node)
    return list(groups.values())


def turned(square: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """A (S, S) picture put through the symmetry ``TURNS[turn]``."""
    if turn & 1:
        square = square[:, ::-1]
    if turn & 2:
        square = square[::-1]
    return square.T if turn & 4 else square


def details(square: Square) -> Floats:
    """(64, 64) uint8 -> (64, 64) float64: what lies between 1 and 4 px, so that neither noise nor light counts."""
    narrow, wide = _blur(1.0), _blur(4.0)
    levels = square.astype(np.float64)
    return np.asarray(narrow @ levels @ narrow.T - wide @ levels @ wide.T)


def correlation(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    """The best correlation of two (S, S) pictures, S 32 or 64, when one is shifted by up to an eighth of its side."""
    return _slid(left.astype(np.float64), right.astype(np.float64))


def _slid(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    # which of the two gives the window makes a difference where one is plain outside it
    return max(_template(left, right), _template(right, left))


def _template(window: NDArray[np.generic], picture: NDArray[np.generic]) -> float:
    side = window.shape[0]
    margin = _MARGIN[side]
    inner = side - 2 * margin
    wanted = window[margin : margin + inner, margin : margin + inner].ravel().astype(np.float64)
    wanted = wanted - wanted.mean()
    views = sliding_window_view(picture.astype(np.float64), (inner, inner)).reshape(-1, inner * inner)
    spread = views.std(axis=1) * np.sqrt(inner * inner)
    return float((views @ wanted / np.maximum(spread * np.linalg.norm(wanted), 1e-9)).max())


@cache
def _blur(sigma: float) -> Floats:
    """(64, 64): a Gaussian blur as a matrix, its rows summing to 1 at the edges too."""
    place = np.arange(DETAIL)
    weights = np.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * sigma * sigma))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
