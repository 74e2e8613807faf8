"""Which words of a caption are words of the query: cut and stemmed as the index does it.

Vespa's simple tokenizer lets letters, marks and digits run together and makes each symbol (an emoji, say) a word of
its own; its transformer normalises (NFKC, lower case, no combining diacritical marks); Snowball English stems. The
local engine does the same (``engine/index/linguistics.py``, which this room may not import: a test compares the two).
"""

from __future__ import annotations

import re
import threading
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

import snowballstemmer

Segments = tuple[tuple[str, bool], ...]
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")
_DIACRITICS = re.compile("[\u0300-\u036f]+")
_EXCLUDED = re.compile(r'(?:(?<=\s)|^)-(?:"[^"]*"?|\S+)')
_JOINER = "\u200d"
_stemmer = snowballstemmer.stemmer("english")
_stemmer_lock = threading.Lock()


def segments(caption: str, query: str) -> Segments:
    """``caption`` cut into (text, is it a word of ``query``); the texts joined give the caption back exactly.

    Words are equal when their stems are, as in the index. No cut goes through what is read as one character, such as
    a letter with its accent or an emoji with its skin tone. A word after a minus sign is excluded, so never shown.
    """
    wanted = query_terms(query)
    spans: list[tuple[int, int]] = []
    clusters: Sequence[int] = range(len(caption) + 1) if caption.isascii() or not wanted else _clusters(caption)
    for word in _words(caption) if wanted else ():
        if _term(caption[slice(*word)]) in wanted:
            start, end = clusters[bisect_right(clusters, word[0]) - 1], clusters[bisect_left(clusters, word[1])]
            touching = spans and spans[-1][1] >= start
            spans.append((spans.pop()[0] if touching else start, end))
    found: list[tuple[str, bool]] = []
    at = 0
    for start, end in spans:
        found += [(caption[at:start], False)] * (start > at)
        found.append((caption[start:end], True))
        at = end
    return (*found, (caption[at:], False)) if at < len(caption) or not found else tuple(found)


def best_caption(captions: Sequence[str], query: str) -> int:
    """The number of the caption that holds the most of the query's words; 0 when none does or there is none.

    Of several, the one whose words of the query are longest, since short words say little; then the first.
    """
    wanted = query_terms(query)
    found = [wanted.intersection(terms(caption)) for caption in captions] if wanted else []
    scores = [(len(each), sum(map(len, each))) for each in found]
    return scores.index(max(scores)) if scores else 0


@lru_cache(maxsize=1024)
def query_terms(query: str) -> frozenset[str]:
    """The stems of the words that ``query`` asks for, without those that a minus sign excludes."""
    return frozenset(terms(_EXCLUDED.sub(" ", query)))


def terms(text: str) -> list[str]:
    """The index terms of ``text`` in order."""
    found = (_term(text[start:end]) for start, end in _words(text))
    return [term for term in found if term]


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Where the words of ``text`` start and end."""
    if text.isascii():
        yield from (match.span() for match in _ASCII_WORD.finditer(text))
        return
    start = -1
    for position, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind[0] in "LMN" and kind != "Me":
            start = position if start < 0 else start
            continue
        if start >= 0:
            yield start, position
            start = -1
        if kind == "So":
            yield position, position + 1
    if start >= 0:
        yield start, len(text)


@lru_cache(maxsize=65_536)
def _term(word: str) -> str:
    if not word.isascii():
        word = _DIACRITICS.sub("", unicodedata.normalize("NFD", unicodedata.normalize("NFKC", word).lower()))
    with _stemmer_lock:  # the stemmer keeps the word that it works on in itself
        return str(_stemmer.stemWord(word.lower())) if word else ""


def _clusters(text: str) -> list[int]:
    """Where what is read as one character starts (extended grapheme clusters, UAX #29, in short), and the text's end.

    One pass, so that a caption of thousands of flags or joiners costs no more than any other.
    """
    starts, halves, before = [], 0, ""  # halves: regional indicators up to here, which are read in pairs
    for position, character in enumerate(text):
        kind = unicodedata.category(character)
        joined = kind[0] == "M" or character == _JOINER or "\U0001f3fb" <= character <= "\U0001f3ff"
        joined = joined or (before == _JOINER and kind == "So") or (halves % 2 == 1 and _is_flag_half(character))
        if not joined or not position:
            starts.append(position)
        halves = halves + 1 if _is_flag_half(character) else 0
        before = character
    return [*starts, len(text)]


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
