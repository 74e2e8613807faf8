"""What encoding asks of a model, and of every embedding that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import CheckpointError

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


class ImageModel(Protocol):
    """What encoding needs of a model; ``clipsearch.clip.Clip`` has it, and tests need no torch.

    For embeddings of captions it also needs ``embed_texts``: texts -> ``(N, D)`` float32, unit norm.
    """

    @property
    def model_id(self) -> str:
        """Name and hash of the weights."""
        ...

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    def preprocess(self, image: Pixels) -> Pixels:
        """``(H, W, 3)`` uint8 -> ``(S, S, 3)`` uint8; called in threads."""
        ...

    def embed_pixels(self, pixels: Pixels) -> NDArray[np.float32]:
        """``(N, S, S, 3)`` uint8 -> ``(N, D)`` float32, unit norm."""
        ...


def embed_pixels(model: ImageModel, pixels: Pixels) -> Vectors:
    """The model's embeddings of ``(N, S, S, 3)`` uint8; ``CheckpointError`` when they are no embeddings."""
    return _checked(model, model.embed_pixels(pixels), len(pixels), "images")


def embed_captions(model: ImageModel, captions: Sequence[Sequence[str]]) -> list[Vectors]:
    """One ``(captions, D)`` array for each list of captions; all go through the model at once."""
    embed: Any = getattr(model, "embed_texts", None)
    if embed is None:
        raise CheckpointError(f"model {model.model_id} embeds no texts: leave out --captions")
    flat = [caption for group in captions for caption in group]
    vectors = _checked(model, embed(flat), len(flat), "captions") if flat else np.zeros((0, model.dim), np.float32)
    ends = np.cumsum([len(group) for group in captions])
    return [vectors[end - len(group) : end] for end, group in zip(ends, captions, strict=True)]


def _checked(model: ImageModel, found: Any, count: int, what: str) -> Vectors:
    vectors = np.asarray(found, dtype=np.float32)
    if vectors.shape != (count, model.dim) or not np.isfinite(vectors).all():
        raise CheckpointError(
            f"model {model.model_id} gave embeddings of shape {vectors.shape} for {count} {what} of dimension "
            f"{model.dim}, or numbers that are not finite: the checkpoint is damaged"
        )
    return vectors
