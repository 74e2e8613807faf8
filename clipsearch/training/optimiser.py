"""AdamW with the field's parameter groups, and a learning rate that follows the share of the run that is done."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def build_optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW as CLIP was trained with; biases, norms and the logit scale (fewer than 2 dimensions) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: Iterable[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def learning_rate_factor(step: int, warmup_steps: int, progress: float) -> float:
    """Linear warm-up over ``warmup_steps``, under a cosine to zero over ``progress``, the done share of the run.

    The warm-up counts steps even where the run is bounded by time: a slow machine would otherwise be at the full rate
    after a handful of steps, which a new model does not survive.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return cosine * min(1.0, (step + 1) / max(1, warmup_steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
