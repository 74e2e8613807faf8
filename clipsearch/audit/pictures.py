"""What one image file is: whether it can be read, what is odd about it, its hashes and its small grey picture."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsearch.audit.hashing import SIDE, grey_square
from clipsearch.errors import ImageError
from clipsearch.images import RGB, load_image

SMALL = 32
"""Shorter side in px below which a picture counts as very small: nothing much is left to see."""

LONG = 3.0
"""Longer over shorter side from which CLIP's centre crop throws two thirds of a picture away."""

HUGE = 25_000_000
"""Pixels from which decoding alone takes most of a second."""

PLAIN = 2.0
"""Standard deviation of the grey levels, of 255, below which a picture counts as one colour."""

_SUFFIXES = {
    "JPEG": {"jpg", "jpeg", "jpe"}, "MPO": {"jpg", "jpeg", "mpo"}, "PNG": {"png"}, "WEBP": {"webp"}, "GIF": {"gif"},
    "BMP": {"bmp"}, "TIFF": {"tif", "tiff"}, "JPEG2000": {"jp2"}, "AVIF": {"avif"}, "PPM": {"ppm", "pgm"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """The facts of one image file.

    ``error``: why it cannot be used, "" when it can, and then nothing else but ``data_hash`` is set. ``data_hash`` and
    ``pixel_hash``: 128 bits of BLAKE2 over the file and over the decoded upright RGB picture with its size.
    ``square``: (32, 32) uint8 grey levels. ``odd``: what is unusual, in words; ``plain``: it is one colour.
    """

    data_hash: bytes = b""
    pixel_hash: bytes = b""
    square: NDArray[np.uint8] | None = None
    width: int = 0
    height: int = 0
    format: str = ""
    grey: bool = False
    plain: bool = False
    odd: tuple[str, ...] = ()
    error: str = ""


def inspect(data: bytes, name: str = "") -> tuple[Picture, RGB | None]:
    """The facts of an image file, and its (H, W, 3) uint8 pixels or None when it cannot be decoded.

    ``name``: the file's name, for noticing a suffix that lies. Never raises on bad bytes.
    """
    data_hash = hashlib.blake2b(data, digest_size=16).digest()
    try:
        pixels = load_image(data)
    except ImageError as error:
        return Picture(data_hash, error=str(error)), None
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    square = grey_square(image)
    plain = float(square.std()) < PLAIN and float(np.asarray(image.resize((SIDE, SIDE))).std(axis=(0, 1)).max()) < PLAIN
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    kind, odd = _header(data, name)
    grey = bool((pixels == pixels[..., :1]).all())
    odd = (*_shape(width, height), *(("one colour",) if plain else ()), *odd)
    return Picture(data_hash, digest.digest(), square, width, height, kind, grey, plain, odd), pixels


def _shape(width: int, height: int) -> list[str]:
    short, long = sorted((width, height))
    odd = []
    if short < SMALL:
        odd.append("very small")
    if long >= LONG * short:
        odd.append("very long")
    if width * height >= HUGE:
        odd.append("huge")
    return odd


def _header(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """The format, and what only the undecoded file tells. The picture was decoded before, so its header is sound."""
    odd = []
    with Image.open(io.BytesIO(data)) as image:
        kind = image.format or ""
        if image.mode in {"I", "F"} or any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ())):
            odd.append("more than 8 bits")
        if image.mode == "CMYK":
            odd.append("CMYK")
        if kind != "MPO" and getattr(image, "is_animated", False):
            odd.append("several frames")
        if image.has_transparency_data:
            odd.append("transparent")
        if _turned(image):
            odd.append("turned by EXIF")
    suffix = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    known = {one for suffixes in _SUFFIXES.values() for one in suffixes}
    if suffix in known and kind in _SUFFIXES and suffix not in _SUFFIXES[kind]:
        odd.append("wrong suffix")
    return kind, tuple(odd)


def _turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(0x0112, 1) not in {0, 1}
    except Exception:  # the EXIF parser raises almost anything on damaged blocks, and the pixels are good
        return False
