"""Where the words of one index field stand in the rows of a batch, element by element.

Sources: Vespa's ``searchlib/features`` (``fieldtermmatch``, ``fieldlength``, ``element_completeness``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.text import ELEMENT_GAP
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.matching import TermMatch
from clipsearch.errors import QueryError

if TYPE_CHECKING:
    from clipsearch.engine.query.term_features import TermFeatures

Numbers = NDArray[np.float64]
NO_POSITION = 1_000_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Where one term begins in the tokens of a batch: flat positions, ascending."""

    at: NDArray[np.int64]
    weight: int


class Places:
    """The words of one index field in the rows of a batch, element by element."""

    def __init__(self, features: TermFeatures, field: str) -> None:
        self.features, self.field = features, field
        self.index = features.snapshot.generation.texts[field]
        self.tokens, owner = self.index.token_rows(features.rows)
        self.gaps = np.flatnonzero(self.tokens == ELEMENT_GAP)  # where each element ends
        self.first = np.concatenate([np.zeros(1, np.int64), self.gaps + 1])[:-1]
        self.lengths = (self.gaps - self.first).astype(np.float64)
        self.element_owner = owner[self.gaps]

    def hits(self, term: TermMatch) -> Hits | None:
        """Where ``term`` stands in rows that it matches; None when it does not search this field."""
        if self.field not in term.found:
            return None
        words = index_words(self.features, self.field, term)
        hit = np.ones(max(len(self.tokens) - len(words) + 1, 0), np.bool_)
        for offset, word in enumerate(words):
            hit &= self.tokens[offset : offset + len(hit)] == self.index.number(word)
        at = np.flatnonzero(hit) if words else np.empty(0, np.int64)
        if term.scope is not None:
            at = at[term.scope[self.features.rows[self._owner(at)]]]
        return Hits(at, term.node.options.weight)

    def element(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number, over all rows, of the element that each position is in."""
        return self.gaps.searchsorted(at)

    def _owner(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row, by its place in the batch, of each position."""
        return self.element_owner[self.element(at)]

    def all(self, terms: list[TermMatch]) -> list[Hits]:
        """Where those of ``terms`` stand that search this field."""
        found = (self.hits(term) for term in terms)
        return [hits for hits in found if hits is not None]

    def field_length(self, terms: list[TermMatch]) -> Numbers:
        """Words of the longest element that a term matched; a million where none did."""
        found = np.zeros(len(self.features.rows))
        for hits in self.all(terms):
            np.maximum.at(found, self._owner(hits.at), self.lengths[self.element(hits.at)])
        return np.where(found > 0, found, NO_POSITION)

    def term_match(self, term: TermMatch | None, output: str) -> Numbers:
        """One of the outputs of fieldTermMatch."""
        size = len(self.features.rows)
        hits = None if term is None else self.hits(term)
        at = np.empty(0, np.int64) if hits is None else hits.at
        owner = self._owner(at)
        counts = np.bincount(owner, minlength=size).astype(np.float64)
        if output in ("occurrences", "weight"):
            return counts
        if output == "exactness":
            return (counts > 0).astype(np.float64)
        position = (at - self.first[self.element(at)]).astype(np.float64)
        if output == "firstPosition":
            found = np.full(size, NO_POSITION)
            np.minimum.at(found, owner, position)
            return found
        found = np.zeros(size)
        np.maximum.at(found, owner, position)
        return np.where(counts > 0, found, NO_POSITION)


def check_places(field: str, term: TermMatch) -> None:
    """Raises ``QueryError`` for a term whose places in ``field`` are not known."""
    node = term.node
    if term.source is None and isinstance(node, (q.Word, q.Phrase)):
        return
    if not isinstance(node, q.Number) or node.low != node.high:
        raise QueryError(f"positions of '{node}' in '{field}' are not supported by the local engine", code=3)


def index_words(features: TermFeatures, field: str, term: TermMatch) -> list[str]:
    """The index terms that ``term`` is made of in ``field``. Raises ``QueryError`` for one without places."""
    check_places(field, term)
    node = term.node
    if isinstance(node, q.Number):
        return features.snapshot.generation.texts[field].terms(node.low.lstrip("-"))
    written = node.words if isinstance(node, q.Phrase) else [node.text] if isinstance(node, q.Word) else []
    lookup, searched = features.matcher.lookup, features.matcher.schema.fields[field]
    return [word for text in written for word in lookup.index_terms(text, searched, node)]
