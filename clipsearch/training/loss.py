"""The contrastive loss of CLIP (Radford et al. 2021) with its learned, clamped temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_LOGIT_SCALE = math.log(100)
"""CLIP's own bound: beyond it training turned unstable."""


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over all pairs of a batch.

    ``images`` and ``texts``: (B, D) unit norm, row i of one belongs to row i of the other; ``logit_scale``: the
    logarithm of the inverse temperature, a scalar. Returns a scalar, log(B) for a model that knows nothing.
    """
    logits = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * images @ texts.T  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def clamp_logit_scale(parameter: nn.Parameter) -> None:
    """Keep the learned logit scale in [0, log 100], in place; after each optimiser step."""
    with torch.no_grad():
        parameter.clamp_(0.0, MAX_LOGIT_SCALE)
