"""Hits of several document types in the order that they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipsearch.engine.index.columns import NumberColumn, StringColumn
from clipsearch.engine.query.execution import Found
from clipsearch.engine.query.yql import Sort
from clipsearch.errors import QueryError

Place = tuple[Found, int]  # a schema's share, and a hit's place in it


def merged(found: Sequence[Found], order: Sequence[Sort]) -> list[Place]:
    """All hits, by ``order``; without it, and for equal ones, by score and then by document type.

    Each share is in that order already. Raises ``QueryError`` for a field that is a string in one type and a number in
    another.
    """
    places = [(part, place) for part in found for place in range(len(part.ranked.rows))]
    if len(found) > 1:
        places.sort(key=lambda at: -at[0].ranked.scores[at[1]])  # stable, as all that follow
        for item in reversed(order):
            keys = {id(part): _keys(part, item) for part in found}
            _check(item, [key for part in found for key in keys[id(part)]])
            places.sort(key=lambda at, keys=keys: keys[id(at[0])][at[1]], reverse=item.descending)  # type: ignore[misc]
    return places


def _keys(part: Found, item: Sort) -> list[tuple[bool, Any]]:
    """What each hit of ``part`` is sorted by; a number without a value is below every number."""
    rows, size = part.ranked.rows, part.matcher.size
    if item.field in ("[rank]", "[relevance]"):
        return [(True, score) for score in part.ranked.scores.tolist()]
    column = part.matcher.snapshot.generation.columns[item.field]
    if isinstance(column, NumberColumn):
        known = (~column.missing(size)[rows]).tolist()
        return [
            (has, value if has else 0) for has, value in zip(known, column.values(size)[rows].tolist(), strict=True)
        ]
    assert isinstance(column, StringColumn)  # nothing else is sorted by
    words = [column.words[code] for code in column.flat(size)[1][rows].tolist()]
    raw = item.function == "raw" or (column.cased and not item.function)
    return [(True, word if raw else word.lower()) for word in words]


def _check(item: Sort, keys: Sequence[tuple[bool, Any]]) -> None:
    if len({isinstance(value, str) for has, value in keys if has}) > 1:
        raise QueryError(
            f"sorting by '{item.field}', a string in one document type and a number in another, is not supported by "
            "the local engine",
            code=3,
        )
