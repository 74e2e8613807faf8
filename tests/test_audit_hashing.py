"""Perceptual hashes equal the package imagehash's, and the search for near ones finds exactly what brute force does."""

from __future__ import annotations

import time
from collections.abc import Callable

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipsearch.audit.hashing import TURNS, grey_square, near_across, near_pairs, perceptual_hashes
from clipsearch.audit.twins import correlation, details, turned


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture with blotches of a few sizes, as unlike another seed's as photographs are."""
    generator = np.random.default_rng(seed)
    layers = [
        Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size, 3)
        for cells in (3, 7, 20)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.3)


def brute(hashes: NDArray[np.uint64], distance: int) -> set[tuple[int, int]]:
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1).astype(np.int32)
    between = (bits[:, None, :] != bits[None, :, :]).sum(axis=2)
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(between <= distance), strict=True) if i < j}


def test_a_hash_is_imagehashs_phash_bit_for_bit() -> None:
    for seed in range(20):
        picture = scene(seed)
        ours = perceptual_hashes(grey_square(picture)[None])[0]
        assert f"{ours:016x}" == str(imagehash.phash(picture))


@pytest.mark.parametrize("distance", [0, 1, 5, 12, 16])
def test_near_pairs_are_those_of_comparing_all_with_all(distance: int) -> None:
    generator = np.random.default_rng(distance)
    hashes = generator.integers(0, 2**63, 300, dtype=np.uint64)
    for number in range(150, 300):  # half of them lie up to 20 bits from another
        flipped = generator.choice(63, int(generator.integers(0, 20)), replace=False)
        hashes[number] = hashes[number - 150] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0)
        )
    pairs, distances, whole = near_pairs(hashes, distance)
    assert whole
    assert {(i, j) for i, j in pairs.tolist()} == brute(hashes, distance)
    assert len(pairs) >= 3
    assert int(distances.max(initial=0)) <= distance
    assert (np.diff(pairs[:, 0] * 300 + pairs[:, 1]) > 0).all()


def test_pairs_across_two_lists_are_the_crossing_ones() -> None:
    hashes = np.array([0, 1, 255], np.uint64)
    others = np.array([3, 2**40], np.uint64)
    pairs, distances, _ = near_across(hashes, others, 2)
    assert dict(zip(map(tuple, pairs.tolist()), distances.tolist(), strict=True)) == {(0, 0): 2, (1, 0): 1, (0, 1): 1,
                                                                                    (1, 1): 2}  # fmt: skip


def test_the_search_stops_when_almost_everything_is_alike_and_says_so() -> None:
    pairs, _, whole = near_pairs(np.zeros(500, np.uint64), 3, limit=1000)
    assert not whole
    assert len(pairs) >= 1000
    assert near_pairs(np.zeros(0, np.uint64), 3)[0].shape == (0, 2)


@pytest.mark.soak
def test_a_whole_corpus_of_hashes_is_compared_in_seconds(rounds: Callable[[int, int], int]) -> None:
    count = rounds(20_000, 200_000)
    hashes = np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64)
    hashes[count - 1] = hashes[7] ^ np.uint64(0b1011)
    began = time.process_time()
    pairs, distances, whole = near_pairs(hashes, 6)
    assert whole
    assert distances[pairs.tolist().index([7, count - 1])] == 3
    assert time.process_time() - began < 30


@pytest.mark.parametrize("turn", range(8))
def test_each_turns_hash_is_the_hash_of_the_turned_picture(turn: int) -> None:
    square = grey_square(scene(3))
    by_turn = perceptual_hashes(square[None], turns=True)[0]
    direct = perceptual_hashes(np.ascontiguousarray(turned(square, turn))[None])[0]
    assert int(by_turn[turn] ^ direct).bit_count() <= 1, TURNS[turn]


def test_a_shifted_and_recoloured_picture_correlates_and_another_does_not() -> None:
    large = scene(1, (160, 160))
    left, right = large.crop((0, 0, 140, 140)), large.crop((10, 8, 150, 148))
    darker = Image.eval(right, lambda level: level // 2 + 20)
    first, second, other = (
        details(np.asarray(p.convert("L").resize((64, 64)))) for p in (left, darker, scene(2, (140, 140)))
    )
    assert correlation(first, second) > 0.8
    assert correlation(first, other) < 0.6
    assert correlation(first, np.zeros((64, 64))) == 0
