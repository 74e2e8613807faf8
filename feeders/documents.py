"""One row of an embedding shard -> the fields of one document of the schema ``image``."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.captions import vespa_text
from clipsearch.errors import InputError
from clipsearch.records import Embedded, Record


def document_fields(row: Embedded) -> dict[str, Any]:
    """The ``fields`` object of a document/v1 put.

    ``label`` is left out when unknown, so that no facet counts "". Raises ``InputError`` for an embedding
    that is not one finite row of unit length: prenormalized-angular would rank it wrongly for ever.
    """
    return {
        **record_fields(row.record),
        "width": int(row.width),
        "height": int(row.height),
        "content_hash": row.content_hash,
        "model_id": row.model_id,
        "thumbnail": base64.b64encode(row.thumbnail).decode("ascii"),
        "embedding": bfloat16_hex(_checked(row.embedding)),
    }


def record_fields(record: Record) -> dict[str, Any]:
    """The fields that come from the corpus alone, without opening the image."""
    fields: dict[str, Any] = {
        "captions": [vespa_text(caption) for caption in record.captions],
        "split": record.split,
        "corpus": record.corpus,
        "image_uri": vespa_text(record.uri),
    }
    if record.label:
        fields["label"] = vespa_text(record.label)
    return fields


def bfloat16_hex(vector: npt.NDArray[np.float32]) -> str:
    """(D,) float32 -> 4 D hex digits, each cell the upper half of the float: truncated, as Vespa itself
    stores it.

    A quarter of the size of the same vector as JSON numbers, and nothing to parse digit by digit.
    """
    bits = np.ascontiguousarray(vector, dtype="<f4").view("<u4")
    return (bits >> 16).astype(">u2").tobytes().hex().upper()


def _checked(embedding: Any) -> npt.NDArray[np.float32]:
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise InputError("its embedding is not one row of finite numbers: encode it again")
    norm = float(np.linalg.norm(vector))
    if abs(norm - 1) > 0.01:
        raise InputError(f"its embedding has length {norm:.3f} and must have length 1: encode it again")
    return vector
