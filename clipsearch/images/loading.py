"""Bytes or a path in, upright RGB pixels out: formats, limits, and everything that can be wrong with a file."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clipsearch.errors import ImageError
from clipsearch.images.extras import check_size, is_dicom, is_tiff, load_dicom, load_tiff
from clipsearch.images.jpeg import decode_plain
from clipsearch.images.reasons import damaged, unidentified
from clipsearch.images.resizing import resize
from clipsearch.images.samples import grey_to_rgb, pick_bands, to_eight_bits

RGB = NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""Largest picture in pixels (about 9,459 x 9,459, 256 MiB as RGB): Pillow's own threshold for decompression
bombs."""

MAX_BYTES = 256 * 1024 * 1024
"""Largest image file in bytes."""

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm",
        ".dcm",
    }
)  # fmt: skip
"""File name suffixes that corpora take for images."""

# Only formats that are pictures and nothing else: Pillow's EPS reader, for one, runs Ghostscript on the file.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
_WHITE = (255, 255, 255, 255)
_SMALL = 24_000  # bytes

# Pillow only warns between once and twice its threshold; as an error the warning is one more reason for
# ImageError. What else it warns of (damaged EXIF, odd palettes) costs no pixels, and a run over many images
# should not scroll with it. Set once at import because changing filters around each call is not safe in
# threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def load_image(source: bytes | Path, bands: Sequence[int] = ()) -> RGB:
    """Decode an image file to ``(H, W, 3)`` uint8 RGB, upright as its EXIF orientation says.

    Transparent pixels lie over white, since most transparent pictures are dark drawings made for white
    pages; an animation gives its first frame; 16-bit and float samples are rescaled to 8 bits (see
    ``samples.to_eight_bits``). ``bands``: which bands of the file, counted from 1, become red, green and blue, for
    pictures of several bands. Raises ``ImageError`` with the reason, whatever is wrong with the file; of a path it
    also names the file.
    """
    if isinstance(source, bytes):
        return _decode(source, bands)
    data = _read(source)
    try:
        return _decode(data, bands)
    except ImageError as error:
        raise ImageError(f"{source} cannot be used: {error}") from error


def _decode(data: bytes, bands: Sequence[int]) -> RGB:
    if not data:
        raise ImageError("the file is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has {len(data):,} bytes; the limit is {MAX_BYTES:,}")
    try:
        if is_dicom(data):
            return load_dicom(data, MAX_PIXELS)
        if is_tiff(data) and bands:
            return load_tiff(data, bands, MAX_PIXELS)
        with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
            check_size(*image.size, MAX_PIXELS)
            return _to_rgb(image, data, bands)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if is_tiff(data):
            return _other_tiff(data, bands)
        raise ImageError(unidentified(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the picture is too large: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise ImageError(damaged(error)) from error


def _other_tiff(data: bytes, bands: Sequence[int]) -> RGB:
    """A TIFF that Pillow does not know: of five bands, say, or in 16-bit colour."""
    try:
        return load_tiff(data, bands, MAX_PIXELS)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(damaged(error)) from error


def thumbnail(image: RGB, size: int = 256) -> bytes:
    """Return ``(H, W, 3)`` uint8 as a JPEG whose longer side is at most ``size`` px; never enlarges."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale < 1:
        wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
        if max(height, width) > 4 * size:  # far too many pixels: average most of them away first
            factor = max(height, width) // (2 * size)
            image = np.asarray(Image.fromarray(image).reduce(factor))
        image = resize(image, wanted)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=85)
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


def _to_rgb(image: Image.Image, data: bytes, bands: Sequence[int]) -> RGB:
    pixels = None if bands else decode_plain(image, data)
    if pixels is not None:
        orientation = _orientation(image)
        return pixels if orientation == 1 else _turned(pixels, orientation)
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if bands:
        samples = np.asarray(image.convert("RGB") if image.mode in {"P", "1"} else image)
        return pick_bands(samples if samples.ndim == 3 else samples[:, :, None], bands)
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return grey_to_rgb(to_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba)
    return np.array(image.convert("RGB"))


def _turned(pixels: RGB, orientation: int) -> RGB:
    """Upright pixels of a picture that is stored in one of EXIF's eight orientations."""
    if orientation >= 5:  # the first row of the file is a column of the picture
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF counts as 1, because the pixels are still good."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # the EXIF parser raises SyntaxError, struct.error, ... on damaged blocks
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def small_jpeg(data: bytes, image: RGB, size: int = 256) -> bytes:
    """``data`` itself if it can serve as its own thumbnail: an upright, plain and small JPEG; else nothing.

    ``image``: what it decodes to. Spares small pictures a second loss, and the time of it.
    """
    plain = data[:3] == b"\xff\xd8\xff" and len(data) <= _SMALL and max(image.shape[:2]) <= size
    # Exif may turn the picture, Adobe may mean CMYK, MPF has more pictures behind the first
    return data if plain and not any(mark in data for mark in (b"Exif\0", b"Adobe", b"MPF\0", b"ICC_")) else b""
