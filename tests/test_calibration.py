"""The line between likely hits and chance: on made-up cosines, and on real embeddings of CLIP and RemoteCLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clipsearch.errors import InputError
from clipsearch.search.calibration import FEW, Background

AXIS = np.eye(64, dtype=np.float32)[0]


def index(cosines: NDArray[np.float64], seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors (N, 64) with these cosines to ``AXIS``."""
    rest = np.random.default_rng(seed).normal(size=(len(cosines), 63))
    rest *= np.sqrt(1 - cosines**2)[:, None] / np.linalg.norm(rest, axis=1, keepdims=True)
    return np.column_stack([cosines, rest]).astype(np.float32)


def noise(count: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0.2, 0.03, count)


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.5])
def test_hits_that_stand_out_are_shown_and_the_rest_is_weak_whatever_the_models_scale(
    shift: float, scale: float
) -> None:
    cosines = np.concatenate([noise(960), np.random.default_rng(1).normal(0.36, 0.02, 40)]) * scale + shift
    background = Background(index(cosines))
    weak = background.weak(AXIS, cosines, 10_000)
    assert (~weak[960:]).mean() > 0.9
    assert weak[:960].mean() > 0.95


def test_a_query_that_fits_nothing_has_only_weak_hits() -> None:
    samples = [noise(seed=seed) for seed in range(20)]
    weak = [Background(index(sample)).weak(AXIS, np.sort(sample)[-24:], 10_000) for sample in samples]
    assert np.mean([each.all() for each in weak]) >= 0.8


def test_a_query_that_fits_half_of_the_index_is_not_taken_for_nonsense() -> None:
    cosines = np.concatenate([noise(500), np.random.default_rng(1).normal(0.4, 0.02, 500)])
    weak = Background(index(cosines)).weak(AXIS, cosines, 1000)
    assert (~weak[500:]).mean() > 0.8
    assert weak[:500].mean() > 0.9


def test_probabilities_grow_with_the_cosine_and_stay_within_their_bounds() -> None:
    background = Background(index(np.concatenate([noise(980), np.full(20, 0.4)])))
    sure = background.relevance(AXIS, np.linspace(-1, 1, 101))
    assert sure.dtype == np.float32
    assert sure.shape == (101,)
    assert (np.diff(sure) >= 0).all()
    assert sure.min() >= 0
    assert sure.max() <= 1
    assert background.relevance(AXIS, []).shape == (0,)


def test_a_small_index_is_not_judged() -> None:
    few = Background(index(noise(FEW - 1)))
    assert (few.relevance(AXIS, [0.1, 0.9]) == 1).all()
    assert not few.weak(AXIS, [0.1], 10_000).any()
    assert not Background(index(noise())).weak(AXIS, [-1.0], FEW - 1).any()
    assert (Background(np.empty((0, 64))).relevance(AXIS, [0.1]) == 1).all()


def test_an_index_of_one_picture_is_not_judged() -> None:
    assert (Background(np.tile(AXIS, (500, 1))).relevance(AXIS, [1.0]) == 1).all()


@pytest.mark.parametrize("sample", [np.ones(5), np.ones((2, 2, 2)), np.array([[np.nan, 1.0]])])
def test_a_background_that_is_none_is_refused(sample: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match=r"\(N, D\)"):
        Background(sample)


@pytest.mark.parametrize(("model", "least"), [("RemoteCLIP", 0.7), ("CLIP", 0.35)])
def test_one_rule_parts_the_classes_of_both_files_that_it_was_fitted_to(shared: Path, model: str, least: float) -> None:
    data = np.load(shared / "data" / "embeddings" / f"{model}_ViT-B-32.npz")
    images, labels = data["image"].astype(np.float32), data["label"]
    background = Background(images)
    scores = []
    for prompt in (20, 60, 100):
        for number, text in enumerate(data["text"][prompt].astype(np.float32)):
            shown = ~background.weak(text, images @ text, len(images))
            right = labels == number
            scores.append(2 * (shown & right).sum() / max(1, shown.sum() + right.sum()))
    assert np.mean(scores) > least


def test_without_its_class_a_query_shows_less(shared: Path) -> None:
    data = np.load(shared / "data" / "embeddings" / "RemoteCLIP_ViT-B-32.npz")
    images, labels, texts = data["image"].astype(np.float32), data["label"], data["text"][60].astype(np.float32)
    whole, without = [], []
    for number, text in enumerate(texts):
        others = images[labels != number]
        whole.append((~Background(images).weak(text, np.sort(images @ text)[-24:], 1005)).mean())
        without.append((~Background(others).weak(text, np.sort(others @ text)[-24:], len(others))).mean())
    assert np.mean(whole) > 0.85
    assert np.mean(without) < np.mean(whole) - 0.2
