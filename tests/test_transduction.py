"""Classification of a corpus at once, without labels, at its edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch import transduction
from clipsearch.adapter import unit
from clipsearch.errors import InputError
from clipsearch.evaluation import average
from clipsearch.transduction import transduce


def world(images: int, classes: int, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images around class centres, and prompts that are off from them; all unit norm."""
    generator = np.random.default_rng(seed)
    centres = unit(generator.normal(size=(classes, 64)))
    labels = np.arange(images) % classes
    off = unit(centres + 0.16 * generator.normal(size=centres.shape))
    return unit(centres[labels] + noise * generator.normal(size=(images, 64))), off, labels


def test_rows_are_log_probabilities_and_clusters_correct_the_prompts() -> None:
    images, prompts, labels = world(400, 10, noise=0.25)
    found = transduce(images, prompts)
    assert found.shape == (400, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-4)
    before = ((images @ prompts.T).argmax(axis=1) == labels).mean()
    assert (found.argmax(axis=1) == labels).mean() > before


def test_one_image_and_few_images_are_left_to_the_prompts() -> None:
    for count in (1, 7):
        images, prompts, _ = world(count, 4)
        assert (transduce(images, prompts).argmax(axis=1) == (images @ prompts.T).argmax(axis=1)).all()
    assert transduce(np.zeros((0, 64), np.float32), world(1, 4)[1]).shape == (0, 4)
    assert (transduce(world(9, 3)[0], world(9, 3)[1][:1]) == 0).all()  # one class: certainty


def test_classes_without_an_image_do_not_take_the_others_images(shared: Path) -> None:
    with np.load(shared / "data" / "embeddings" / "CLIP_ViT-B-32.npz") as real:
        prompts, labels, images = average(real["text"]), real["label"], real["image"].astype(np.float32)
    changes = []
    for seed in range(8):
        present = np.isin(labels, np.random.default_rng(seed).choice(19, 3, replace=False))
        found = transduce(images[present], prompts).argmax(axis=1)
        plain = (images[present] @ prompts.T).argmax(axis=1)
        changes.append((found == labels[present]).mean() - (plain == labels[present]).mean())
    assert np.mean(changes) > 0


def test_images_that_are_all_the_same_give_finite_numbers() -> None:
    images, prompts, _ = world(1, 3)
    assert np.isfinite(transduce(np.repeat(images, 20, axis=0), prompts)).all()


def test_a_corpus_above_the_bound_goes_without_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    images, prompts, labels = world(200, 5)
    monkeypatch.setattr(transduction, "MOST", 100)
    assert (transduce(images, prompts).argmax(axis=1) == labels).mean() > 0.9


def test_arrays_that_do_not_fit_and_numbers_that_are_none_are_refused() -> None:
    images, prompts, _ = world(20, 3)
    with pytest.raises(InputError, match="of one length"):
        transduce(images, prompts[:, :32])
    images[4, 2] = np.nan
    with pytest.raises(InputError, match="1 image embeddings are not finite, the first in row 4"):
        transduce(images, prompts)
