"""How good the model is on one split: zero-shot hits@k over the classes, and retrieval both ways.

Labels are used here, to measure, and nowhere else in this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.metrics import RetrievalScores, ZeroShotScores, retrieval_scores, zero_shot_scores
from clipsearch.training.cache import DecodedSplit

if TYPE_CHECKING:
    from clipsearch.clip import Clip

TO_IMAGE, TO_TEXT = "text_to_image_", "image_to_text_"


@dataclass(frozen=True, slots=True)
class Scores:
    """Zero-shot (None without labelled images) and retrieval (None without captions) on one split."""

    zero_shot: ZeroShotScores | None
    retrieval: RetrievalScores | None

    def to_json(self) -> dict[str, float | int]:
        """One flat mapping, ``hits@1`` to ``image_to_text_recall@10`` and the counts, for logs and ``metrics.json``."""
        values: dict[str, float | int] = {}
        if self.zero_shot:
            values |= {f"hits@{k}": hits for k, hits in self.zero_shot.hits.items()}
            values |= {"labelled_images": self.zero_shot.images, "classes": self.zero_shot.classes}
        if self.retrieval:
            found = self.retrieval
            values |= {TO_IMAGE + "mrr@10": found.text_to_image_mrr10, TO_TEXT + "mrr@10": found.image_to_text_mrr10}
            values |= {f"{TO_IMAGE}recall@{k}": hits for k, hits in found.text_to_image_hits.items()}
            values |= {f"{TO_TEXT}recall@{k}": hits for k, hits in found.image_to_text_hits.items()}
            values |= {"images": found.images, "captions": found.captions}
        return values

    def line(self) -> str:
        """One line for people."""
        parts = []
        if self.zero_shot:
            hits = "/".join(f"{value:.3f}" for value in self.zero_shot.hits.values())
            parts.append(f"zero-shot hits@{'/'.join(map(str, self.zero_shot.hits))} {hits}")
        if self.retrieval:
            to_image, to_text = self.retrieval.text_to_image_mrr10, self.retrieval.image_to_text_mrr10
            parts.append(f"MRR@10 text-image {to_image:.3f}, image-text {to_text:.3f}")
        return ", ".join(parts) or "nothing to measure"


def scores_from_json(values: Mapping[str, Any]) -> Scores:
    """The ``Scores`` that ``to_json`` made plain."""

    def by_k(prefix: str) -> dict[int, float]:
        names = [name for name in values if name.startswith(prefix)]
        return {int(name.removeprefix(prefix)): float(values[name]) for name in names}

    zero_shot = retrieval = None
    if "classes" in values:
        zero_shot = ZeroShotScores(by_k("hits@"), images=values["labelled_images"], classes=values["classes"])
    if "captions" in values:
        retrieval = RetrievalScores(
            text_to_image_mrr10=values[TO_IMAGE + "mrr@10"],
            image_to_text_mrr10=values[TO_TEXT + "mrr@10"],
            text_to_image_hits=by_k(TO_IMAGE + "recall@"),
            image_to_text_hits=by_k(TO_TEXT + "recall@"),
            images=values["images"],
            captions=values["captions"],
        )
    return Scores(zero_shot, retrieval)


METRIC_NAMES = {
    "mrr10": "MRR@10",
    **{f"recall{k}": f"recall@{k}" for k in (1, 5, 10)},
    "mean-recall": "mean recall",
    **{f"hits{k}": f"zero-shot hits@{k}" for k in (1, 3, 5, 10)},
    "loss": "training loss",
}
"""What can select the best epoch, as people call it; retrieval metrics are means of both directions."""


def can_select(metric: str, captioned: bool, labelled: bool) -> bool:
    """Whether a split with captions or with labels can give ``metric``."""
    return metric == "loss" or (labelled if metric.startswith("hits") else captioned)


def selection_score(metric: str, scores: Scores, loss: float) -> float:
    """The value that selects the best epoch, larger is better. ``scores`` must have what ``metric`` needs."""
    if metric == "loss":
        return -loss
    if metric.startswith("hits"):
        assert scores.zero_shot is not None
        return scores.zero_shot.hits[int(metric.removeprefix("hits"))]
    found = scores.retrieval
    assert found is not None
    if metric == "mrr10":
        return found.mean_mrr10
    both = (found.text_to_image_hits, found.image_to_text_hits)
    if metric == "mean-recall":  # of the six, as RemoteCLIP's and CLIP_benchmark's tables have it
        return float(np.mean([hits for hits_by_k in both for hits in hits_by_k.values()]))
    return float(np.mean([hits_by_k[int(metric.removeprefix("recall"))] for hits_by_k in both]))


def measure(clip: Clip, split: DecodedSplit, classes: Mapping[str, str], prompt: str) -> Scores:
    """Embed a decoded split once and score it; ``classes`` maps a label to its words in ``prompt``."""
    images = clip.embed_pixels(split.pixels) if len(split) else np.zeros((0, clip.dim), np.float32)
    return Scores(_zero_shot(clip, split, images, classes, prompt), _retrieval(clip, split, images))


def _zero_shot(
    clip: Clip, split: DecodedSplit, images: Any, classes: Mapping[str, str], prompt: str
) -> ZeroShotScores | None:
    numbers = {label: number for number, label in enumerate(classes)}
    labels = np.array([numbers.get(record.label, -1) for record in split.records], np.int64)
    if not (labels >= 0).any():
        return None
    prompts = clip.embed_texts([prompt.format(words) for words in classes.values()])
    return zero_shot_scores(images[labels >= 0], prompts, labels[labels >= 0])


def _retrieval(clip: Clip, split: DecodedSplit, images: Any) -> RetrievalScores | None:
    captions = [caption for record in split.records for caption in record.captions]
    if not captions:
        return None
    owners = np.repeat(np.arange(len(split)), [len(record.captions) for record in split.records])
    return retrieval_scores(images, clip.embed_texts(captions), owners)
