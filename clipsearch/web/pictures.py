"""Pictures by document id: thumbnails out of the index, full-size files out of configured corpus folders.

A full-size file is found by the document's ``image_uri``, which is data out of an index and not to be trusted: it is
read through ``corpora.store``, which never leaves the corpus root, and only if it looks like an image by name and
by content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.corpora.store import ImageStore, is_image_name
from clipsearch.errors import ImageError, InputError
from clipsearch.images import load_image, thumbnail
from clipsearch.records import Hit
from clipsearch.search import SearchClient
from clipsearch.search.endpoint import parse_id
from clipsearch.web.security import PICTURE_POLICY

_FULL_SIZE = 2048  # px; for formats that browsers do not show
_KINDS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
FOR_EVER = "public, max-age=31536000, immutable"
FOR_A_MINUTE = "private, max-age=60"


class Pictures:
    """Reads pictures; ``roots`` maps a corpus name to its folder."""

    def __init__(self, client: SearchClient, roots: Mapping[str, Path]) -> None:
        self._client = client
        self._stores = {corpus: ImageStore(root) for corpus, root in roots.items()}

    @property
    def corpora(self) -> frozenset[str]:
        """Corpora whose full-size files can be shown."""
        return frozenset(self._stores)

    def thumbnail(self, corpus: str, key: str) -> bytes:
        """JPEG out of the index; 404 when there is none."""
        data = self._client.thumbnail(_document_id(corpus, key))
        if not data:
            raise HTTPException(404, "There is no such image in the index.")
        return data

    def full_size(self, corpus: str, key: str) -> tuple[bytes, str]:
        """The image file and its media type; 404 when the corpus has no folder here or the file is not below it.

        Formats that browsers do not show (TIFF, 16-bit) come as JPEG of at most 2048 px.
        """
        store = self._stores.get(corpus)
        fields = self._client.get(_document_id(corpus, key), ("image_uri",)) if store else None
        uri = str((fields or {}).get("image_uri", ""))
        if store is None or not is_image_name(uri):
            raise HTTPException(404, "This image has no full-size file here.")
        try:
            data = store.read(uri)
            for start, kind in _KINDS:
                if data.startswith(start):
                    return data, kind
            return thumbnail(load_image(data), _FULL_SIZE), "image/jpeg"
        except ImageError as error:
            raise HTTPException(404, "The full-size file of this image cannot be read.") from error


def picture_response(request: Request, data: bytes, kind: str = "image/jpeg") -> Response:
    """``data`` with an ETag; 304 when the browser has it.

    A URL with a version (``?v=``, part of the content hash) may be kept for ever.
    """
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    keep = FOR_EVER if "v" in request.query_params else FOR_A_MINUTE
    headers = {"ETag": etag, "Cache-Control": keep, "Content-Security-Policy": PICTURE_POLICY}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


def corpus_and_key(document_id: str) -> tuple[str, str]:
    """The corpus and key of a document id, as in the paths of its pictures; the corpus is "" for what is no such id."""
    head, _, key = document_id.rpartition("::")
    return (head.split(":")[1] if head.count(":") == 2 else ""), key


def version_of(hit: Hit) -> str:
    """What changes with the picture of ``hit``: the start of its content hash, "" when it has none."""
    return str(hit.fields.get("content_hash") or "")[:12]


def _document_id(corpus: str, key: str) -> str:
    document_id = f"id:{corpus}:image::{key}"
    try:
        parse_id(document_id)
    except InputError as error:
        raise HTTPException(404, "There is no such image.") from error
    return document_id
