"""What people type into a search box: Vespa's simple query syntax, by grammar (``model.type``).

``any``, ``all``, ``weakAnd`` and ``web`` read ``+must -not "a phrase" field:word [1;9] >3 pre*``; ``phrase`` makes one
phrase; ``tokenize`` and ``linguistics`` read words only. The ``advanced`` syntax, the programmatic one, and a few
rare constructs of which Vespa's reading depends on parser internals are refused by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clipsearch.engine.index import linguistics
from clipsearch.engine.query import tree as q
from clipsearch.errors import QueryError

_REFUSED_TYPES = {"adv": "advanced", "advanced": "advanced", "yql": "yql", "prog": "programmatic"}
_TYPES = ("any", "all", "weakand", "web", "phrase", "tokenize", "linguistics", "raw", "segment", "near", "onear")
_NUMBER = r"-?\d+(?:\.\d+)?"
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*):(?=\S|$)")
_RANGE = re.compile(rf"\[({_NUMBER})?;({_NUMBER})?(?:;(-?\d+))?\]")
_COMPARE = re.compile(rf"([<>])({_NUMBER})")
_WEIGHT = re.compile(r"(!+)(\d*)")
_PLAIN_NUMBER = re.compile(rf"({_NUMBER})(?![\w.,])")
_LONE_STAR = re.compile(r"(?:^|[\s:])\*+\s+\S*\w")
_DOUBLE_MINUS = re.compile(r"--\d")
_STOP = set(' \t\n\r"()+')


@dataclass(frozen=True, slots=True)
class Names:
    """What ``word:`` in front of a term may be. ``fields`` None: anything; ``refused``: exact and uri fields."""

    fields: frozenset[str] | None = None
    refused: frozenset[str] = frozenset()


def parse_user_input(
    text: str,
    grammar: str,
    index: str,
    options: q.Options,
    extra: Mapping[str, Any] | None = None,
    names: Names | None = None,
) -> q.Node | None:
    """``text`` as a tree over default ``index``; None when nothing in it can be searched for.

    ``extra``: ``distance`` of near, ``targetHits`` of weakAnd. Raises ``QueryError`` for what is not supported.
    """
    name, _, mode = grammar.lower().partition(":")
    extra = extra or {}
    if name in _REFUSED_TYPES:
        raise QueryError(f"the query grammar '{_REFUSED_TYPES[name]}' is not supported by the local engine")
    if name not in _TYPES:
        raise QueryError(f"No query type '{grammar}': expected one of {', '.join(_TYPES)}")
    if name == "raw":
        return q.Word(index, text, options=options) if text else None
    if name == "segment":
        return _segment(index, text, options) if text else None
    target = int(extra.get("targetHits") or 0)
    if name in ("phrase", "tokenize", "linguistics", "near", "onear") or mode == "none":
        words = _pieces(text)
        return _combine(name, index, words, options, extra.get("distance"), target)
    parser = _Parser(text, index, options, names or Names())
    if name == "web":
        return parser.web()
    return parser.any_items() if name == "any" else parser.all_items(target if name == "weakand" else None)


def _pieces(text: str) -> list[str]:
    """The tokens of ``text`` in Unicode's compatible form, case and accents kept."""
    pieces = linguistics.split(text)
    return pieces if text.isascii() else [unicodedata.normalize("NFKC", piece) for piece in pieces]


def _segment(index: str, text: str, options: q.Options) -> q.Node:
    words = _pieces(text)
    return (
        q.Phrase(index, words, text, True, options=options) if len(words) > 1 else q.Word(index, text, options=options)
    )


def _combine(name: str, index: str, words: list[str], options: q.Options, distance: Any, target: int) -> q.Node | None:
    if not words:
        return None
    items: list[q.Node] = [q.Word(index, word, options=options) for word in words]
    if name in ("near", "onear"):
        return q.Near(items, int(distance or 2), name == "onear")
    if len(items) == 1 and name not in ("tokenize", "linguistics", "weakand"):
        return items[0]
    if name == "phrase":
        return q.Phrase(index, words, options=options)
    if name in ("all", "web"):
        return q.And(items)
    return q.Or(items) if name == "any" else q.WeakAnd(items, target)


