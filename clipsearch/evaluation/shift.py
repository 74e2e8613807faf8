"""Inside and outside the domain: the curve between a start model and the one fine-tuned from it.

Effective robustness (Taori et al. 2020, arXiv 2007.00644) is accuracy under shift above what accuracy in the domain
lets expect; what to expect is a line on logit axes. Here the line goes through the curve's two ends, so that a mixture
above it keeps more of the outside than a model of the same accuracy inside would (Wortsman et al. 2021, arXiv
2109.01903).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clipsearch.clip.interpolate import load_mixture, snapshot
from clipsearch.errors import CorpusError
from clipsearch.evaluation.embedding import ALL, Pixels, embed_split
from clipsearch.evaluation.figures import Figure
from clipsearch.evaluation.scoring import headline_of

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.corpora import Corpus
    from clipsearch.prompts import Prompts

Store = Pixels | None

ALPHAS = tuple(step / 10 for step in range(11))
OOD_LOSS = 1.0
_ROUNDING = 1e-9

KEPT_BYTES = 2 << 30
"""Decoded images of one target that are kept for all mixtures; larger targets are decoded for each."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a model is measured on: a split of a corpus (``all``: every split), and the prompts, None for its own."""

    corpus: Corpus
    split: str
    prompts: Prompts | None = None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One mixture: ``alpha`` 0 is the start model and 1 the tuned one; ``outside`` and ``robustness`` by corpus name.

    ``robustness``: accuracy outside above the line through the curve's ends, in [-1, 1]; None where the ends are
    equally good inside, so that there is no line.
    """

    alpha: float
    inside: Figure
    outside: dict[str, Figure]
    robustness: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """``points`` in order of alpha; ``best_alpha``: the best inside of those that lose at most ``ood_loss`` points of
    each corpus outside against the start. Choose by a curve on validation, not on the images that are reported."""

    start_id: str
    measure: str
    inside: str
    split: str
    ood_loss: float
    best_alpha: float
    points: list[CurvePoint]


def line_through(inside: Sequence[float], outside: Sequence[float]) -> tuple[float, float] | None:
    """(slope, intercept) of the least-squares line on logit axes; None where all of ``inside`` are equal."""
    if np.ptp(np.asarray(inside)) < _ROUNDING:
        return None
    slope, intercept = np.polyfit(_logit(inside), _logit(outside), 1)
    return float(slope), float(intercept)


def effective_robustness(inside: float, outside: float, line: tuple[float, float]) -> float:
    """Accuracy outside minus what ``line`` expects of a model with this accuracy inside."""
    slope, intercept = line
    return float(outside - 1 / (1 + np.exp(-(slope * _logit([inside])[0] + intercept))))


def interpolation(
    start: Clip,
    tuned: Clip,
    inside: Target,
    outside: Sequence[Target],
    alphas: Sequence[float] = ALPHAS,
    ood_loss: float = OOD_LOSS,
    resamples: int = 1000,
    seed: int = 0,
    quiet: bool = True,
) -> Curve:
    """Measure the mixtures of both models' weights; ``tuned`` has its own weights again afterwards.

    Raises ``CheckpointError`` when the models are of two architectures, ``CorpusError`` for a corpus without labels and
    captions.
    """
    ends = snapshot(start.model), snapshot(tuned.model)
    measured: list[tuple[float, Figure, dict[str, Figure]]] = []
    names = names_apart(outside)
    measure = ""
    targets = [(each, _store(tuned, each)) for each in (inside, *outside)]
    try:
        for alpha in tqdm(alphas, desc="interpolate", leave=False, disable=quiet):
            load_mixture(tuned.model, *ends, alpha)
            measure, figure = _headline(tuned, *targets[0], resamples, seed)
            others = {
                name: _headline(tuned, *each, resamples, seed)[1] for name, each in zip(names, targets[1:], strict=True)
            }
            measured.append((alpha, figure, others))
    finally:
        tuned.model.load_state_dict(ends[1])
    lines = {
        name: line_through(
            [measured[0][1].value, measured[-1][1].value],
            [measured[0][2][name].value, measured[-1][2][name].value],
        )
        for name in names
    }
    points = [
        CurvePoint(alpha, figure, others, {name: _robustness(figure, others[name], lines[name]) for name in names})
        for alpha, figure, others in measured
    ]
    best = _best(points, ood_loss)
    return Curve(start.model_id, measure, inside.corpus.name, inside.split, ood_loss, best, points)


def _best(points: Sequence[CurvePoint], ood_loss: float) -> float:
    start = points[0].outside
    allowed = [
        point
        for point in points
        if all(start[name].value - point.outside[name].value <= ood_loss / 100 + _ROUNDING for name in start)
    ]
    return max(allowed, key=lambda point: (point.inside.value, -point.alpha)).alpha


def _robustness(inside: Figure, outside: Figure, line: tuple[float, float] | None) -> float | None:
    return None if line is None else round(effective_robustness(inside.value, outside.value, line), 6)


def _headline(clip: Clip, target: Target, kept: Store, resamples: int, seed: int) -> tuple[str, Figure]:
    corpus, split = target.corpus, target.split
    labelled = any(record.label in corpus.classes for record in corpus.records if split in (ALL, record.split))
    embedded = embed_split(clip, corpus, split, labelled=labelled, kept=kept)
    found = headline_of(clip, corpus, embedded, target.prompts, resamples, seed)
    if found is None:
        raise CorpusError(
            f"{corpus.root} has neither class labels nor captions in its {split} split: nothing to measure"
        )
    return found


def _store(clip: Clip, target: Target) -> Store:
    """Where decoded images are kept; None where there are too many."""
    images = sum(target.split in (ALL, record.split) for record in target.corpus.records)
    return {} if images * 3 * clip.image_size**2 <= KEPT_BYTES else None


def names_apart(targets: Sequence[Target]) -> list[str]:
    """The corpora's names, numbered where two are the same."""
    names: list[str] = []
    for target in targets:
        name, number = target.corpus.name, 2
        while name in names:
            name, number = f"{target.corpus.name}-{number}", number + 1
        names.append(name)
    return names


def _logit(values: Sequence[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    bounded = np.clip(np.asarray(values, np.float64), 1e-4, 1 - 1e-4)
    return np.log(bounded / (1 - bounded))
