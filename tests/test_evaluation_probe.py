"""Linear probe and few-shot curve: the golden figures of real embeddings, and training sets that lack something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import CorpusError
from clipsearch.evaluation import Labelled, average, few_shot, linear_probe
from clipsearch.evaluation.probe import best_c, blend_weights


def clusters(per_class: int, classes: int = 3, spread: float = 0.3, seed: int = 0) -> Labelled:
    """Unit vectors around the first axes."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    points = np.eye(8, dtype=np.float32)[labels] + generator.normal(0, spread, (len(labels), 8)).astype(np.float32)
    return Labelled(points / np.linalg.norm(points, axis=1, keepdims=True), labels)


def real(shared: Path, model: str) -> tuple[Labelled, np.ndarray]:
    """WHU-RS19's images, and the averaged prompts of its 19 classes."""
    data = np.load(shared / "data" / "embeddings" / f"{model}_ViT-B-32.npz")
    images = average(data["image"][None])
    return Labelled(images, data["label"].astype(np.int64)), average(data["text"][:106])


def folds(labels: np.ndarray, count: int = 5) -> np.ndarray:
    generator = np.random.default_rng(0)
    fold = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        fold[rows] = np.arange(len(rows)) % count
    return fold


@pytest.mark.soak
def test_the_linear_probe_reaches_the_published_figure_on_clips_real_embeddings(
    shared: Path, rounds: Callable[[int, int], int]
) -> None:
    images, _ = real(shared, "CLIP")
    fold = folds(images.labels)
    accuracies = []
    for number in range(rounds(1, 5)):
        train, test = images.take(np.flatnonzero(fold != number)), images.take(np.flatnonzero(fold == number))
        probe = linear_probe(train, None, test, resamples=50)
        assert probe.c >= 10, "unit vectors want a large C"
        accuracies.append(probe.accuracy.value)
    assert np.mean(accuracies) >= 0.98
    assert np.mean(accuracies) == pytest.approx(0.988, abs=0.008)


def test_few_shots_rise_from_zero_shot_and_a_prototype_helps_most_at_one(shared: Path) -> None:
    images, prompts = real(shared, "CLIP")
    fold = folds(images.labels)
    train, test = images.take(np.flatnonzero(fold < 3)), images.take(np.flatnonzero(fold >= 3))
    curve = few_shot(train, test, prompts, shots=(1, 16), draws=2)
    one, sixteen = curve.points
    assert curve.zero_shot == pytest.approx(0.81, abs=0.02)
    assert one.blend > curve.zero_shot + 0.03 > one.probe
    assert sixteen.probe > sixteen.blend > one.blend
    assert one.probe_spread > sixteen.probe_spread > 0
    assert curve == few_shot(train, test, prompts, shots=(1, 16), draws=2), "the seed decides"


def test_c_is_chosen_on_validation_and_the_smallest_of_equals() -> None:
    assert best_c({0.1: 0.5, 1.0: 0.9, 10.0: 0.9}) == 1.0
    train, validation, test = clusters(20), clusters(10, seed=1), clusters(40, seed=2)
    probe = linear_probe(train, validation, test)
    assert probe.accuracy.value > 0.95
    assert probe.accuracy.low < probe.accuracy.value <= probe.accuracy.high
    assert probe.train_images == 90, "the last fit takes the validation images too"
    assert probe.sweep[probe.c] == max(probe.sweep.values())


def test_a_class_with_one_image_and_one_that_is_never_trained_on_are_measured_right() -> None:
    train, test = clusters(20), clusters(10)
    lonely = np.flatnonzero((train.labels != 2) | (np.arange(len(train)) == 59))  # class 2 keeps one image
    probe = linear_probe(train.take(lonely), None, test)
    assert probe.unseen == 0
    without = linear_probe(train.take(np.flatnonzero(train.labels != 2)), None, test)
    assert without.unseen == 1
    assert without.accuracy.value == pytest.approx(2 / 3, abs=0.05), "its images are mistakes"
    curve = few_shot(train.take(lonely), test, np.eye(3, 8, dtype=np.float32), shots=(1, 4), draws=2)
    assert [point.short for point in curve.points] == [0, 1]


def test_one_image_of_each_class_is_enough_and_one_class_is_not() -> None:
    few = clusters(1)
    assert linear_probe(few, None, clusters(10)).train_images == 3
    with pytest.raises(CorpusError, match="at least two classes"):
        linear_probe(clusters(5, classes=1), None, clusters(10))


def test_a_class_without_images_keeps_its_prompt() -> None:
    prompts = np.eye(4, 8, dtype=np.float32)
    weights = blend_weights(clusters(5), prompts)
    assert (weights[3] == prompts[3]).all()
    assert np.linalg.norm(weights, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
