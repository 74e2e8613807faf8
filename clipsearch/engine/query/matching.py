"""Which rows of a snapshot match a query tree, and which term matched where.

Everything is a bool mask over rows. weakAnd matches every document that has one of its items: a superset of what
Vespa's pruning guarantees. A nearestNeighbor item takes the best under the rest of the query, as Vespa's filtered
search does: operands of an ``and`` filter it, its siblings in an ``or`` do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.columns import ManyNumbersColumn, NumberColumn, StringColumn
from clipsearch.engine.index.index import Snapshot, is_text
from clipsearch.engine.package.model import Field, Schema
from clipsearch.engine.patterns import compile_pattern
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.lookup import TextLookup, fold_number_test
from clipsearch.engine.query.neighbors import Neighbors, find_neighbors
from clipsearch.engine.query.occurrences import Occurrences, PostingLists
from clipsearch.engine.query.operators import Scored, fuzzy_test, weigh
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import QueryError

Mask = NDArray[np.bool_]
_NAMES = {q.SameElement: "sameElement", q.Labeled: "labeled"}


@dataclass(eq=False, slots=True)
class TermMatch:
    """One term that was looked up.

    ``found``: index field to where it occurs there; ``count``: document frequency summed over the term's fields;
    ``mask``: rows where any field has it, None when ``found`` says that; ``scope``: rows where the term takes part in
    the match, None: wherever it occurs; ``source``: the item, where ``node`` only stands for it.
    """

    node: q.Term
    found: dict[str, Occurrences]
    count: int
    mask: Mask | None
    fields: tuple[str, ...]
    scope: Mask | None = None
    source: q.Node | None = None

    @property
    def postings(self) -> PostingLists:
        """Index field to (rows, frequencies) of live rows."""
        return PostingLists(self.found)


class Matcher:
    """Evaluates one query tree over one snapshot. ``inputs``: query tensors by name.

    ``root``: the whole query, by which terms are numbered; ``check``: raises when the time is over.
    """

    def __init__(
        self,
        schema: Schema,
        snapshot: Snapshot,
        inputs: Mapping[str, Tensor],
        root: q.Node | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.schema, self.snapshot, self.inputs, self.root, self.check = schema, snapshot, inputs, root, check
        self.size = snapshot.size
        self.terms: list[TermMatch] = []
        self.neighbors: list[Neighbors] = []
        self.scored: list[Scored] = []
        self.lookup = TextLookup(snapshot, check)

    def run(self, root: q.Node) -> NDArray[np.int64]:
        """The matching live rows, ascending."""
        matched = self.match(root, None) & self.snapshot.live
        return np.flatnonzero(matched)

    def match(self, node: q.Node, allowed: Mask | None) -> Mask:
        """Rows that ``node`` matches; ``allowed``: what the rest of the query lets through, for neighbours."""
        if isinstance(node, q.Constant):
            return np.full(self.size, node.value)
        if isinstance(node, q.And):
            return self._scoped(self._and, node, allowed)
        if isinstance(node, (q.Or, q.WeakAnd)):
            return self._any(node.items, allowed)
        if isinstance(node, q.Not):
            return self._scoped(self._not, node, allowed)
        if isinstance(node, q.Rank):
            first = self.match(node.items[0], allowed)
            inner = first if allowed is None else first & allowed
            for item in node.items[1:]:
                self.match(item, inner)
            return first
        if isinstance(node, q.NearestNeighbor):
            return self._nearest(node, allowed)
        if isinstance(node, q.Near):
            return self._scoped(self._near, node, allowed)
        if isinstance(node, q.WeightedTokens) and node.operator != "WEIGHTEDSET":
            return self._weigh(node)
        if isinstance(node, q.Term):
            return self._term(node)
        if isinstance(node, q.Equiv):
            return self._equiv(node)
        if isinstance(node, q.Foreign):
            raise QueryError(f"'{node.operator}' is not supported by the local engine", code=3)
        raise QueryError(
            f"'{_NAMES.get(type(node), type(node).__name__)}' is not supported by the local engine", code=3
        )

    def _scoped(self, evaluate: Any, node: q.Node, allowed: Mask | None) -> Mask:
        """Evaluates ``node``; its terms count only where the whole of it matches."""
        first_term = len(self.terms)
        found: Mask = evaluate(node, allowed)
        for term in self.terms[first_term:]:
            term.scope = found if term.scope is None else term.scope & found
        return found

    def _any(self, items: list[q.Node], allowed: Mask | None) -> Mask:
        found = np.zeros(self.size, np.bool_)
        for item in items:
            found |= self.match(item, allowed)
        return found

    def _and(self, node: q.And, allowed: Mask | None) -> Mask:
        filters = [item for item in node.items if not _has_neighbors(item)]
        found: Mask | None = None
        for item in filters:
            mask = self.match(item, None)
            found = mask if found is None else found & mask
        inner = found if allowed is None else allowed if found is None else found & allowed
        for item in node.items:
            if item not in filters:
                mask = self.match(item, inner)
                found = mask if found is None else found & mask
        return np.ones(self.size, np.bool_) if found is None else found

    def _not(self, node: q.Not, allowed: Mask | None) -> Mask:
        known: tuple[list[Any], ...] = (self.terms, self.neighbors, self.scored)
        before = [len(items) for items in known]
        kept = ~self._any(node.negatives, None)
        for items, count in zip(known, before, strict=True):  # what must not match gives no rank features
            del items[count:]
        if node.positive is None:
            return kept
        return self.match(node.positive, kept if allowed is None else kept & allowed) & kept

    def _nearest(self, node: q.NearestNeighbor, allowed: Mask | None) -> Mask:
        mask = np.zeros(self.size, np.bool_)
        mask[self.nearest(node, allowed).rows] = True
        return mask

    def fields(self, name: str) -> list[Field]:
        """The fields that a term in field or fieldset ``name`` searches."""
        members = (name,) if name in self.schema.fields else self.schema.fieldsets.get(name)
        if members is None:
            raise QueryError(f"Could not create query from YQL: Field '{name}' does not exist.")
        return [self.schema.fields[member] for member in members]

    def _term(self, node: q.Term) -> Mask:
        fields = self.fields(node.field)
        self._check_in(node, fields)
        mask = np.zeros(self.size, np.bool_)
        occurrences: dict[str, Occurrences] = {}
        count = 0
        for field in fields:
            if is_text(field):
                occurrences[field.name] = found = self.lookup.term(node, field)
                mask[found.postings()[0]] = True
                count += found.count
            else:
                matched = self._attribute(node, field)
                count += int(np.count_nonzero(matched & self.snapshot.live))
                mask |= matched
        names = tuple(field.name for field in fields)
        kept = mask if len(occurrences) < len(fields) else None  # thousands of words would keep thousands of masks
        self.terms.append(TermMatch(node, occurrences, count, kept, names))
        return mask

    def _weigh(self, node: q.WeightedTokens) -> Mask:
        found = weigh(node, self.snapshot)
        self.scored.append(found)
        mask = np.zeros(self.size, np.bool_)
        mask[found.rows] = True
        self.terms.append(TermMatch(node, {}, len(found.rows), mask, (node.field,)))
        return mask

    def _equiv(self, node: q.Equiv) -> Mask:
        """Any of the words, which rank as one term: its frequencies and document frequencies are summed."""
        first_term = len(self.terms)
        mask = self._any(node.items, None)
        words = self.terms[first_term:]
        del self.terms[first_term:]
        names = tuple(dict.fromkeys(name for word in words for name in word.fields))
        found: dict[str, Occurrences] = {}
        for name in names:
            each = [word.found[name] for word in words if name in word.found]
            if each:
                found[name] = self.lookup.union(each, self.schema.fields[name])
        leaf = next(part for part in node.walk() if isinstance(part, q.Term))
        kept = mask if len(found) < len(names) else None
        term = q.Word(leaf.field, str(node), options=leaf.options)
        self.terms.append(TermMatch(term, found, sum(word.count for word in words), kept, names, None, node))
        return mask

    def look_up(self, node: q.Term, field: Field) -> TermMatch:
        """``node`` in the one index ``field``, without a mask of the rows that it matches."""
        found = self.lookup.term(node, field)
        term = TermMatch(node, {field.name: found}, found.count, None, (field.name,))
        self.terms.append(term)
        return term

    def nearest(self, node: q.NearestNeighbor, allowed: Mask | None) -> Neighbors:
        """The rows that ``node`` produces among live rows that are ``allowed`` (None: all)."""
        live = self.snapshot.live if allowed is None else self.snapshot.live & allowed
        self.neighbors.append(find_neighbors(node, self.schema, self.snapshot, self.inputs, live))
        return self.neighbors[-1]

    def _check_in(self, node: q.Term, fields: list[Field]) -> None:
        if not isinstance(node, q.In):
            return
        kinds = {(field.type.element or field.type).kind for field in fields}
        integer, string = bool(kinds & {"byte", "int", "long"}), "string" in kinds
        if kinds - {"byte", "int", "long", "string"}:
            raise QueryError(
                "Could not create query from YQL: The in operator is only supported for integer and string fields. "
                f"The field {node.field} is not of these types"
            )
        if integer and string:
            raise QueryError(
                "Could not create query from YQL: The in operator is not supported for fieldsets with a mix of "
                f"integer and string fields. The fieldset {node.field} has both"
            )
        if any(isinstance(value, str) == integer for value in node.values):
            raise QueryError(f"Could not create query from YQL: the values of '{node.field} in' are of another type")

    def _attribute(self, node: q.Term, field: Field) -> Mask:
        column = self.snapshot.generation.columns.get(field.name)
        if column is None:
            if field.attribute or field.index:
                raise QueryError(f"Field '{field.name}' of type {field.type} cannot be searched by a term", code=3)
            raise QueryError(f"Could not create query from YQL: Field '{field.name}' does not exist.")
        if isinstance(column, StringColumn):
            return column.match(self.size, _codes(node, column, self.check))
        return self._number(node, column, field)

    def _number(self, node: q.Term, column: NumberColumn | ManyNumbersColumn, field: Field) -> Mask:
        if isinstance(node, q.In):
            wanted = [value for value in node.values if -(2**63) <= value < 2**63]
            return column.match(self.size, lambda values: np.isin(values, np.array(wanted, np.int64)))
        if isinstance(node, q.Boolean):
            return column.match(self.size, lambda values: values == int(node.value))
        if isinstance(node, q.Number):
            if node.hit_limit:
                raise QueryError(f"hitLimit on '{field.name}' is not supported by the local engine")
            return column.match(self.size, fold_number_test(node))
        if isinstance(node, q.WeightedTokens):
            return column.match(self.size, _number_set(node.tokens))
        text = node.text if isinstance(node, q.Word) else node.raw if isinstance(node, q.Phrase) else None
        if text is None:
            raise QueryError(f"'{node}': the field is not a string", code=3)
        if field.type.kind == "bool" and text in ("true", "false"):
            return column.match(self.size, lambda values: values == int(text == "true"))
        if not re.fullmatch(r"-?\d+(\.\d+)?", text):
            return np.zeros(self.size, np.bool_)
        return column.match(self.size, fold_number_test(q.Number(field.name, text, text)))

    def _near(self, node: q.Near, allowed: Mask | None) -> Mask:
        fields = {field.name: field for item in node.items for field in self.fields(getattr(item, "field", ""))}
        if any(not is_text(field) for field in fields.values()):
            raise QueryError("near and onear need a field with an index", code=3)
        for item in node.items:
            self.match(item, None)  # each word ranks as a term of its own
        mask = np.zeros(self.size, np.bool_)
        for field in fields.values():
            mask[self.lookup.near(node, field)] = True
        return mask


def _has_neighbors(node: q.Node) -> bool:
    return any(isinstance(part, q.NearestNeighbor) for part in node.walk())


def _number_set(tokens: Iterable[str]) -> Callable[[NDArray[Any]], Mask]:
    """A test for the numbers that ``tokens`` are; those of integers are not rounded to doubles."""
    numbers = [token for token in tokens if re.fullmatch(r"-?\d+(\.\d+)?", token)]
    whole = [int(token.partition(".")[0]) for token in numbers if re.fullmatch(r"-?\d{1,19}(\.0+)?", token)]
    wanted = np.array([number for number in whole if -(2**63) <= number < 2**63], np.int64)
    every = [float(token) for token in numbers]
    return lambda values: np.isin(values, wanted if values.dtype.kind == "i" else every)


def _watched(test: Callable[[str], bool], check: Callable[[], None] | None) -> Callable[[str], bool]:
    """``test``, which takes its time for each of many strings, until ``check`` raises because the query's is over."""
    if check is None:
        return test
    tested = 0

    def watched(held: str) -> bool:
        nonlocal tested
        tested += 1
        if tested % 8 == 0:
            check()
        return test(held)

    return watched


