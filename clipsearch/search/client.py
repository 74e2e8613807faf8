"""Search, and read documents back, over any Vespa endpoint: the local engine or a cluster.

``SearchClient`` sends the bodies that ``query.py`` makes and returns the plain ``Results`` of ``records``.
It knows no model: a text becomes a vector elsewhere (see ``encoders.py``).
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any

import numpy as np

from clipsearch.errors import CheckpointError, InputError, RejectedError
from clipsearch.records import Generation, Results
from clipsearch.search import query
from clipsearch.search.answers import FIRST, generation_of_name, generations_named, read_facets, read_hit, read_vector
from clipsearch.search.endpoint import DEFAULT_URL, SCHEMA, Endpoint, is_id, parse_id
from clipsearch.search.query import NO_FILTERS, Filters, Vector

FRESH = 30.0  # seconds for which sizes and generations of the index are taken as known
_MOST_GENERATIONS = 100
_VECTOR = re.compile(r"input\.query\(q(?:_g(\d+))?\)")


class SearchClient:
    """A thread-safe client of the application package in ``vespa_app/``.

    Every method raises ``UnreachableError`` when nobody answers, and ``RejectedError`` with the endpoint's
    own words when it refuses. ``timeout``: seconds for one request.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 20.0) -> None:
        self.url = url
        self._endpoint = Endpoint(url, timeout=timeout)
        self._lock = threading.Lock()
        self._known: dict[object, tuple[Any, float]] = {}  # what was read of the index, and when

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
        short one with zeros in silence and answer nonsense; and for one of a generation that was dropped.
        """
        sought = next((match for match in map(_VECTOR.fullmatch, request) if match), None)
        if sought:
            self._check_size(len(request[sought[0]]), generation_of_name(sought[1]))
        start = time.perf_counter()
        try:
            root = self._endpoint.query(request).get("root", {})
        except RejectedError as error:
            if sought and error.status in (200, 400):
                self._check_lives(generation_of_name(sought[1]))
            if query.PATCH_TENSOR in request and error.status == 400:
                self._check_patches(str(request.get("model_id", "")), error)
            raise
        seconds = time.perf_counter() - start
        children = root.get("children", ())
        hits = tuple(read_hit(child) for child in children if not str(child.get("id", "")).startswith("group:"))
        total = int(root.get("fields", {}).get("totalCount", 0))
        if query.PATCH_TENSOR in request and not total:
            self._check_patches(str(request.get("model_id", "")))
        return Results(hits, total, dict(request), seconds, read_facets(children))

    def ids(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        """The document ids of the hits of ``request`` in rank order, and nothing else: for lists that are long."""
        children = self._endpoint.query(request).get("root", {}).get("children", ())
        return tuple(str(child.get("fields", {}).get("documentid", child.get("id", ""))) for child in children)

    def faceted(self, build: Callable[..., query.Request], filters: Filters = NO_FILTERS, **options: Any) -> Results:
        """Search with facets, each counted without its own filter, so that another value of it can be chosen.

        ``build`` makes the request from ``filters=``, ``hits=`` and so on: a function of ``query`` with its query
        bound, e.g. ``partial(query.by_profile, "hybrid", text, embedding)``. ``options`` are passed on. Each filter
        that is set costs a further request of no hits; they are sent side by side.
        """
        requests = [build(**{**options, "filters": filters, "facets": True})]
        opened = tuple(filters.active())
        for name in opened:
            others = {**options, "filters": replace(filters, **{name: ""}), "facets": True, "hits": 0, "offset": 0}
            requests.append(build(**others))
        if not opened:
            return self.search(requests[0])
        with ThreadPoolExecutor(len(requests)) as pool:
            found, *counts = pool.map(self.search, requests)
        reopened = {name: each.facets.get(name, {}) for name, each in zip(opened, counts, strict=True)}
        return replace(found, facets={**found.facets, **reopened})

    def get(self, document_id: str, fields: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """Fields of one document (all without ``fields``), or None if it is not there."""
        corpus, key = parse_id(document_id)
        names = ",".join(fields) if fields else "[document]"
        return self._endpoint.get(corpus, key, f"{SCHEMA}:{names}")

    def embedding(self, document_id: str, generation: Generation = FIRST) -> Vector:
        """The stored embedding, (D,) float32. ``InputError`` when the document or its embedding is missing."""
        fields = self.get(document_id, (generation.field,))
        if fields is None:
            raise InputError(f"no image {document_id} is in the index at {self.url}")
        if generation.field not in fields:
            raise InputError(f"{document_id} has no embedding: feed it again")
        return read_vector(fields[generation.field])

    def sample(self, count: int, generation: Generation = FIRST) -> Vector:
        """Embeddings of ``count`` pseudo-random documents, (N, D) float32; N is less where the index has no more, or
        where few of the first 5 x ``count`` documents have one: no more of them are looked at.

        A visit goes through the buckets, which are hashes of the ids, so that its first documents are a sample of all
        corpora. The same index gives the same sample.
        """
        documents = islice(self._endpoint.visit(fields=generation.field), 5 * count)
        stored = (document.get("fields", {}).get(generation.field) for document in documents)
        rows = [read_vector(value) for value in islice(filter(None, stored), count)]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

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

    def generations(self) -> dict[Generation, str]:
        """The generations that the deployed application has, with the model that one document's embedding is of.

        "" is for one that does not say, or has no such embedding yet. Nothing is known of an empty index. Cached.
        """
        found: dict[Generation, str] = self._cached("generations", self._read_generations)
        return found

    def active(self) -> Generation:
        """The generation that the deployed query profile names. Cached."""
        found: Generation = self._cached("active", self._read_active)
        return found

    def generation_of(self, model_id: str) -> Generation:
        """The generation whose embeddings are of this model, so that it may be searched with the model's vectors.

        Raises ``CheckpointError`` when the index holds embeddings of other models only. Cached.
        """
        found: Generation | None = self._cached(("model", model_id), lambda: self._find(model_id))
        if found is None:
            found = self._cached(("model", model_id), lambda: self._find(model_id), fresh=0.0)
        if found is None:
            raise CheckpointError(
                f"the index at {self.url} holds embeddings of {self._models()}, and none of the model {model_id}: use "
                "that model, with the adapter that its images were fed with (--model, --adapter), or give the index "
                "this one's embeddings with 'clipsearch reembed'"
            )
        return found

    def generation_to_feed(self, model_id: str) -> Generation:
        """Where new embeddings of this model belong: the only generation there is, or the one that is of the model.

        Raises ``CheckpointError`` when there are several, and none has an embedding of this model yet.
        """
        alive = self._read_generations()
        if len(alive) > 1:
            return self.generation_of(model_id)
        return next(iter(alive)) if alive else self._first_deployed()

    def _first_deployed(self) -> Generation:
        """Of an empty index, found by its rank profiles: nothing else tells on this port."""
        for number in range(1, _MOST_GENERATIONS):
            generation = Generation(number)
            request = query.browse(hits=0) | {"ranking.profile": generation.profile("vector")}
            try:
                self._endpoint.query(request)
            except RejectedError as error:
                if error.status != 400:
                    raise
            else:
                return generation
        return FIRST

    def count_of_model(self, model_id: str, generation: Generation = FIRST) -> int:
        """How many documents have an embedding of ``generation`` by this model."""
        return self.search(query.of_model(model_id, generation)).total

    def count_of_patches(self, model_id: str) -> int:
        """How many documents have patches by this model."""
        return self.search(query.of_patches_model(model_id)).total

    def has_patches(self, model_id: str) -> bool:
        """Whether any image in the index has patches of this model. Cached when there are."""
        return bool(self._cached(("patches", model_id), lambda: self.count_of_patches(model_id) or None))

    def vector_size(self, generation: Generation = FIRST) -> int | None:
        """D of a generation's embeddings, read off one of them; None while there is none. Cached."""
        size: int | None = self._cached(("size", generation), lambda: self._read_size(generation))
        return size

    def _cached(self, key: object, read: Callable[[], Any], fresh: float = FRESH) -> Any:
        with self._lock:
            known = self._known.get(key)
        if known and time.monotonic() - known[1] < fresh:
            return known[0]
        value = read()
        with self._lock:
            if value is None:
                self._known.pop(key, None)
            else:
                self._known[key] = (value, time.monotonic())
        return value

    def _read_generations(self) -> dict[Generation, str]:
        for child in self._endpoint.query(query.browse(hits=1)).get("root", {}).get("children", ()):
            fields = child.get("fields", {})
            generations = generations_named(fields.get("matchfeatures", {}))
            return {each: str(fields.get(each.model_field, "")) for each in generations}
        return {}

    def _read_active(self) -> Generation:
        for child in self._endpoint.query(query.of_default_profile()).get("root", {}).get("children", ()):
            return min(generations_named(child.get("fields", {}).get("matchfeatures", {})), default=FIRST)
        return FIRST

    def _find(self, model_id: str) -> Generation | None:
        """By one document where that tells, since to look through all takes its time."""
        models = self._read_generations()
        for generation, found in models.items():
            if found == model_id:
                return generation
        for generation in models:
            if self.count_of_model(model_id, generation):
                return generation
        return None if any(models.values()) else min(models, default=FIRST)

    def _models(self) -> str:
        named = sorted((generation, model) for generation, model in self.generations().items() if model)
        return " and ".join(f"{model} ({generation.name})" for generation, model in named)

    def _read_size(self, generation: Generation) -> int | None:
        for hit in self.search(query.browse(hits=10)).hits:
            if not is_id(hit.id):
                continue  # another client's document: a path cannot name it
            stored = (self.get(hit.id, (generation.field,)) or {}).get(generation.field)
            return None if stored is None else len(read_vector(stored))
        return None

    def _check_lives(self, generation: Generation) -> None:
        """Raise ``CheckpointError`` when the application no longer has ``generation``."""
        alive = self._cached("generations", self._read_generations, fresh=0.0)
        if alive and generation not in alive:
            with self._lock:
                self._known.clear()
            raise CheckpointError(
                f"generation {generation.name} of the embeddings was dropped from the index at {self.url}, which holds "
                f"embeddings of {self._models()}: search with that model"
            )

    def _check_patches(self, model_id: str, refusal: RejectedError | None = None) -> None:
        """Raise ``CheckpointError`` when there is nothing that a vector of this model could be compared with."""
        try:
            if self._cached(("patches", model_id), lambda: self.count_of_patches(model_id) or None):
                return
        except RejectedError as error:
            raise CheckpointError(
                f"the application deployed at {self.url} has no patches: deploy the package that 'clipsearch app' "
                "writes now (start the engine with --app), and feed the images again with --patches 3x3"
            ) from (refusal or error)
        raise CheckpointError(
            f"no image in the index at {self.url} has patches of the model {model_id}: feed them with 'clipsearch feed "
            "images CORPUS --model MODEL --patches 3x3', or feed shards that were encoded with --patches"
        ) from refusal

    def _check_size(self, given: int, generation: Generation) -> None:
        try:
            size = self.vector_size(generation)
            if size not in (None, given):  # another application may have been deployed since
                size = self._cached(("size", generation), lambda: self._read_size(generation), fresh=0.0)
        except RejectedError:
            self._check_lives(generation)
            raise
        if size not in (None, given):
            raise CheckpointError(
                f"the model gives vectors of {given} numbers, and the index at {self.url} holds vectors of {size}: "
                "search with the model that its images were encoded with"
            )
