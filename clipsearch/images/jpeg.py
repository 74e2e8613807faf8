"""Ordinary JPEGs by simplejpeg, which gives Pillow's pixels in about two thirds of its time and holds no lock.

Both stand on libjpeg-turbo with the same settings (slow integer DCT, smooth chroma upsampling); Pillow spends the
difference on its rows of four bytes a pixel. Whatever is out of the ordinary is Pillow's business: CMYK, several
frames, damage of any kind, and a machine without simplejpeg.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]

_decoder: Callable[..., Any] | None = None
with suppress(ImportError):
    from simplejpeg import decode_jpeg

    _decoder = decode_jpeg


def decode_plain(image: Image.Image, data: bytes) -> RGB | None:
    """(H, W, 3) uint8 of a JPEG that Pillow has opened and not loaded yet, not turned; None when Pillow must do it.

    ``image`` is what Pillow made of the header of ``data``.
    """
    if _decoder is None or image.format != "JPEG" or image.mode not in {"RGB", "L"} or "transparency" in image.info:
        return None
    try:
        pixels: RGB = _decoder(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except Exception:  # damaged, or not understood: Pillow decides whether there is a picture, and says why not
        return None
    height, width = image.height, image.width
    return pixels if pixels.shape == (height, width, 3) and pixels.dtype == np.uint8 else None
