"""Models without weights for the blocks of ``small_corpus``, of any size, good and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from small_corpus import COLOURS, PLACES, draw


class Colours:
    """Embeds an image as the colours of its edges, and a text as the picture that it describes.

    ``sees``: "edges", "colours" (not where they are), or "nothing".
    """

    def __init__(self, name: str, dim: int, sees: str = "edges") -> None:
        self.model_id, self.dim, self._sees = name, dim, sees

    def preprocess(self, image: Any) -> np.ndarray:
        """(40, 40, 3) uint8: as it is drawn."""
        return np.asarray(image, np.uint8)

    def embed_pixels(self, pixels: np.ndarray, **_: Any) -> np.ndarray:
        """(N, D) float32 of unit norm."""
        return np.stack([self._embed(image) for image in pixels])

    embed_images = embed_pixels

    def embed_texts(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        """(N, D) float32 of unit norm."""
        return np.stack([self._embed(np.asarray(_picture(text))) for text in texts])

    def _embed(self, image: np.ndarray) -> np.ndarray:
        half = len(image) // 2
        edges = [image[:, :half], image[:, half:], image[:half], image[half:]]
        parts = {"edges": edges, "colours": [image], "nothing": [np.full((1, 1, 3), 200)]}[self._sees]
        seen = np.concatenate([part.mean(axis=(0, 1)) for part in parts]) - 115  # the grey of small_corpus
        vector = np.zeros(self.dim, np.float32)
        vector[: len(seen)] = seen
        return vector / np.linalg.norm(vector)


def _picture(text: str) -> Any:
    words = text.lower().split()
    colour = next((word for word in words if word in COLOURS), "red")
    return draw(colour, next((word for word in words if word in PLACES), "left"), 0)
