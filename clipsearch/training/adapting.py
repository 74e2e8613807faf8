"""Make a residual adapter from stored embeddings alone, in about a second, without losing what the model knew.

What decides is not the training but where it stops: on real CLIP embeddings 300 plain steps took seen classes from .83
to .99 and unseen ones from .79 to .36. A penalty on the distance from the given embeddings and an early end were not
enough: the names learned kept drawing images of other classes. So classes are adapted to in closed form, by moving
only images that are like a class's own (``gating.py``). Captions have no such keys; there a bottleneck on both towers
is trained, with that penalty.

For both, how much of the adapter is applied (``alpha``; and for captions how many steps it trains) is chosen by leaving
groups out in turn (classes, or clusters of images where there are no labels): among the choices by which the groups
left out lose at most ``loss`` points, the smallest alpha with a given share of the most that is won on held-out images
of groups trained on. All folds and the final adapter of captions are trained side by side, in batched matrix products.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clipsearch.adapter import Adapter, Tower, Vectors, unit
from clipsearch.errors import InputError
from clipsearch.training.gating import fit_gate
from clipsearch.training.pairs import Fold, Integers, Pairs, make_folds, quality

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
SHARE = {"captions": 0.8, "classes": 0.95}  # trained towers lose most for the last points won; gated ones do not
CLASS_FOLDS = 12
NOISE = 0.2  # points; less is no reason to train on


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """``loss``: points that left-out groups may lose; ``alpha``: 0 chooses it; ``held``: images of each kind that a
    fold measures on, at most.

    For captions: ``rank``, the width of the bottleneck; ``steps``, at most; ``identity``, weight of the penalty on the
    squared distance from the given embeddings; ``folds``; ``every``, steps between measurements; ``patience``,
    measurements without a better choice after which training stops. For classes ``threshold``, ``margin`` and
    ``shrinkage`` of ``gating.fit_gate``; the defaults come from draws of WHU-RS19's classes on CLIP's embeddings.
    """

    rank: int = 64
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 1e-3
    identity: float = 50.0
    logit_scale: float = 100.0
    folds: int = 4
    loss: float = 1.0
    alpha: float = 0.0
    every: int = 20
    patience: int = 2
    held: int = 512
    seed: int = 0
    threshold: float = 0.7
    margin: float = 0.04
    shrinkage: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch_size", "every", "patience", "held"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.folds < 2 or not 0 <= self.alpha <= 1 or self.loss < 0:
            raise InputError("folds must be at least 2, alpha between 0 and 1, loss 0 or more")
        if not 0 <= self.threshold < 1 or self.margin <= 0 or self.shrinkage <= 0:
            raise InputError("threshold must be 0 or more and below 1, margin and shrinkage above 0")


@dataclass(frozen=True, slots=True)
class Choice:
    """One measurement over all folds: quality in [0, 1] before and after, on held-out images of groups trained on
    (``seen``), and on images of groups left out."""

    step: int
    alpha: float
    seen_before: float
    seen: float
    left_out_before: float
    left_out: float

    @property
    def gain(self) -> float:
        """Points won on the groups trained on."""
        return 100 * (self.seen - self.seen_before)

    @property
    def change(self) -> float:
        """Points won (or lost, below 0) on the groups left out."""
        return 100 * (self.left_out - self.left_out_before)


@dataclass(frozen=True, slots=True)
class Adapted:
    """The ``adapter``; the ``choice`` that made it, among ``choices``; steps trained; seconds of wall clock."""

    adapter: Adapter
    choice: Choice
    choices: list[Choice] = field(repr=False)
    steps: int
    seconds: float


def fit_adapter(pairs: Pairs, base: str, options: AdaptOptions | None = None) -> Adapted:
    """Make an adapter from embeddings of the model ``base``; captions cost 8 ms a step on one core at 512 dimensions.

    Where no choice keeps what is left out, the result's ``alpha`` is 0, and it changes nothing.
    """
    options = options or AdaptOptions()
    started = time.perf_counter()
    (image, text), judge, choice, steps = (_fit_classes if pairs.classes else _train)(pairs, options)
    about = {
        "options": asdict(options),
        "choice": asdict(choice),
        "images": len(pairs.images),
        "texts": len(pairs.texts),
    }
    adapter = Adapter(base, image, text, choice.alpha, about)
    return Adapted(adapter, choice, judge.choices, steps, time.perf_counter() - started)


def _fit_classes(pairs: Pairs, options: AdaptOptions) -> _Fitted:
    """Gates in closed form, one class left out of each fold (where there are many, some)."""
    names, owners = np.unique(pairs.text_groups, return_inverse=True)
    centres = unit(np.stack([pairs.texts[owners == number].mean(axis=0) for number in range(len(names))]))
    pairs = replace(pairs, texts=centres, text_groups=names)
    labels = np.searchsorted(names, pairs.image_groups)
    nothing = Tower.empty(pairs.images.shape[1])

    def towers(rows: Integers) -> tuple[Tower, Tower]:
        shape = options.threshold, options.margin, options.shrinkage
        return fit_gate(pairs.images[rows], labels[rows], centres, *shape), nothing

    folds = make_folds(pairs, CLASS_FOLDS, options.held, options.seed)
    judge = _Judge(pairs, folds, options)
    judge.measure(0, [towers(fold.train) for fold in folds])
    return towers(np.arange(len(labels))), judge, judge.choose(), 0


def _train(pairs: Pairs, options: AdaptOptions) -> _Fitted:
    """Bottlenecks on both towers, trained until the folds win no more."""
    folds = make_folds(pairs, options.folds, options.held, options.seed)
    trainer = _Trainer(pairs, [*(fold.train for fold in folds), np.arange(len(pairs.images))], options)
    judge = _Judge(pairs, folds, options)
    kept = {0: trainer.towers(-1)}
    best, waited, step = 0.0, 0, 0
    while step < options.steps and waited < options.patience:
        step += 1
        trainer.step()
        if step % options.every == 0 or step == options.steps:
            gain = judge.measure(step, [trainer.towers(number) for number in range(len(folds))])
            kept[step] = trainer.towers(-1)
            waited = 0 if gain > best + NOISE else waited + 1
            best = max(best, gain)
    choice = judge.choose()
    return kept[choice.step], judge, choice, step


class _Judge:
    """Measures the folds' adapters, and applies the rule."""

    def __init__(self, pairs: Pairs, folds: list[Fold], options: AdaptOptions) -> None:
        self._pairs = pairs
        self._folds = folds
        self._options = options
        self._left_out = np.concatenate([fold.left_out for fold in folds])
        values = [quality(pairs, fold, pairs.images[fold.rows], pairs.texts[fold.texts]) for fold in folds]
        seen, left_out = self._means(values)
        self.before = Choice(0, 0.0, seen, seen, left_out, left_out)
        self.choices = [self.before]

    def measure(self, step: int, towers: list[tuple[Tower, Tower]]) -> float:
        """Measure the folds' adapters at each alpha; returns the most points that an allowed one wins."""
        alphas = (self._options.alpha,) if self._options.alpha else ALPHAS
        values: dict[float, list[NDArray[np.float64]]] = {alpha: [] for alpha in alphas}
        for fold, (image, text) in zip(self._folds, towers, strict=True):
            images, texts = self._pairs.images[fold.rows], self._pairs.texts[fold.texts]
            new_images, new_texts = image(images, 1.0), text(texts, 1.0)
            for alpha in alphas:
                mixed = _mix(images, new_images, alpha), _mix(texts, new_texts, alpha)
                values[alpha].append(quality(self._pairs, fold, *mixed))
        measured = [self._choice(step, alpha, values[alpha]) for alpha in alphas]
        self.choices += measured
        return max((choice.gain for choice in measured if self._allowed(choice)), default=0.0)

    def choose(self) -> Choice:
        """The smallest alpha, and then the fewest steps, with ``SHARE`` of the most that an allowed choice wins.

        An alpha that was given is taken as it is.
        """
        allowed = [choice for choice in self.choices if self._allowed(choice)]
        enough = SHARE["classes" if self._pairs.classes else "captions"] * max(choice.gain for choice in allowed)
        return min((c for c in allowed if c.gain >= enough), key=lambda choice: (choice.alpha, choice.step))

    def _allowed(self, choice: Choice) -> bool:
        if self._options.alpha:
            return choice.alpha > 0
        return choice.change >= -self._options.loss

    def _choice(self, step: int, alpha: float, values: list[NDArray[np.float64]]) -> Choice:
        seen, left_out = self._means(values)
        return Choice(step, alpha, self.before.seen, seen, self.before.left_out, left_out)

    def _means(self, values: list[NDArray[np.float64]]) -> tuple[float, float]:
        every = np.concatenate(values)
        return float(every[~self._left_out].mean()), float(every[self._left_out].mean())


