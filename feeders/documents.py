"""Rows of an embedding shard -> the fields of documents of the schema ``image``."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.captions import vespa_text
from clipsearch.errors import InputError
from clipsearch.records import Embedded, Record

_TOLERANCE = 0.01  # of an embedding's length
_TOGETHER = 64  # rows whose embeddings are checked and written at once


def document_fields(row: Embedded) -> dict[str, Any]:
    """The ``fields`` object of a document/v1 put.

    ``label``, ``latitude`` and ``longitude`` are left out when unknown, so that no facet counts "" and no map shows 0;
    ``patches`` and ``patches_model`` when the row has no patches. Raises ``InputError`` for an embedding, of the image
    or a patch, that is not one finite row of unit length: prenormalized-angular would rank it wrongly for ever.
    """
    return _fields(row, bfloat16_hex(_checked(row.embedding)))


def document_rows(rows: Iterable[Embedded]) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """Id and ``document_fields`` of each row, or the ``InputError``; some rows at once, at a third of the cost."""
    source = iter(rows)
    while batch := list(islice(source, _TOGETHER)):
        for row, digits in zip(batch, _hex_rows(batch), strict=True):
            yield row.record.id, digits if isinstance(digits, InputError) else _fields_or_error(row, digits)


def _hex_rows(rows: Sequence[Embedded]) -> list[str | InputError]:
    """Each row's embedding in hex, or what is wrong with it."""
    embeddings = [np.asarray(row.embedding) for row in rows]
    if len({embedding.shape for embedding in embeddings}) == 1 and embeddings[0].ndim == 1:
        matrix = np.stack(embeddings).astype(np.float32, copy=False)  # (N, D)
        if (np.abs(np.sqrt(np.einsum("nd,nd->n", matrix, matrix)) - 1) <= _TOLERANCE).all():  # not so for NaN
            digits, width = bfloat16_hex(matrix), 4 * matrix.shape[1]
            return [digits[at : at + width] for at in range(0, len(digits), width)]
    return [_hex_or_error(row) for row in rows]


def _hex_or_error(row: Embedded) -> str | InputError:
    try:
        return bfloat16_hex(_checked(row.embedding))
    except InputError as error:
        return error


def _fields_or_error(row: Embedded, digits: str) -> dict[str, Any] | InputError:
    try:
        return _fields(row, digits)
    except InputError as error:
        return error


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
    if record.latitude is not None and record.longitude is not None:
        fields |= {"latitude": record.latitude, "longitude": record.longitude}
    return fields


def patch_labels(boxes: Any, width: int, height: int) -> list[str]:
    """``left-top-right-bottom`` of each of ``boxes``, (P, 4) in px, in thousandths of the image's width and height.

    A 3x3 grid has the same nine labels in every image, up to how it was rounded to pixels.
    """
    size = np.array([width, height, width, height], np.float64)
    shares = np.rint(1000 * np.asarray(boxes, np.float64).reshape(-1, 4) / size).astype(int)
    return ["-".join(map(str, box)) for box in shares.tolist()]


def _patches(row: Embedded) -> dict[str, Any]:
    """The fields of the row's patches, none without; of patches with one label, the first stays."""
    if row.patches is None or not len(row.patches):
        return {}
    vectors = np.asarray(row.patches, np.float32)  # (P, D)
    lengths = np.sqrt(np.einsum("pd,pd->p", vectors, vectors))
    if not (np.abs(lengths - 1) <= _TOLERANCE).all():  # not so for NaN
        raise InputError("the embedding of one of its patches is not finite or not of length 1: encode it again")
    digits, step = bfloat16_hex(vectors), 4 * vectors.shape[1]
    blocks: dict[str, str] = {}
    for number, label in enumerate(patch_labels(row.boxes, row.width, row.height)):
        blocks.setdefault(label, digits[number * step : (number + 1) * step])
    return {"patches": {"blocks": blocks}, "patches_model": row.model_id}


def _fields(row: Embedded, embedding: str) -> dict[str, Any]:
    return {
        **record_fields(row.record),
        "width": int(row.width),
        "height": int(row.height),
        "content_hash": row.content_hash,
        "model_id": row.model_id,
        "thumbnail": base64.b64encode(row.thumbnail).decode("ascii"),
        "embedding": embedding,
        **_patches(row),
    }


def bfloat16_hex(vector: npt.NDArray[np.float32]) -> str:
    """(D,) or (N, D) float32 -> 4 hex digits for each number: the upper half of the float, truncated as Vespa itself
    does it.

    A quarter of the size of the same vector as JSON numbers, and nothing to parse digit by digit.
    """
    bits = np.ascontiguousarray(vector, dtype="<f4").view("<u4")
    return (bits >> 16).astype(">u2").tobytes().hex().upper()


def _checked(embedding: Any) -> npt.NDArray[np.float32]:
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise InputError("its embedding is not one row of finite numbers: encode it again")
    norm = float(np.linalg.norm(vector))
    if abs(norm - 1) > _TOLERANCE:
        raise InputError(f"its embedding has length {norm:.3f} and must have length 1: encode it again")
    return vector
