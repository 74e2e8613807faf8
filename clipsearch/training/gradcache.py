"""Gradient caching (Gao et al. 2021): exact gradients of a batch whose activations do not fit into memory at once.

A contrastive loss needs all features of a batch, but of the towers only features. So: embed part after part without
keeping activations; take the loss over all features and its gradient with respect to each; then embed part after part
again, this time with activations, and push the kept gradients through. Peak memory is that of one part, the price one
more forward pass. Dropout draws the same masks both times.

Layers that look across rows see only one part. Batch norm is the one such layer here: with parts it normalises by the
statistics of a part ("ghost batch norm", Hoffer et al. 2017), in both passes alike, so that gradients are exact for
that function, which is not the function of the whole batch. Running statistics are updated once, in the second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Rows = NDArray[np.int64]
Embed = Callable[[Rows], Tensor]


@dataclass(frozen=True, slots=True)
class Tower:
    """``embed``: rows (n,) of the batch to features (n, D); ``parts``: the rows of each part, together all B rows."""

    embed: Embed
    parts: Sequence[Rows]

    def features(self) -> Tensor:
        """(B, D) in the order of rows, with gradients."""
        return self.in_order([self.embed(part) for part in self.parts])

    def in_order(self, features: Sequence[Tensor]) -> Tensor:
        """The parts' features as (B, D) in the order of rows."""
        if len(features) == 1 and (np.diff(self.parts[0]) == 1).all():
            return features[0]
        order = np.argsort(np.concatenate(self.parts), kind="stable")
        return torch.cat(list(features))[torch.from_numpy(order).to(features[0].device)]


class CachedTower:
    """A tower's features without activations, and all that is needed to embed again with them.

    ``features``: (B, D), a leaf that collects the loss's gradient.
    """

    def __init__(self, tower: Tower, model: nn.Module, device: torch.device) -> None:
        self.tower = tower
        self.device = device
        self.states: list[list[Tensor]] = []
        parts = []
        with torch.no_grad(), untracked(model):
            for part in tower.parts:
                self.states.append(generator_states(device))
                parts.append(tower.embed(part))
        self.features = tower.in_order(parts).detach().requires_grad_()

    def backward(self) -> None:
        """Push the gradient that ``features`` collected through the tower, part by part."""
        gradient = self.features.grad
        if gradient is None:
            return
        for part, state in zip(self.tower.parts, self.states, strict=True):
            with replayed(state, self.device):
                features = self.tower.embed(part)
            if not features.requires_grad:
                return  # a frozen tower
            features.backward(gradient[torch.from_numpy(part).to(gradient.device)])  # type: ignore[no-untyped-call]


def generator_states(device: torch.device) -> list[Tensor]:
    """The states of the generators that dropout on ``device`` may draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_generator_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Put the generators back to where ``generator_states`` found them."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def replayed(states: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Draw from ``states`` inside, and go on outside as if nothing had been drawn."""
    before = generator_states(device)
    set_generator_states(states, device)
    try:
        yield
    finally:
        set_generator_states(before, device)


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Batch norm inside uses its batch as in training, but leaves its running statistics alone."""
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
