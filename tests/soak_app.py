"""The application that the soak tests run, and documents of it that tell by themselves whether they are whole.

Everything in a document follows from its number and version, so that a lost, torn or invented one is recognised
wherever it comes out: a get, a visit, a hit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = """
schema note {
    document note {
        field number type int {
            indexing: attribute | summary
            attribute: fast-search
        }
        field version type int {
            indexing: attribute | summary
        }
        field caption type string {
            indexing: index | summary
            index: enable-bm25
            stemming: none
        }
        field tags type array<string> {
            indexing: attribute | summary
            match: word
        }
        field total type long {
            indexing: attribute | summary
        }
        field parts type tensor<float>(label{}) {
            indexing: attribute | summary
        }
        field vector type tensor<float>(x[SIZE]) {
            indexing: attribute | index | summary
            attribute {
                distance-metric: euclidean
            }
        }
        field check type string {
            indexing: summary
        }
        EXTRA
    }
    fieldset default {
        fields: caption
    }
    rank-profile default {
        inputs {
            query(q) tensor<float>(x[SIZE])
        }
        first-phase {
            expression: bm25(caption)
        }
    }
    rank-profile near inherits default {
        first-phase {
            expression: closeness(field, vector)
        }
    }
}
"""
SERVICES = """<?xml version="1.0" encoding="utf-8"?>
<services version="1.0">
  <container id="default" version="1.0">
    <document-api/>
    <search/>
    <config name="ai.vespa.opennlp.open-nlp"><snowballStemmingForEnglish>true</snowballStemmingForEnglish></config>
  </container>
  <content id="notes" version="1.0">
    <min-redundancy>1</min-redundancy>
    <documents><document type="note" mode="index"/></documents>
  </content>
</services>
"""
EXTRA_FIELD = "field mood type string { indexing: attribute | summary }"
WORDS = tuple(a + b for a in ("bri", "ha", "sta", "ri", "fo", "to") for b in ("dge", "rbour", "dium", "ver", "rest"))


def app_files(size: int = 8, extra: str = "") -> dict[str, bytes]:
    """The package with vectors of ``size`` cells and the further fields ``extra``."""
    schema = SCHEMA.replace("SIZE", str(size)).replace("EXTRA", extra)
    return {"schemas/note.sd": schema.encode(), "services.xml": SERVICES.encode()}


def write_app(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes a package; returns ``folder``."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def vector(number: int, version: int, size: int) -> NDArray[np.float32]:
    """The vector of one version: (size,) float32, whole numbers, so that JSON and float agree; no two are alike."""
    cells = np.arange(1, size + 1, dtype=np.uint64) + np.uint64((number << 20) + version) * np.uint64(4096)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the mixing steps of splitmix64
        cells = (cells ^ (cells >> np.uint64(shift))) * np.uint64(factor)
    return ((cells >> np.uint64(31)) % np.uint64(1009)).astype(np.float32)


def caption(number: int, version: int) -> str:
    """Words, one that only this document has and one that only this version has."""
    picked = [WORDS[(number * 7 + version * 3 + k * k) % len(WORDS)] for k in range(5)]
    return " ".join([*picked, f"n{number}", f"n{number}v{version}"])


def fields(number: int, version: int, size: int = 8) -> dict[str, Any]:
    """All fields of one version of one document, as document/v1 takes them."""
    made: dict[str, Any] = {
        "number": number,
        "version": version,
        "caption": caption(number, version),
        "tags": [f"t{number % 10}", f"v{version}"],
        "total": number * 1000 + version,
        "parts": {"cells": {f"p{number % 7}": float(version), "all": float(number % 4096)}},
        "vector": vector(number, version, size).tolist(),
    }
    return made | {"check": check(made)}


def check(document: Mapping[str, Any]) -> str:
    """A checksum over everything else in a document, whether it was made here or answered (tensors in any form)."""
    plain = [document[name] for name in ("number", "version", "caption", "tags", "total")]
    return f"{zlib.crc32(repr([*plain, _cells(document['parts']), _cells(document['vector'])]).encode()):08x}"


def _cells(tensor: Any) -> Any:
    """The cells of a short or short-value tensor: a sorted list of labels, or a list of numbers."""
    if isinstance(tensor, Mapping):
        tensor = tensor.get("cells", tensor.get("values", tensor))
    if isinstance(tensor, Mapping):
        return sorted((label, float(value)) for label, value in tensor.items())
    return [float(value) for value in tensor]


def is_whole(document: Mapping[str, Any], size: int = 8) -> bool:
    """Whether ``document`` is exactly one version that ``fields`` makes."""
    try:
        made = fields(int(document["number"]), int(document["version"]), size)
        return document["check"] == made["check"] == check(document)
    except (KeyError, TypeError, ValueError):
        return False