_Fitted: TypeAlias = tuple[tuple[Tower, Tower], _Judge, Choice, int]  # image and text tower; steps trained


class _Trainer:
    """K adapters on K sets of image rows, trained side by side: every array has the adapter as its first axis."""

    def __init__(self, pairs: Pairs, sets: list[Integers], options: AdaptOptions) -> None:
        self._options = options
        self._sets = sets
        self._random = np.random.default_rng(options.seed)
        self._images, self._texts = torch.from_numpy(pairs.images), torch.from_numpy(pairs.texts)
        self._groups = pairs.image_groups
        self._by_group = np.argsort(pairs.text_groups, kind="stable")
        sorted_groups = pairs.text_groups[self._by_group]
        self._first = np.searchsorted(sorted_groups, self._groups)  # (N,) where an image's texts begin
        self._count = np.searchsorted(sorted_groups, self._groups, side="right") - self._first
        _, distinct = np.unique(pairs.texts, axis=0, return_inverse=True)
        self._same_text = distinct.reshape(-1)  # one caption of many images: each is right for all of them
        generator = torch.Generator().manual_seed(options.seed)
        size, count = self._images.shape[1], len(sets)
        shape = (size, options.rank)
        self._down = [_parameter(torch.randn(shape, generator=generator) / size**0.5, count) for _ in range(2)]
        self._up = [_parameter(torch.zeros(options.rank, size), count) for _ in range(2)]
        self._weights = [*self._down, *self._up]
        self._moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in self._weights]
        self._taken = 0

    def step(self) -> None:
        """One step of every adapter on a batch of its own."""
        rows = np.stack([self._random.choice(part, self._options.batch_size) for part in self._sets])
        picked = self._first[rows] + (self._random.random(rows.shape) * self._count[rows]).astype(np.int64)
        chosen = self._by_group[picked]
        positive = self._groups[rows][:, :, None] == self._groups[rows][:, None, :]
        positive |= self._same_text[chosen][:, :, None] == self._same_text[chosen][:, None, :]
        loss = self._loss(self._images[rows], self._texts[chosen], torch.from_numpy(positive))
        self._adam(torch.autograd.grad(loss, self._weights))

    @torch.no_grad()
    def _adam(self, gradients: Sequence[Tensor]) -> None:
        """Adam (Kingma & Ba 2015) by hand: the first ``torch.optim`` object of a process takes a second to import."""
        self._taken += 1
        rate = self._options.learning_rate * (1 - 0.999**self._taken) ** 0.5 / (1 - 0.9**self._taken)
        for weight, gradient, (mean, square) in zip(self._weights, gradients, self._moments, strict=True):
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            weight.addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate)

    def towers(self, number: int) -> tuple[Tower, Tower]:
        """(image, text) of one adapter as it stands; copies."""
        return tuple(
            Tower(down[number].detach().numpy().copy(), up[number].detach().numpy().copy())
            for down, up in zip(self._down, self._up, strict=True)
        )  # type: ignore[return-value]

    def _loss(self, images: Tensor, texts: Tensor, positive: Tensor) -> Tensor:
        """Multi-positive contrastive loss of each adapter, summed over adapters; images, texts (K, B, D)."""
        new_images = F.normalize(images + torch.relu(images @ self._down[0]) @ self._up[0], dim=2)
        new_texts = F.normalize(texts + torch.relu(texts @ self._down[1]) @ self._up[1], dim=2)
        logits = self._options.logit_scale * new_images @ new_texts.transpose(1, 2)  # (K, B, B)
        targets = positive / positive.sum(dim=2, keepdim=True)
        contrast = -(targets * (logits.log_softmax(dim=2) + logits.transpose(1, 2).log_softmax(dim=2))).sum(dim=(1, 2))
        moved = (new_images - images).square().sum(dim=(1, 2)) + (new_texts - texts).square().sum(dim=(1, 2))
        return (contrast + self._options.identity * moved).sum() / images.shape[1]


def _parameter(start: Tensor, count: int) -> Tensor:
    return start.repeat(count, 1, 1).requires_grad_()


def _mix(given: Vectors, adapted: Vectors, alpha: float) -> Vectors:
    return unit((1 - alpha) * given + alpha * adapted)
