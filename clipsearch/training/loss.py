"""The contrastive losses: CLIP's own, with several positives a row, and SigLIP's; the temperature learned and clamped.

All take unit vectors of a whole batch and compute the logits in float32 at least, whatever the towers ran in: a logit
is a cosine times up to 100, and bf16 would round it to steps of a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOSSES = ("clip", "multi-positive", "siglip")
MAX_LOGIT_SCALE = math.log(100)
"""CLIP's own bound: beyond it training turned unstable."""


def batch_loss(
    kind: str, images: Tensor, texts: Tensor, logit_scale: Tensor, groups: Sequence[int], bias: Tensor | None = None
) -> Tensor:
    """The loss ``kind``, one of ``LOSSES``, over all pairs of a batch; a scalar.

    ``images`` and ``texts``: (B, D) unit norm, row i of one belongs to row i of the other. ``groups``: B numbers; rows
    of one group are positives of each other, which ``clip`` ignores. ``bias``: a scalar, only for ``siglip``.
    """
    with torch.autocast(images.device.type, enabled=False):
        if kind == "clip":
            return contrastive_loss(images, texts, logit_scale)
        positive = same_group(groups, images.device)
        if kind == "multi-positive":
            return multi_positive_loss(images, texts, logit_scale, positive)
        if kind == "siglip":
            return siglip_loss(
                images, texts, logit_scale, torch.zeros_like(logit_scale) if bias is None else bias, positive
            )
    raise ValueError(f"there is no loss {kind!r}: choose one of {', '.join(LOSSES)}")


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over all pairs of a batch (Radford et al. 2021).

    ``images`` and ``texts``: (B, D) unit norm, row i of one belongs to row i of the other; ``logit_scale``: the
    logarithm of the inverse temperature, a scalar. Returns a scalar, log(B) for a model that knows nothing.
    """
    logits = scaled_cosines(images, texts, logit_scale)  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def multi_positive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, positive: Tensor) -> Tensor:
    """Symmetric cross-entropy whose target mass a row's positives share equally, in both directions.

    ``positive``: (B, B) bool, symmetric, true on the diagonal. Supervised contrastive learning (Khosla et al. 2020,
    the sum outside the logarithm) between modalities, as UniCL has it (Yang et al. 2022). Equal to
    ``contrastive_loss`` where no group repeats.
    """
    logits = scaled_cosines(images, texts, logit_scale)  # (B, B)
    target = positive.to(logits.dtype) / positive.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, bias: Tensor, positive: Tensor) -> Tensor:
    """Each pair a yes-or-no question of its own, summed over pairs and divided by B (Zhai et al. 2023).

    ``bias``: a learned scalar that is added to all logits; ``positive``: (B, B) bool.
    """
    logits = scaled_cosines(images, texts, logit_scale) + bias
    return F.softplus(torch.where(positive, -logits, logits)).sum() / len(logits)


@torch.no_grad()
def calibrated_bias(images: Tensor, texts: Tensor, logit_scale: Tensor, positive: Tensor) -> float:
    """The bias at which ``siglip_loss`` of this batch is least: where the expected positives are as many as there are.

    The paper starts at -10, about the logarithm of the share of positives in its batches of 32,768 for a new model;
    for another batch size, or a start model whose temperature was tuned for softmax, that is far off. Bisection.
    """
    logits = scaled_cosines(images, texts, logit_scale).double()
    wanted = int(positive.sum())
    low, high = -300.0, 300.0  # logits lie within 100
    for _ in range(60):
        middle = (low + high) / 2
        if float(torch.sigmoid(logits + middle).sum()) > wanted:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def scaled_cosines(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """(B, B) logits, float32 or wider: exp of the clamped ``logit_scale`` times the cosines."""
    if images.dtype in (torch.float16, torch.bfloat16):
        images, texts = images.float(), texts.float()
    return logit_scale.to(images.dtype).clamp(max=MAX_LOGIT_SCALE).exp() * images @ texts.T


def same_group(groups: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(B, B) bool: whether two rows are of one group."""
    numbers = torch.as_tensor(groups, dtype=torch.int64, device=device)
    return numbers[:, None] == numbers[None, :]


def clamp_logit_scale(parameter: nn.Parameter) -> None:
    """Keep the learned logit scale in [0, log 100], in place; after each optimiser step."""
    with torch.no_grad():
        parameter.clamp_(0.0, MAX_LOGIT_SCALE)
