"""The figures that training and evaluation both quote: zero-shot hits@k, and retrieval both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.metrics.ranks import Floats, Integers, hits_at, mrr_at, retrieval_ranks


@dataclass(frozen=True, slots=True)
class ZeroShotScores:
    """Zero-shot classification: ``hits`` maps k to hits@k, over ``images`` images and ``classes`` classes."""

    hits: dict[int, float]
    images: int
    classes: int


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Caption-image retrieval over one split; hits map k to the share of queries with a right item in the first k."""

    text_to_image_mrr10: float
    image_to_text_mrr10: float
    text_to_image_hits: dict[int, float]
    image_to_text_hits: dict[int, float]
    images: int
    captions: int

    @property
    def mean_mrr10(self) -> float:
        """Mean of both directions' MRR@10: what training selects checkpoints by."""
        return (self.text_to_image_mrr10 + self.image_to_text_mrr10) / 2


def zero_shot_scores(
    images: Floats, prompts: Floats, labels: Integers, ks: Sequence[int] = (1, 3, 5, 10)
) -> ZeroShotScores:
    """hits@k of ``images`` (N, D) against ``prompts`` (C, D); ``labels`` (N,) are rows of ``prompts``."""
    ranks = retrieval_ranks(images, prompts, labels, np.arange(len(prompts)))
    return ZeroShotScores({k: hits_at(ranks, k) for k in ks}, images=len(images), classes=len(prompts))


def retrieval_scores(
    images: Floats, captions: Floats, owners: Integers, ks: Sequence[int] = (1, 5, 10)
) -> RetrievalScores:
    """Both directions over ``images`` (N, D) and ``captions`` (M, D); ``owners`` (M,) are rows of ``images``.

    Images without captions can be found, but do not search: there is nothing that they should find.
    """
    numbers, asking = np.arange(len(images)), np.unique(owners)
    to_image = retrieval_ranks(captions, images, owners, numbers)
    to_text = retrieval_ranks(images[asking], captions, asking, owners)
    return RetrievalScores(
        text_to_image_mrr10=mrr_at(to_image, 10),
        image_to_text_mrr10=mrr_at(to_text, 10),
        text_to_image_hits={k: hits_at(to_image, k) for k in ks},
        image_to_text_hits={k: hits_at(to_text, k) for k in ks},
        images=len(images),
        captions=len(captions),
    )
