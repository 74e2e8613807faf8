"""Retrieval between all images and all captions of a split, both ways, plain and duplicate-aware.

"Batch-wise" recall, which ranks within batches only, is not offered: it measures the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipsearch.captions import normalise_caption
from clipsearch.evaluation.figures import Figure, figures
from clipsearch.metrics import Relevance, RetrievalScores, rank_all

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.records import Record

KS = (1, 5, 10)
CURVE_KS = (1, 2, 3, 5, 10, 20, 50, 100)
TO_IMAGE, TO_TEXT, MEAN_RECALL = "text_to_image", "image_to_text", "mean_recall"
MEASURES = (*(f"recall@{k}" for k in KS), "mrr@10", "ndcg@10", "map")
DIRECTIONS = (TO_IMAGE, TO_TEXT)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieval over one split.

    ``plain``: a caption is right for its own image only, as in the field's tables; ``duplicate_aware``: every image or
    caption that carries the same normalised caption is right. Keys are ``text_to_image_recall@1`` ...
    ``image_to_text_map``, and ``mean_recall``: the mean of the six recalls. ``duplicates``: captions that another image
    carries too; ``cut``: captions longer than the model's text length, which were cut; ``curve``: direction -> k ->
    plain R@k.
    """

    plain: dict[str, Figure]
    duplicate_aware: dict[str, Figure]
    images: int
    captions: int
    duplicates: int
    cut: int
    curve: dict[str, dict[int, float]]

    @property
    def scores(self) -> RetrievalScores:
        """The short form that training writes too."""

        def hits(direction: str) -> dict[int, float]:
            return {k: self.plain[f"{direction}_recall@{k}"].value for k in KS}

        return RetrievalScores(
            text_to_image_mrr10=self.plain[f"{TO_IMAGE}_mrr@10"].value,
            image_to_text_mrr10=self.plain[f"{TO_TEXT}_mrr@10"].value,
            text_to_image_hits=hits(TO_IMAGE),
            image_to_text_hits=hits(TO_TEXT),
            images=self.images,
            captions=self.captions,
        )


def text_numbers(captions: Sequence[str]) -> NDArray[np.int64]:
    """(M,) int64: equal numbers for captions that are the same sentence; those without any word equal nothing."""
    numbers: dict[str, int] = {}
    keys = (normalise_caption(caption) or f"\0{place}" for place, caption in enumerate(captions))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def measure_retrieval(
    clip: Clip, images: NDArray[np.float32], records: Sequence[Record], resamples: int = 1000, seed: int = 0
) -> Retrieval:
    """Rank ``images`` (N, D) and the captions of their ``records`` (N) for one another.

    Images without captions can be found, but do not search. Intervals resample whole images. There must be a caption.
    """
    captions = [caption for record in records for caption in record.captions]
    owners = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    embedded = clip.embed_texts(captions)
    texts = text_numbers(captions)
    own = (Relevance.by_group(owners, np.arange(len(records))), Relevance.by_group(np.arange(len(records)), owners))
    plain, curve = _measure(images, embedded, own, owners, resamples, seed)
    duplicates = _shared(texts, owners)
    aware = plain
    if len(np.unique(texts)) < len(texts):
        same = (
            Relevance.captions_to_images(texts, owners),
            Relevance.images_to_captions(texts, owners, len(records)),
        )
        aware, _ = _measure(images, embedded, same, owners, resamples, seed)
    return Retrieval(plain, aware, len(records), len(captions), duplicates, count_cut(clip, captions), curve)


def count_cut(clip: Clip, texts: Sequence[str]) -> int:
    """How many of ``texts`` have more tokens than the model reads (at most one for each UTF-8 byte, and two)."""
    long = [text for text in texts if len(text.encode()) + 2 > clip.text_length]
    if not long:
        return 0
    ids = clip.tokenizer(long, truncation=True, max_length=clip.text_length + 1)["input_ids"]
    return sum(len(each) > clip.text_length for each in ids)


def _measure(
    images: NDArray[np.float32],
    captions: NDArray[np.float32],
    relevance: tuple[Relevance, Relevance],
    owners: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> tuple[dict[str, Figure], dict[str, dict[int, float]]]:
    to_image = rank_all(captions, images, relevance[0], CURVE_KS)
    to_text = rank_all(images, captions, relevance[1], CURVE_KS)
    curve = {
        direction: {k: round(float(np.nanmean(found[f"recall@{k}"])), 6) for k in CURVE_KS}
        for direction, found in ((TO_IMAGE, to_image), (TO_TEXT, to_text))
    }
    # one table for both directions, so that a resample draws images with everything that belongs to them
    nothing = (np.full(len(images), np.nan), np.full(len(captions), np.nan))
    values = {f"{TO_IMAGE}_{name}": np.concatenate([to_image[name], nothing[0]]) for name in MEASURES}
    values |= {f"{TO_TEXT}_{name}": np.concatenate([nothing[1], to_text[name]]) for name in MEASURES}
    clusters = np.concatenate([owners, np.arange(len(images))])
    recalls = [f"{direction}_recall@{k}" for direction in DIRECTIONS for k in KS]
    return figures(values, clusters, resamples, seed, {MEAN_RECALL: recalls}), curve


def _shared(texts: NDArray[np.int64], owners: NDArray[np.int64]) -> int:
    """Captions whose text another image carries too."""
    pairs = np.unique(np.stack([texts, owners], axis=1), axis=0)
    carriers = np.bincount(pairs[:, 0])
    return int((carriers[texts] > 1).sum())
