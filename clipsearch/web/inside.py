"""``/inside``: where in an image a word is; ``/inside.json`` is the page's twin.

A grid of overlapping windows of the image is embedded by the page's model, and a softmax over the windows, with the
model's own logit scale, says how likely each one is the word's. Of several words, separated by commas, a second softmax
says which of them each window shows. What was embedded is remembered, so that a further word costs next to nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from clipsearch.errors import ImageError, InputError
from clipsearch.images import load_image, resize
from clipsearch.images.patches import PatchPlan
from clipsearch.search import QueryEncoder
from clipsearch.search.query import Vector
from clipsearch.web.pictures import corpus_and_key
from clipsearch.web.security import check_same_origin
from clipsearch.web.site import Ui
from clipsearch.web.state import one_of
from clipsearch.web.uploads import embed_upload, read_upload

GRIDS = {"3x3": PatchPlan(3, 3, 0.5), "5x5": PatchPlan(5, 5, 0.5), "7x7": PatchPlan(7, 7, 0.5)}
USUAL = "5x5"
MOST_WORDS = 6
LONGEST = 200  # characters of one word
SHOWN = 5  # rows of a table
_SIDE = 2048  # px; a window of the finest grid still has 512
_AT_ONCE = 8  # windows that the model takes while other queries wait
_PATIENCE = 20.0  # seconds that a request waits for its turn
_WAITING = 8  # requests that wait; more would take the threads that answer other pages
_KEPT = 128  # images: at most 13 MB of float32 at 512 dimensions

Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Subject:
    """The image that is looked at: ``key`` changes with its content; ``picture`` and ``link`` are URLs of this site."""

    key: str
    name: str
    about: str
    picture: str
    link: str
    fields: dict[str, str]
    read: Callable[[], tuple[bytes, str]]
    """The file's bytes, and what they are: "file", "thumbnail" or "upload"."""


@dataclass(frozen=True, slots=True)
class Windows:
    """What the model made of an image: ``boxes`` (P, 4) in px of an image of ``width`` x ``height``, ``vectors`` (P, D)
    float32 of unit norm; ``source``: "file", "thumbnail" or "upload"."""

    width: int
    height: int
    boxes: NDArray[np.int32]
    vectors: Vector
    source: str


@dataclass(frozen=True, slots=True)
class Spot:
    """One window: its box as shares of the image, where that is in words, and its figures.

    ``probability``: among the windows; ``among``: of this word among the words, in this window.
    """

    box: tuple[float, float, float, float]
    place: str
    cosine: float
    probability: float
    among: float


@dataclass(frozen=True, slots=True)
class Found:
    """A word with its windows, best first, and cells to draw: left, top, width, height in px and opacity."""

    word: str
    spots: tuple[Spot, ...]
    cells: tuple[tuple[int, int, int, int, float], ...]


@dataclass(frozen=True, slots=True)
class View:
    """What a request asks for and, when it names an image and a word, what was found."""

    grid: str
    words: list[str]
    subject: Subject | None = None
    windows: Windows | None = None
    found: tuple[Found, ...] = ()


class Lens:
    """Embeds windows of images, one image at a time, and remembers the last ``keep``; thread-safe."""

    def __init__(self, keep: int = _KEPT, patience: float = _PATIENCE) -> None:
        self._keep = keep
        self._patience = patience
        self._known: OrderedDict[tuple[str, str, str], Windows] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._queue = threading.BoundedSemaphore(_WAITING)

    def windows(self, encoder: QueryEncoder, subject: Subject, grid: str) -> Windows:
        """The windows of ``grid`` (of ``GRIDS``). Raises ``ImageError`` for a file that is no image.

        503 when other images take so long that this one's turn does not come.
        """
        key = (encoder.model.model_id, subject.key, grid)
        known = self._recall(key)
        if known is None:
            with self._my_turn():
                known = self._recall(key) or self._look(encoder, subject, grid)
                with self._lock:
                    self._known[key] = known
                    while len(self._known) > self._keep:
                        self._known.popitem(last=False)
        return known

    def _recall(self, key: tuple[str, str, str]) -> Windows | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self._queue.acquire(blocking=False):
            raise _busy()
        try:
            if not self._turn.acquire(timeout=self._patience):
                raise _busy()
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._queue.release()

    def _look(self, encoder: QueryEncoder, subject: Subject, grid: str) -> Windows:
        data, source = subject.read()
        image = load_image(data)
        height, width = image.shape[:2]
        scale = _SIDE / max(height, width)
        if scale < 1:
            image = resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
            height, width = image.shape[:2]
        boxes = GRIDS[grid].boxes(width, height)
        crops = [image[top:bottom, left:right] for left, top, right, bottom in boxes.tolist()]
        parts = [encoder.images(crops[start : start + _AT_ONCE]) for start in range(0, len(crops), _AT_ONCE)]
        return Windows(width, height, boxes, np.concatenate(parts), source)


