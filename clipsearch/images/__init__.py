"""Bytes or a path in, RGB pixels out; the one place that knows image formats.

``load_image`` owns EXIF orientation, transparency, palettes, CMYK, 16-bit and float samples, many-band TIFF, DICOM,
animations and limits against decompression bombs. Whatever is wrong with a file, the only error is ``ImageError`` with
a reason for a person. ``resize`` gives Pillow's pixels, and so does the decoder; both are as fast as compiled code
gets where numba and simplejpeg are installed.
"""

from clipsearch.images.loading import (
    MAX_BYTES,
    MAX_PIXELS,
    RGB,
    SUFFIXES,
    content_hash,
    load_image,
    small_jpeg,
    thumbnail,
)
from clipsearch.images.resizing import accelerate, resize
from clipsearch.images.samples import parse_bands

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "RGB",
    "SUFFIXES",
    "accelerate",
    "content_hash",
    "load_image",
    "parse_bands",
    "resize",
    "small_jpeg",
    "thumbnail",
]
