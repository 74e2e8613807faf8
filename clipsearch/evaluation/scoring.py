"""Zero-shot classification and retrieval of a model on one split of a corpus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import CorpusError
from clipsearch.evaluation.embedding import EmbeddedSplit, embed_split
from clipsearch.metrics import RetrievalScores, ZeroShotScores, retrieval_scores, zero_shot_scores

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.corpora import Corpus


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All scores of one model on one split; None where the split has no labels, or no captions."""

    model_id: str
    corpus: str
    split: str
    prompt: str
    left_out: int
    zero_shot: ZeroShotScores | None
    retrieval: RetrievalScores | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return asdict(self)


def zero_shot(clip: Clip, corpus: Corpus, split: str = "test", embedded: EmbeddedSplit | None = None) -> ZeroShotScores:
    """hits@1/3/5/10 of the labelled images of ``split`` against one prompt per class of the corpus.

    ``embedded``: the split, where it has been embedded already. Raises ``CorpusError`` when no image has a known label.
    """
    embedded = embedded or embed_split(clip, corpus, split)
    numbers = {label: number for number, label in enumerate(corpus.classes)}
    labels = np.array([numbers.get(record.label, -1) for record in embedded.records], np.int64)
    known = labels >= 0
    if not known.any():
        raise CorpusError(f"{corpus.root} has no class labels in its {split} split: nothing to classify")
    prompts = clip.embed_texts([corpus.prompt.format(words) for words in corpus.classes.values()])
    return zero_shot_scores(embedded.images[known], prompts, labels[known])


def retrieval(
    clip: Clip, corpus: Corpus, split: str = "test", embedded: EmbeddedSplit | None = None
) -> RetrievalScores:
    """MRR@10 and R@1/5/10 between all images and all captions of ``split``, both ways.

    Raises ``CorpusError`` when the split has no captions.
    """
    embedded = embedded or embed_split(clip, corpus, split)
    captions = [caption for record in embedded.records for caption in record.captions]
    if not captions:
        raise CorpusError(f"{corpus.root} has no captions in its {split} split: nothing to retrieve")
    owners = np.repeat(np.arange(len(embedded.records)), [len(record.captions) for record in embedded.records])
    return retrieval_scores(embedded.images, clip.embed_texts(captions), owners)


def evaluate(clip: Clip, corpus: Corpus, split: str = "test", quiet: bool = True) -> Evaluation:
    """Both measurements over one embedding of the images."""
    embedded = embed_split(clip, corpus, split, quiet=quiet)
    labelled = any(record.label in corpus.classes for record in embedded.records)
    captioned = any(record.captions for record in embedded.records)
    return Evaluation(
        model_id=clip.model_id,
        corpus=corpus.name,
        split=split,
        prompt=corpus.prompt,
        left_out=len(embedded.issues),
        zero_shot=zero_shot(clip, corpus, split, embedded) if labelled else None,
        retrieval=retrieval(clip, corpus, split, embedded) if captioned else None,
    )


def table(result: Evaluation) -> str:
    """The scores as lines for people."""
    lines = [f"{result.model_id} on {result.corpus}, {result.split} split"]
    if result.zero_shot:
        size = f"{result.zero_shot.images:,} images, {result.zero_shot.classes} classes"
        lines.append(f'zero-shot, prompt "{result.prompt}", {size}:')
        lines += [f"  hits@{k:<4}{value:.4f}" for k, value in result.zero_shot.hits.items()]
    if result.retrieval:
        scores = result.retrieval
        lines.append(f"retrieval, {scores.images:,} images, {scores.captions:,} captions:   text-image  image-text")
        lines.append(f"  MRR@10  {scores.text_to_image_mrr10:.4f}  {scores.image_to_text_mrr10:.4f}")
        lines += [
            f"  R@{k:<6}{value:.4f}  {scores.image_to_text_hits[k]:.4f}"
            for k, value in scores.text_to_image_hits.items()
        ]
    if result.left_out:
        lines.append(f"{result.left_out} images could not be decoded and were left out")
    return "\n".join(lines)
