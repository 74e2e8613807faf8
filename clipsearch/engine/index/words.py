"""The distinct strings of a column, numbered in order of appearance, without a Python object for each.

A content hash or a URL is different in every document: 200,000 ``str`` in two dictionaries would take some 80 MB and
their making most of a start. Here they lie as bytes one after the other beside a 32-bit checksum of each string's key.
Those that came last are in a dictionary; from time to time it is emptied into a sorted array of checksums, which a
lookup bisects, and whose matches it compares.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.files import PartFiles
from clipsearch.engine.index.growable import GrowableArray

RECENT = 8192  # strings in the dictionary before it is emptied; a quarter of all, when that is more
FREQUENT, LONGEST = 1024, 256
_Sorted = tuple[NDArray[np.uint32], NDArray[np.int32]]


class Words:
    """Distinct strings; ``words[code]`` is one. ``cased`` False: looked up without regard to case.

    One thread adds, any may read.
    """

    def __init__(self, cased: bool) -> None:
        self.cased = cased
        self._bytes = GrowableArray(np.uint8)
        self._ends = GrowableArray(np.int64)
        self._checksums = GrowableArray(np.uint32)
        self._recent: dict[str, list[int]] = {}
        self._recent_from = 0
        self._sorted: _Sorted = (np.empty(0, np.uint32), np.empty(0, np.int32))
        self._saved = 0
        self._frequent: dict[str, int] = {}  # strings that came again: most of what comes, where few values are

    def __len__(self) -> int:
        return self._ends.size

    def __getitem__(self, code: int) -> str:
        ends = self._ends.view()
        start = int(ends[code - 1]) if code else 0
        return self._bytes.view()[start : int(ends[code])].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[code] for code in range(len(self)))

    def key(self, text: str) -> str:
        """What two strings are equal by."""
        return text if self.cased else text.lower()

    def find(self, key: str) -> list[int]:
        """The codes of the strings whose key is ``key``, ascending."""
        recent = self._recent  # before the sorted ones: what moves meanwhile is in both, never in neither
        checksums, codes = self._sorted
        found = list(recent.get(key, ()))
        if len(codes):
            checksum = _checksum(key)
            start = int(np.searchsorted(checksums, checksum))
            while start < len(codes) and checksums[start] == checksum:
                if self.key(self[int(codes[start])]) == key:
                    found.append(int(codes[start]))
                start += 1
        return sorted(set(found)) if len(found) > 1 else found

    def code(self, word: str) -> int:
        """The code of ``word``, which is added when it is new."""
        code = self._code(word, self.key(word))
        self._sort_some()
        return code

    def _code(self, word: str, key: str) -> int:
        code = self._found(word, key)
        return self._add(word, key) if code is None else code

    def _found(self, word: str, key: str) -> int | None:
        """The code of ``word``, None when it is new."""
        return next((code for code in self.find(key) if self.cased or self[code] == word), None)

    def _add(self, word: str, key: str) -> int:
        code = len(self)
        self._bytes.extend(np.frombuffer(word.encode("utf-8", "surrogatepass"), np.uint8))
        self._checksums.append(_checksum(key))
        self._ends.append(self._bytes.size)
        self._recent.setdefault(key, []).append(code)
        return code

    def _sort_some(self) -> None:
        if len(self) - self._recent_from > max(RECENT, len(self) // 4):
            self._sort()

    def _sort(self) -> None:
        checksums = self._checksums.view()
        order = np.argsort(checksums, kind="stable").astype(np.int32)
        self._sorted = (checksums[order], order)
        self._recent, self._recent_from = {}, len(self)

    def codes(self, texts: list[str]) -> NDArray[np.int32]:
        """The codes of ``texts``, those added that are new; faster than ``code`` of each where most are."""
        frequent = self._frequent
        try:
            return np.array([frequent[text] for text in texts], np.int32)
        except KeyError:
            known = self._codes(dict.fromkeys(text for text in texts if text not in frequent))
        return np.array([known[text] if text in known else frequent[text] for text in texts], np.int32)

    def _codes(self, texts: dict[str, Any]) -> dict[str, int]:
        """The codes of distinct ``texts``; those that were there already are kept at hand from now on."""
        if len(texts) < 16:
            size = len(self)
            known = {text: self.code(text) for text in texts}
            self._keep({text: code for text, code in known.items() if code < size})
            return known
        keys = list(texts) if self.cased else [self.key(text) for text in texts]
        sums = [zlib.crc32(key.encode("utf-8", "surrogatepass")) for key in keys]
        checksums = np.array(sums, np.uint32)
        held, _ = self._sorted
        places = held.searchsorted(checksums)
        maybe = (held[np.minimum(places, len(held) - 1)] == checksums).tolist() if len(held) else [False] * len(keys)
        met = {
            text: code
            for text, key, seen in zip(texts, keys, maybe, strict=True)
            if (seen or key in self._recent) and (code := self._found(text, key)) is not None
        }
        self._keep(met)
        new = [(text, key, one) for text, key, one in zip(texts, keys, sums, strict=True) if text not in met]
        known = met | self._add_many(new)
        self._sort_some()
        return known

    def _keep(self, codes: dict[str, int]) -> None:
        """Keeps ``codes`` of short strings at hand, ``FREQUENT`` of them at most: the last that came."""
        short = {text: code for text, code in codes.items() if len(text) <= LONGEST}
        kept = self._frequent | short if len(self._frequent) + len(short) <= FREQUENT else short
        self._frequent = dict(islice(kept.items(), FREQUENT))

    def _add_many(self, new: list[tuple[str, str, int]]) -> dict[str, int]:
        """Adds distinct strings (text, key, checksum) that are not there; gives their codes."""
        first = len(self)
        encoded = [text.encode("utf-8", "surrogatepass") for text, _, _ in new]
        ends = np.cumsum([len(each) for each in encoded], dtype=np.int64) + self._bytes.size
        self._bytes.extend(np.frombuffer(b"".join(encoded), np.uint8))
        self._checksums.extend(np.array([one for _, _, one in new], np.uint32))
        self._ends.extend(ends)
        recent = self._recent
        for code, (_, key, _) in enumerate(new, first):
            recent.setdefault(key, []).append(code)
        return {text: code for code, (text, _, _) in enumerate(new, first)}

    def pairs(self) -> Iterator[tuple[str, int]]:
        """The key and code of every string."""
        ends: list[int] = self._ends.view().tolist()
        data = self._bytes.view()[: ends[-1] if ends else 0].tobytes()
        text = data.decode() if data.isascii() else ""
        start = 0
        for code, end in enumerate(ends):
            word = text[start:end] if text else data[start:end].decode("utf-8", "surrogatepass")
            yield self.key(word), code
            start = end

    def save(self, files: PartFiles) -> None:
        """Writes the strings that are new since the last save."""
        first, size = self._saved, len(self)
        start = int(self._ends.view()[first - 1]) if first else 0
        files.append("words", self._bytes.view()[start:])
        files.append("ends", self._ends.view()[first:])
        files.append("checksums", self._checksums.view()[first:])
        self._saved = size

    def restore(self, files: PartFiles) -> None:
        """Be what was saved. Raises ``ValueError`` when the files do not fit together."""
        for held, name in ((self._bytes, "words"), (self._ends, "ends"), (self._checksums, "checksums")):
            held.adopt(files.array(name, held.view().dtype))
        self._saved = size = len(self)
        if self._checksums.size != size or (size and self._ends.view()[-1] != self._bytes.size):
            raise ValueError("the strings of a column do not fit together")
        if size > RECENT:
            self._sort()
            return
        for key, code in self.pairs():
            self._recent.setdefault(key, []).append(code)


def _checksum(key: str) -> Any:
    return np.uint32(zlib.crc32(key.encode("utf-8", "surrogatepass")))
