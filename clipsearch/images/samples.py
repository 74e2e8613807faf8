"""Samples of other kinds than 8-bit RGB become 8 bits: 16-bit and float grey, and pictures of many bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import ImageError, InputError

RGB = NDArray[np.uint8]
_PERCENTILES = (2.0, 98.0)  # what remote sensing stretches reflectances between, so that one bright roof costs nothing


def parse_bands(text: str) -> tuple[int, ...]:
    """``"3,2,1"`` -> (3, 2, 1): which bands, counted from 1, are red, green and blue. ``InputError`` otherwise."""
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = ()
    if len(bands) not in {1, 3} or min(bands) < 1:
        raise InputError(f"--bands {text!r}: give three band numbers for red, green and blue, such as 3,2,1, or one")
    return bands


def to_eight_bits(samples: NDArray[Any]) -> RGB:
    """Rescale integer or float samples of any shape to uint8.

    Integers: by the smallest of 8, 12, 16 and 32 bits that holds the largest sample (12-bit sensors come in
    16-bit files), so that the 8-bit and the 16-bit version of one picture agree. Floats: [0, 1] and [0,
    255] are taken as they are meant; any other range is stretched from its minimum to its maximum.
    Not-a-number becomes black.
    """
    if samples.dtype == np.uint8:
        return samples
    values = samples.astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (values - low) * (255.0 / (high - low))
        scaled = np.where(np.isfinite(scaled), scaled, 0.0)
    elif samples.dtype.kind == "f":
        scaled = values * _float_scale(high)
    else:
        top = next((2**bits - 1 for bits in (8, 12, 16, 32) if high < 2**bits), high)
        scaled = values * (255.0 / top)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _float_scale(high: float) -> float:
    if high <= 1.0:
        return 255.0
    return 1.0 if high <= 255.0 else 255.0 / high


def grey_to_rgb(grey: RGB) -> RGB:
    """(H, W) -> (H, W, 3), each channel the same."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def pick_bands(samples: NDArray[Any], bands: Sequence[int]) -> RGB:
    """(H, W, B) samples of any type -> (H, W, 3) uint8 of the chosen ``bands``, counted from 1.

    8-bit samples stay as they are; others are stretched band by band between their 2nd and 98th percentile, as viewers
    of satellite images do. Raises ``ImageError`` when there are fewer bands than that.
    """
    count = samples.shape[2]
    wrong = [band for band in bands if not 1 <= band <= count]
    if wrong:
        raise ImageError(f"the picture has {count} bands, and band {wrong[0]} was asked for (--bands)")
    planes = [_stretched(samples[:, :, band - 1]) for band in bands]
    return np.ascontiguousarray(np.stack(planes if len(planes) == 3 else planes * 3, axis=2))


def _stretched(plane: NDArray[Any]) -> RGB:
    if plane.dtype == np.uint8:
        return plane
    values = plane.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros(plane.shape, np.uint8)
    low, high = (float(value) for value in np.percentile(finite, _PERCENTILES))
    values = np.where(np.isfinite(values), values, low)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros(plane.shape)
    return np.clip(np.rint(np.where(np.isfinite(scaled), scaled, 0.0)), 0, 255).astype(np.uint8)