def _codes(node: q.Term, column: StringColumn, check: Callable[[], None] | None) -> list[int]:
    """The dictionary codes that ``node`` accepts in a string attribute."""
    if isinstance(node, q.Fuzzy):
        return column.codes_where(_watched(fuzzy_test(node, column.key), check))
    if isinstance(node, q.Regex):
        return column.codes_where(_watched(compile_pattern(node.pattern, not column.cased).search, check))
    if isinstance(node, (q.In, q.WeightedTokens)):
        values = node.values if isinstance(node, q.In) else list(node.tokens)
        return [code for value in values for code in column.codes(str(value))]
    if isinstance(node, q.Number):
        if node.low != node.high:
            raise QueryError(f"'{node}': a range needs a numeric field", code=3)
        return column.codes(node.low)
    if isinstance(node, q.Phrase) and not node.segment:
        raise QueryError(f"'{node}': a phrase needs a field with an index", code=3)
    if isinstance(node, q.Boolean):
        return column.codes(str(node.value).lower())
    word = node.raw if isinstance(node, q.Phrase) else node.text if isinstance(node, q.Word) else ""
    key = column.key(word)
    if isinstance(node, q.Word) and (node.prefix or node.suffix):
        if node.prefix and node.suffix:
            return column.codes_where(lambda held: key in held)
        return column.codes_where(lambda held: held.startswith(key) if node.prefix else held.endswith(key))
    return column.codes(word)
