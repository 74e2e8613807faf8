"""What ranking needs from the query room: raw rank features of a batch of candidates.

The evaluator is vectorised: it asks once per feature for the values of all ``n`` candidates and never sees a
document. Feature names and arguments are those of Vespa's rank feature reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import Tensor


@dataclass(frozen=True, slots=True)
class Feature:
    """One raw rank feature: ``elementCompleteness(tags).fieldCompleteness`` has an ``output``."""

    name: str
    arguments: tuple[str, ...] = ()
    output: str = ""

    def __str__(self) -> str:
        inside = f"({','.join(self.arguments)})" if self.arguments else ""
        return f"{self.name}{inside}{'.' + self.output if self.output else ''}"


@dataclass(frozen=True, slots=True)
class BatchTensor:
    """A tensor-valued feature of ``n`` candidates.

    ``values``: for a dense type an array (n, *shape), or (1, *shape) when all candidates share it, of float64,
    float32 (also for bfloat16) or int8; for a type with mapped dimensions a list of n or 1 ``Tensor``.
    """

    type: TensorType
    values: NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int8] | list[Tensor]


BatchValue = float | NDArray[np.float64] | BatchTensor
"""A number that all candidates share, (n,) float64, or a tensor each."""


class FeatureSource(Protocol):
    """Raw features of one fixed list of candidates."""

    def value(self, feature: Feature) -> BatchValue:
        """Values of ``feature``: 0 where a document has none; Vespa's defaults, not NaN."""
        ...
