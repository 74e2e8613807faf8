"""Image augmentation of a whole batch at once, on the device, in plain torch.

Crop, flips and quarter turns are one affine map and so one resampling; colour changes are two multiply-adds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsearch.training.options import AugmentOptions


def augment(pixels: Tensor, size: int, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, size, size) float32 in [0, 255], each image drawn its own changes.

    ``generator`` lives on the CPU, so that a seed gives the same images on every device.
    """
    maps = affine_maps(len(pixels), options, generator).to(pixels.device)
    grid = F.affine_grid(maps, [len(pixels), 3, size, size], align_corners=False)
    images = F.grid_sample(pixels.float(), grid, align_corners=False, padding_mode="reflection")
    return jitter(images, options.jitter, generator) if options.jitter else images


def affine_maps(count: int, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """(count, 2, 3) float32 maps from output to input coordinates in [-1, 1]: a crop, flipped and turned."""
    scale = options.min_scale + (1 - options.min_scale) * torch.rand(count, generator=generator)
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale)[:, None]
    turns = torch.randint(0, 4, (count,), generator=generator) * int(options.quarter_turns)
    flips = 1 - 2 * torch.randint(0, 2, (count,), generator=generator) * int(options.horizontal_flip)
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.0])[turns]
    sine = torch.tensor([0.0, 1.0, 0.0, -1.0])[turns]
    rows = [
        torch.stack([cosine * flips * scale, -sine * scale, shift[:, 0]], dim=1),
        torch.stack([sine * flips * scale, cosine * scale, shift[:, 1]], dim=1),
    ]
    return torch.stack(rows, dim=1)


def jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random contrast, brightness and colour balance per image; (B, 3, H, W) in [0, 255], clamped to it."""
    draws = (2 * torch.rand(len(images), 5, 1, 1, generator=generator) - 1).to(images.device)
    contrast = 1 + strength * draws[:, :1]
    brightness = 255 * strength / 4 * draws[:, 1:2]
    balance = 1 + strength / 2 * draws[:, 2:]
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return (((images - middle) * contrast + middle + brightness) * balance).clamp(0, 255)
