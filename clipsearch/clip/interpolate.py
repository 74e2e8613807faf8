"""Weights between two models of one architecture: WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903).

A fine-tuned CLIP and the model that it started from lie in one basin, and on the line between them in-domain quality
is gained before out-of-domain quality is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clipsearch.errors import CheckpointError

Weights = Mapping[str, Tensor]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers on the CPU, by name: what ``mix`` takes."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def mix(start: Weights, tuned: Weights, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * tuned, by name; alpha in [0, 1], and beyond to extrapolate.

    At 0 and 1 the result equals one of the models bit for bit, and so does each tensor that is the same in both. Batch
    norm's running statistics are mixed like weights; integer buffers are those of ``tuned``. The logit scale is a
    logarithm, so that the temperature's mean is the geometric one. Raises ``CheckpointError`` when names or shapes
    differ: the models are of two architectures.
    """
    for name in sorted(start.keys() | tuned.keys()):
        shapes = [tuple(weights[name].shape) if name in weights else "absent" for weights in (start, tuned)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the two models cannot be mixed: {name} is {shapes[0]} in the start model and {shapes[1]} in the tuned"
            )
    return {name: _between(start[name], tensor, alpha) for name, tensor in tuned.items()}


def _between(start: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    if not tuned.is_floating_point():
        return tuned.clone()
    return torch.lerp(start.to(tuned.device, torch.float32), tuned.float(), alpha).to(tuned.dtype)


def load_mixture(model: nn.Module, start: Weights, tuned: Weights, alpha: float) -> None:
    """Fill ``model`` with the weights at ``alpha``, in place, on its own device."""
    model.load_state_dict(mix(start, tuned, alpha))
