"""Bytes or a path in, RGB pixels out; the one place that knows image formats.

``load_image`` owns EXIF orientation, transparency, palettes, CMYK, 16-bit and float samples, animations and
limits against decompression bombs. Whatever is wrong with a file, the only error is ``ImageError`` with a
reason for a person.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clipsearch.errors import ImageError

RGB = NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""Largest picture in pixels (about 9,459 x 9,459, 256 MiB as RGB): Pillow's own threshold for decompression
bombs."""

MAX_BYTES = 256 * 1024 * 1024
"""Largest image file in bytes."""

SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".jp2",
        ".avif",
        ".ppm",
        ".pgm",
    }
)
"""File name suffixes that corpora take for images."""

# Only formats that are pictures and nothing else: Pillow's EPS reader, for one, runs Ghostscript on the file.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
_WHITE = (255, 255, 255, 255)

# Pillow only warns between once and twice its threshold; as an error the warning is one more reason for
# ImageError. What else it warns of (damaged EXIF, odd palettes) costs no pixels, and a run over many images
# should not scroll with it. Set once at import because changing filters around each call is not safe in
# threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def load_image(source: bytes | Path) -> RGB:
    """Decode an image file to ``(H, W, 3)`` uint8 RGB, upright as its EXIF orientation says.

    Transparent pixels lie over white, since most transparent pictures are dark drawings made for white
    pages; an animation gives its first frame; 16-bit and float samples are rescaled to 8 bits (see
    ``_to_eight_bits``). Raises ``ImageError`` with the reason, whatever is wrong with the file; of a path it
    also names the file.
    """
    if isinstance(source, bytes):
        return _decode(source)
    data = _read(source)
    try:
        return _decode(data)
    except ImageError as error:
        raise ImageError(f"{source} cannot be used: {error}") from error


def _decode(data: bytes) -> RGB:
    if not data:
        raise ImageError("the file is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has {len(data):,} bytes; the limit is {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
            _check_size(*image.size)
            return _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_unidentified(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the picture is too large: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        raise ImageError(_damaged(error)) from error


def thumbnail(image: RGB, size: int = 256) -> bytes:
    """Return ``(H, W, 3)`` uint8 as a JPEG whose longer side is at most ``size`` px; never enlarges."""
    picture = Image.fromarray(image)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def content_hash(data: bytes) -> str:
    """Return the hex SHA-256 of an image file's bytes: what tells a changed image from an unchanged one."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            raise ImageError(f"there is no file {path}")
        if not path.is_file():
            raise ImageError(f"{path} is not a file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"{path} has {size:,} bytes; the limit is {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _available_formats() -> tuple[str, ...]:
    # AVIF and JPEG 2000 are missing from some builds of Pillow.
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"the picture is too large: {width:,} x {height:,} pixels; the limit is {MAX_PIXELS:,}")
    if width < 1 or height < 1:
        raise ImageError(f"the picture has no pixels: {width} x {height}")


def _to_rgb(image: Image.Image) -> RGB:
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return _grey_to_rgb(_to_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF counts as 1, because the pixels are still good."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # the EXIF parser raises SyntaxError, struct.error, ... on damaged blocks
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_eight_bits(samples: NDArray[Any]) -> RGB:
    """Rescale ``(H, W)`` integer or float samples to uint8.

    Integers: by the smallest of 8, 12, 16 and 32 bits that holds the largest sample (12-bit sensors come in
    16-bit files), so that the 8-bit and the 16-bit version of one picture agree. Floats: [0, 1] and [0,
    255] are taken as they are meant; any other range is stretched from its minimum to its maximum.
    Not-a-number becomes black.
    """
    values = samples.astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0:
        scaled = (values - low) * (255.0 / (high - low))
    elif samples.dtype.kind == "f":
        scaled = values * _float_scale(high)
    else:
        top = next(2**bits - 1 for bits in (8, 12, 16, 32) if high < 2**bits)
        scaled = values * (255.0 / top)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _float_scale(high: float) -> float:
    if high <= 1.0:
        return 255.0
    return 1.0 if high <= 255.0 else 255.0 / high


def _grey_to_rgb(grey: RGB) -> RGB:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _unidentified(data: bytes) -> str:
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page, not an image (a failed download?)"
    if start.startswith((b"<svg", b"<?xml")):
        return "this is XML or SVG, not a pixel image"
    if start.startswith(b"%pdf") or start.startswith(b"%!ps"):
        return "this is a PDF or PostScript document, not an image"
    if data[128:132] == b"DICM":
        return "this is a DICOM file, which is not supported; convert it to PNG"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the image; run `git lfs pull`"
    if not any(data[:64]):
        return "the file contains only zero bytes"
    return "not a known image format, or its header is damaged"


def _damaged(error: Exception) -> str:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "the file is truncated: it ends before the picture does"
    if isinstance(error, MemoryError):
        return "the picture does not fit in memory"
    return f"the file is damaged: {text or type(error).__name__}"
