"""Image augmentation of a whole batch at once, on the device, in plain torch.

Crop, stretch, flips and quarter turns are one affine map and so one resampling; colour changes are multiply-adds.
"""

from __future__ import annotations

import math

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
    if options.jitter:
        images = jitter(images, options.jitter, generator)
    return shift_colours(images, options.colour, generator) if options.colour else images


def affine_maps(count: int, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """(count, 2, 3) float32 maps from output to input coordinates (x, y) in [-1, 1], as ``affine_grid`` takes them.

    A crop of random size, shape and place, inside the image, then flipped and turned.
    """
    side = options.min_scale + (1 - options.min_scale) * torch.rand(count, generator=generator)
    ratio = torch.exp(math.log(options.stretch) * (2 * torch.rand(count, generator=generator) - 1))
    reach = torch.stack([side * ratio.sqrt(), side / ratio.sqrt()], dim=1).clamp(max=1)  # (B, 2), half-sides x, y
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - reach)
    turns = torch.randint(0, 4, (count,), generator=generator) * int(options.quarter_turns)
    mirror = 1 - 2 * torch.randint(0, 2, (count, 2), generator=generator)
    mirror = torch.where(torch.tensor([options.horizontal_flip, options.vertical_flip]), mirror, 1)
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.0])[turns]
    sine = torch.tensor([0.0, 1.0, 0.0, -1.0])[turns]
    turned = torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
    return torch.cat([(reach * mirror)[:, :, None] * turned, centre[:, :, None]], dim=2)


def jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random contrast (about the image's mean) and brightness; (B, 3, H, W) in [0, 255], clamped to it."""
    draws = (2 * torch.rand(len(images), 2, 1, 1, generator=generator) - 1).to(images.device)
    contrast = 1 + strength * draws[:, :1]
    brightness = 255 * strength / 4 * draws[:, 1:]
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.addcmul(middle * (1 - contrast) + brightness, images, contrast).clamp_(0, 255)


def shift_colours(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random saturation and balance of red, green and blue; (B, 3, H, W) in [0, 255], clamped to it."""
    draws = (2 * torch.rand(len(images), 4, 1, 1, generator=generator) - 1).to(images.device)
    saturation = 1 + strength * draws[:, :1]
    balance = 1 + strength / 2 * draws[:, 1:]
    grey = images.mean(dim=1, keepdim=True)
    return torch.addcmul(grey * (1 - saturation), images, saturation).mul_(balance).clamp_(0, 255)
