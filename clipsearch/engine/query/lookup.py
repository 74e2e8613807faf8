"""Terms looked up in a text index: words, phrases and near, with how often each row has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index import linguistics
from clipsearch.engine.index.index import Snapshot
from clipsearch.engine.index.text import ELEMENT_GAP
from clipsearch.engine.package.model import Field
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.occurrences import IndexTerm, Listed, Occurrences
from clipsearch.errors import QueryError

Rows = NDArray[Any]


def fold_number_test(node: q.Number) -> Callable[[NDArray[Any]], NDArray[np.bool_]]:
    """A vectorised test for ``node``'s bounds."""
    low = _parse(node.low) if node.low else None
    high = _parse(node.high) if node.high else None

    def test(values: NDArray[Any]) -> NDArray[np.bool_]:
        found = np.ones(values.shape, np.bool_)
        if low is not None:
            found &= values >= low if node.low_inclusive else values > low
        if high is not None:
            found &= values <= high if node.high_inclusive else values < high
        return found

    return test


def _parse(text: str) -> float:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else float(text)


class TextLookup:
    """Looks terms up in the text indexes of one snapshot; only live rows are returned."""

    def __init__(self, snapshot: Snapshot, check: Callable[[], None] | None = None) -> None:
        """``check``: raises when the query's time is over."""
        self.snapshot, self.check = snapshot, check

    def term(self, node: q.Term, field: Field) -> Occurrences:
        """Where ``node`` occurs in ``field``."""
        index = self.snapshot.generation.texts[field.name]
        if isinstance(node, q.Phrase):
            return self._sequence([term for word in node.words for term in self.index_terms(word, field, node)], field)
        if isinstance(node, q.Word):
            if node.prefix or node.suffix:
                raise QueryError(f"'{node}': prefix and substring need an attribute, not an index", code=3)
            return self._sequence(self.index_terms(node.text, field, node), field)
        if isinstance(node, q.Number) and node.low == node.high:
            return self._sequence(index.terms(node.low.lstrip("-")), field)
        if isinstance(node, (q.In, q.WeightedTokens)):
            values = node.values if isinstance(node, q.In) else list(node.tokens)
            each = [self._sequence(self.index_terms(str(value), field, node), field) for value in values]
            return self.union(each, field)
        if isinstance(node, q.Boolean):
            return self._sequence(index.terms(str(node.value).lower()), field)
        raise QueryError(f"'{node}' needs an attribute: '{field.name}' is an index of words", code=3)

    def index_terms(self, word: str, field: Field, node: q.Term) -> list[str]:
        """``word`` of ``node`` as terms of ``field``'s index."""
        if not node.options.language.startswith("en"):
            raise QueryError(
                f"the language '{node.options.language}' is not supported by the local engine: it stems English", code=3
            )
        if not node.options.stem:
            return linguistics.tokenize(word)
        return self.snapshot.generation.texts[field.name].terms(word)

    def word(self, term: str, field: Field) -> Occurrences:
        """Where one index term occurs."""
        return IndexTerm(self.snapshot.texts[field.name], term)

    def _listed(self, rows: Rows, frequencies: Rows, field: Field) -> Occurrences:
        return Listed(rows, frequencies, self.snapshot.texts[field.name].lengths)

    def union(self, found: list[Occurrences], field: Field) -> Occurrences:
        """Where any of ``found`` occurs, their frequencies summed."""
        postings = [each.postings() for each in found]
        rows = np.concatenate([np.empty(0, np.int32), *(rows for rows, _ in postings)])
        frequencies = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in postings)])
        unique, inverse = np.unique(rows, return_inverse=True)
        return self._listed(unique, np.bincount(inverse, frequencies, len(unique)).astype(np.int64), field)

    def _sequence(self, terms: list[str], field: Field) -> Occurrences:
        """Rows that have ``terms`` next to each other, and how often."""
        if not terms:
            return self._listed(np.empty(0, np.int32), np.empty(0, np.int64), field)
        if len(terms) == 1:
            return self.word(terms[0], field)
        rows = self._common(terms, field)
        index = self.snapshot.generation.texts[field.name]
        tokens, owner = index.token_rows(rows)
        hit = np.ones(max(len(tokens) - len(terms) + 1, 0), np.bool_)
        for offset, term in enumerate(terms):
            hit &= tokens[offset : offset + len(hit)] == index.number(term)
        counts = np.bincount(owner[: len(hit)][hit], minlength=len(rows))
        matched = counts > 0
        return self._listed(rows[matched], counts[matched], field)

    def _common(self, terms: list[str], field: Field) -> Rows:
        found: Rows | None = None
        for term in dict.fromkeys(terms):
            rows, _ = self.word(term, field).postings()
            found = rows if found is None else np.intersect1d(found, rows, assume_unique=True)
        return np.empty(0, np.int32) if found is None else found

    def near(self, node: q.Near, field: Field) -> Rows:
        """Rows in which all words of ``node`` stand within its distance; Vespa's window is ``distance`` wide."""
        if node.negatives:
            raise QueryError("negative words in near are not supported by the local engine")
        words: list[str] = []
        for item in node.items:
            terms = self.index_terms(item.text, field, item) if isinstance(item, q.Word) else []
            if len(terms) != 1:
                raise QueryError("near takes single words only in the local engine")
            words += terms
        rows = self._common(words, field)
        index = self.snapshot.generation.texts[field.name]
        tokens, owner = index.token_rows(rows)
        numbers = [index.number(word) for word in words]
        ends = owner.searchsorted(np.arange(len(rows)), "right").tolist()
        kept, start = [], 0
        for place, end in enumerate(ends):
            if self.check is not None and place % 64 == 0:
                self.check()
            if _is_near(tokens[start:end].tolist(), numbers, node.distance, node.ordered):
                kept.append(rows[place])
            start = end
        return np.array(kept, np.int64)


def _is_near(tokens: list[int], words: list[int], distance: int, ordered: bool) -> bool:
    """Whether ``words`` occur within a window of ``distance`` + 1 positions of one element."""
    window = distance + 1
    for start, first in enumerate(tokens):
        if first not in words:  # a window that has them all still has them when it begins at the first of them
            continue
        part = tokens[start : start + window]
        if ELEMENT_GAP in part:
            part = part[: part.index(ELEMENT_GAP)]
        if ordered:
            remaining = iter(part)
            if all(any(token == word for token in remaining) for word in words):
                return True
        elif all(part.count(word) >= words.count(word) for word in words):
            return True
    return False
