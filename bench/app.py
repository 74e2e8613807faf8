"""The application package that is measured: ``vespa_app/`` with one more attribute, ``bucket``, to filter by."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.records import Embedded, Record
from feeders.documents import document_fields

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "bench"
_BEFORE = "        # Of the full image, in pixels.\n"
_BUCKET = """        field bucket type int {
            indexing: attribute | summary
            attribute: fast-search
            rank: filter
        }

"""


def write_application(folder: Path) -> Path:
    """Write the package to ``folder``, which is replaced; returns ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "vespa_app", folder)
    schema = folder / "schemas" / "image.sd"
    text = schema.read_text()
    assert text.count(_BEFORE) == 1, f"{schema} has changed: say here where the bucket goes"
    schema.write_text(text.replace(_BEFORE, _BUCKET + _BEFORE))
    return folder


def embedded(row: int, caption: str, vector: Any) -> Embedded:
    """One document as ``clipsearch encode`` leaves it, without a thumbnail. ``vector``: (512,) float32, unit norm."""
    record = Record(NAMESPACE, f"{row:07}", f"images/{row:07}.jpg", (caption,), "train", f"class{row % 30}")
    digest = hashlib.sha256(row.to_bytes(8, "little")).hexdigest()
    return Embedded(record, np.asarray(vector, np.float32), b"", 224, 224, digest, "bench/clip-vit-base-patch32")


def fields(row: int, caption: str, vector: Any, bucket: int | None = None) -> dict[str, Any]:
    """The ``fields`` of a put, as ``clipsearch feed`` sends them, and the bucket."""
    made = document_fields(embedded(row, caption, vector))
    return made if bucket is None else {**made, "bucket": bucket}


def document_id(row: int) -> str:
    """The id that the engine knows document ``row`` by."""
    return f"id:{NAMESPACE}:image::{row:07}"
