"""A figure with its interval: what every table and plot of an evaluation is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.metrics import bootstrap_intervals


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % bootstrap interval; all in [0, 1]."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.3f}, {self.high:.3f}]"


def figures(
    values: Mapping[str, NDArray[np.float64]],
    clusters: NDArray[np.int64] | None,
    resamples: int,
    seed: int,
    combined: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Figure]:
    """The mean of each of ``values`` (Q,), NaN left out, with its interval; arguments as in ``bootstrap_intervals``."""
    intervals = bootstrap_intervals(values, clusters, resamples, seed, combined=combined)
    means = {name: float(np.nanmean(each)) if not np.isnan(each).all() else 0.0 for name, each in values.items()}
    means |= {name: float(np.mean([means[part] for part in parts])) for name, parts in (combined or {}).items()}
    return {name: Figure(mean, *intervals[name]) for name, mean in means.items()}
