"""Which fields of a document differ from what it should be: in eight bytes a field, so that an index fits in memory.

An index is read page by page, and shards row by row, in different orders; to compare them, one side is kept as
fingerprints. Values are compared as Vespa keeps them: embeddings as bfloat16, and a field that is empty is a field that
is missing. Two different values are taken for equal with probability 2**-64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import orjson

from clipsearch.errors import InputError, RejectedError
from clipsearch.records import Generation
from clipsearch.search.endpoint import Endpoint
from feeders.documents import bfloat16_hex
from feeders.generations import FIRST, physical, plain

CORPUS_FIELDS = ("captions", "label", "split", "image_uri", "latitude", "longitude")
"""What a record says: these change without a change of the image."""

ALL_FIELDS = (
    *CORPUS_FIELDS, "corpus", "content_hash", "model_id", "width", "height", "embedding", "patches", "patches_model"
)  # fmt: skip
"""Everything but the thumbnail, which follows from the image of ``content_hash``."""

LABELS = "patch_labels"
"""In place of ``patches``: only which there are. With the same image and model, that says all of them."""

_LATER = frozenset(("latitude", "longitude", "patches", "patches_model"))


def fingerprint(fields: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Eight bytes for each of ``names``, valid in this process only; ``fields`` are those of a put or of a visit."""
    return struct.pack(f"{len(names)}q", *[hash(_value(fields, name)) for name in names])


def differing(one: bytes, other: bytes, names: Sequence[str]) -> tuple[str, ...]:
    """Which of ``names`` two fingerprints of them differ in."""
    if one == other:
        return ()
    return tuple(name for at, name in enumerate(names) if one[8 * at : 8 * at + 8] != other[8 * at : 8 * at + 8])


def fingerprints(
    endpoint: Endpoint, corpus: str, names: Sequence[str], generation: Generation = FIRST
) -> Iterator[tuple[str, bytes]]:
    """(id, fingerprint) of every document of ``corpus`` in the index; only the fields of ``names`` travel."""
    for document in endpoint.visit(corpus, fields=",".join(asked_fields(endpoint, corpus, names, generation))):
        yield str(document["id"]), fingerprint(plain(document.get("fields", {}), generation), names)


def asked_fields(endpoint: Endpoint, corpus: str, names: Sequence[str], generation: Generation) -> list[str]:
    """The fields to visit for ``names``, without those that an application of an earlier version does not have yet."""
    asked = physical(["patches" if name == LABELS else name for name in names], generation)
    if _LATER.isdisjoint(asked):
        return asked
    try:
        next(endpoint.visit(corpus, fields="patches_model"), None)  # a small field that came with the others
    except RejectedError as error:
        if error.status != 400:
            raise
        return [name for name in asked if name not in _LATER]
    return asked


def _value(fields: Mapping[str, Any], name: str) -> Any:
    if name == LABELS and LABELS not in fields:
        return tuple(sorted((fields.get("patches") or {}).get("blocks", ()))) or None
    return _plain(fields.get(name))


def _plain(value: Any) -> Any:
    """A value as something hashable that is equal for everything that Vespa keeps as equal."""
    if isinstance(value, dict):
        kind = str(value.get("type", "tensor<bfloat16>"))  # what feeders send says no type
        if "blocks" in value:
            return tuple(sorted((label, _hex(cells, kind)) for label, cells in value["blocks"].items())) or None
        return _hex(value.get("values"), kind)
    if isinstance(value, list):
        return tuple(value) or None
    return None if value == "" else value


def _hex(values: Any, kind: str) -> str:
    """A dense tensor as hex of bfloat16, whatever its cells are in the index."""
    if not isinstance(values, str):
        return bfloat16_hex(np.asarray(values, np.float32))
    if kind.startswith("tensor<bfloat16>"):
        return values
    cells = ">f8" if kind.startswith("tensor(") or kind.startswith("tensor<double>") else ">f4"
    return bfloat16_hex(np.frombuffer(bytes.fromhex(values), cells).astype(np.float32))


class Findings:
    """A JSONL file with one line for each thing found; it exists only if there is one, and is of the last run only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._file: TextIO | None = None

    def write(self, **finding: Any) -> None:
        """Add one line."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
        self._file.write(orjson.dumps(finding).decode() + "\n")
        self.lines += 1

    def __str__(self) -> str:
        return str(self.path) if self.lines else ""

    def __enter__(self) -> Findings:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{self.path} cannot be replaced: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
