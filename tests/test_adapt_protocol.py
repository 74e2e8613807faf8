"""What `clipsearch adapt` promises, on real CLIP embeddings: classes it was trained on gain, the others keep.

Each seed draws 12 of WHU-RS19's 19 classes and half of their images to train on. Measured are the other half (seen) and
all images of the 7 classes that were left (unseen), by averaged prompts, among all 19 classes and among their own kind.
Nothing is chosen with held-out images, or with the images or names of unseen classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clipsearch.adapter import Adapter, unit
from clipsearch.evaluation import average
from clipsearch.training.adapting import fit_adapter
from clipsearch.training.pairs import class_pairs

Accuracy = tuple[float, float, float, float]


def among(scores: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> float:
    return float((classes[scores[:, classes].argmax(axis=1)] == labels).mean())


class Draw:
    """One seed's split of the real embeddings."""

    def __init__(self, folder: Path, seed: int) -> None:
        with np.load(folder / "CLIP_ViT-B-32.npz") as real:
            self.images, self.labels = unit(real["image"]), real["label"].astype(np.int64)
            self.texts = unit(real["text"])  # (107, 19, 512)
        generator = np.random.default_rng(seed)
        self.seen = np.sort(generator.choice(19, 12, replace=False))
        self.unseen = np.setdiff1d(np.arange(19), self.seen)
        rows = [generator.permutation(np.flatnonzero(self.labels == number)) for number in self.seen]
        self.train = np.concatenate([each[: len(each) // 2] for each in rows])
        self.held_out = np.concatenate([each[len(each) // 2 :] for each in rows])
        self.others = np.flatnonzero(np.isin(self.labels, self.unseen))

    def adapter(self, seed: int) -> tuple[Adapter, float]:
        """The adapter, and the CPU seconds of its training, choice of steps and alpha included."""
        prompts = self.texts[:, self.seen].reshape(-1, self.texts.shape[2])
        numbers = np.tile(self.seen, len(self.texts))
        pairs = class_pairs(self.images[self.train], self.labels[self.train], prompts, numbers)
        started = time.process_time()
        return fit_adapter(pairs, "clip").adapter, time.process_time() - started

    def accuracy(self, adapter: Adapter | None) -> Accuracy:
        """Seen among 19, unseen among 19, seen among the 12, unseen among the 7."""
        images, texts = self.images, self.texts
        if adapter:
            images = adapter.apply_images(images)
            texts = adapter.apply_texts(texts.reshape(-1, texts.shape[2])).reshape(texts.shape)
        scores, every = images @ average(texts).T, np.arange(19)
        seen, others = (scores[rows] for rows in (self.held_out, self.others))
        labels = self.labels[self.held_out], self.labels[self.others]
        return (
            among(seen, labels[0], every), among(others, labels[1], every),
            among(seen, labels[0], self.seen), among(others, labels[1], self.unseen),
        )  # fmt: skip


FRESH = 2000  # the draws 1000 to 1059 chose the defaults; those from 2000 on were seen once, to confirm them


@pytest.mark.soak
def test_seen_classes_gain_ten_points_and_unseen_ones_lose_at_most_one(
    shared: Path, rounds: Callable[[int, int], int]
) -> None:
    folder = shared / "data" / "embeddings"
    for seeds in (range(5), range(FRESH, FRESH + rounds(0, 40))):
        if seeds:
            seen, unseen = changes(folder, seeds)
            assert seen >= 10
            assert unseen >= -1


def changes(folder: Path, seeds: range) -> tuple[float, float]:
    """By how many points the adapter changes hits@1 among all 19 classes: seen classes, unseen ones; prints more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before, after, seconds = [], [], []
    try:
        for seed in seeds:
            draw = Draw(folder, seed)
            adapter, took = draw.adapter(seed)
            before.append(draw.accuracy(None))
            after.append(draw.accuracy(adapter))
            seconds.append(took)
    finally:
        torch.set_num_threads(threads)
    change = 100 * (np.array(after) - np.array(before))
    for name, index in (("seen among 19", 0), ("unseen among 19", 1), ("seen among 12", 2), ("unseen among 7", 3)):
        old, new = np.mean(before, axis=0)[index], np.mean(after, axis=0)[index]
        print(f"{name}: {old:.4f} -> {new:.4f} ({change[:, index].mean():+.2f}, sd {change[:, index].std():.2f})")
    print(f"{len(seconds)} draws, {np.mean(seconds):.2f} s of CPU each, {max(seconds):.2f} s at most")
    return float(change[:, 0].mean()), float(change[:, 1].mean())
