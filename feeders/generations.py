"""Which generation of embeddings a document's embedding belongs to: feeders say ``embedding`` and ``model_id``, and
what travels has the names of the generation that is of this model.

An index has two generations while ``clipsearch reembed`` brings a new model, and may have g2 alone afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from clipsearch.errors import CheckpointError, ServiceError
from clipsearch.records import Generation
from clipsearch.search import SearchClient
from feeders.operations import Operation

FIRST = Generation()
_ATTEMPTS = 4


class Addresses:
    """The generations of the index at ``url``, asked for once for each model."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._known: dict[str, Generation | CheckpointError] = {}

    def operation(self, operation: Operation) -> Operation:
        """The operation with the names of its embedding's generation. Raises ``CheckpointError``."""
        fields = operation.fields
        if fields is None or "embedding" not in fields or "model_id" not in fields:
            return operation
        model = fields["model_id"]
        generation = self.of(str(model.get("assign", "") if isinstance(model, Mapping) else model))
        return operation if generation == FIRST else replace(operation, fields=named(fields, generation))

    def of(self, model_id: str) -> Generation:
        """The generation of a model; ``CheckpointError`` when the index has several, and none is of this model."""
        if model_id not in self._known:
            self._known[model_id] = self._ask(model_id)
        found = self._known[model_id]
        if isinstance(found, CheckpointError):
            raise found
        return found

    def owns_patches(self, model_id: str) -> bool:
        """Whether the index's patches, which have no generation, belong to this model's: the first, or the only one."""
        try:
            if self.of(model_id) == FIRST:
                return True
            with SearchClient(self._url, timeout=5.0) as client:
                return len(client.generations()) <= 1
        except (CheckpointError, ServiceError):
            return False

    def _ask(self, model_id: str) -> Generation | CheckpointError:
        """An endpoint that takes documents and answers no query has one generation, as far as anyone knows."""
        with SearchClient(self._url, timeout=5.0) as client:
            for attempt in range(_ATTEMPTS):
                try:
                    return client.generation_to_feed(model_id)
                except CheckpointError as error:
                    return error
                except ServiceError:
                    time.sleep(0.05 * 2**attempt)
        return FIRST


def named(fields: Mapping[str, Any], generation: Generation) -> dict[str, Any]:
    """``fields`` with the generation's names."""
    names = _names(generation)
    return {names.get(name, name): value for name, value in fields.items()}


def plain(fields: Mapping[str, Any], generation: Generation) -> dict[str, Any]:
    """The reverse: what a document has for the generation, by the plain names; other generations' are left out."""
    names = {there: here for here, there in _names(generation).items()}
    return {
        names.get(name, name): value
        for name, value in fields.items()
        if name in names or name not in ("embedding", "model_id")
    }


def physical(names: Iterable[str], generation: Generation) -> list[str]:
    """Names of fields as the generation has them."""
    there = _names(generation)
    return [there.get(name, name) for name in names]


def _names(generation: Generation) -> dict[str, str]:
    return {"embedding": generation.field, "model_id": generation.model_field}
