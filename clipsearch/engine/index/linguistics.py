"""Vespa's text processing for English: split into tokens, normalise, stem with Snowball.

Sources: Vespa's ``SimpleTokenizer`` (letters and digits run together, a symbol such as an emoji is a token of its own,
everything else separates) and ``SimpleTransformer`` (NFD without combining diacritical marks, so ``ß`` and ``ø``
stay). Tokens are cut before they are normalised: ``½`` is one token, ``1⁄2``. Snowball is what Vespa uses with
``snowballStemmingForEnglish``; its default, KStem, needs a dictionary and is not offered here.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache

import snowballstemmer

_ASCII_TOKEN = re.compile(r"[a-z0-9]+")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")
_DIACRITICS = re.compile("[\u0300-\u036f]+")
_stemmer = snowballstemmer.stemmer("english")
_stemmer_lock = threading.Lock()


class _Kinds(dict[str, str]):
    """Unicode's general category of each character that was met."""

    def __missing__(self, character: str) -> str:
        kind = self[character] = unicodedata.category(character)
        return kind


_kinds = _Kinds()


def is_word_character(character: str) -> bool:
    """Whether ``character`` continues a token: a letter, a mark (not an enclosing one) or a number."""
    return _kinds[character][0] in "LMN" and _kinds[character] != "Me"


def is_symbol(character: str) -> bool:
    """Whether ``character`` is a token of its own (Unicode category So: emoji and the like)."""
    return _kinds[character] == "So"


def split(text: str) -> list[str]:
    """``text`` cut into tokens as written, before any normalisation."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    tokens: list[str] = []
    start, kinds = -1, _kinds
    for position, character in enumerate(text):
        kind = kinds[character]
        if kind[0] in "LMN" and kind != "Me":
            if start < 0:
                start = position
            continue
        if start >= 0:
            tokens.append(text[start:position])
            start = -1
        if kind == "So":
            tokens.append(character)
    if start >= 0:
        tokens.append(text[start:])
    return tokens


def drop_accents(text: str) -> str:
    """``text`` decomposed (NFD), without combining diacritical marks."""
    return text if text.isascii() else _DIACRITICS.sub("", unicodedata.normalize("NFD", text))


def normalize(token: str, accents: bool = False) -> str:
    """``token`` in NFKC and lower case, without its accents unless ``accents`` is set."""
    if token.isascii():
        return token.lower()
    lowered = unicodedata.normalize("NFKC", token).lower()
    return lowered if accents else drop_accents(lowered)


def tokenize(text: str, accents: bool = False) -> list[str]:
    """The normalised, unstemmed tokens of ``text`` in order."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    tokens = (normalize(token, accents) for token in split(text))
    return [token for token in tokens if token]


@lru_cache(maxsize=262_144)
def stem(token: str) -> str:
    """The English Snowball stem of a normalised ``token``."""
    with _stemmer_lock:  # the stemmer keeps the word it works on in itself
        return str(_stemmer.stemWord(token))


def terms(text: str, stemming: bool = True, accents: bool = False) -> list[str]:
    """The index terms of ``text`` in order: tokenised, normalised and, with ``stemming``, stemmed."""
    tokens = tokenize(text, accents)
    return [stem(token) for token in tokens] if stemming else tokens