def _busy() -> HTTPException:
    return HTTPException(503, "Too many images are being looked at: try again in a moment.")


def find(windows: Windows, words: list[str], encoder: QueryEncoder) -> tuple[Found, ...]:
    """Each of ``words`` in the image."""
    texts = np.stack([encoder.text(word) for word in words])
    cosines = np.asarray(windows.vectors @ texts.T, dtype=np.float64)
    logits = encoder.logit_scale * cosines
    where, which = _softmax(logits, 0), _softmax(logits, 1)
    found = []
    for number, word in enumerate(words):
        strength = which[:, number] if len(words) > 1 else where[:, number] / where[:, number].max()
        order = np.argsort(-where[:, number], kind="stable")
        spots = [_spot(windows, row, cosines[row, number], where[row, number], which[row, number]) for row in order]
        found.append(Found(word, tuple(spots), _cells(windows.boxes, strength)))
    return tuple(found)


def parse_words(text: str) -> list[str]:
    """The words between commas, each once. ``InputError`` for too many or too long ones."""
    words = list(dict.fromkeys(filter(None, (" ".join(word.split()) for word in text.split(",")))))
    if len(words) > MOST_WORDS:
        raise InputError(f"{len(words)} words were given: at most {MOST_WORDS} are looked for at once")
    if any(len(word) > LONGEST for word in words):
        raise InputError(f"a word is longer than {LONGEST} characters: shorten it")
    return words


def _softmax(logits: Shares, axis: int) -> Shares:
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def _spot(windows: Windows, row: int, cosine: float, probability: float, among: float) -> Spot:
    left, top, right, bottom = windows.boxes[row] / [windows.width, windows.height, windows.width, windows.height]
    across = ("left", "", "right")[min(2, int((left + right) / 2 * 3))]
    down = ("top", "", "bottom")[min(2, int((top + bottom) / 2 * 3))]
    place = " ".join(filter(None, (down, across))) or "middle"
    box = (round(float(left), 4), round(float(top), 4), round(float(right), 4), round(float(bottom), 4))
    return Spot(box, place, float(cosine), float(probability), float(among))


def _cells(boxes: NDArray[np.int32], strength: Shares) -> tuple[tuple[int, int, int, int, float], ...]:
    """The pieces that the borders of all windows cut, each as strong as the windows that cover it are on average."""
    across, down = np.unique(boxes[:, [0, 2]]).tolist(), np.unique(boxes[:, [1, 3]]).tolist()
    left, top, right, bottom = boxes.T
    cells = []
    for upper, lower in pairwise(down):
        for start, end in pairwise(across):
            covers = (left <= start) & (right >= end) & (top <= upper) & (bottom >= lower)
            if covers.any():
                cells.append((start, upper, end - start, lower - upper, round(float(strength[covers].mean()), 3)))
    return tuple(cells)


