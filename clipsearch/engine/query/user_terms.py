"""The terms of a user's query: words, phrases, numbers, ranges, with their field and weight.

The same rules for all grammars (``simple.py`` combines the terms). Source: Vespa's ``StructuredParser``.
"""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from dataclasses import replace
from functools import partial

from clipsearch.engine.index import linguistics
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.user_tokens import END, NOISE, NUMBER, QUOTE, SPACE, WORD, Cursor, Names, Token

_AFTER_NUMBER = (SPACE, "]", ";", ")", END, "!")
_SEPARATORS = (".", ",", "+", "-", "_", "^", "$", "*", ":")
_MAX_WEIGHT = 2**31


class TermParser:
    """Reads terms at a cursor; ``index`` is the field of those that name none."""

    def __init__(self, tokens: list[Token], index: str, options: q.Options, names: Names) -> None:
        self.tokens = Cursor(tokens)
        self.index, self.options, self.names = index, options, names
        self._uri = self._host = False
        self._level = 0  # of parentheses inside a uri
        self._noise_end = 0  # up to here no word follows
        self._empty: set[int] = set()  # where parentheses without an item open

    @abstractmethod
    def parse(self) -> q.Node | None:
        """The whole text."""

    @abstractmethod
    def group(self) -> q.Node | None:
        """The items inside parentheses."""

    def composite(self) -> q.Node | None:
        """``( items )``, or nothing."""

        def parse() -> q.Node | None:
            self.tokens.skip_all("+")
            start = self.tokens.at
            if start in self._empty or not self.tokens.skip("("):
                return None
            item = self.group()
            self.tokens.skip(")")
            if item is None:
                self._empty.add(start)
            return item

        return self.tokens.attempt(parse)

    def term(self) -> tuple[q.Node | None, bool]:
        """The term here, or None, and whether it names its field."""
        explicit = False

        def parse() -> q.Node | None:
            nonlocal explicit
            name = self._field()
            explicit = name is not None
            index = self.index if name is None else name
            element = self.tokens.attempt(partial(self._same_element, index)) if explicit else None
            if element is not None:
                return element
            self._uri, self._host = index in self.names.uri, index in self.names.host
            item = self.tokens.attempt(self._number) or self.tokens.attempt(partial(self._phrase, index))
            if item is None and index and self._words_ahead():
                item = self.tokens.attempt(partial(self._phrase, index))
            self._uri = self._host = False
            if item is None:
                return None
            weight = self.tokens.attempt(self._weight)
            _finish(item, index, weight)
            return item

        return self.tokens.attempt(parse), explicit

    def _words_ahead(self) -> bool:
        """Goes over noise; whether a word or number comes before the next space."""
        tokens, start = self.tokens, self.tokens.at
        if start < self._noise_end:
            return False
        while tokens.more():
            if tokens.here() in (NUMBER, WORD):
                return True
            if tokens.here() == SPACE:
                break
            tokens.at += 1
        self._noise_end = tokens.at  # asked again at each token of a long noise, this would be quadratic
        return False

    def _nothing_ahead(self) -> bool:
        """Whether no word comes before the next space outside quotes; goes over what is no word."""
        tokens, quoted = self.tokens, False
        while tokens.more():
            if tokens.here() == QUOTE:
                tokens.skip_all(QUOTE)
                quoted = not quoted
                continue
            if not quoted and tokens.here() == SPACE:
                return True
            if tokens.here() in (NUMBER, WORD):
                return False
            tokens.at += 1
        return True

    def _field(self) -> str | None:
        """``name:`` of a known field, and goes behind it; names that nothing follows are left out."""
        while True:
            name = self.tokens.attempt(self._field_name)
            behind = self.tokens.at
            if name is None or not self._nothing_ahead():
                self.tokens.at = behind
                return name

    def _same_element(self, field: str) -> q.Node | None:
        """``{key:a value:b}`` behind a field: conditions on one element of it."""
        tokens = self.tokens
        if tokens.next().text != "{":
            return None
        items: list[q.Node] = []
        while tokens.more():
            name = self._name()
            if name is None or not tokens.skip_here(":"):
                return None
            item = tokens.attempt(self._number) or tokens.attempt(partial(self._phrase, name))
            if item is None:
                return None
            _finish(item, name, None)
            items.append(item)
            if tokens.tokens[tokens.at - 1].text == "}":  # a phrase goes over the punctuation behind it
                return q.SameElement(field, items)
        return None

    def _field_name(self) -> str | None:
        self.tokens.skip("[")
        name = self._name()
        return self.names.field_named(name) if name is not None and self.tokens.skip_here(":") else None

    def _name(self) -> str | None:
        tokens = self.tokens
        if tokens.kind() not in (WORD, NUMBER, "_"):
            return None
        written = [tokens.next().text]
        while tokens.here() in ("_", WORD, NUMBER):
            written.append(tokens.next().text)
        while tokens.here() == ".":
            written.append(tokens.next().text)
            if tokens.here() not in (WORD, NUMBER):
                return None
            while tokens.here() in ("_", WORD, NUMBER):
                written.append(tokens.next().text)
        return "".join(written)

    def _weight(self) -> int | None:
        """``!200``, ``!``, ``!!``."""
        tokens = self.tokens
        if not tokens.skip_here("!"):
            return None
        if tokens.here() == NUMBER:
            weight = int(tokens.next().text)
            return weight if weight < _MAX_WEIGHT else None
        weight = 150
        while tokens.skip_here("!"):
            weight += 50
        return weight

    def _decimals(self) -> str:
        if self.tokens.here() == "." and self.tokens.here(1) == NUMBER:
            self.tokens.at += 1
            return f".{self.tokens.next().text}"
        return ""

    def _number(self) -> q.Node | None:
        tokens = self.tokens
        item: q.Node | None = tokens.attempt(self._interval)
        tokens.skip("[")
        if item is None:
            tokens.skip_here(SPACE)
            if tokens.here() == "-" and tokens.here(1) == NUMBER:
                tokens.at += 1
                item = self._plain(f"-{tokens.next().text}{self._decimals()}")
            elif tokens.kind() == NUMBER:
                item = self._plain(tokens.next().text + self._decimals())
            else:
                item = tokens.attempt(self._compared)
        return item if tokens.here() in _AFTER_NUMBER else None

    def _plain(self, text: str) -> q.Number:
        return q.Number("", text, text, options=self.options)

    def _signed(self) -> str:
        """A number with its sign; "" when there is none."""
        negative = self.tokens.skip("-")
        if self.tokens.kind() != NUMBER:
            return ""
        return ("-" if negative else "") + self.tokens.next().text + self._decimals()

    def _interval(self) -> q.Node | None:
        tokens = self.tokens
        if tokens.next().kind != "[":
            return None
        low = self._signed()
        if not tokens.skip(";"):
            return None
        high = self._signed()
        if not low and not high:
            return None
        limit = ""
        if tokens.skip(";"):
            negative = tokens.skip("-")
            limit = ("-" if negative else "") + tokens.next().text if tokens.kind() == NUMBER else ""
        tokens.skip("]")
        return q.Number("", low, high, hit_limit=int(limit or 0), options=self.options)

    def _compared(self) -> q.Node | None:
        tokens = self.tokens
        sign = tokens.next().kind
        if sign not in "<>" or not sign:
            return None
        negative = tokens.skip_here("-")
        if tokens.kind() != NUMBER:
            return None
        text = ("-" if negative else "") + tokens.next().text + self._decimals()
        low, high = ("", text) if sign == "<" else (text, "")
        return q.Number("", low, high, bool(high), bool(low), options=self.options)

    def _word(self, index: str, quoted: bool) -> q.Node | None:
        tokens = self.tokens
        address = self._uri or self._host
        if tokens.kind() != WORD and not (address and tokens.kind() in (NUMBER, "-", "_")):
            return None
        token = tokens.next()
        item = self._plain_word(token.text) if self._uri else self.segment(index, token, quoted)
        if address:
            written = ""
            while tokens.here() in (WORD, NUMBER, "-", "_"):
                written += tokens.next().text
            if written:
                item = self._plain_word(token.text + written)
        return item

    def _plain_word(self, text: str) -> q.Word:
        return q.Word("", text, options=self.options)

    def segment(self, index: str, token: Token, quoted: bool) -> q.Node | None:
        """One written word as a term, or as its parts when documents' words are cut there."""
        if token.special:
            return self._plain_word(token.text)
        text = unicodedata.normalize("NFKC", token.text)
        parts = linguistics.split(text) if self.names.segmenting else [text]
        if not parts:
            return None
        if len(parts) == 1:
            return self._plain_word(parts[0])
        if quoted or index in self.names.phrased:
            return q.Phrase("", parts, token.text, True, options=self.options)
        return q.SegmentAnd([self._plain_word(part) for part in parts])

    def _phrase_word(self, index: str, quoted: bool, inside: bool) -> q.Node | None:
        item = self.tokens.attempt(partial(self._word, index, quoted))
        if item is None and self.tokens.kind() == NUMBER:
            text = self.tokens.next().text
            return self._plain_word(text) if inside else self._plain(text)
        return item

    def _phrase(self, index: str) -> q.Node | None:
        """Words that stand together: in quotes a phrase, otherwise all of them must match."""
        return _PhraseParser(self, index).parse()

    def skip_separators(self, quoted: bool) -> bool:
        """Goes over what may stand between the words of one phrase; whether a word follows right there."""
        tokens = self.tokens
        while True:
            skipped = self._skip_address() if self._uri or self._host else self._skip_punctuation(quoted)
            joined = self._uri and tokens.here() in ("_", "-")
            if not skipped or tokens.here() in (WORD, NUMBER) or joined:
                break
        return tokens.here() in (WORD, NUMBER) or (self._uri and tokens.here() not in (")", SPACE))

    def _skip_address(self) -> bool:
        tokens = self.tokens
        if self._uri:
            self._level += (tokens.here() == "(") - (tokens.here() == ")")
            stop = tokens.here() == SPACE or self._level < 0
        else:
            stop = tokens.here() in (SPACE, "*", "^", "$", ")")
        if not tokens.more() or stop:
            return False
        tokens.next()
        return True

    def _skip_punctuation(self, quoted: bool) -> bool:
        kinds = (*_SEPARATORS, *((")", "(") if quoted else ()), NOISE)
        skipped = [self.tokens.skip_all_here(kind) for kind in kinds]
        return True in skipped


