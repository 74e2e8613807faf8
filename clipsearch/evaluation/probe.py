"""What the image embeddings hold beside the prompts: a linear probe, and how few labelled images it needs.

L2-regularised logistic regression by L-BFGS, as in CLIP's paper (section A.3), with its strength swept on validation
images: unit vectors want a far larger C than the one that is often copied (0.316), which costs some points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import CorpusError
from clipsearch.evaluation.classification import Embeddings, average
from clipsearch.evaluation.figures import Figure, figures

Labels = NDArray[np.int64]
SHOTS = (1, 2, 4, 8, 16)
ROUNDS = 1000
"""L-BFGS iterations at most, as in CLIP's paper."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """``images`` (N, D) float32, unit norm, and ``labels`` (N,) int64."""

    images: Embeddings
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        """Some of the images."""
        return Labelled(self.images[rows], self.labels[rows])

    def joined(self, other: Labelled) -> Labelled:
        """These images and the others."""
        return Labelled(np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels]))


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Accuracy of the probe on the test images; ``c``: the chosen strength; ``sweep``: C -> validation accuracy.

    ``unseen``: classes of the test images without a training image; their images count as mistakes.
    """

    accuracy: Figure
    c: float
    sweep: dict[float, float]
    train_images: int
    test_images: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Shots:
    """Few-shot accuracy at ``shots`` images a class: mean and standard deviation over the draws, of both classifiers.

    ``probe``: logistic regression on the images; ``blend``: the mean of class prompt and class prototype. ``short``:
    classes that have fewer images than that, and gave them all.
    """

    shots: int
    probe: float
    probe_spread: float
    blend: float
    blend_spread: float
    short: int


@dataclass(frozen=True, slots=True)
class FewShot:
    """The few-shot curve, with ``zero_shot`` as its start; ``draws``: training sets drawn at each point."""

    zero_shot: float
    draws: int
    points: list[Shots]


def fit(train: Labelled, c: float) -> Any:
    """Logistic regression; ``c`` as in scikit-learn, larger is freer. Raises ``CorpusError`` for a single class."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train.labels)) < 2:
        raise CorpusError("a linear probe needs training images of at least two classes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few images a class, and 1,000 rounds, are the protocol
        return LogisticRegression(C=c, max_iter=ROUNDS).fit(train.images, train.labels)


def sweep_c(train: Labelled, validation: Labelled) -> dict[float, float]:
    """C -> validation accuracy: decades first, then twice nearer around the best, as CLIP's paper searches.

    Where several C are equally right, the search goes on around the smallest.
    """
    found: dict[float, float] = {}

    def try_all(exponents: Sequence[float]) -> None:
        for exponent in exponents:
            c = float(10.0**exponent)
            if c not in found:
                found[c] = _accuracy(fit(train, c).predict(validation.images), validation.labels)

    try_all((-1, 1, 3))
    for step in (1.0, 0.5):
        at = float(np.log10(best_c(found)))
        try_all((round(at - step, 1), round(at + step, 1)))
    return dict(sorted(found.items()))


def best_c(sweep: dict[float, float]) -> float:
    """The C with the highest accuracy; the smallest of equals."""
    return min(sweep, key=lambda c: (-sweep[c], c))


def linear_probe(
    train: Labelled, validation: Labelled | None, test: Labelled, resamples: int = 1000, seed: int = 0
) -> LinearProbe:
    """Sweep C on ``validation``, fit on both and measure on ``test``.

    Without ``validation``, a fifth of each training class is held out for the sweep. Raises ``CorpusError`` when the
    training images are of one class.
    """
    known, kept = train, validation
    if kept is None or not len(kept):
        held, rest = _held_out(train.labels, 0.2, np.random.default_rng(seed))
        known, kept = train.take(rest), train.take(held)
        if not len(kept) or len(np.unique(known.labels)) < 2:
            known, kept = train, train  # too few images to hold any out
    sweep = sweep_c(known, kept)
    whole = train if validation is None else train.joined(validation)
    chosen = best_c(sweep)
    right = fit(whole, chosen).predict(test.images) == test.labels
    return LinearProbe(
        accuracy=figures({"accuracy": right.astype(float)}, None, resamples, seed)["accuracy"],
        c=chosen,
        sweep=sweep,
        train_images=len(whole),
        test_images=len(test),
        unseen=len(np.setdiff1d(test.labels, whole.labels)),
    )


def few_shot(
    train: Labelled,
    test: Labelled,
    prompts: Embeddings,
    shots: Sequence[int] = SHOTS,
    draws: int = 5,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> FewShot:
    """The few-shot curve: ``shots`` training images of each class, drawn ``draws`` times.

    C is swept on further min(shots, 4) images a class, where there are any (CoOp's protocol, Zhou et al. 2022), so that
    no large validation split helps a small training set. ``prompts`` (C, D): the class embeddings.
    """
    points = []
    for k in shots:
        progress(f"few-shot: {k}")
        results = [_draw(train, test, prompts, k, np.random.default_rng([seed, k, draw])) for draw in range(draws)]
        probe, blend = np.array(results).T
        sizes = np.bincount(train.labels, minlength=len(prompts))
        short = int(((sizes > 0) & (sizes < k)).sum())
        points.append(Shots(k, *_mean_and_spread(probe), *_mean_and_spread(blend), short))
    start = _accuracy((test.images @ prompts.T).argmax(axis=1), test.labels)
    return FewShot(start, draws, points)


def blend_weights(images: Labelled, prompts: Embeddings) -> Embeddings:
    """(C, D) unit norm: the mean of each class's prompt and of its images' prototype; without images the prompt."""
    weights = prompts.copy()
    for label in np.unique(images.labels):
        prototype = average(images.images[images.labels == label][:, None])
        weights[label] = average(np.stack([prompts[label], prototype[0]])[:, None])[0]
    return weights


def _draw(
    train: Labelled, test: Labelled, prompts: Embeddings, shots: int, generator: np.random.Generator
) -> tuple[float, float]:
    chosen, further = [], []
    for label in np.unique(train.labels):
        rows = generator.permutation(np.flatnonzero(train.labels == label))
        chosen.append(rows[:shots])
        further.append(rows[shots : shots + min(shots, 4)])
    known, kept = train.take(np.concatenate(chosen)), train.take(np.concatenate(further))
    c = (
        best_c({c: _accuracy(fit(known, c).predict(kept.images), kept.labels) for c in (1.0, 10.0, 100.0)})
        if len(kept)
        else 10.0
    )
    probe = _accuracy(fit(known, c).predict(test.images), test.labels)
    blend = _accuracy((test.images @ blend_weights(known, prompts).T).argmax(axis=1), test.labels)
    return probe, blend


def _held_out(labels: Labels, share: float, generator: np.random.Generator) -> tuple[Labels, Labels]:
    held = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held.append(rows[: int(len(rows) * share)])
    rows = np.sort(np.concatenate(held)).astype(np.int64)
    return rows, np.setdiff1d(np.arange(len(labels)), rows)


def _accuracy(predicted: NDArray[Any], labels: Labels) -> float:
    return float((predicted == labels).mean()) if len(labels) else 0.0


def _mean_and_spread(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
