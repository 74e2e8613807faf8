"""Percentile bootstrap intervals of means (Efron 1979), over queries or over the images that queries belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clipsearch.metrics.ranks import Integers

BLOCK_BYTES = 16 << 20


def bootstrap_intervals(
    values: Mapping[str, NDArray[np.float64]],
    clusters: Integers | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    combined: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, tuple[float, float]]:
    """(low, high) of the mean of each of ``values`` (Q,), which are resampled together, so that they stay paired.

    ``clusters`` (Q,): the image that each query belongs to; whole images are drawn, because the five captions of one
    image are no five independent draws. ``combined``: name -> names whose means are averaged (mean recall). NaN values
    (queries without relevant items) are left out of means.
    Deterministic in ``seed``. A mean of nothing has (nan, nan).
    """
    names = list(values)
    stacked = np.stack([np.asarray(values[name], np.float64) for name in names], axis=1)  # (Q, M)
    known = ~np.isnan(stacked)
    if clusters is None:
        sums, counts = np.where(known, stacked, 0.0), known.astype(np.float64)
    else:
        _, rows = np.unique(clusters, return_inverse=True)
        size = int(rows.max(initial=-1)) + 1
        sums, counts = np.zeros((size, len(names))), np.zeros((size, len(names)))
        np.add.at(sums, rows, np.where(known, stacked, 0.0))
        np.add.at(counts, rows, known)
    if not counts.size or not counts.sum():
        return dict.fromkeys([*names, *(combined or {})], (float("nan"), float("nan")))
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    tail = (1 - level) / 2
    for name, parts in (combined or {}).items():
        means = np.column_stack([means, means[:, [names.index(part) for part in parts]].mean(axis=1)])
        names.append(name)
    low, high = np.nanquantile(means, [tail, 1 - tail], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """(resamples, M) means over as many clusters as there are, drawn with replacement."""
    size = len(sums)
    block = max(1, BLOCK_BYTES // (8 * size))
    parts = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, size, (rows, size))
        times = np.zeros((rows, size))
        for row in range(rows):
            times[row] = np.bincount(drawn[row], minlength=size)
        with np.errstate(invalid="ignore"):
            parts.append((times @ sums) / (times @ counts))
    return np.concatenate(parts)
