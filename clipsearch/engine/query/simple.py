"""What people type into a search box: Vespa's simple query syntax, by grammar (``model.type``).

``any``, ``all``, ``weakAnd`` and ``web`` read ``+must -not "a phrase" field:word [1;9] >3 pre*``; ``advanced`` has
operators (``and``, ``or``, ``andnot``, ``rank``, ``near(2)``) between items; ``phrase`` makes one phrase; ``tokenize``
and ``linguistics`` read words only. A filter (``model.filter``) is an ``any`` query whose terms match but do not rank.
Source: Vespa's ``prelude.query.parser``; the programmatic syntax is refused by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from clipsearch.engine.index import linguistics
from clipsearch.engine.package.model import Schema
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.query_types import REFUSED_TYPES, TYPES, QueryType, Written, query_type
from clipsearch.engine.query.simplify import (
    add_filter,
    add_positive,
    as_filter,
    combine_all,
    combine_any,
    simplified,
    without_not,
)
from clipsearch.engine.query.user_terms import TermParser
from clipsearch.engine.query.user_tokens import NUMBER, SPACE, WORD, Names, tokenize
from clipsearch.errors import QueryError

__all__ = ["Names", "names_of", "parse_filter", "parse_user_input"]

_REFUSED_TYPES, _TYPES = REFUSED_TYPES, TYPES
_MAX_NESTING = 80
_MAX_QUOTES = 1000  # quotes without words between them are read again and again
_PLAIN = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*")  # what is most often typed: no parser would find more than its words
_EXACT_TERMINATOR = "@@"  # of a field with match: exact that names no other


def names_of(schemas: Iterable[Schema]) -> Names:
    """What ``name:`` may stand before a term of user input, over all ``schemas``."""
    schemas = list(schemas)
    fields = [field for schema in schemas for field in schema.fields.values() if field.attribute or field.index]
    exact = {
        field.name: _EXACT_TERMINATOR if field.match == "exact" else None
        for field in fields
        if (field.type.element or field.type).kind == "string" and field.match in ("exact", "word")
    }
    return Names(frozenset([field.name for field in fields] + [n for s in schemas for n in s.fieldsets]), exact)


def parse_user_input(
    text: str,
    grammar: Written,
    index: str,
    options: q.Options,
    extra: Mapping[str, Any] | None = None,
    names: Names | None = None,
) -> q.Node | None:
    """``text`` as a tree over default ``index``; None when nothing in it can be searched for.

    ``grammar``: as ``query_type`` reads it. ``extra``: ``distance`` of near, ``targetHits`` and ``totalTargetHits`` of
    weakAnd. Raises ``QueryError`` for what is not supported.
    """
    kind, extra = query_type(grammar), extra or {}
    if not text:
        return None
    if kind.syntax == "raw":
        return q.Word(index, text, options=options)
    if kind.syntax == "segment":
        return _segment(index, text, options)
    weak = int(extra.get("targetHits") or 0), int(extra.get("totalTargetHits") or 0)
    names = names or Names()
    if kind.syntax == "none" or kind.composite == "phrase":
        return _combine(kind, index, _words(text, index, names, kind), options, extra.get("distance"), weak)
    simple = kind.syntax == "simple" and kind.composite == "weakAnd"
    if simple and _PLAIN.fullmatch(text) and not names.special and index not in names.exact:
        return simplified(q.WeakAnd([q.Word(index, word, options=options) for word in text.split(" ")], *weak))
    _check_size(text)
    parsers: dict[str, type[AnyParser | AllParser | AdvancedParser]] = {"web": WebParser, "advanced": AdvancedParser}
    parser = parsers.get(kind.syntax, AnyParser if kind.composite == "or" else AllParser)(
        tokenize(text, index, names), index, options, names
    )
    if kind.composite == "weakAnd" and isinstance(parser, AllParser):
        parser.weak_target = weak
    return parser.parse()


def parse_filter(root: q.Node | None, text: str, index: str, names: Names | None = None) -> q.Node | None:
    """``root`` under the filter ``text``: its ``+`` items must match, its ``-`` items must not, the rest only ranks."""
    names = names or Names()
    _check_size(text)
    parser = AnyParser(tokenize(text, index, names), index, q.Options(), names)
    if root is None:
        found = parser.parse()
        return None if found is None else as_filter(found)
    while parser.tokens.more():
        for kind, parse in (("+", parser.positive), ("-", parser.negative), ("", lambda: parser.term()[0])):
            item = parse()
            if item is not None:
                root = add_filter(root, as_filter(item), kind)
                break
        else:
            parser.tokens.next()
    return root


def _check_size(text: str) -> None:
    """Raises ``QueryError`` for what would take the parser too deep or too long."""
    if _nesting(text) > _MAX_NESTING:
        raise QueryError(f"more than {_MAX_NESTING} nested parentheses are not supported by the local engine")
    if text.count('"') > _MAX_QUOTES:
        raise QueryError(f"more than {_MAX_QUOTES} quotes in a query are not supported by the local engine")


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "()\uff08\uff09":
            depth = max(0, depth + (1 if character in "(\uff08" else -1))
            deepest = max(deepest, depth)
    return deepest


def _words(text: str, index: str, names: Names, kind: QueryType) -> list[str]:
    """The words of ``text`` in Unicode's compatible form; a special token is one word.

    Case and accents are kept unless linguistics cuts the text: it is given the whole and returns what it indexes.
    """
    if kind.tokenization == "linguistics":
        return linguistics.tokenize(text)
    found: list[str] = []
    for token in tokenize(text, index, names):
        if token.kind in (WORD, NUMBER):
            written = token.text if token.special else unicodedata.normalize("NFKC", token.text)
            found += linguistics.split(written) if names.segmenting and not token.special else [written]
    return found


def _segment(index: str, text: str, options: q.Options) -> q.Node:
    words = [unicodedata.normalize("NFKC", word) for word in linguistics.split(text)]
    if len(words) > 1:
        return q.Phrase(index, words, text, True, options=options)
    return q.Word(index, text, options=options)


def _combine(
    kind: QueryType, index: str, words: list[str], options: q.Options, distance: Any, weak: tuple[int, int]
) -> q.Node | None:
    if not words:
        return None
    items: list[q.Node] = [q.Word(index, word, options=options) for word in words]
    if kind.composite in ("near", "oNear"):
        return q.Near(items, int(distance or 2), kind.composite == "oNear")
    if kind.composite == "weakAnd":
        return q.WeakAnd(items, *weak)
    if len(items) == 1:
        return items[0]
    if kind.composite == "phrase":
        return q.Phrase(index, words, options=options)
    return q.Or(items) if kind.composite == "or" else q.And(items)


class _ItemParser(TermParser):
    """What the grammars share: items that must match, and groups, which are ``any`` in all of them."""

    def combine(self, top: q.Node | None, item: q.Node) -> q.Node:
        """``top`` and another ``item`` as one."""
        return combine_any(top, item)

    def group(self) -> q.Node | None:
        return self.tokens.attempt(lambda: self.any_items(False))

    def positive(self) -> q.Node | None:
        """``+item``."""

        def parse() -> q.Node | None:
            if not self.tokens.skip_all("+") or self.tokens.here() == SPACE:
                return None
            return self.term()[0] or self.composite()

        return self.tokens.attempt(parse)

    def negative(self) -> q.Node | None:
        """``-item``."""

        def parse() -> q.Node | None:
            self.tokens.skip_all("+")
            if not self.tokens.skip_all("-") or self.tokens.here() == SPACE:
                return None
            return self.term()[0] or self._negative_group(q.And)

        return self.tokens.attempt(parse)

    def _negative_group(self, all_of: Callable[[list[q.Node]], q.Node]) -> q.Node | None:
        item = self.composite()
        return all_of(item.items) if isinstance(item, q.Or) else item

    def any_items(self, outermost: bool) -> q.Node | None:
        """Items of which some match; ``+`` and ``-`` items decide, and the rest then only ranks."""
        top: q.Node | None = None
        signed: q.Not | None = None
        while True:
            item = self.positive()
            negative = self.negative() if item is None else None
            found = item or negative
            if found is not None:
                if signed is None:
                    signed = q.Not(None, [])
                    self._sign(signed, item, negative)
                    top = self.combine(top, signed)
                else:
                    self._sign(signed, item, negative)
            else:
                found = self.composite()
                if found is not None:
                    top = found if top is None else self.combine(top, found)
                else:
                    found = self.term()[0]
                    top = self._with_term(top, found) if found is not None else top
            if outermost and found is None:
                self.tokens.next()
            if not self.tokens.more() or not (outermost or found is not None):
                break
        return self._finished(top, signed)

    @staticmethod
    def _sign(signed: q.Not, positive: q.Node | None, negative: q.Node | None) -> None:
        if positive is not None:
            add_positive(signed, positive)
        elif negative is not None:
            signed.negatives.append(negative)

    def _with_term(self, top: q.Node | None, term: q.Node) -> q.Node:
        if top is None:
            return term
        if isinstance(top, (q.Term, q.And)):
            return q.Or([top, term])
        if isinstance(top, q.Not):
            return self.combine(top, term)
        assert isinstance(top, q.Composite)
        top.items.append(term)
        return top

    def _finished(self, top: q.Node | None, signed: q.Not | None) -> q.Node | None:
        if signed is not None and not signed.negatives:  # only items that must match
            if top is None or top is signed:
                return signed.positive
            if isinstance(top, q.Rank) and signed.positive is not None:
                top.items.remove(signed)
                return self.combine(top, signed.positive)
        if signed is not None and signed.positive is None and top is not signed and top is not None:
            add_positive(signed, without_not(top, signed))
            return signed
        return top if top is not None else signed


class AnyParser(_ItemParser):
    """Some item matches."""

    def parse(self) -> q.Node | None:
        """The whole text."""
        return self.any_items(True)


class AllParser(_ItemParser):
    """All items match, or with ``weak_target`` (per node and in all, 0: the default) the best of them by weight."""

    weak_target: tuple[int, int] | None = None

    def combine(self, top: q.Node | None, item: q.Node) -> q.Node:
        return combine_all(top, item)

    def _all(self, items: list[q.Node]) -> q.Node:
        return q.And(items) if self.weak_target is None else q.WeakAnd(items, *self.weak_target)

    def negative(self) -> q.Node | None:
        """``-item``; ``-12`` is a number unless it names its field or stands in parentheses, ``--12`` is negated."""

        def parse() -> q.Node | None:
            if not self.tokens.skip("-") or self.tokens.here() == SPACE:
                return None
            item, explicit = self.term()
            if item is None:
                return self._negative_group(self._all)
            if isinstance(item, q.Number) and not explicit and not str(item).startswith("-"):
                return None
            return item

        return self.tokens.attempt(parse)

    def parse(self) -> q.Node | None:
        """The whole text."""
        items: list[q.Node] = []
        negatives: list[q.Node] = []
        while True:
            item = self.negative()
            if item is not None:
                negatives.append(item)
            else:
                item = self.positive() or self.term()[0] or self.composite()
                if item is not None:
                    items.append(item)
                else:
                    self.tokens.next()
            if not self.tokens.more():
                break
        return _signed(self._all(items) if items else None, negatives)


class WebParser(AllParser):
    """All items match, ``OR`` in capitals between alternatives, parentheses are noise."""

    def parse(self) -> q.Node | None:
        """The whole text."""
        groups: list[list[q.Node]] = [[]]
        negatives: list[q.Node] = []
        while True:
            item = self.negative()
            if item is not None:
                negatives.append(item)
            else:
                item = self.positive() or self.term()[0]
                if isinstance(item, q.Word) and item.text == "OR" and (len(groups) > 1 or groups[0]):
                    groups.append([])
                elif item is not None:
                    groups[-1].append(item)
                else:
                    self.tokens.next()
            if not self.tokens.more():
                break
        if self.weak_target is not None and len(groups) > 1:
            raise QueryError("OR under weakAnd in the syntax 'web' is not supported by the local engine")
        alternatives: list[q.Node] = [self._all(group) for group in groups if group]
        return _signed(q.Or(alternatives) if alternatives else None, negatives)


def _signed(positive: q.Node | None, negatives: list[q.Node]) -> q.Node | None:
    if negatives:
        return simplified(q.Not(positive, negatives))
    return None if positive is None else simplified(positive)


class AdvancedParser(TermParser):
    """Items with operators between them, evaluated from left to right."""

    def parse(self) -> q.Node | None:
        """The whole text."""
        return self._items(True)

    def group(self) -> q.Node | None:
        return self.tokens.attempt(lambda: self._items(False))

    def _items(self, outermost: bool) -> q.Node | None:
        top: q.Node | None = None
        closed = expecting = False
        while True:
            item = self.term()[0]
            grouped = item is None
            item = self.composite() if item is None else item
            if item is not None:
                made = self._operator(top, item, closed) if expecting and top is not None else None
                if made is not None:
                    top, closed, expecting = made, False, False
                elif top is None:
                    top, closed, expecting = item, grouped, True
                elif isinstance(top, q.Not):
                    top.negatives.append(item)
                    expecting = True
                elif isinstance(top, (q.Composite, q.Near)) and not isinstance(top, q.SegmentAnd):
                    self._append(top, item)
                    expecting = True
                else:
                    top, closed, expecting = q.And([top, item]), False, True
            if outermost and item is None:
                self.tokens.next()
            if not self.tokens.more() or not (outermost or item is not None):
                break
        if isinstance(top, q.Not) and not top.negatives:
            return top.positive
        single = isinstance(top, (q.Composite, q.Near)) and len(top.items) == 1
        return top.parts()[0] if top is not None and single else top

    @staticmethod
    def _append(top: q.Composite | q.Near, item: q.Node) -> None:
        if isinstance(top, q.Equiv) and not isinstance(item, (q.Term, q.SegmentAnd)):
            raise QueryError("equiv takes words, numbers and phrases only")
        top.items.append(item)

    def _operator(self, top: q.Node, item: q.Node, closed: bool) -> q.Node | None:
        """``top`` under the operator that ``item`` is, None when it is none."""
        name = item.text.lower() if isinstance(item, q.Word) else ""
        if name == "andnot":
            return top if isinstance(top, q.Not) and not closed else q.Not(top, [])
        plain = {"and": q.And, "or": q.Or, "rank": q.Rank, "equiv": q.Equiv}
        if name in plain:
            return top if type(top) is plain[name] and not closed else plain[name]([top])
        if name in ("wand", "weakand"):
            target = self._argument()
            same = isinstance(top, q.WeakAnd) and top.target_hits == target
            return top if same and not closed else q.WeakAnd([top], target)
        if name in ("near", "onear"):
            distance, ordered = self._argument() or 2, name == "onear"
            same = isinstance(top, q.Near) and (top.distance, top.ordered) == (distance, ordered)
            return top if same and not closed else q.Near([top], distance, ordered)
        return None

    def _argument(self) -> int:
        """The number in parentheses behind an operator, 0 when there is none."""
        if not self.tokens.skip("("):
            return 0
        if self.tokens.here() != NUMBER:
            raise QueryError("Expected an integer argument")
        value = int(self.tokens.next().text)
        if not self.tokens.skip(")"):
            raise QueryError("Expected a right brace following the argument")
        return value
