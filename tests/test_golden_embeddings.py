"""What the field measured on real embeddings of WHU-RS19, measured again by the product's own functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch.evaluation import average
from clipsearch.metrics import zero_shot_scores
from clipsearch.transduction import transduce


@pytest.mark.parametrize(("name", "published"), [("CLIP", 0.8129), ("RemoteCLIP", 0.9522)])
def test_averaged_prompts_give_the_published_zero_shot_accuracy(shared: Path, name: str, published: float) -> None:
    with np.load(shared / "data" / "embeddings" / f"{name}_ViT-B-32.npz") as real:
        images, labels = real["image"].astype(np.float32), real["label"].astype(np.int64)
        scores = zero_shot_scores(images, average(real["text"]), labels)
    assert (scores.images, scores.classes) == (1005, 19)
    assert scores.hits[1] == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(("name", "least"), [("CLIP", 0.90), ("RemoteCLIP", 0.985)])
def test_classifying_the_corpus_as_a_whole_gains_what_transduction_is_known_for(
    shared: Path, name: str, least: float
) -> None:
    with np.load(shared / "data" / "embeddings" / f"{name}_ViT-B-32.npz") as real:
        images, labels = real["image"].astype(np.float32), real["label"].astype(np.int64)
        found = transduce(images, average(real["text"])).argmax(axis=1)
    accuracy = float((found == labels).mean())
    print(f"{name}: transductive top-1 {accuracy:.4f}")
    assert accuracy >= least
