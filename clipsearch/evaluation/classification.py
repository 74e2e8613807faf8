"""Zero-shot classification: prompt ensembles in embedding space, hits@k, classes one by one, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipsearch.evaluation.figures import Figure, figures
from clipsearch.metrics import (
    ClassScores,
    Relevance,
    ZeroShotScores,
    class_scores,
    confusion,
    rank_all,
)
from clipsearch.prompts import SLOT, Prompts
from clipsearch.transduction import transduce

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus
    from clipsearch.evaluation.embedding import EmbeddedSplit
    from clipsearch.records import Record

Embeddings = NDArray[np.float32]
HITS = (1, 3, 5, 10)
FAILURES = 24


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was taken for another class; ``predicted``: the best three classes with their cosines."""

    record: Record
    predicted: tuple[tuple[str, float], ...]
    margin: float


@dataclass(frozen=True, slots=True)
class Classification:
    """Zero-shot classification of one split.

    ``hits``: ``hits@1`` ... with intervals; ``balanced_accuracy`` and ``macro_f1``: means over the classes that have
    images; ``classes``: one line each, classes without images too; ``confusion``: (C, C), rows are true classes;
    ``class_to_image``: the class prompts as queries over the labelled images (mAP and precision@k); ``failures``: the
    surest mistakes.
    """

    templates: tuple[str, ...]
    hits: dict[str, Figure]
    balanced_accuracy: float
    macro_f1: float
    classes: list[ClassScores]
    confusion: list[list[float]]
    class_to_image: dict[str, Figure]
    failures: tuple[Failure, ...]

    @property
    def scores(self) -> ZeroShotScores:
        """The short form that training writes too."""
        hits = {int(name.removeprefix("hits@")): figure.value for name, figure in self.hits.items()}
        return ZeroShotScores(hits, images=sum(each.support for each in self.classes), classes=len(self.classes))


def average(embeddings: NDArray[np.floating]) -> Embeddings:
    """(T, C, D) embeddings of T prompts for C classes -> (C, D) float32, unit norm: one ensemble each.

    Normalised, averaged and normalised again, as in CLIP's paper, section 3.1.4.
    """
    wide = np.asarray(embeddings, np.float64)
    mean = _unit(wide).mean(axis=0)
    return _unit(mean).astype(np.float32)


def ensemble(
    embed_texts: Callable[[Sequence[str]], NDArray[np.floating]], templates: Sequence[str], words: Sequence[str]
) -> Embeddings:
    """The class embeddings (C, D) float32, unit norm, of C class ``words`` in T ``templates`` with ``{}``."""
    texts = [template.replace(SLOT, word) for template in templates for word in words]
    embedded = embed_texts(texts)
    return average(embedded.reshape(len(templates), len(words), -1))


def label_numbers(records: Sequence[Record], classes: Mapping[str, str]) -> NDArray[np.int64]:
    """(N,) int64: the place of each record's label in ``classes``, -1 for one without a known label."""
    numbers = {label: number for number, label in enumerate(classes)}
    return np.array([numbers.get(record.label, -1) for record in records], np.int64)


def classify(
    embedded: EmbeddedSplit,
    corpus: Corpus,
    class_embeddings: Embeddings,
    prompts: Prompts,
    resamples: int = 1000,
    seed: int = 0,
    transductive: bool = False,
) -> Classification:
    """Everything about the labelled images of a split against ``class_embeddings`` (C, D), in order of the classes.

    ``transductive``: all its images are classified together, and scores are log-probabilities.
    """
    numbers = label_numbers(embedded.records, corpus.classes)
    rows = np.flatnonzero(numbers >= 0)
    images, labels = embedded.images[rows], numbers[rows]
    count = len(class_embeddings)
    if transductive:
        images = transduce(embedded.images, class_embeddings)[rows]
        class_embeddings = np.eye(count, dtype=np.float32)
    scores = images @ class_embeddings.T
    found = rank_all(images, class_embeddings, Relevance.by_group(labels, np.arange(count)), HITS)
    matrix = confusion(scores, labels)
    classes = class_scores(matrix, list(corpus.classes))
    backwards = rank_all(class_embeddings, images, Relevance.by_group(np.arange(count), labels), (1, 5, 10))
    chosen = {name: backwards[name] for name in ("map", "precision@1", "precision@5", "precision@10")}
    return Classification(
        templates=prompts.templates,
        hits=figures({f"hits@{k}": found[f"recall@{k}"] for k in HITS}, None, resamples, seed),
        balanced_accuracy=_mean([each.recall for each in classes]),
        macro_f1=_mean([each.f1 for each in classes]),
        classes=classes,
        confusion=matrix.round(4).tolist(),
        class_to_image=figures(chosen, None, resamples, seed),
        failures=_failures(scores, labels, [embedded.records[row] for row in rows], list(corpus.classes)),
    )


def _failures(
    scores: NDArray[np.floating], labels: NDArray[np.int64], records: list[Record], classes: list[str]
) -> tuple[Failure, ...]:
    margins = scores.max(axis=1) - scores[np.arange(len(labels)), labels]
    worst = [int(row) for row in np.argsort(-margins, kind="stable")[:FAILURES] if margins[row] > 0]
    best = {row: np.argsort(-scores[row], kind="stable")[:3] for row in worst}
    return tuple(
        Failure(
            record=records[row],
            predicted=tuple((classes[number], round(float(scores[row, number]), 4)) for number in best[row]),
            margin=round(float(margins[row]), 4),
        )
        for row in worst
    )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.maximum(norms, 1e-12)
    return unit


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
