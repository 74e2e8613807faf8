"""Query text to tokens, and a cursor over them that can go back.

Letters and digits run together, a symbol such as an emoji is a word of its own, punctuation is what the simple query
syntax makes of it. After ``field:`` of an exactly matched field, one token takes everything up to white space (word
matching) or up to the field's terminator (exact matching). Source: Vespa's ``prelude.query.parser.Tokenizer``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from clipsearch.engine.index import linguistics

WORD, NUMBER, SPACE, NOISE, END, QUOTE = "word", "number", "space", "noise", "end", '"'
_KINDS = {mark: mark for mark in "-+.,:()[];><!_^*$"}
_KINDS |= {chr(ord(mark) + 0xFEE0): mark for mark in "-+.,:()[];><!_^*$"}  # their full-width forms
_KINDS |= dict.fromkeys('"\u201c\u201d\u201e\u201f\u2039\u203a\u00ab\u00bb\u301d\u301e\u301f\uff02', QUOTE)
_WORD_PUNCTUATION = frozenset("\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011")
_STARS = "*\uff0a"
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Names:
    """What ``name:`` before a term may be, and what it changes.

    ``fields`` None: anything. ``exact``: fields that are matched as wholes, with their terminator, None: word matching.
    ``uri``, ``host``, ``phrased``: uri fields, host names, and fields of which a written word of several parts is a
    phrase. ``special``: character sequences that are words, and what each stands for; ``inside``: also within words.
    ``segmenting``: whether a written word is cut as documents are (``it's``): Vespa does once it knows the language.
    """

    fields: frozenset[str] | None = None
    exact: Mapping[str, str | None] = field(default_factory=dict)
    uri: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()
    phrased: frozenset[str] = frozenset()
    special: Mapping[str, str] = field(default_factory=dict)
    inside: bool = False
    segmenting: bool = True

    def field_named(self, written: str) -> str | None:
        """The field that ``written`` names, in any case, or None."""
        if self.fields is None or written in self.fields:
            return written
        folded = written.lower()
        return next((name for name in self.fields if name.lower() == folded), None)


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind and its text; ``special``: taken as it is, never cut or normalised."""

    kind: str
    text: str
    special: bool = False


def tokenize(text: str, index: str, names: Names) -> list[Token]:
    """The tokens of ``text`` searched in ``index`` by default, ended by one of kind ``END``."""
    return _Tokenizer(text, index, names).run()


class _Tokenizer:
    def __init__(self, text: str, index: str, names: Names) -> None:
        self.text, self.index, self.names = text, index, names
        self.tokens: list[Token] = []
        self.open = 0  # parentheses not yet closed
        self.explicit_at = 0  # the colon of the last field name

    def run(self) -> list[Token]:
        current, at = self.index, 0
        while at < len(self.text):
            if current in self.names.exact:
                at = self._exact(at, self.names.exact[current])
                current = self.index
                if at >= len(self.text):
                    break
            else:
                special = self._special(at)
                if special:
                    at += len(special)
                    self._add(WORD, self.names.special[special], special=True)
                    continue
            character = self.text[at]
            if linguistics.is_symbol(character):
                self._add(WORD, character)
            elif is_word_character(character) or (character == "'" and self._apostrophe(current)):
                at = self._word(at, current)
                continue
            elif character.isspace():
                self._add(SPACE, " ")
            else:
                kind = _KINDS.get(character, NOISE)
                if kind == ":":
                    current = self._named_field()
                self.open = max(0, self.open + (kind == "(") - (kind == ")"))
                self._add(kind, kind if kind != NOISE else character if character in "{}" else "")
            at += 1
        self._add(END, "")
        return self.tokens

    def _add(self, kind: str, text: str, *, special: bool = False) -> None:
        self.tokens.append(Token(kind, text, special))

    def _special(self, at: int) -> str:
        found = [token for token in self.names.special if self.text[at : at + len(token)].lower() == token]
        if not found:
            return ""
        longest = max(found, key=len)
        end = at + len(longest)
        whole = self.names.inside or end >= len(self.text) or not is_word_character(self.text[end])
        return longest if whole else ""

    def _named_field(self) -> str:
        start = len(self.tokens)
        while start and self.tokens[start - 1].kind in (WORD, "_", NUMBER, "."):
            start -= 1
        name = self.names.field_named("".join(token.text for token in self.tokens[start:]))
        if name is None or not self.tokens[start:]:
            return self.index
        self.explicit_at = len(self.tokens)
        return name

    def _apostrophe(self, current: str) -> bool:
        """Whether ' is part of a word here: not inside the address of a uri field."""
        if current not in self.names.uri and current not in self.names.host:
            return True
        for place in range(len(self.tokens) - 1, -1, -1):
            if self.tokens[place].kind == SPACE:
                return True
            if self.tokens[place].kind == ":" and place == self.explicit_at:
                return False
        return True

    def _word(self, start: int, current: str) -> int:
        end, special = start, ""
        while end < len(self.text):
            special = self._special(end) if self.names.inside else ""
            character = self.text[end]
            if special or not (is_word_character(character) or (character == "'" and self._apostrophe(current))):
                break
            end += 1
        written = self.text[start:end]
        if written:
            kind = NUMBER if written.isascii() and written.isdigit() else WORD if written.strip("'") else NOISE
            self._add(kind, written)
        return end

    def _exact(self, start: int, terminator: str | None) -> int:
        if terminator is not None:
            end = self.text.find(terminator, start)
            self._add(WORD, self.text[start : end if end >= 0 else len(self.text)], special=True)
            return end + len(terminator) if end >= 0 else len(self.text)
        start += len(self.text[start:]) - len(self.text[start:].lstrip())
        star = self.text[start : start + 1] in _STARS and start < len(self.text)
        begin = start + star
        if self.text[begin : begin + 1] == '"':
            close = self.text.find('"', begin + 1)
            while close >= 0 and not self._ends_exact(close + 1):
                close = self.text.find('"', close + 1)
            if close >= 0:
                return self._exact_token(star, begin + 1, close, close + 1)
        end = begin
        while end < len(self.text) and not self.text[end].isspace():
            if end > begin and self.text[end] in "!*\uff0a)" and self._ends_exact(end):
                break
            end += 1
        if end == begin and star:
            return self._exact_token(False, start, end, end)
        return self._exact_token(star, begin, end, end)

    def _exact_token(self, star: bool, begin: int, end: int, after: int) -> int:
        if star:
            self._add("*", "*")
        self._add(WORD, self.text[begin:end], special=True)
        return after

    def _ends_exact(self, at: int) -> bool:
        """Whether from ``at`` on only weights, one star and closing parentheses follow up to white space."""
        open_, star, weight, digits = self.open, True, True, False
        while at < len(self.text) and not self.text[at].isspace():
            character = self.text[at]
            at += 1
            if digits and character.isdigit():
                continue
            digits = False
            if weight and character == "!":
                weight, digits = False, True
                while self.text[at : at + 1] == "!":
                    at, digits = at + 1, False
            elif star and character in _STARS:
                star = False
            elif open_ and character == ")":
                open_ -= 1
            else:
                return False
        return True


def is_word_character(character: str) -> bool:
    """Whether ``character`` is part of a word of a query: a letter, a mark or a decimal digit."""
    kind = unicodedata.category(character)
    return kind[0] in "LM" or kind == "Nd" or character in _WORD_PUNCTUATION


class Cursor:
    """A position in tokens. Most looks skip spaces; those that end in ``here`` do not."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self._runs: dict[str, tuple[int, int]] = {}  # what skip_all went over: asked again at each sign of a long run

    def more(self) -> bool:
        """Whether there is anything before the end."""
        return self.at + 1 < len(self.tokens)

    def here(self, ahead: int = 0) -> str:
        """The kind at the position, spaces included; "" behind the end."""
        return self.tokens[self.at + ahead].kind if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        """The kind of the next token that is no space."""
        at = self.at
        while at < len(self.tokens) and self.tokens[at].kind == SPACE:
            at += 1
        return self.tokens[at].kind if at < len(self.tokens) else ""

    def next(self) -> Token:
        """The next token that is no space, and goes behind it."""
        while self.at < len(self.tokens):
            self.at += 1
            if self.tokens[self.at - 1].kind != SPACE:
                return self.tokens[self.at - 1]
        return Token(END, "")

    def skip(self, kind: str) -> bool:
        """Skips one ``kind``, and spaces before it."""
        if self.kind() != kind:
            return False
        self.next()
        return True

    def skip_here(self, kind: str) -> bool:
        """Skips one ``kind`` that stands right here."""
        if self.here() != kind:
            return False
        self.at += 1
        return True

    def skip_all(self, kind: str) -> bool:
        """Skips any number of ``kind``, and spaces before them."""
        start = self.at
        first, end = self._runs.get(kind, (0, 0))
        if first <= start < end:
            self.at = end
            return True
        while self.more() and self.kind() == kind:
            self.next()
        self._runs[kind] = start, self.at
        return self.at > start

    def skip_all_here(self, kind: str) -> bool:
        """Skips any number of ``kind`` from right here."""
        start = self.at
        while self.more() and self.here() == kind:
            self.at += 1
        return self.at > start

    def attempt(self, parse: Callable[[], Found | None]) -> Found | None:
        """What ``parse`` finds; the position stays when it finds nothing."""
        start = self.at
        found = parse()
        if found is None:
            self.at = start
        return found
