"""Four-bit codes of vectors, small enough to compare a query with every one of them in well under a millisecond.

Vectors are centred, turned to the principal axes of a sample, and cut into pieces of one or two axes with 16
codewords each (product quantisation, scanned by faiss's fast-scan kernels). Wide axes get a piece of their own and
the narrowest none, which is where a fixed number of bits loses least. A quarter of the dimensions is the number of
pieces, so 512 dimensions take 64 bytes, or 32 where half the pieces hold nearly as much: a search reads all codes, and
waits for memory. Every metric becomes an inner product: euclidean by one further coordinate, ``-|x|^2 / 2``, angular
by scaling to length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray

from clipsearch.engine.ranking import distances as metrics

METRICS = ("prenormalized-angular", "dotproduct", "angular", "euclidean")
_PER_PIECE = 2
_LOSS_ALONE, _LOSS_PAIR = 0.0115, 0.108  # share of a normal variable's variance lost by 16 codewords for 1 and 2 axes
_WORTH, _LITTLE = 1.5, 0.1  # half the pieces do where they lose so many times as much of the variance, and so much
_BLOCK = 32  # vectors that fast-scan packs together

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A query as the codes see it: ``vector`` (axes,); internal distance is about ``offset - scale * product``.

    ``beyond``: what of the query's squared length the axes do not hold.
    """

    vector: Floats
    offset: float
    scale: float
    beyond: float


