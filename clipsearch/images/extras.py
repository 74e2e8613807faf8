"""DICOM and many-band TIFF, read by libraries that only those who have such files need to install.

``pydicom`` reads DICOM and ``tifffile`` what Pillow does not read of TIFF: more than four bands, 16-bit colour, float
bands, BigTIFF. Without them the error says what to install.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import ImageError
from clipsearch.images.samples import grey_to_rgb, pick_bands, to_eight_bits

RGB = NDArray[np.uint8]
_INSTALL = "install what reads it: pip install 'clipsearch[science]'"
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each oddity of a damaged file; the error says enough


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as a DICOM file does."""
    return data[128:132] == b"DICM"


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF or a BigTIFF file does."""
    return data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def load_dicom(data: bytes, limit: int) -> RGB:
    """The first frame of a DICOM file as (H, W, 3) uint8.

    Stored values become the modality's (rescale slope and intercept), then grey levels by the file's own window or
    table where it has one and by its whole range otherwise; MONOCHROME1, in which the largest value is black, is
    inverted, as every viewer does. ``limit``: most pixels. Raises ``ImageError`` with the reason.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space
    except ImportError as error:
        raise ImageError(f"this is a DICOM file; {_INSTALL}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pydicom.dcmread(io.BytesIO(data))
        if "PixelData" not in file:
            raise ImageError("this DICOM file has no picture (a report, or a structure set?)")
        height, width = int(file.Rows), int(file.Columns)
        check_size(width, height, limit)
        frames = int(file.get("NumberOfFrames", 1) or 1)
        if frames * height * width > 4 * limit:
            raise ImageError(f"the DICOM file has {frames} frames of {width} x {height} pixels: more than fit")
        samples = np.asarray(file.pixel_array)
        kind = str(file.get("PhotometricInterpretation", "MONOCHROME2"))
        colour = int(file.get("SamplesPerPixel", 1)) >= 3
        if frames > 1:
            samples = samples[0]
        if colour:
            if kind.startswith("YBR"):
                samples = convert_color_space(samples, kind, "RGB")
            return np.ascontiguousarray(to_eight_bits(samples)[:, :, :3])
        if kind == "PALETTE COLOR":
            from pydicom.pixels import apply_color_lut

            return np.ascontiguousarray(to_eight_bits(apply_color_lut(samples, file))[:, :, :3])
        values = apply_voi_lut(apply_modality_lut(samples, file), file).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    grey = np.zeros(values.shape, np.uint8) if high <= low else np.rint((values - low) * (255 / (high - low)))
    grey = grey.astype(np.uint8)
    return grey_to_rgb(255 - grey if kind == "MONOCHROME1" else grey)


def load_tiff(data: bytes, bands: Sequence[int], limit: int) -> RGB:
    """A TIFF of any number of bands and type of samples as (H, W, 3) uint8: ``bands``, counted from 1, or the first.

    ``limit``: most pixels. Raises ``ImageError`` with the reason.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(f"this TIFF has bands or samples that Pillow does not read; {_INSTALL}") from error
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        check_size(int(page.imagewidth), int(page.imagelength), limit)
        if int(page.samplesperpixel) * int(page.imagewidth) * int(page.imagelength) * page.dtype.itemsize > 16 * limit:
            raise ImageError(f"the picture has {page.samplesperpixel} bands: more than fit")
        samples = np.asarray(page.asarray())
        if samples.ndim == 3 and str(page.axes).startswith("S"):  # band by band: make it pixel by pixel
            samples = samples.transpose(1, 2, 0)
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.ndim != 3:
        raise ImageError(f"this TIFF holds an array of {samples.ndim} dimensions, not a picture")
    if bands:
        return pick_bands(samples, bands)
    if samples.shape[2] < 3:
        return grey_to_rgb(to_eight_bits(samples[:, :, 0]))
    if samples.shape[2] > 4 and samples.dtype != np.uint8:
        return pick_bands(samples, (1, 2, 3))
    return np.ascontiguousarray(to_eight_bits(samples[:, :, :3]))


def check_size(width: int, height: int, limit: int) -> None:
    """Raise ``ImageError`` when a picture has no pixels or more than ``limit``."""
    if width < 1 or height < 1:
        raise ImageError(f"the picture has no pixels: {width} x {height}")
    if width * height > limit:
        raise ImageError(f"the picture is too large: {width:,} x {height:,} pixels; the limit is {limit:,}")
