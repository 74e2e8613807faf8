"""Perceptual hashes: 64 bits of a picture's lowest frequencies, and all pairs of hashes that differ in few bits.

The hash is the field's pHash, bit for bit that of the package imagehash: the picture in grey at 32 x 32, its cosine
transform, and for each of the 8 x 8 lowest frequencies whether it lies above their median. Rescaled, recompressed and
slightly retouched copies differ in a few of the 64 bits; unrelated pictures in about 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bits = NDArray[np.uint64]
Pairs = NDArray[np.int64]

SIDE = 32
LOW = 8
TURNS = ("", "mirrored", "upside down", "turned 180°", "transposed", "turned 90°", "turned 270°", "transversed")
"""The eight symmetries of a square: what an aerial picture may go through and stay the same place."""

MAX_PAIRS = 500_000
_BLOCK = 1 << 22  # candidate pairs compared at once: 32 MB an array


def grey_square(image: Image.Image) -> NDArray[np.uint8]:
    """A picture of any size and mode -> (32, 32) uint8 grey levels, squeezed to a square."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def perceptual_hashes(squares: NDArray[np.uint8], *, turns: bool = False) -> Bits:
    """(N, 32, 32) uint8 -> (N,) uint64 pHashes, or (N, 8) with those of the picture's eight symmetries (``TURNS``).

    A mirrored picture's cosine transform has its odd columns negated, a transposed one's is transposed, so all eight
    come from one transform.
    """
    basis = _cosines()
    low = basis @ squares.astype(np.float64) @ basis.T  # (N, 8, 8)
    if not turns:
        return _pack(low)
    odd = np.where(np.arange(LOW) % 2, -1.0, 1.0)
    flips = [low, low * odd, low * odd[:, None], low * odd * odd[:, None]]
    return np.stack([_pack(block) for block in [*flips, *(np.swapaxes(block, 1, 2) for block in flips)]], axis=1)


def near_pairs(hashes: Bits, distance: int, limit: int = MAX_PAIRS) -> tuple[Pairs, NDArray[np.uint8], bool]:
    """All pairs i < j of (N,) hashes that differ in at most ``distance`` of 64 bits.

    Returns (P, 2) int64 pairs sorted by i and j, (P,) uint8 distances, and whether all were found: the search stops
    at about ``limit`` pairs, which only a corpus of mostly equal pictures reaches.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012): cut into distance + 1 parts, two such hashes have at least
    one part in common, so only hashes that share a part are compared. 200,000 random hashes within 6 bits take
    seconds, not the minutes of all 2 * 10^10 pairs.
    """
    found: list[Pairs] = []
    total = 0
    for shift, width in _parts(distance + 1):
        for left, right in _sharing(hashes, shift, width):
            close = _popcount(hashes[left] ^ hashes[right]) <= distance
            if close.any():
                pairs = np.stack([left[close], right[close]], axis=1)
                found.append(np.sort(pairs, axis=1))
                total += len(pairs)
            if total >= limit * (distance + 1):
                return *_distinct(found, hashes), False
    return *_distinct(found, hashes), True


def near_across(
    hashes: Bits, others: Bits, distance: int, limit: int = MAX_PAIRS
) -> tuple[Pairs, NDArray[np.uint8], bool]:
    """Pairs (i, j) of ``hashes`` (N,) and ``others`` (M,) within ``distance`` bits, like ``near_pairs``."""
    both = np.concatenate([hashes, others])
    pairs, distances, whole = near_pairs(both, distance, limit)
    crossing = (pairs[:, 0] < len(hashes)) & (pairs[:, 1] >= len(hashes))
    return pairs[crossing] - np.array([0, len(hashes)]), distances[crossing], whole


@cache
def _cosines() -> NDArray[np.float64]:
    """(8, 32): the first rows of the discrete cosine transform, type II."""
    frequency, place = np.arange(LOW)[:, None], np.arange(SIDE)[None, :]
    return np.asarray(2 * np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)))


def _pack(low: NDArray[np.float64]) -> Bits:
    flat = low.reshape(len(low), LOW * LOW)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _parts(count: int) -> Iterator[tuple[int, int]]:
    """Cut 64 bits into ``count`` parts of nearly equal width: (shift, width) each."""
    edges = np.linspace(0, 64, count + 1).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        yield low, high - low


def _sharing(hashes: Bits, shift: int, width: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of hashes whose part at ``shift`` is equal, in blocks: two (B,) index arrays."""
    part = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
    order = np.argsort(part, kind="stable")
    ranked = part[order]
    # in sorted order a hash's partners are the ones from the next place to the end of its run
    ends = np.searchsorted(ranked, ranked, side="right")
    counts = ends - np.arange(len(ranked)) - 1
    start = 0
    sums = np.concatenate([[0], np.cumsum(counts)])
    while start < len(ranked):
        stop = max(start + 1, int(np.searchsorted(sums, sums[start] + _BLOCK, side="right")) - 1)
        mine = counts[start:stop]
        left = np.repeat(np.arange(start, stop), mine)
        offsets = np.arange(len(left)) - np.repeat(sums[start:stop] - sums[start], mine)
        yield order[left], order[left + 1 + offsets]
        start = stop


def _popcount(values: Bits) -> NDArray[np.uint8]:
    """Bits set in each uint64 (``numpy.bitwise_count`` needs numpy 2)."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(values))
    table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
    return np.asarray(table[values[:, None].view(np.uint8)].sum(axis=1, dtype=np.uint8))


def _distinct(found: list[Pairs], hashes: Bits) -> tuple[Pairs, NDArray[np.uint8]]:
    """The pairs once each, sorted, with their distances."""
    if not found:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.uint8)
    every = np.concatenate(found)
    codes = np.unique(every[:, 0] * len(hashes) + every[:, 1])
    pairs = np.stack(np.divmod(codes, len(hashes)), axis=1)
    return pairs, _popcount(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