class _PhraseParser:
    """One phrase under way."""

    def __init__(self, parser: TermParser, index: str) -> None:
        self.parser, self.tokens, self.index = parser, parser.tokens, index
        self.host, self.address = parser._host, parser._uri or parser._host
        self.items: list[q.Node] = []
        self.explicit = False  # in quotes when the second word was found
        self.star_before = self.star_after = False

    def parse(self) -> q.Node | None:
        """The phrase, a word, or several words that must all match; None when there is no word."""
        tokens = self.tokens
        quoted = tokens.skip_all(QUOTE)
        start = self.host and tokens.skip("^")
        self.parser._level = 0
        self._collect(quoted)
        if not self.items:
            return None
        if len(self.items) == 1 and not self.host:
            return self._single(self.items[0])
        if len(self.items) == 1 and self.star_after and not start:
            return self.items[0]
        words = [word for item in self.items for word in _texts(item)]
        end = not self.star_after if len(self.items) == 1 else self._end_mark()
        if not self.explicit and not self.address:
            return q.And([_as_word(item, self.parser.options) for item in self.items])
        words = ["^"] * start + words + ["$"] * end
        return q.Phrase("", words, options=self.parser.options)

    def _collect(self, quoted: bool) -> None:
        tokens = self.tokens
        while True:
            self.star_before = tokens.skip("*")
            quoted ^= tokens.skip_all(QUOTE)
            word = self.parser._phrase_word(self.index, quoted, bool(self.items))
            if word is None:
                quoted ^= tokens.skip_all(QUOTE)
                if not (quoted and tokens.more()):
                    return
                tokens.at += 1
                if not tokens.more():
                    return
                continue
            self._add(word, quoted)
            if not quoted and tokens.kind() == QUOTE:
                return
            at_word = self.parser.skip_separators(quoted)
            if not at_word:
                quoted ^= tokens.skip_all_here(QUOTE)
                if not quoted:
                    return
            if (quoted and tokens.skip_all(QUOTE)) or not tokens.more():
                return

    def _add(self, word: q.Node, quoted: bool) -> None:
        self.items.append(word)
        if len(self.items) == 1:
            self.star_after = self.tokens.skip_here("*")
        elif len(self.items) == 2:
            self.explicit = quoted or self.index in self.parser.names.phrased

    def _end_mark(self) -> bool:
        """Whether a host name ends here: marked by $, or by nothing else."""
        if not self.host or self.tokens.skip("$"):
            return self.host
        if self.tokens.skip("*"):
            return False
        return self.tokens.kind() != "."

    def _single(self, item: q.Node) -> q.Node:
        if (self.star_after or self.star_before) and isinstance(item, (q.Word, q.Number)):
            text = item.text if isinstance(item, q.Word) else item.low
            return q.Word("", text, self.star_after, self.star_before, options=self.parser.options)
        return item


def _texts(item: q.Node) -> list[str]:
    if isinstance(item, q.Number):
        return [item.low]
    if isinstance(item, q.Phrase):
        return item.words
    return [item.text] if isinstance(item, q.Word) else [word for part in item.parts() for word in _texts(part)]


def _as_word(item: q.Node, options: q.Options) -> q.Node:
    return q.Word("", item.low, options=options) if isinstance(item, q.Number) else item


def _finish(item: q.Node, index: str, weight: int | None) -> None:
    """Gives ``item`` and what is below it its field, and the item its weight."""
    for part in item.walk():
        if isinstance(part, q.Term):
            part.field = index
    if weight is None:
        return
    if isinstance(item, q.Term):
        item.options = replace(item.options, weight=weight)
    elif isinstance(item, q.Composite):
        item.weight = weight