def _single(items: list[q.Node], composite: type[q.Composite]) -> q.Node:
    return items[0] if len(items) == 1 else composite(items)


class _Parser:
    """A scanner over one text."""

    def __init__(self, text: str, index: str, options: q.Options, names: Names) -> None:
        self.text, self.index, self.options, self.names = text, index, options, names
        self.at = 0
        if _LONE_STAR.search(text) or _DOUBLE_MINUS.search(text):
            raise QueryError("a * on its own, or -- before a number, is not supported by the local engine")

    def _peek(self, ahead: int = 0) -> str:
        return self.text[self.at + ahead : self.at + ahead + 1]

    def _signed(self, sign: str) -> bool:
        """Skips ``sign`` when something that can be searched for stands right behind it."""
        following = self._peek(1)
        if self._peek() == sign and (following in '"(*[' or self._starts_word(following)) and following:
            self.at += 1
            return True
        return False

    @staticmethod
    def _starts_word(character: str) -> bool:
        return bool(character) and (linguistics.is_word_character(character) or linguistics.is_symbol(character))

    def all_items(self, weak_target: int | None) -> q.Node | None:
        """All items, or the weighted best of them (``weak_target`` not None)."""
        positives: list[q.Node] = []
        negatives: list[q.Node] = []
        while self.at < len(self.text):
            group = self._peek() == "(" or self.text[self.at : self.at + 2] == "+("
            item, negative = self._next()
            if negative and item is not None:
                negatives.append(item)
            elif item is not None:
                cut = weak_target is None and isinstance(item, q.And) and not group
                positives += item.items if cut and isinstance(item, q.And) else [item]
        if not positives and not negatives:
            return None
        positive: q.Node | None = None
        if weak_target is not None and positives:
            positive = q.WeakAnd(positives, weak_target)
        elif positives:
            positive = _single(positives, q.And)
        return q.Not(positive, negatives) if negatives else positive

    def any_items(self, inside: bool = False) -> q.Node | None:
        """Some item; ``+`` makes items necessary, and the rest then only ranks."""
        required: list[q.Node] = []
        optional: list[q.Node] = []
        negatives: list[q.Node] = []
        while self.at < len(self.text) and not (inside and self._peek() == ")"):
            plus = self._peek() == "+"
            group = self._peek() == "("
            item, negative = self._next()
            if item is None:
                continue
            if group:
                raise QueryError("parentheses without + or - are not supported here by the local engine")
            (negatives if negative else required if plus else optional).append(item)
        if required:
            core: q.Node | None = _single(required, q.And)
        else:
            core = _single(optional, q.Or) if optional else None
        if negatives:
            core = q.Not(core, negatives)
        return q.Rank([core, *optional]) if core is not None and required and optional else core

    def web(self) -> q.Node | None:
        """Words that must all match, ``OR`` between alternatives, ``-`` and quotes."""
        groups: list[list[q.Node]] = [[]]
        negatives: list[q.Node] = []
        while self.at < len(self.text):
            if re.compile(r"OR(?=\s)").match(self.text, self.at) and (self.at == 0 or self.text[self.at - 1].isspace()):
                self.at += 2
                if groups[-1]:
                    groups.append([])
                continue
            if self._peek() in "()":
                self.at += 1
                continue
            item, negative = self._next()
            if item is not None:
                negatives.append(item) if negative else groups[-1].append(item)
        found = [_single(group, q.And) for group in groups if group]
        positive = _single(found, q.Or) if found else None
        return q.Not(positive, negatives) if negatives else positive

    def _next(self) -> tuple[q.Node | None, bool]:
        """The next item and whether it is negated; (None, ...) after skipping what is no item."""
        start = self.at
        if self._signed("-"):
            number = _PLAIN_NUMBER.match(self.text, start)
            if number and number[1].startswith("-"):
                self.at = number.end()
                return q.Number(self.index, number[1], number[1], options=self.options), False
            item = self._group() if self._peek() == "(" else self._item()
            if isinstance(item, q.Or):
                item = q.And(item.items)
            return item, True
        self._signed("+")
        item = self._group() if self._peek() == "(" else self._item()
        if item is None and self.at == start:
            self.at += 1
        return item, False

    def _group(self) -> q.Node | None:
        self.at += 1
        item = self.any_items(inside=True)
        if self._peek() != ")":
            raise QueryError("a parenthesis of the query is not closed: not supported by the local engine")
        self.at += 1
        return item

    def _item(self) -> q.Node | None:
        """A phrase, number, range or word, with its field and weight."""
        found = _FIELD.match(self.text, self.at)
        index = self.index
        if found is not None:
            name = found[1].lower() if found[1].isupper() or found[1].replace(".", "").isupper() else found[1]
            if name in self.names.refused:
                raise QueryError(f"'{name}:' in user input is not supported by the local engine: it is matched exactly")
            if self.names.fields is None or name in self.names.fields:
                index = name
                self.at = found.end()
        item = self._quoted(index) if self._peek() == '"' else self._number(index) or self._words(index)
        return self._weighted(item) if item is not None else None

    def _weighted(self, item: q.Node) -> q.Node:
        weight = _WEIGHT.match(self.text, self.at)
        if weight is None:
            return item
        following = self.text[weight.end() : weight.end() + 1]
        if weight[2] and (len(weight[1]) > 1 or len(weight[2]) > 9):
            raise QueryError("this weight after ! is not supported by the local engine")
        if following and self._starts_word(following):
            raise QueryError("a word right after ! is not supported by the local engine")
        self.at = weight.end()
        value = int(weight[2]) if weight[2] else 100 + 50 * len(weight[1])
        if isinstance(item, q.Term):
            item.options = replace(item.options, weight=value)
        return item

    def _quoted(self, index: str) -> q.Node | None:
        end = self.text.find('"', self.at + 1)
        inside = self.text[self.at + 1 : end if end >= 0 else len(self.text)]
        self.at = end + 1 if end >= 0 else len(self.text)
        words = _pieces(inside)
        if not words:
            return None
        if len(words) == 1:
            return q.Word(index, words[0], options=self.options)
        return q.Phrase(index, words, options=self.options)

    def _number(self, index: str) -> q.Node | None:
        interval = _RANGE.match(self.text, self.at)
        if interval is not None and (interval[1] or interval[2]):
            self.at = interval.end()
            limit = int(interval[3] or 0)
            return q.Number(index, interval[1] or "", interval[2] or "", hit_limit=limit, options=self.options)
        compared = _COMPARE.match(self.text, self.at)
        if compared is not None:
            self.at = compared.end()
            low, high = ("", compared[2]) if compared[1] == "<" else (compared[2], "")
            return q.Number(index, low, high, bool(high), bool(low), options=self.options)
        plain = _PLAIN_NUMBER.match(self.text, self.at)
        if plain is not None and self.text[plain.end() : plain.end() + 1] in ("", " ", ")", "!"):
            self.at = plain.end()
            return q.Number(index, plain[1], plain[1], options=self.options)
        return None

    def _words(self, index: str) -> q.Node | None:
        """One written word; punctuation inside makes it several that must all match."""
        start = self.at
        while self.at < len(self.text) and (
            self._peek() not in _STOP and not (self._peek() == "!" and self._words_seen(start))
        ):
            self.at += 1
        written = self.text[start : self.at]
        if self._peek() == "+" and self.at > start:
            while self.at < len(self.text) and self._peek() not in ' \t\n\r"()!':
                self.at += 1
            written = self.text[start : self.at]
        if re.fullmatch(r"'\d+", written):
            return q.Word(index, written, options=self.options)
        pieces = _pieces(written)
        if not pieces:
            self.at = max(self.at, start + 1) if written else self.at
            return None
        if self._peek() == '"' and self.text[self.at - 1 : self.at] not in (" ", ""):
            raise QueryError("a quote right behind a word is not supported by the local engine")
        suffix, prefix = written.startswith("*"), written.endswith("*")
        if len(pieces) == 1:
            return q.Word(index, pieces[0], prefix, suffix, options=self.options)
        return q.And([q.Word(index, piece, options=self.options) for piece in pieces])

    def _words_seen(self, start: int) -> bool:
        return any(self._starts_word(character) for character in self.text[start : self.at])