class Inside:
    """The handlers."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui
        self.lens = Lens()

    def page(self, request: Request) -> Response:
        """The page."""
        view, params = self._look(request), request.query_params
        query = {"q": ", ".join(view.words), "grid": view.grid, "model": params.get("model", "").strip()}
        kept = {name: value for name, value in query.items() if value}
        return self.ui.render(
            "inside.html",
            here="inside",
            view=view,
            grids=tuple(GRIDS),
            query=kept,
            shown=SHOWN,
            twin="/inside.json?" + urlencode({**(view.subject.fields if view.subject else {}), **kept}),
            upload="/inside/upload?" + urlencode(kept),
        )

    def twin(self, request: Request) -> Response:
        """The page's JSON twin."""
        view = self._look(request)
        windows = view.windows
        if view.subject is None or windows is None:
            raise HTTPException(400, "Give an image (like=ID or img=TOKEN) and a word (q=river).")
        encoder = self._encoder(request)
        return JSONResponse(
            {
                **view.subject.fields,
                "model": encoder.model.model_id,
                "logit_scale": encoder.logit_scale,
                "grid": view.grid,
                "source": windows.source,
                "width": windows.width,
                "height": windows.height,
                "words": [
                    {"word": each.word, "windows": [_spot_json(spot) for spot in each.spots]} for each in view.found
                ],
            }
        )

    async def upload(self, request: Request) -> Response:
        """Take an image and go to the page that looks inside it."""
        check_same_origin(request)
        self._encoder(request)
        data, name = await read_upload(request)
        encoders = self.ui.searcher.encoders
        upload = await run_in_threadpool(embed_upload, self.ui.uploads, encoders, data, name)
        kept = {name: request.query_params[name] for name in ("q", "grid", "model") if request.query_params.get(name)}
        return RedirectResponse("/inside?" + urlencode({"img": upload.token, **kept}), 303)

    def _encoder(self, request: Request) -> QueryEncoder:
        encoder = self.ui.searcher.encoder(request.query_params.get("model", "").strip())
        if encoder is None:
            raise HTTPException(409, "Looking inside an image needs a model: start the page with --model DIR.")
        return encoder

    def _look(self, request: Request) -> View:
        encoder = self._encoder(request)
        grid = one_of("grid", request.query_params.get("grid", "").strip() or USUAL, tuple(GRIDS))
        words = parse_words(request.query_params.get("q", ""))
        subject = self._subject(request)
        if subject is None or not words:
            return View(grid, words, subject)
        try:
            windows = self.lens.windows(encoder, subject, grid)
        except ImageError as error:
            raise HTTPException(415, f"“{subject.name}” cannot be read as an image: {error}.") from error
        return View(grid, words, subject, windows, find(windows, words, encoder))

    def _subject(self, request: Request) -> Subject | None:
        token = request.query_params.get("img", "").strip()
        if token:
            return self._uploaded(token)
        document_id = request.query_params.get("like", "").strip()
        return self._indexed(document_id) if document_id else None

    def _uploaded(self, token: str) -> Subject:
        upload = self.ui.uploads.get(token)
        if upload is None:
            raise HTTPException(404, "That upload is forgotten by now: upload the image again.")
        url = f"/uploaded/{quote(token)}"
        return Subject(
            token, upload.name, "", url, f"/?img={quote(token)}", {"img": token}, lambda: (upload.data, "upload")
        )

    def _indexed(self, document_id: str) -> Subject:
        fields = self.ui.searcher.promptly(self.ui.client.get, document_id, ("captions", "content_hash"))
        if fields is None:
            raise HTTPException(404, f"There is no image {document_id} in the index.")
        corpus, key = corpus_and_key(document_id)
        version = str(fields.get("content_hash") or "")
        path = f"{quote(corpus, safe='')}/{quote(key, safe='')}" + (f"?v={quote(version[:12])}" if version else "")
        folder = "image" if corpus in self.ui.pictures.corpora else "thumb"
        captions = fields.get("captions") or [""]

        def read() -> tuple[bytes, str]:
            try:
                return self.ui.pictures.full_size(corpus, key)[0], "file"
            except HTTPException:  # no folder of this corpus here, or its file cannot be read
                return self.ui.pictures.thumbnail(corpus, key), "thumbnail"

        return Subject(
            f"{document_id} {version}", key, str(captions[0]), f"/{folder}/{path}",
            f"/?{urlencode({'like': document_id})}", {"like": document_id}, read,
        )  # fmt: skip


def _spot_json(spot: Spot) -> dict[str, object]:
    return {
        "box": spot.box,
        "place": spot.place,
        "cosine": round(spot.cosine, 5),
        "probability": round(spot.probability, 6),
        "among_words": round(spot.among, 6),
    }


def routes(ui: Ui) -> list[Route]:
    """The page, its twin, and the form that takes an image."""
    inside = Inside(ui)
    ui.places["inside"] = ("/inside", "Look inside")
    return [
        Route("/inside", inside.page),
        Route("/inside.json", inside.twin),
        Route("/inside/upload", inside.upload, methods=["POST"]),
    ]
