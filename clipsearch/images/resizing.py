"""Resize pixels as Pillow does, to the last bit, and several times as fast where numba is installed.

Because nothing but speed differs, nobody has to know which of the two ran: not a checkpoint's golden embeddings, not a
cache of pixels. The compiled kernel is loaded when a process has resized some images (a query image alone does not
pay for that), and is compared with Pillow before it is trusted, so that a Pillow with other arithmetic costs speed and
nothing else.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]
Weights = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]

_WARM = 24  # images that Pillow resizes before the kernel is loaded
_BITS = 22
_WIDE, _TALL = 50.0, 1.8  # proportions beyond which Pillow may begin with the vertical pass, and rounds otherwise
_TRIALS = ((64, 48, 30, 22), (37, 53, 48, 68), (40, 40, 20, 20), (85, 50, 44, 26), (40, 90, 16, 36))


def resize(image: RGB, size: tuple[int, int], resample: int = 3, box: tuple[int, int, int, int] | None = None) -> RGB:
    """(H, W, 3) uint8 -> (height, width, 3) uint8 with ``size`` = (width, height), exactly as Pillow's ``resize``.

    ``resample``: Pillow's number of the filter (3 bicubic). ``box``: the left, top, width and height in px of that
    part of the *result* which is wanted; the rest is not computed.
    """
    left, top, width, height = box or (0, 0, *size)
    if size == (image.shape[1], image.shape[0]):
        return np.ascontiguousarray(image[top : top + height, left : left + width])
    kernel = _kernel() if _same_proportions(image, size) and resample in _FILTERS else None
    if kernel is None:
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling(resample)))
        return whole[top : top + height, left : left + width].copy()  # Pillow's own memory cannot be written to
    return _resize(kernel, image, size, resample, (left, top, width, height))


def _same_proportions(image: RGB, size: tuple[int, int]) -> bool:
    """Whether both sides shrink, or grow, alike, so that Pillow begins with the horizontal pass, as the kernel does."""
    height, width = image.shape[:2]
    across, down = width / size[0], height / size[1]
    slender = width > _WIDE * height or height > _TALL * width
    return not slender and abs(across - down) < 0.04 * down


def _resize(
    kernel: Callable[..., Any], image: RGB, size: tuple[int, int], resample: int, box: tuple[int, int, int, int]
) -> RGB:
    height, width = image.shape[:2]
    words = (3 * width + 3) // 4
    if width % 4 == 0:
        packed = np.ascontiguousarray(image).reshape(height, 3 * width)
    else:
        packed = np.zeros((height, 4 * words), np.uint8)
        packed[:, : 3 * width] = image.reshape(height, 3 * width)
    left, top, columns, rows = box
    out = np.empty((rows, 3 * columns), np.uint8)
    across = _weights(width, size[0], left, columns, resample)
    down = _weights(height, size[1], top, rows, resample)
    kernel(packed.view(np.uint32), *across, *down, out)
    return out.reshape(rows, columns, 3)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS: dict[int, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    2: (_bilinear, 1.0),
    3: (_bicubic, 2.0),
}


@lru_cache(maxsize=256)
def _weights(given: int, wanted: int, first: int, count: int, resample: int) -> Weights:
    """For ``count`` places from ``first`` on: the first sample, the number of samples, their fixed-point weights."""
    function, reach = _FILTERS[resample]
    scale = given / wanted
    stretch = max(scale, 1.0)
    support = reach * stretch
    centre = (np.arange(first, first + count) + 0.5) * scale
    begin = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    number = np.minimum((centre + support + 0.5).astype(np.int64), given) - begin
    taps = np.arange(math.ceil(support) * 2 + 1)
    raw = function((taps[None, :] + begin[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    raw = np.where(taps[None, :] < number[:, None], raw, 0.0)
    total = np.zeros(count)
    for column in raw.T:  # in Pillow's order: sums of floats depend on it
        total = total + column
    shares = raw / np.where(total == 0.0, 1.0, total)[:, None]
    fixed = np.trunc(shares * (1 << _BITS) + np.where(shares < 0, -0.5, 0.5)).astype(np.int32)
    return begin, number, fixed


class _Loader:
    """The kernel, once it is worth its compilation; ``None`` before, and where it cannot be had."""

    def __init__(self) -> None:
        self.calls = 0
        self.kernel: Callable[..., Any] | None = None
        self._tried = False
        self._lock = threading.Lock()

    def get(self) -> Callable[..., Any] | None:
        """Count a call; the call that makes it worth while loads the kernel, and the others do not wait."""
        if self._tried:
            return self.kernel
        self.calls += 1
        if self.calls > _WARM and self._lock.acquire(blocking=False):
            try:
                self.load()
            finally:
                self._lock.release()
        return self.kernel

    def load(self) -> bool:
        """Load and try the kernel now; whether it is there and gives Pillow's pixels."""
        if not self._tried:
            self.kernel = _trusted()
            self._tried = True
        return self.kernel is not None


_LOADER = _Loader()


def _kernel() -> Callable[..., Any] | None:
    return _LOADER.get()


def accelerate() -> bool:
    """Load the compiled kernel now, before many images; whether there is one (numba, and a Pillow that agrees)."""
    return _LOADER.load()


def _trusted() -> Callable[..., Any] | None:
    try:
        from clipsearch.images.kernel import resample as kernel
    except Exception:  # numba is missing, or does not fit this Python or numpy: Pillow does it all
        return None
    random = np.random.default_rng(0)
    for height, width, rows, columns in _TRIALS:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for number in _FILTERS:
            expected = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling(number)))
            found = _resize(kernel, image, (columns, rows), number, (0, 0, columns, rows))
            if not np.array_equal(found, expected):
                return None
    return kernel
