"""What a checkpoint's image processor does, without torchvision: resize and centre crop in uint8, then normalise.

The settings are those of ``processor_config.json`` (transformers 5) or ``preprocessor_config.json`` (before). Resizing
stays uint8 so that it can run in decode threads; normalising belongs to the device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import CheckpointError
from clipsearch.images import resize

Pixels = NDArray[np.uint8]
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """``size``: side in px of the square that the image tower sees; ``mean`` and ``std`` of RGB in [0, 1].

    ``resample`` is Pillow's number (3 bicubic). ``resize`` is the length in px that the shorter side is brought to
    before the centre crop; 0 stretches the whole image to the square.
    """

    size: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    resample: int = 3
    resize: int = -1

    def to_processor(self) -> Any:
        """The ``CLIPImageProcessor`` (in its Pillow edition) that does the same, for checkpoint folders."""
        from transformers import CLIPImageProcessorPil

        whole = {"height": self.size, "width": self.size}
        return CLIPImageProcessorPil(
            size=whole if self.resize == 0 else {"shortest_edge": self.resize if self.resize > 0 else self.size},
            crop_size=whole,
            do_center_crop=self.resize != 0,
            image_mean=list(self.mean),
            image_std=list(self.std),
            resample=self.resample,
        )


def read_settings(folder: Path, default_size: int) -> PixelSettings:
    """The settings of a checkpoint folder; OpenAI's mean and std where it has no processor file.

    Raises ``CheckpointError`` when the file is not what a CLIP image processor writes.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.is_file():
            try:
                content = json.loads(path.read_text())
                return _parse(content.get("image_processor", content), default_size)
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise CheckpointError(f"{path} is not a CLIP image processor's configuration: {error}") from error
    return PixelSettings(default_size)


def _parse(content: dict[str, Any], default_size: int) -> PixelSettings:
    size = _side(content.get("size"), default_size)
    whole = isinstance(content.get("size"), dict) and "height" in content["size"]
    crop = _side(content.get("crop_size"), size) if content.get("do_center_crop", True) else size
    red, green, blue = content.get("image_mean") or OPENAI_MEAN
    red_std, green_std, blue_std = content.get("image_std") or OPENAI_STD
    return PixelSettings(
        size=crop,
        mean=(float(red), float(green), float(blue)),
        std=(float(red_std), float(green_std), float(blue_std)),
        resample=int(content.get("resample", 3)),
        resize=0 if whole and not content.get("do_center_crop", True) else size,
    )


def _side(value: Any, default: int) -> int:
    if isinstance(value, dict):
        value = value.get("shortest_edge") or value["height"]
    return int(value or default)


def resize_and_crop(image: Pixels, settings: PixelSettings) -> Pixels:
    """(H, W, 3) uint8 RGB -> (size, size, 3) uint8: shorter side to ``resize``, then the centre square."""
    side = settings.size if settings.resize <= 0 else settings.resize
    height, width = image.shape[:2]
    target = (width, height)
    if (height, width) != (side, side):
        scale = side / min(height, width)
        target = (max(side, int(width * scale)), max(side, int(height * scale)))
        target = (settings.size, settings.size) if settings.resize == 0 else target
    left, top = (target[0] - settings.size) // 2, (target[1] - settings.size) // 2
    if left < 0 or top < 0:  # a crop larger than the resized image is padded with black, as transformers does
        image = resize(image, target, settings.resample)
        image = np.pad(image, ((max(-top, 0),) * 2, (max(-left, 0),) * 2, (0, 0)))
        image = np.pad(image, ((0, 1), (0, 1), (0, 0)))
        top, left = max(top, 0), max(left, 0)
        return np.ascontiguousarray(image[top : top + settings.size, left : left + settings.size])
    return resize(image, target, settings.resample, (left, top, settings.size, settings.size))
