"""Muon for convolutions (Jordan et al. 2024), AdamW for everything else, in one optimiser.

A convolution's update is its momentum with all singular values brought to about 1, so that every direction of the
filter bank learns at the same pace. A convolution that batch norm follows has no scale of its own, so its norm is held
fixed and the rate is relative to it. In the same time the tiny preset learns far more than under AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clipsearch.errors import InputError
from clipsearch.training.precision import native_bf16

RATE_SCALE = 64.0
"""The convolutions' rate over the rest's: 1.5e-3 for AdamW's parameters makes about 0.1, a tenth of the norm a step."""

MOMENTUM = 0.6
BETAS, EPS = (0.9, 0.98), 1e-6
ROUNDS = 4
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5 that, repeated, brings singular values from (0, 1] near 1 (Jordan et al. 2024)."""


def muon_weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> weight of the trained convolutions without bias (a norm follows them) that read feature maps.

    A convolution that reads pixels has so few inputs that turning all directions alike would follow noise.
    """
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.bias is None
        and module.groups == 1
        and module.in_channels > 4
        and module.weight.requires_grad
    }


class Muon(torch.optim.Optimizer):
    """Groups with ``muon`` true hold (O, I, h, w) weights; the others are AdamW's. All have ``lr`` and ``lr_scale``."""

    def __init__(self, groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
        super().__init__(groups, {"lr": learning_rate, "weight_decay": 0.0, "muon": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure that returns a loss
        """One step on the gradients that are there."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                for parameter in trained:
                    self._turn(parameter, group["lr"])
            elif trained:
                self._adamw(trained, group["lr"], group["weight_decay"])

    def _turn(self, weight: Tensor, rate: float) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
        update = orthogonalised(gradient.add(momentum, alpha=MOMENTUM).flatten(1)).view_as(weight)  # Nesterov's
        weight.mul_(len(weight) ** 0.5 / weight.norm().clamp_min(1e-7)).sub_(update, alpha=rate)

    def _adamw(self, weights: list[Any], rate: float, decay: float) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        gradients = [weight.grad for weight in weights]
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        if decay:
            torch._foreach_mul_(weights, 1 - rate * decay)
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - BETAS[1])
        for state in states:
            state["step"] += 1
        steps = [float(state["step"]) for state in states]
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - BETAS[1] ** step) ** 0.5 for step in steps])
        torch._foreach_add_(roots, EPS)
        torch._foreach_addcdiv_(weights, means, roots, [-rate / (1 - BETAS[0] ** step) for step in steps])


def orthogonalised(matrix: Tensor) -> Tensor:
    """(R, C) -> (R, C) of the same singular vectors, singular values between about 0.7 and 1.2."""
    on_cpu = matrix.device.type == "cpu"
    x = matrix.to(torch.bfloat16 if not on_cpu or native_bf16() else torch.float32)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    update: Tensor = x.T if tall else x
    return update.to(matrix.dtype)


def build_muon(model: nn.Module, groups: Iterable[dict[str, Any]], learning_rate: float) -> Muon:
    """``Muon`` over AdamW's ``groups``, with the convolutions taken out of them into groups of their own.

    Raises ``InputError`` for a model without such convolutions.
    """
    turned = {id(weight) for weight in muon_weights(model).values()}
    if not turned:
        raise InputError("--optimiser muon is for towers of convolutions, and this model has none: use adamw")
    split: list[dict[str, Any]] = []
    for group in groups:
        ours = [p for p in group["params"] if id(p) in turned]
        rest = [p for p in group["params"] if id(p) not in turned]
        if ours:
            scale = RATE_SCALE * group["lr_scale"]
            split.append({**group, "params": ours, "weight_decay": 0.0, "lr_scale": scale, "muon": True})
        if rest:
            split.append({**group, "params": rest, "muon": False})
    return Muon(split, learning_rate)