class Codebook:
    """How vectors of one field become codes.

    ``mean`` (d,), ``axes`` (2 * pieces, d), ``centroids`` (pieces * 32,); ``losses`` (2 * pieces + 1, 2 * pieces):
    covariance of the errors of codes on the axes, and in the last row the variance of a direction that has no axis.
    """

    def __init__(self, metric: str, mean: Floats, axes: Floats, centroids: Floats, losses: Floats) -> None:
        self.metric, self.mean, self.axes, self.centroids, self.losses = metric, mean, axes, centroids, losses
        self.pieces = len(axes) // _PER_PIECE
        self.bytes_per_vector = self.pieces // 2
        self._used = np.flatnonzero(axes.any(axis=1))  # a piece with one axis has a zero beside it
        self._turn = axes[self._used]
        self._covariance = losses[np.ix_(self._used, self._used)]
        codewords = centroids.reshape(self.pieces, -1, _PER_PIECE)
        self._lengths = np.sqrt(np.square(codewords.max(axis=1) - codewords.min(axis=1)).sum(axis=1))

    @classmethod
    def train(cls, metric: str, sample: NDArray[Any]) -> Codebook:
        """Learns from ``sample`` (n, width), a thousand vectors or more. Raises ``ValueError``: too few of use."""
        useful = np.isfinite(sample.sum(axis=1)) & sample.any(axis=1)
        sample = sample if useful.all() else sample[useful]
        if len(sample) < 256:
            raise ValueError(f"only {len(sample)} vectors of the sample are finite and not zero")
        vectors = _as_products(metric, sample)
        mean = vectors.mean(axis=0)
        vectors -= mean
        variances, directions = np.linalg.eigh(vectors.T @ vectors / np.float32(len(vectors)))
        variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
        pieces = _pieces(sample.shape[1])
        axes, loss = _allot(variances, directions, pieces)
        half, more = _allot(variances, directions, pieces // 2)
        if more <= min(_WORTH * loss, _LITTLE):
            axes = half
        index = faiss.IndexPQFastScan(len(axes), len(axes) // _PER_PIECE, 4, faiss.METRIC_INNER_PRODUCT)
        projected = np.ascontiguousarray(vectors @ axes.T)
        index.train(projected)
        quantiser: Any = index.pq
        errors = projected - quantiser.decode(quantiser.compute_codes(projected))
        without = max(1, len(variances) - int(axes.any(axis=1).sum()))
        beyond = max(0.0, float(variances.sum() - np.square(projected).sum() / len(projected))) / without
        losses = np.vstack([errors.T @ errors / np.float32(len(errors)), np.full(len(axes), beyond, np.float32)])
        return cls(metric, mean, axes, faiss.vector_to_array(index.pq.centroids), losses)

    def empty(self) -> Any:
        """A faiss index without vectors."""
        index = faiss.IndexPQFastScan(len(self.axes), self.pieces, 4, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(self.centroids, index.pq.centroids)
        index.is_trained = True
        return index

    def project(self, vectors: NDArray[Any]) -> Floats:
        """``vectors`` (n, width) on the axes, (n, axes); cells that are no finite numbers count as 0."""
        finite = vectors if np.isfinite(vectors.sum()) else np.nan_to_num(vectors, posinf=0.0, neginf=0.0)
        products = _as_products(self.metric, finite)
        products -= self.mean
        projected = np.zeros((len(vectors), len(self.axes)), np.float32)
        projected[:, self._used] = products @ self._turn.T
        return projected

    def query(self, query: NDArray[Any]) -> Query:
        """``query`` (width,) in the attribute's cell type, for a search."""
        vector = np.asarray(query, np.float32)
        squared = metrics.squared_norm(query)
        offset, scale = 0.0, 1.0
        if self.metric == "euclidean":
            offset, scale = float(vector @ vector), 2.0
            vector = np.append(vector, np.float32(1.0))
        elif self.metric == "angular":
            offset, vector = 1.0, vector / np.float32(np.sqrt(squared))
        elif self.metric == "prenormalized-angular":
            offset = squared
        turned = np.zeros(len(self.axes), np.float32)
        turned[self._used] = self._turn @ vector
        beyond = max(0.0, float(vector @ vector) - float(turned @ turned))
        return Query(turned, offset - scale * float(vector @ self.mean), scale, beyond)

    def spread(self, query: Query) -> float:
        """Standard deviation of the internal distances that codes estimate for ``query``, around the true ones."""
        turned = query.vector[self._used]
        error = max(0.0, float(turned @ (self._covariance @ turned))) + query.beyond * float(self.losses[-1, 0])
        return query.scale * float(np.sqrt(error + self._rounding(query.vector)))

    def _rounding(self, turned: Floats) -> float:
        """Mean squared error of fast-scan's tables, which hold each piece's products in 8 bits of one scale.

        That scale is the widest range of products that any piece can have.
        """
        widest = np.square(turned).reshape(self.pieces, _PER_PIECE).sum(axis=1) * np.square(self._lengths)
        return self.pieces * float(widest.max()) / (255 * 255 * 12)

    def to_bytes(self) -> bytes:
        """Everything, for ``from_bytes``; of this version of faiss only, whose packing of codes is its own."""
        arrays = (self.mean, self.axes, self.centroids, self.losses)
        head = {"metric": self.metric, "faiss": faiss.__version__, "shapes": [array.shape for array in arrays]}
        return orjson.dumps(head) + b"\n" + b"".join(array.astype("<f4").tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, data: bytes, metric: str) -> Codebook | None:
        """The codebook that ``to_bytes`` wrote; None when it was for another metric or version of faiss."""
        line, _, body = data.partition(b"\n")
        head = orjson.loads(line)
        if head["metric"] != metric or head["faiss"] != faiss.__version__:
            return None
        arrays, start = [], 0
        for shape in head["shapes"]:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(body, "<f4", count, start).reshape(shape).astype(np.float32))
            start += 4 * count
        return cls(metric, arrays[0], arrays[1], arrays[2], arrays[3])


class Codes:
    """The codes of the first ``size`` vectors; never changed, a longer one takes its place. Safe for many readers."""

    def __init__(self, codebook: Codebook, index: Any, trained_at: int) -> None:
        self.codebook, self._index, self.trained_at = codebook, index, trained_at
        self.size = int(index.ntotal)

    @classmethod
    def none_yet(cls, codebook: Codebook, trained_at: int) -> Codes:
        """No vector coded; ``trained_at``: how many vectors there were when the codebook was learnt."""
        return cls(codebook, codebook.empty(), trained_at)

    def copy(self) -> Any:
        """The faiss index, to be lengthened and given to a new ``Codes``."""
        return faiss.clone_index(self._index)

    def search(self, query: Query, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of the ``count`` vectors that seem nearest, nearest first, and their estimated internal distances."""
        products, rows = self._index.search(query.vector[np.newaxis], count)
        found = int(np.count_nonzero(rows[0] >= 0))
        return rows[0, :found], query.offset - query.scale * products[0, :found].astype(np.float64)

    def whole_blocks(self) -> int:
        """How many of the first vectors lie in packed blocks that no later vector changes."""
        return self.size // _BLOCK * _BLOCK

    def packed(self, start: int, end: int) -> NDArray[np.uint8]:
        """The packed codes of whole blocks, of the vectors from ``start`` to ``end``."""
        width = self.codebook.bytes_per_vector
        held = faiss.vector_to_array(self._index.codes)
        return np.array(held[start * width : end * width])

    @classmethod
    def unpack(cls, codebook: Codebook, packed: NDArray[np.uint8], trained_at: int) -> Codes:
        """The codes that ``packed`` gave, from the first on."""
        index = codebook.empty()
        faiss.copy_array_to_AlignedTable(packed, index.codes)
        index.ntotal = index.ntotal2 = len(packed) // codebook.bytes_per_vector
        return cls(codebook, index, trained_at)


def _pieces(width: int) -> int:
    return min(256, max(32, -(-width // 16) * 4))


def _as_products(metric: str, vectors: NDArray[Any]) -> Floats:
    """(n, d) float32, a copy, whose inner products with a query order as the metric does."""
    if metric == "euclidean":
        wide = np.empty((len(vectors), vectors.shape[1] + 1), np.float32)
        wide[:, :-1] = vectors
        wide[:, -1] = -0.5 * np.einsum("ij,ij->i", wide[:, :-1], wide[:, :-1])
        return wide
    copied = vectors.astype(np.float32)
    if metric == "angular":
        norms = np.sqrt(np.einsum("ij,ij->i", copied, copied))
        copied /= np.where(norms > 0, norms, 1)[:, np.newaxis]
    return copied


def _allot(variances: Floats, directions: Floats, pieces: int) -> tuple[Floats, float]:
    """Axes (2 * pieces, d) that lose the least variance, first the pieces with one axis and a zero; the share lost."""
    total = len(variances)
    held = np.concatenate([[0.0], np.cumsum(variances, dtype=np.float64)])
    alone = np.arange(min(pieces, total) + 1)
    last = np.minimum(alone + _PER_PIECE * (pieces - alone), total)
    loss = _LOSS_ALONE * held[alone] + _LOSS_PAIR * (held[last] - held[alone]) + held[total] - held[last]
    best = int(np.argmin(loss))
    axes = np.zeros((pieces * _PER_PIECE, total), np.float32)
    axes[0 : _PER_PIECE * best : _PER_PIECE] = directions[:, :best].T
    rest = directions[:, best : int(last[best])].T
    axes[_PER_PIECE * best : _PER_PIECE * best + len(rest)] = rest
    return axes, float(loss[best] / (held[total] or 1.0))
