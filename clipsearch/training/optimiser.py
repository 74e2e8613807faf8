"""The optimiser with the field's parameter groups, and a learning rate that follows the share of the run that is done.

Each group has an ``lr_scale``, its factor on the run's learning rate, which layer-wise decay sets.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clipsearch.training.muon import build_muon
from clipsearch.training.parameters import layer_scales

if TYPE_CHECKING:
    from clipsearch.training.options import TrainOptions

ADAFACTOR_EPS = (1e-16, 1e-3)
"""torch's own default for the first, 1e-7, is above the squares of CLIP's gradients; the paper's 1e-30, squared, is
zero in float32, which makes NaN of the rows of tokens that a batch does not have."""

_UNDECAYED_EMBEDDING = re.compile(r"(^|\.)(position_embeddings?|class_embedding|cls_token|pos_embed)(\.|$)")


def build_optimiser(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW as CLIP was trained with (betas .9 and .98, eps 1e-6), Adafactor or Muon, over all that is trained.

    Adafactor (Shazeer and Stern 2018) keeps the row and column means of squared gradients alone, and its learning
    rate is relative to the size of each parameter: 1e-3 there moves weights about as AdamW at 1e-5 moves those of CLIP.
    """
    groups = parameter_groups(model, options.weight_decay, options.layer_decay)
    optimiser: torch.optim.Optimizer
    if options.optimiser == "muon":
        optimiser = build_muon(model, groups, options.learning_rate)
    elif options.optimiser == "adafactor":
        optimiser = torch.optim.Adafactor(groups, lr=options.learning_rate, eps=ADAFACTOR_EPS)
    else:
        optimiser = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
    set_learning_rate(optimiser, options.learning_rate)
    return optimiser


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups by ``lr_scale`` and decay, each trained parameter in one of them, the largest scale first.

    As in open_clip, neither parameters with fewer than two dimensions decay (biases, norms, the temperature) nor
    position and class embeddings; token embeddings do. Each group: ``params``, ``weight_decay``, ``lr_scale``.
    """
    scales = layer_scales([name for name, _ in model.named_parameters()], layer_decay)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not _UNDECAYED_EMBEDDING.search(name)
            new = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scales[name]}
            groups.setdefault((-scales[name], not decays), new)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def learning_rate_factor(step: int, warmup_steps: int, progress: float) -> float:
    """Linear warm-up over ``warmup_steps``, under a cosine to zero over ``progress``, the done share of the run.

    The warm-up counts steps even where the run is bounded by time: a slow machine would otherwise be at the full rate
    after a handful of steps, which a new model does not survive.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return cosine * min(1.0, (step + 1) / max(1, warmup_steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group this learning rate times its own ``lr_scale``."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)
