"""Nearest neighbours of a query among many vectors: estimated from codes, then measured on the vectors.

The codes (``vector_codes``) are made by a thread beside the writer. A search estimates the distance of every coded
vector, and measures those that seem nearest and all that have no code yet. How far estimates are off is known, and so
how many of the nearest are to be expected among those that were not measured (``vector_depth``): it measures on until
that is next to none. So how many are measured follows the data and the query: a hundred or two where neighbours stand
apart, thousands where they crowd.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray

from clipsearch.engine.index.files import PartFiles
from clipsearch.engine.index.vector_cells import Scorer, VectorRows
from clipsearch.engine.index.vector_codes import METRICS, Codebook, Codes
from clipsearch.engine.index.vector_depth import Near, needed

MIN_ROWS = 20_000  # below, measuring every vector takes a millisecond or two
MIN_WIDTH = 64
_RETRAIN = 4  # the codebook is learnt anew when there are this many times more vectors
_SAMPLE = 6144  # 37 MB of 512 dimensions while it learns
_BATCH = 2048
_UNCODED = 1024  # vectors without a code after which the thread starts: measuring them costs 0.2 ms
DEEPEST = 4  # up to one vector in so many is measured by way of codes, else all are
_MISSED = 0.003  # share of the nearest that may be expected among the vectors that were not measured
_SHALLOWEST = 256  # vectors that every search measures first: errors are known better by more of them
_FILTERED = 512  # the same under filters, where that many cost little beside the estimates that it takes to have them

Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]
_log = logging.getLogger(__name__)


class NeighborIndex:
    """The codes of ``vectors``, kept up to date in the background; searches from any thread."""

    def __init__(self, metric: str, vectors: VectorRows) -> None:
        self.metric, self._vectors = metric, vectors
        self._codes: Codes | None = None
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._failed = False
        self._looked = 0.0
        self._depths: dict[tuple[int, int], float] = {}
        self._saved: Codebook | None = None
        self._saved_rows = self._saved_books = 0

    @staticmethod
    def suits(metric: str, width: int) -> bool:
        """Whether vectors of this kind can have codes."""
        return metric in METRICS and width >= MIN_WIDTH

    # ---- coding, beside the writer

    def appended(self) -> None:
        """Called by the writer after vectors were appended: starts the thread when enough have no code."""
        if self._uncoded() >= self._patience() and self._worker is None:
            self._start(self._patience())

    def settle(self) -> None:
        """Waits until every vector has a code, where there are enough of them (for measurements and tests)."""
        while True:
            worker = self._worker
            if worker is not None:
                worker.join()
            elif self._failed or not self._uncoded() or len(self._vectors) < MIN_ROWS:
                return
            else:
                self._start(1)

    def _uncoded(self) -> int:
        return len(self._vectors) - (self._codes.size if self._codes else 0)

    def _patience(self) -> int:
        return max(_UNCODED, self._codes.size // 64) if self._codes else MIN_ROWS

    def _start(self, least: int) -> None:
        with self._lock:
            if self._worker is None and not self._failed:
                # no daemon: the interpreter waits for it, for killing a thread inside faiss would end in an abort
                self._worker = threading.Thread(target=self._work, args=(least,), name="vector-codes")
                self._worker.start()

    def _work(self, least: int) -> None:
        try:
            # this thread only: OpenMP's waiting at barriers takes many times the work itself when cores are busy
            faiss.omp_set_num_threads(1)
            with np.errstate(invalid="ignore", over="ignore"):
                while self._grow(least):
                    least = self._patience()
        except Exception:  # searches stay right without codes
            _log.exception("vectors cannot be coded: every nearestNeighbor on this field measures them all")
            self._failed = True
        finally:
            self._worker = None

    def _grow(self, least: int) -> bool:
        """Codes what has none; False when that is less than ``least``, or the process ends."""
        codes, size = self._codes, len(self._vectors)
        if size < MIN_ROWS or size - (codes.size if codes else 0) < least:
            return False
        if codes is None or size >= _RETRAIN * codes.trained_at:
            chosen = np.sort(np.random.default_rng(size).choice(size, min(size, _SAMPLE), replace=False))
            codes = Codes.none_yet(Codebook.train(self.metric, self._vectors.take(chosen)), size)
        index = codes.copy()
        for start in range(codes.size, size, _BATCH):
            if not threading.main_thread().is_alive():
                return False
            rows = np.arange(start, min(size, start + _BATCH))
            index.add(codes.codebook.project(self._vectors.take(rows)))
        self._codes = Codes(codes.codebook, index, codes.trained_at)
        return True

    # ---- searching

    def nearest(
        self, scorer: Scorer, wanted: int, size: int, passes: Callable[[Rows], NDArray[np.bool_]], share: float,
        owners: NDArray[np.int32] | None = None,
    ) -> tuple[Rows, Numbers] | None:  # fmt: skip
        """Rows, and internal distances, among which are almost surely the ``wanted`` nearest that pass.

        Of the first ``size`` vectors; ``share`` of them pass. With ``owners`` (size,), the document of each vector,
        the nearest vectors of ``wanted`` different documents. None: it takes measuring them all.
        """
        codes = self._codes
        self._look(size)
        if codes is None or size - codes.size > size // 4 or not np.isfinite(scorer.query).all():
            return None
        coded = min(codes.size, size)
        with np.errstate(all="ignore"):
            query = codes.codebook.query(scorer.query)
        if not np.isfinite(query.vector).all() or not np.isfinite(query.offset):
            return None  # too large for float32, or (angular) of no direction
        kind = wanted.bit_length(), int(-math.log2(max(share, 1e-9)))
        least, extra = (_SHALLOWEST, 2.0) if share > 0.5 else (_FILTERED, 1.25)  # extra: estimates for each measured
        depth = self._depths.get(kind, max(4.0 * wanted, least))
        most = coded // DEEPEST
        if depth > most * share:
            self._depths[kind] = 0.99 * depth  # to try again some time
            return None
        more = min(most, int(extra * depth / share) + 1)
        with np.errstate(all="ignore"):
            spread = codes.codebook.spread(query)
        if not np.isfinite(spread):
            return None
        measured = _Measured(self._vectors, scorer, owners, wanted)
        if coded < size:
            measured.add_all(np.flatnonzero(passes(np.arange(coded, size))) + coded)
        for _ in range(5):
            rows, estimates = codes.search(query, more)
            if not len(rows):  # a query (nearly) zero: the codes tell no vector from another
                return None
            horizon = float(estimates[-1])
            unseen = coded - (more if size >= codes.size else int(np.count_nonzero(rows < size)))
            if share < 1 or size < codes.size:
                kept = np.flatnonzero((rows < size) & passes(np.minimum(rows, size - 1)))
                rows, estimates = rows[kept], estimates[kept]
            measured.up_to(rows, estimates, int(depth))
            near = Near(measured.worst(), measured.errors(), spread)
            need = needed(estimates, near, _MISSED * wanted, horizon, unseen)
            if need is not None:
                measured.up_to(rows, estimates, need)
                self._depths[kind] = min(most * share, max(2.0 * wanted, least, _learnt(depth, need)))
                return measured.found()
            if more >= most or len(rows) * most < wanted * more:  # what passes lies far from the query
                break
            more = min(4 * more, most)
        self._depths[kind] = 1.25 * depth
        return None

    def _look(self, size: int) -> None:
        """Has the last appended vectors coded when the writer has been quiet since."""
        uncoded = self._uncoded()
        if uncoded > 64 and size >= MIN_ROWS and self._worker is None and not self._failed:
            now = time.monotonic()
            if now - self._looked > 0.5:
                self._looked = now
                self._start(1)

    # ---- files

    def save(self, files: PartFiles) -> None:
        """Writes the codes of whole blocks that were added since; a new codebook begins a new file of codes."""
        codes = self._codes
        if codes is None:
            return
        if codes.codebook is not self._saved:
            self._saved, self._saved_rows, self._saved_books = codes.codebook, 0, self._saved_books + 1
            head = {"number": self._saved_books, "trained_at": codes.trained_at}
            files.replace("codebook", orjson.dumps(head) + b"\n" + codes.codebook.to_bytes())
        end = codes.whole_blocks()
        files.append(f"codes{self._saved_books}", codes.packed(self._saved_rows, end))
        self._saved_rows = end

    def restore(self, files: PartFiles) -> None:
        """Takes up what was saved; vectors beyond are coded as if they had just been appended."""
        line, _, data = files.read("codebook").partition(b"\n")
        if not line:
            return
        head = orjson.loads(line)
        self._saved_books = int(head["number"])
        codebook = Codebook.from_bytes(data, self.metric)
        if codebook is None:
            return
        packed = files.array(f"codes{self._saved_books}", np.uint8)
        codes = Codes.unpack(codebook, packed, int(head["trained_at"]))
        if codes.size <= len(self._vectors) and codes.size == codes.whole_blocks():
            self._codes, self._saved, self._saved_rows = codes, codebook, codes.size


def _learnt(depth: float, need: int) -> float:
    """How many to measure first another time, so that most searches need no more and few measure many for nothing."""
    return depth + 0.1 * (min(1.25 * need, 2 * depth) - depth)


class _Measured:
    """The vectors that one search has measured."""

    def __init__(self, vectors: VectorRows, scorer: Scorer, owners: NDArray[np.int32] | None, wanted: int) -> None:
        self._vectors, self._scorer, self._owners, self._wanted = vectors, scorer, owners, wanted
        self._rows: list[Rows] = []
        self._distances: list[Numbers] = []
        self._errors: list[Numbers] = []
        self._seen: list[Rows] = []  # those that have estimates

    def add_all(self, rows: Rows) -> None:
        """Measures ``rows``, ascending, that have no codes."""
        if len(rows):
            self._rows.append(rows)
            self._distances.append(self._vectors.distances(rows, self._scorer))

    def up_to(self, rows: Rows, estimates: Numbers, count: int) -> None:
        """Measures those of the first ``count`` of ``rows`` that no earlier call has measured.

        Many estimates are equal, and a search for more vectors gives equals in another order: so rows are compared.
        """
        new = np.arange(min(count, len(rows)))
        if self._seen:
            new = np.flatnonzero(~np.isin(rows[: len(new)], np.concatenate(self._seen)))
        if len(new):
            order = new[np.argsort(rows[new])]  # memory is read in its order
            self.add_all(rows[order])
            self._seen.append(rows[order])
            self._errors.append(self._distances[-1] - estimates[order])

    def errors(self) -> Numbers:
        """Distances less their estimates, of all that were measured with an estimate."""
        return self._errors[0] if len(self._errors) == 1 else np.concatenate([np.empty(0), *self._errors])

    def worst(self) -> float:
        """The ``wanted``-th smallest distance, of different owners; infinity when there are fewer."""
        rows, distances = self.found()
        if self._owners is not None:
            order = np.argsort(distances, kind="stable")
            _, first = np.unique(self._owners[rows[order]], return_index=True)
            distances = distances[order[first]]
        if len(distances) < self._wanted:
            return float(np.inf)
        return float(np.partition(distances, self._wanted - 1)[self._wanted - 1])

    def found(self) -> tuple[Rows, Numbers]:
        """All rows, in no order, and their distances."""
        if len(self._rows) == 1:
            return self._rows[0], self._distances[0]
        if not self._rows:
            return np.empty(0, np.int64), np.empty(0)
        return np.concatenate(self._rows), np.concatenate(self._distances)
