"""Where a hit stands in the list by words and in the list by vector, of which a fusion is made.

The third list of "hybrid", captions that hold every word, has one rank for all its members: ``Hit.is_complete`` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from clipsearch.records import Generation
from clipsearch.search import query
from clipsearch.search.client import SearchClient
from clipsearch.search.query import FIRST, NO_FILTERS, Filters, Request, Vector

DEPTH = 100


@dataclass(frozen=True, slots=True)
class ListRanks:
    """Document id -> rank from 1, in the list by words and in the list by vector; further down is left out."""

    lexical: Mapping[str, int] = field(default_factory=dict)
    semantic: Mapping[str, int] = field(default_factory=dict)


def list_ranks(
    client: SearchClient, text: str, embedding: Vector | None, filters: Filters = NO_FILTERS,
    generation: Generation = FIRST, depth: int = DEPTH, without: str = "",
) -> ListRanks:  # fmt: skip
    """The first ``depth`` ids of both lists, by two small requests side by side.

    A blank ``text`` or a missing ``embedding`` (D,) leaves that list empty. The document id ``without`` is taken out
    before the others are numbered. Errors are those of ``client.search``.
    """
    words = query.lexical(text, filters=filters, hits=depth, summary="id") if text.strip() else None
    nearest = None
    if embedding is not None:
        nearest = query.vector(embedding, filters=filters, hits=depth, generation=generation, summary="id")
    if words is None or nearest is None:
        return ListRanks(_ranks(client, words, without), _ranks(client, nearest, without))
    with ThreadPoolExecutor(1) as beside:
        lexical = beside.submit(_ranks, client, words, without)
        semantic = _ranks(client, nearest, without)
        return ListRanks(lexical.result(), semantic)


def _ranks(client: SearchClient, request: Request | None, without: str) -> dict[str, int]:
    ids = client.ids(request) if request else ()
    others = (document_id for document_id in ids if document_id != without)
    return {document_id: rank for rank, document_id in enumerate(others, 1)}
