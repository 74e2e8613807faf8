"""Samples of the index that hits are judged against, taken beside the pages and kept for a while."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

from clipsearch.errors import ClipsearchError
from clipsearch.records import Generation
from clipsearch.search import SearchClient
from clipsearch.search.calibration import Background


@dataclass(frozen=True, slots=True)
class Sample:
    """What hits are judged against, and how many documents the index held then."""

    background: Background
    documents: int


SAMPLE = 1000
"""Documents: 2 MB of float32 at 512 dimensions."""
FRESH = 600.0  # seconds
EMPTY = 60.0  # seconds for which it is remembered that the index has no embeddings
PATIENCE = 1.5  # seconds that a page waits for the first sample

log = logging.getLogger(__name__)


class Backgrounds:
    """One sample per generation of embeddings; thread-safe.

    The first page waits for its sample for at most ``PATIENCE``; later ones use what there is while a new one is taken.
    An endpoint that fails meanwhile leaves the old sample in use. Nothing that goes wrong here reaches a page.
    """

    def __init__(self, client: SearchClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "background")
        self._known: dict[Generation, tuple[Sample | None, float]] = {}
        self._coming: dict[Generation, Future[Sample | None]] = {}

    def get(self, generation: Generation) -> Sample | None:
        """The sample, or None while there is none."""
        with self._lock:
            known, taken = self._known.get(generation, (None, -FRESH))
            if time.monotonic() - taken < (EMPTY if known is None else FRESH):
                return known
            if generation not in self._coming:
                self._coming[generation] = self._pool.submit(self._take, generation)
            coming = self._coming[generation]
        if known is not None:
            return known
        try:
            return coming.result(PATIENCE)
        except NotYet:
            return None

    def _take(self, generation: Generation) -> Sample | None:
        """A new sample, None when it cannot be had now: the next page tries again."""
        try:
            vectors = self._client.sample(SAMPLE, generation)
            sample = Sample(Background(vectors), self._client.document_count()) if len(vectors) else None
            with self._lock:
                self._known[generation] = (sample, time.monotonic())
            return sample
        except ClipsearchError as error:
            log.info("no sample of %s: %s", generation.field, error)
        except Exception:
            log.exception("no sample of %s", generation.field)
        finally:
            with self._lock:
                self._coming.pop(generation, None)
        return None
