"""One record before the model: read, hashed and, unless it is known, decoded; runs in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.corpora import Corpus
from clipsearch.encoding.models import ImageModel, Pixels
from clipsearch.errors import ImageError, InputError
from clipsearch.images import content_hash, load_image, small_jpeg, thumbnail
from clipsearch.images.patches import Boxes, PatchPlan
from clipsearch.records import Record


@dataclass(frozen=True, slots=True)
class Prepared:
    """``pixels`` (1 + patches, S, S, 3) uint8, the whole image first; None when an earlier row is still right.

    ``error``: why there is no picture, else "".
    """

    record: Record
    content_hash: str = ""
    pixels: Pixels | None = None
    boxes: Boxes | None = None
    thumbnail: bytes = b""
    width: int = 0
    height: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Preparer:
    """What decode threads share: where images come from, which bands of them count, how they are cut."""

    corpus: Corpus
    model: ImageModel
    plan: PatchPlan
    bands: Sequence[int] = ()

    def prepare(self, record: Record, known: str | None) -> Prepared:
        """Make one record ready; ``known``: the content hash of its earlier row. Raises nothing."""
        try:
            data = self.corpus.read(record)
            digest = content_hash(data)
            if known == digest:
                return Prepared(record, digest)
            image = load_image(data, self.bands)
        except InputError as error:
            return Prepared(record, error=str(error))
        height, width = image.shape[:2]
        try:
            small = small_jpeg(data, image) or thumbnail(image)
            boxes = self.plan.boxes(width, height) if self.plan else None
            return Prepared(record, digest, self._pixels(image, boxes), boxes, small, width, height)
        except ImageError as error:
            return Prepared(record, error=str(error))
        except Exception as error:  # whatever one odd picture does to resizing, the others go on and the ledger tells
            reason = f"the picture of {width} x {height} px cannot be resized: {type(error).__name__}: {error}"
            return Prepared(record, error=reason)

    def _pixels(self, image: NDArray[np.uint8], boxes: Boxes | None) -> Pixels:
        parts = [self.model.preprocess(image)]
        for left, top, right, bottom in () if boxes is None else boxes.tolist():
            parts.append(self.model.preprocess(np.ascontiguousarray(image[top:bottom, left:right])))
        return np.stack(parts)
