"""Pillow's resampling in its own 22-bit fixed-point arithmetic, compiled by numba to vector instructions.

Sixteen to sixty-four rows at a time are transposed in the cache, so that neighbouring lanes of a vector belong to
neighbouring rows, and one multiplication serves them all. No lock is held (``nogil``), nothing is shared.
The arithmetic is that of Pillow's ``Resample.c``: sums of 8-bit samples times 22-bit weights, rounded and clipped to
8 bits after the horizontal pass and again after the vertical one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BITS = 22
_HALF = np.int32(1 << (BITS - 1))
_LANES = 32  # rows of one block; times three channels
_LOW, _SECOND, _THIRD, _HIGH = np.uint32(0xFF), np.uint32(0xFF00), np.uint32(0xFF0000), np.uint32(0xFF000000)
_8, _16, _24 = np.uint32(8), np.uint32(16), np.uint32(24)


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder on this machine takes numba's cache: compile anew in each process
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


@_jit
def _transpose(source, first, last, left, right, target):  # type: ignore[no-untyped-def]
    """Bytes of ``source[first:, left:right]`` (4 to a uint32) into ``target``, rows and columns exchanged.

    Rows from ``last`` on repeat the row before it: lanes that nobody reads.
    """
    for group in range(target.shape[1]):
        top = first + 4 * group
        row_a, row_b = source[min(top, last - 1)], source[min(top + 1, last - 1)]
        row_c, row_d = source[min(top + 2, last - 1)], source[min(top + 3, last - 1)]
        for word in range(left, right):
            a, b, c, d = row_a[word], row_b[word], row_c[word], row_d[word]
            to = (word - left) * 4
            target[to, group] = (a & _LOW) | ((b & _LOW) << _8) | ((c & _LOW) << _16) | ((d & _LOW) << _24)
            target[to + 1, group] = (
                ((a & _SECOND) >> _8) | (b & _SECOND) | ((c & _SECOND) << _8) | ((d & _SECOND) << _16)
            )
            target[to + 2, group] = ((a & _THIRD) >> _16) | ((b & _THIRD) >> _8) | (c & _THIRD) | ((d & _THIRD) << _8)
            target[to + 3, group] = ((a & _HIGH) >> _24) | ((b & _HIGH) >> _16) | ((c & _HIGH) >> _8) | (d & _HIGH)


@_jit
def _columns(block, start, count, weights, origin, out):  # type: ignore[no-untyped-def]
    """The horizontal pass over one transposed block: ``out`` (3 * columns * lanes) uint8."""
    width = 3 * _LANES
    sums = np.empty(width, np.int32)
    for x in range(len(start)):
        for lane in range(width):
            sums[lane] = _HALF
        for k in range(count[x]):
            weight = weights[x, k]
            position = (3 * (start[x] + k) - origin) * _LANES
            samples = block[position : position + width]
            for lane in range(width):
                sums[lane] += np.int32(weight * np.int32(samples[lane]))
        to = out[x * width : (x + 1) * width]
        for lane in range(width):
            to[lane] = min(max(np.int32(sums[lane] >> BITS), np.int32(0)), np.int32(255))


@_jit
def resample(image, xs, xn, xw, ys, yn, yw, out):  # type: ignore[no-untyped-def]
    """``image`` (H, P) uint32, each row the bytes RGBRGB... padded to words -> ``out`` (rows, 3 * columns) uint8.

    ``xs``, ``xn``, ``xw``: of each column of the result the first sample, the number of samples and their weights
    (int32, 22 bits of fraction); ``ys``, ``yn``, ``yw`` the same of each row.
    """
    columns = len(xs)
    first, last = ys[0], ys[len(ys) - 1] + yn[len(yn) - 1]
    left = (3 * xs[0]) // 4
    right = (3 * (xs[columns - 1] + xn[columns - 1]) + 3) // 4
    words = (3 * columns + 3) // 4
    block = np.empty(((right - left) * 4, _LANES // 4), np.uint32)
    result = np.zeros((words * 4, _LANES // 4), np.uint32)
    rows = (last - first + _LANES - 1) // _LANES * _LANES
    between = np.empty((rows, words), np.uint32)
    flat_block, flat_result = block.reshape(-1).view(np.uint8), result.reshape(-1).view(np.uint8)
    for row in range(first, last, _LANES):
        _transpose(image, row, last, left, right, block)
        _columns(flat_block, xs, xn, xw, left * 4, flat_result)
        at = row - first
        _transpose(result, 0, words * 4, 0, _LANES // 4, between[at : at + _LANES])
    samples = between.reshape(-1).view(np.uint8).reshape(rows, words * 4)
    sums = np.empty(3 * columns, np.int32)
    for y in range(len(ys)):
        for j in range(3 * columns):
            sums[j] = _HALF
        for k in range(yn[y]):
            weight = yw[y, k]
            line = samples[ys[y] + k - first]
            for j in range(3 * columns):
                sums[j] += np.int32(weight * np.int32(line[j]))
        for j in range(3 * columns):
            out[y, j] = min(max(np.int32(sums[j] >> BITS), np.int32(0)), np.int32(255))
