"""The in-memory index of one schema: attributes, postings, vectors; and what it needs of stored documents."""

from __future__ import annotations

from clipsearch.engine.index.documents import DocumentReader, FieldValue, StoredDocument
from clipsearch.engine.index.index import Index, Snapshot

__all__ = ["DocumentReader", "FieldValue", "Index", "Snapshot", "StoredDocument"]
