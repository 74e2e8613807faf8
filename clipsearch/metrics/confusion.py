"""Which class is taken for which, and precision, recall and F1 of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.metrics.ranks import Floats, Integers


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class: ``support`` images; None where a figure is undefined (0 / 0).

    ``precision``: None for a class that nothing was taken for; ``recall`` and ``f1``: None for one without images.
    """

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


def confusion(scores: Floats, labels: Integers) -> NDArray[np.float64]:
    """(C, C): of the images of class i (row), how many were taken for class j; ``scores`` (N, C), ``labels`` (N,).

    Where several classes share an image's best score, each gets its part of the image, so that the trace over N equals
    hits@1 exactly.
    """
    matrix = np.zeros((scores.shape[1], scores.shape[1]))
    if len(scores):
        best = scores == scores.max(axis=1, keepdims=True)
        np.add.at(matrix, labels, best / best.sum(axis=1, keepdims=True))
    return matrix


def class_scores(matrix: NDArray[np.float64], names: list[str]) -> list[ClassScores]:
    """Precision, recall and F1 of each class of a (C, C) ``confusion`` matrix."""
    right, support, taken = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        ClassScores(
            name=name,
            support=round(support[i]),
            precision=float(right[i] / taken[i]) if taken[i] else None,
            recall=float(right[i] / support[i]) if support[i] else None,
            f1=float(2 * right[i] / (taken[i] + support[i])) if support[i] else None,
        )
        for i, name in enumerate(names)
    ]
