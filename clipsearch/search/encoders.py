"""What turns a query into a vector: a protocol that ``clipsearch.clip.Clip`` fulfils, with a cache before it.

This room imports no torch; a model is handed in by the command that loaded it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from clipsearch.search.query import Vector


class Encoder(Protocol):
    """A model with one space for texts and images; both methods return (N, D) float32 of unit norm."""

    @property
    def model_id(self) -> str:
        """Name and short hash of the weights."""

    @property
    def dim(self) -> int:
        """D."""

    def embed_texts(self, texts: Sequence[str]) -> Any:
        """(N, D) for N texts."""

    def embed_images(self, images: Sequence[Any]) -> Any:
        """(N, D) for N images, (H, W, 3) uint8 each."""


class QueryEncoder:
    """An ``Encoder`` for single queries: one at a time, with the embeddings of recent texts remembered.

    Thread-safe. The model runs under a lock: torch already uses every core for one query, and two at once
    would only slow each other down.
    """

    def __init__(self, model: Encoder, *, remember: int = 1024) -> None:
        self.model = model
        self._remember = remember
        self._texts: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def text(self, text: str) -> Vector:
        """(D,) float32 of unit norm."""
        with self._lock:
            known = self._texts.get(text)
            if known is None:
                known = np.asarray(self.model.embed_texts([text])[0], dtype=np.float32)
                self._texts[text] = known
                if len(self._texts) > self._remember:
                    self._texts.popitem(last=False)
            self._texts.move_to_end(text)
            return known

    def image(self, image: Any) -> Vector:
        """(D,) float32 of unit norm for one (H, W, 3) uint8 image."""
        with self._lock:
            return np.asarray(self.model.embed_images([image])[0], dtype=np.float32)

    def images(self, images: Sequence[Any]) -> Vector:
        """(N, D) float32 of unit norm for N images of (H, W, 3) uint8. Nobody else is answered meanwhile: give few."""
        with self._lock:
            return np.asarray(self.model.embed_images(images), dtype=np.float32)

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by before a softmax; CLIP's own 100 for a model that does not say."""
        return float(getattr(self.model, "logit_scale", 100.0))
