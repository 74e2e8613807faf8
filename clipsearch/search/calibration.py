"""How sure a hit is: its cosine set against those that the same query has to any image.

Cosines of different queries, and of different models, do not compare: CLIP's lie between 0.2 and 0.35, those of a model
trained from nothing between -0.3 and 0.7. So each query is judged by a sample of the index, the background, by two
figures without a unit:

* the *reach* of a hit, (cosine - median) / (99th percentile - median) of the background's cosines: 1 is what the best
  hundredth of the index reaches;
* the *skewness* of the background's cosines. A query that fits some images pulls a tail out of the distribution; one
  that fits none leaves it symmetric or leaning the other way. A query that fits half of a small index gives two humps
  instead, which the kurtosis shows.

The probability is the product of two: that the query fits anything, by the greater of a logistic function of skewness
and one of kurtosis, and that this hit does, by a logistic function of reach. These have six constants, slope and offset
of each, and there are two lines. The constants of skewness and reach were fitted by maximum likelihood, those of
kurtosis and the lines were chosen, on RSICD with a model trained on it (class prompts, captions, senseless queries)
and on WHU-RS19 with CLIP and RemoteCLIP, all together; images of the same class are relevant. ``bench/calibration.py``
prints F1 of the line over all images (mean over queries) and the share of 91 senseless queries (random letters, other
domains) of which the whole first page is weak. The flat line was tuned on one half of the queries, senseless ones too,
and is shown on the other; of these some were among those that this rule was fitted to and chosen by, so that its row is
optimistic. With RSICD's prompts and with its captions another flat line is the best, hence its two shares:

==============================  =======  ========  =====  ==========  ==========
line                            prompts  captions  CLIP   RemoteCLIP  senseless
==============================  =======  ========  =====  ==========  ==========
one cosine, tuned on the model  0.414    0.344     0.472  0.729       0.65, 0.64
this, one rule for all models   0.577    0.499     0.410  0.768       0.81
==============================  =======  ========  =====  ==========  ==========

The probabilities err (ECE over the best twentieth of the index) by 0.04, 0.12, 0.17 and 0.14; those of a logistic
regression on the cosine, which needs labels of the very index, by 0.12, 0.04, 0.04 and 0.04. No single cosine serves
all three models: the best one for RSICD's calls everything weak under the others. A z-score in place of the reach came
close, but fell (F1 .25 for .73) where a class is a large share of the index; a mixture of two Gaussians and a mirrored
null distribution did worse. Where a query fits most of the index nothing can tell, for it looks like one that fits
nothing; and CLIP, which never saw such images, parts them so little that many of its good queries are called weak.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.errors import InputError
from clipsearch.search.query import Vector

Flags = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

LINES = (0.45, 0.5)
"""Hits are weak when the query fits anything, or this hit does, with less probability than these."""
FEW = 64
"""A smaller index, or background, is not judged: every hit counts as relevant."""

_REACH, _REACH_AT = 11.6, 8.75  # logistic: slope, and what is taken off
_SKEW, _SKEW_AT = 4.82, 0.48
_HUMPS, _HUMPS_AT = 12.0, 2.1  # kurtosis: an even spread has 1.8, a Gaussian 3, 99 of 100 senseless queries above 2.1


class Background:
    """Embeddings of a sample of the index, (N, D), against which the cosines of a query are judged; N of 500 or more.

    Raises ``InputError`` for another shape, and for numbers that are not finite.
    """

    def __init__(self, vectors: npt.ArrayLike) -> None:
        sample = np.asarray(vectors, dtype=np.float32)
        if sample.ndim != 2 or not np.isfinite(sample).all():
            raise InputError(f"a background must be (N, D) finite numbers, not of shape {sample.shape}")
        self._vectors = sample

    def __len__(self) -> int:
        return len(self._vectors)

    def relevance(self, query_vector: Vector, cosines: npt.ArrayLike) -> Vector:
        """Probabilities in [0, 1], (H,) float32, that hits with these ``cosines`` (H,) fit the query (D,).

        They grow with the cosine. All are 1 when the background is too small, or too uniform, to judge by.
        """
        anything, hits = self._judge(query_vector, cosines)
        return np.asarray(anything * hits, dtype=np.float32)

    def weak(self, query_vector: Vector, cosines: npt.ArrayLike, documents: int) -> Flags:
        """Which hits, (H,) bool, are no better than chance; none in an index of fewer than ``FEW`` ``documents``."""
        anything, hits = self._judge(query_vector, cosines)
        return np.asarray(((anything < LINES[0]) | (hits < LINES[1])) & (documents >= FEW))

    def _judge(self, query_vector: Vector, cosines: npt.ArrayLike) -> tuple[float, Doubles]:
        """How likely the query fits any image, and then each hit, (H,)."""
        values = np.asarray(cosines, dtype=np.float64)
        if len(self._vectors) < FEW:
            return 1.0, np.ones(values.shape)
        noise = np.asarray(self._vectors @ np.asarray(query_vector, np.float32), dtype=np.float64)
        low, middle, high = np.quantile(noise, (0.25, 0.5, 0.99))
        if high - middle < 1e-6:  # all images alike, or a query that is at right angles to all
            return 1.0, np.ones(values.shape)
        tail, humps = _shape(noise)
        base = low if humps > tail else middle  # of two humps of like size, the median lies between
        reach = np.clip((values - base) / (high - base), -1, 2)
        return max(tail, humps), _logistic(_REACH * reach - _REACH_AT)


def _shape(cosines: Doubles) -> tuple[float, float]:
    """How likely (N,) cosines are of a query that fits something: by their tail, and by having two humps."""
    standard = (cosines - cosines.mean()) / cosines.std()
    skewness, kurtosis = np.clip((standard**3).mean(), -1, 1), (standard**4).mean()
    return float(_logistic(_SKEW * skewness - _SKEW_AT)), float(_logistic(_HUMPS * (_HUMPS_AT - kurtosis)))


def _logistic(values: npt.ArrayLike) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-np.asarray(values, dtype=np.float64))))
