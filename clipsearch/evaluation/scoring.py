"""Zero-shot classification and retrieval of a model on one split of a corpus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clipsearch.errors import CorpusError
from clipsearch.evaluation.classification import (
    Classification,
    Embeddings,
    classify,
    ensemble,
    label_numbers,
)
from clipsearch.evaluation.embedding import EmbeddedSplit, embed_split
from clipsearch.evaluation.figures import Figure
from clipsearch.evaluation.retrieval import Retrieval, measure_retrieval
from clipsearch.metrics import RetrievalScores, ZeroShotScores
from clipsearch.prompts import Prompts

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.corpora import Corpus
    from clipsearch.evaluation.probe import FewShot, LinearProbe
    from clipsearch.evaluation.shift import Curve

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All scores of one model on one split; None where the split has no labels, or no captions.

    ``zero_shot`` and ``retrieval`` are the short forms of ``classification`` and ``ranking``. ``linear_probe``,
    ``few_shot``, ``out_of_domain`` (one evaluation a corpus) and ``interpolation`` are there where they were asked for.
    """

    model_id: str
    corpus: str
    split: str
    prompt: str
    left_out: int
    zero_shot: ZeroShotScores | None
    retrieval: RetrievalScores | None
    classification: Classification | None = None
    ranking: Retrieval | None = None
    linear_probe: LinearProbe | None = None
    few_shot: FewShot | None = None
    out_of_domain: tuple[Evaluation, ...] = ()
    interpolation: Curve | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return asdict(self)

    @property
    def headline(self) -> tuple[str, Figure] | None:
        """What one number says most: hits@1 where there are labels, else mean recall, else None."""
        if self.classification:
            return "hits@1", self.classification.hits["hits@1"]
        if self.ranking:
            return "mean recall", self.ranking.plain["mean_recall"]
        return None


def prompts_of(corpus: Corpus, prompts: Prompts | None) -> Prompts:
    """The prompts that were asked for, or the corpus's own single one."""
    return prompts or Prompts(corpus.prompt, (corpus.prompt,))


def class_embeddings(clip: Clip, corpus: Corpus, prompts: Prompts) -> Embeddings:
    """(C, D) float32, unit norm: one prompt ensemble a class of the corpus, in their order."""
    return ensemble(clip.embed_texts, prompts.templates, list(prompts.words(corpus.classes).values()))


def zero_shot(
    clip: Clip,
    corpus: Corpus,
    split: str = "test",
    embedded: EmbeddedSplit | None = None,
    prompts: Prompts | None = None,
) -> ZeroShotScores:
    """hits@1/3/5/10 of the labelled images of ``split`` against the prompts of all classes of the corpus.

    ``embedded``: the split, where it has been embedded already. Raises ``CorpusError`` when no image has a known label.
    """
    return _classified(clip, corpus, split, embedded, prompts_of(corpus, prompts), 1, 0).scores


def retrieval(
    clip: Clip, corpus: Corpus, split: str = "test", embedded: EmbeddedSplit | None = None
) -> RetrievalScores:
    """MRR@10 and R@1/5/10 between all images and all captions of ``split``, both ways.

    Raises ``CorpusError`` when the split has no captions.
    """
    return _ranked(clip, corpus, split, embedded, 1, 0).scores


def evaluate(
    clip: Clip,
    corpus: Corpus,
    split: str = "test",
    quiet: bool = True,
    prompts: Prompts | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    transductive: bool = False,
) -> Evaluation:
    """Classification and retrieval over one embedding of the images, with bootstrap intervals.

    ``transductive``: the images of the split are classified together, without labels (``clipsearch.transduction``).
    """
    embedded = embed_split(clip, corpus, split, quiet=quiet)
    chosen = prompts_of(corpus, prompts)
    labelled = any(record.label in corpus.classes for record in embedded.records)
    captioned = any(record.captions for record in embedded.records)
    classified = None
    if labelled:
        vectors = class_embeddings(clip, corpus, chosen)
        classified = classify(embedded, corpus, vectors, chosen, resamples, seed, transductive)
    ranked = _ranked(clip, corpus, split, embedded, resamples, seed) if captioned else None
    return Evaluation(
        model_id=clip.model_id,
        corpus=corpus.name,
        split=split,
        prompt=f"{chosen.name}, all images together" if transductive else chosen.name,
        left_out=len(embedded.issues),
        zero_shot=classified.scores if classified else None,
        retrieval=ranked.scores if ranked else None,
        classification=classified,
        ranking=ranked,
    )


def headline_of(
    clip: Clip, corpus: Corpus, embedded: EmbeddedSplit, prompts: Prompts | None, resamples: int, seed: int
) -> tuple[str, Figure] | None:
    """``Evaluation.headline`` without the rest of an evaluation."""
    if (label_numbers(embedded.records, corpus.classes) >= 0).any():
        chosen = prompts_of(corpus, prompts)
        found = classify(embedded, corpus, class_embeddings(clip, corpus, chosen), chosen, resamples, seed)
        return "hits@1", found.hits["hits@1"]
    if any(record.captions for record in embedded.records):
        ranked = measure_retrieval(clip, embedded.images, embedded.records, resamples, seed)
        return "mean recall", ranked.plain["mean_recall"]
    return None


def _classified(
    clip: Clip,
    corpus: Corpus,
    split: str,
    embedded: EmbeddedSplit | None,
    prompts: Prompts,
    resamples: int,
    seed: int,
) -> Classification:
    embedded = embedded or embed_split(clip, corpus, split)
    if not (label_numbers(embedded.records, corpus.classes) >= 0).any():
        raise CorpusError(f"{corpus.root} has no class labels in its {split} split: nothing to classify")
    return classify(embedded, corpus, class_embeddings(clip, corpus, prompts), prompts, resamples, seed)


def _ranked(
    clip: Clip, corpus: Corpus, split: str, embedded: EmbeddedSplit | None, resamples: int, seed: int
) -> Retrieval:
    embedded = embedded or embed_split(clip, corpus, split)
    if not any(record.captions for record in embedded.records):
        raise CorpusError(f"{corpus.root} has no captions in its {split} split: nothing to retrieve")
    return measure_retrieval(clip, embedded.images, embedded.records, resamples, seed)
