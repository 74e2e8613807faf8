"""Recall on real CLIP embeddings, where ``../shared/data/embeddings`` lies beside the checkout.

1,005 images are searched exactly by any engine, so they are also blown up: each new vector lies between two images of
one class, with a tenth of their distance as noise, which keeps CLIP's shape (its narrow cone, its few strong axes)
better than any model of it would. Queries are the real embeddings of the texts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import workload
from engines import OURS, ROOT, Place, Worker, build

EMBEDDINGS = ROOT.parent / "shared" / "data" / "embeddings"


def measure(work: Path, documents: int) -> dict[str, Any]:
    """Recall@10 of our nearest-neighbour search by model and number of documents.

    ``recall`` is against exact search over the float32 embeddings, ``recall_stored`` over their bfloat16 cells.
    """
    found: dict[str, Any] = {}
    for path in sorted(EMBEDDINGS.glob("*_ViT-B-32.npz")):
        model = path.name.split("_")[0]
        for count in (0, documents):
            place = Place(work, f"{model}-{count}" if count else model)
            size = _workload(path, place.workload, count)
            build(OURS, place, reuse=False)
            with Worker(OURS, place) as worker:
                worker.ask(do="open")
                answer = worker.ask(do="phase", name="vector")
            made = workload.load(place.workload)
            found[f"{model}, {size} images"] = {
                "recall": workload.recall(answer["found"], made.truth[100]),
                "recall_stored": workload.recall(answer["found"], made.stored[100]),
            }
            shutil.rmtree(place.index(OURS).parent)
            shutil.rmtree(place.workload)
    return found


def _workload(path: Path, folder: Path, count: int, seed: int = 1) -> int:
    random = np.random.default_rng(seed)
    with np.load(path) as data:
        images, labels = data["image"].astype(np.float32), data["label"]
        texts = data["text"].astype(np.float32).reshape(-1, images.shape[1])
    if count:
        images = _between(images, labels, count, random)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = random.permutation(texts)[:200]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    buckets = random.integers(0, 100, len(images), dtype=np.int32)
    workload.write(folder, images, buckets, ["image"] * len(images), texts, ["image"] * len(texts))
    return len(images)


def _between(images: Any, labels: Any, count: int, random: np.random.Generator) -> Any:
    """(count, D): points between two images of a class, with noise."""
    first = random.integers(0, len(images), count)
    second = np.empty_like(first)
    for label in np.unique(labels):
        same = np.flatnonzero(labels == label)
        wanted = labels[first] == label
        second[wanted] = random.choice(same, wanted.sum())
    share = random.random((count, 1), dtype=np.float32)
    apart = np.linalg.norm(images[first] - images[second], axis=1, keepdims=True)
    noise = random.standard_normal((count, images.shape[1]), dtype=np.float32) / np.sqrt(images.shape[1])
    return (share * images[first] + (1 - share) * images[second] + 0.1 * apart * noise).astype(np.float32)
