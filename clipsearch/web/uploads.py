"""Images that users search by: read with a bound, embedded once, remembered for a while.

An upload is kept in memory only: the file, its vectors and a thumbnail, under a token made of its content, so that the
same image gives the same link. The oldest are forgotten first.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from clipsearch.errors import ImageError
from clipsearch.images import load_image, thumbnail
from clipsearch.search import QueryEncoder
from clipsearch.search.query import Vector

MAX_UPLOAD = 10 * 1024 * 1024
KEPT = 128 * 1024 * 1024  # bytes of files
_FORM = 64 * 1024  # what a form adds around its file


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded image: the file, its name, its thumbnail (JPEG), and by model id its embedding.

    Embeddings are (D,) float32 of unit norm.
    """

    token: str
    name: str
    embeddings: Mapping[str, Vector]
    thumbnail: bytes
    data: bytes


class Uploads:
    """The last uploads by token, at most ``keep`` and ``KEPT`` bytes of files; thread-safe."""

    def __init__(self, keep: int = 256) -> None:
        self._keep = keep
        self._items: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()  # a small file may hold a picture of 256 MiB: never many of them at once

    def add(self, data: bytes, name: str, encoders: Mapping[str, QueryEncoder]) -> Upload:
        """Decode, embed by every model and remember an image. Raises ``ImageError`` for what is not one."""
        token = hashlib.sha256(data).hexdigest()[:24]
        with self._decoding:
            image = load_image(data)
            vectors = {model: encoder.image(image) for model, encoder in encoders.items()}
            upload = Upload(token, name[:80], vectors, thumbnail(image), data)
        with self._lock:
            self._items[token] = upload
            self._items.move_to_end(token)
            while len(self._items) > self._keep or sum(len(item.data) for item in self._items.values()) > KEPT:
                self._items.popitem(last=False)
        return upload

    def get(self, token: str) -> Upload | None:
        """The upload, or None when it was never there or is forgotten."""
        with self._lock:
            return self._items.get(token)


async def read_upload(request: Request) -> tuple[bytes, str]:
    """The file in the form field ``image``, and its name.

    Raises ``HTTPException`` 413 as soon as the body is too large (before it is read whole), 415 for another kind of
    body, 400 for a form without a file.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "Send the image as a form with a file in the field “image”.")
    if int(request.headers.get("content-length") or 0) > MAX_UPLOAD + _FORM:
        raise _too_large()
    parser = MultiPartParser(request.headers, _bounded(request), max_files=1, max_fields=4)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"The form cannot be read: {error.message}") from error
    except ClientDisconnect as error:  # also a body whose chunks are malformed
        raise HTTPException(400, "The form ended in the middle.") from error
    try:
        file = form.get("image")
        if not isinstance(file, UploadFile) or not file.size:
            raise HTTPException(400, "Choose an image file first.")
        if file.size > MAX_UPLOAD:
            raise _too_large()
        return await file.read(), file.filename or "image"
    finally:
        await form.close()


def embed_upload(uploads: Uploads, encoders: Mapping[str, QueryEncoder], data: bytes, name: str) -> Upload:
    """``uploads.add`` with 415 for a file that is not an image."""
    try:
        return uploads.add(data, name, encoders)
    except ImageError as error:
        raise HTTPException(415, f"“{name[:80]}” cannot be read as an image: {error}.") from error


async def _bounded(request: Request) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_UPLOAD + _FORM:
            raise _too_large()
        yield chunk


def _too_large() -> HTTPException:
    return HTTPException(413, f"The image is too large: {MAX_UPLOAD // 1024 // 1024} MB at most.")
