"""Search, and read documents back, over any Vespa endpoint: the local engine or a cluster.

``SearchClient`` sends the bodies that ``query.py`` makes and returns the plain ``Results`` of ``records``.
It knows no model: a text becomes a vector elsewhere (see ``encoders.py``).
"""

from __future__ import annotations

import base64
import binascii
import math
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from clipsearch.errors import CheckpointError, InputError, RejectedError
from clipsearch.records import Hit, Results
from clipsearch.search import query
from clipsearch.search.endpoint import DEFAULT_URL, SCHEMA, Endpoint, parse_id
from clipsearch.search.query import NO_FILTERS, Filters, Vector

LEXICAL = "bm25(captions)"
SEMANTIC = "closeness(field,embedding)"
SIZE_IS_FRESH = 30.0  # seconds for which the index's vector size is taken as known


class SearchClient:
    """A thread-safe client of the application package in ``vespa_app/``.

    Every method raises ``UnreachableError`` when nobody answers, and ``RejectedError`` with the endpoint's
    own words when it refuses. ``timeout``: seconds for one request.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 20.0) -> None:
        self.url = url
        self._endpoint = Endpoint(url, timeout=timeout)
        self._lock = threading.Lock()
        self._size: tuple[int, float] | None = None  # the index's vector size, and when it was read

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def __enter__(self) -> SearchClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self) -> None:
        """Return when an application answers at the URL, else raise."""
        self._endpoint.status()

    def search(self, request: Mapping[str, Any]) -> Results:
        """Send ``request`` as it is; hits in rank order with their lexical and semantic parts.

        Raises ``CheckpointError`` for a query vector of another size than the index's: Vespa would pad a
        short one with zeros in silence and answer nonsense.
        """
        cells = request.get("input.query(q)")
        if cells is not None:
            self._check_size(len(cells))
        start = time.perf_counter()
        root = self._endpoint.query(request).get("root", {})
        seconds = time.perf_counter() - start
        hits = tuple(_hit(child) for child in root.get("children", ()))
        return Results(hits, int(root.get("fields", {}).get("totalCount", 0)), dict(request), seconds)

    def similar(self, document_id: str, *, filters: Filters = NO_FILTERS, hits: int = 10, offset: int = 0) -> Results:
        """The images nearest to an indexed one, itself left out. ``InputError`` when it is not in the index."""
        request = query.similar(self.embedding(document_id), filters=filters, hits=hits, offset=offset)
        found = self.search(request)
        others = tuple(hit for hit in found.hits if hit.id != document_id)[:hits]
        return Results(others, found.total, found.request, found.seconds)

    def get(self, document_id: str, fields: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """Fields of one document (all without ``fields``), or None if it is not there."""
        corpus, key = parse_id(document_id)
        names = ",".join(fields) if fields else "[document]"
        return self._endpoint.get(corpus, key, f"{SCHEMA}:{names}")

    def embedding(self, document_id: str) -> Vector:
        """The stored embedding, (D,) float32. ``InputError`` when the document or its embedding is missing."""
        fields = self.get(document_id, ("embedding",))
        if fields is None:
            raise InputError(f"no image {document_id} is in the index at {self.url}")
        if "embedding" not in fields:
            raise InputError(f"{document_id} has no embedding: feed it again")
        return read_vector(fields["embedding"])

    def thumbnail(self, document_id: str) -> bytes | None:
        """The JPEG that travels in the document, or None if there is none."""
        fields = self.get(document_id, ("thumbnail",)) or {}
        try:
            return base64.b64decode(fields.get("thumbnail") or "", validate=True) or None
        except (binascii.Error, TypeError) as error:
            raise RejectedError(502, f"the thumbnail of {document_id} is not base64") from error

    def document_count(self, corpus: str = "") -> int:
        """How many images are in the index, or in one corpus of it."""
        return self.search(query.browse(filters=Filters(corpus), hits=0)).total

    def model_in_index(self) -> str:
        """Id of the model that one of the index's embeddings is of; "" while it is empty, or does not say."""
        for hit in self.search(query.browse(hits=1)).hits:
            return str((self.get(hit.id, ("model_id",)) or {}).get("model_id", ""))
        return ""

    def vector_size(self) -> int | None:
        """D of the embeddings in the index, read off one of them; None while it is empty. Cached for 30 s."""
        with self._lock:
            known = self._size
        if known and time.monotonic() - known[1] < SIZE_IS_FRESH:
            return known[0]
        return self._read_size()

    def _read_size(self) -> int | None:
        for hit in self.search(query.browse(hits=1)).hits:
            stored = (self.get(hit.id, ("embedding",)) or {}).get("embedding")
            if stored is None:
                return None
            size = len(read_vector(stored))
            with self._lock:
                self._size = (size, time.monotonic())
            return size
        return None

    def _check_size(self, given: int) -> None:
        size = self.vector_size()
        if size not in (None, given):
            size = self._read_size()  # another application may have been deployed since
        if size not in (None, given):
            raise CheckpointError(
                f"the model gives vectors of {given} numbers, and the index at {self.url} holds vectors of {size}: "
                "search with the model that its images were encoded with"
            )


def read_vector(value: Any) -> Vector:
    """A stored tensor<...>(x[D]) as (D,) float32, from the JSON forms in which Vespa renders it.

    ``{"type", "values": [..]}``, a bare list, or hex of bfloat16 (4 digits a cell) or float (8, told by
    ``type``).
    """
    kind = value.get("type", "") if isinstance(value, dict) else ""
    cells = value.get("values") if isinstance(value, dict) else value
    if isinstance(cells, str):
        if "float>" in kind and "bfloat16" not in kind:
            return np.frombuffer(bytes.fromhex(cells), ">f4").astype(np.float32)
        high = np.frombuffer(bytes.fromhex(cells), ">u2").astype(np.uint32)
        return (high << 16).view(np.float32)
    if not isinstance(cells, list):
        raise RejectedError(502, f"the endpoint renders an embedding in an unknown form: {str(value)[:80]}")
    return np.asarray(cells, dtype=np.float32)


def _hit(child: Mapping[str, Any]) -> Hit:
    fields = dict(child.get("fields", {}))
    parts = fields.pop("matchfeatures", {})
    fields.pop("sddocname", None)
    document_id = str(fields.pop("documentid", child.get("id", "")))
    return Hit(
        id=document_id,
        relevance=_number(child.get("relevance")),
        fields=fields,
        lexical=_number(parts.get(LEXICAL)),
        semantic=_number(parts.get(SEMANTIC)),
    )


def _number(value: Any) -> float:
    """Vespa renders NaN and infinities as null, and -Infinity relevance as a string: all become 0.

    Neither has a form in JSON, so one of them would make ``--json`` and the page's JSON twin unreadable.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
