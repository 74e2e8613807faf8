"""What every layout's reader shares: split names, class words, and records that never share a key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from clipsearch.captions import clean_captions
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import ImageIndex
from clipsearch.keys import make_key
from clipsearch.records import Issue, Record

_SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip


def split_name(text: str) -> str | None:
    """Map a corpus's word for a split (``val``, ``dev``, ...) to ours, or None when it is not one."""
    return _SPLIT_NAMES.get(text.strip().lower())


def split_by_hash(key: str) -> str:
    """Give a record of a corpus without splits one: 80 % train, 10 % validation, 10 % test, by its key alone.

    The same image falls into the same split on every machine, and when other images come and go.
    """
    slot = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "validation"}.get(slot, "train")


def words_of(label: str) -> str:
    """Spell a class name for a prompt: ``SeaLake`` -> ``sea lake``, ``storage_tanks`` -> ``storage
    tanks``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-]+", " ", label)
    return " ".join(spaced.lower().split())


class RecordBuilder:
    """Collects the records of one listing; finds images, cleans captions, joins repeated entries.

    Entries for one image join into one record (a CSV with one caption a row); an image that is not there
    becomes an ``Issue`` and the others survive.
    """

    def __init__(self, corpus: str, index: ImageIndex) -> None:
        self.listing = Listing()
        self._corpus = corpus
        self._index = index
        self._positions: dict[str, int] = {}
        self._keys: set[str] = set()

    def add(self, name: str, captions: Iterable[str], split: str | None, label: str, where: str) -> None:
        """Add the image that a caption file calls ``name``; ``where`` (file and line) goes into an issue's
        reason.

        ``split`` None means that the corpus does not say: it is derived from the key.
        """
        uri = self._index.find(name)
        if uri is None:
            self.issue(name, f"{self._index.why_missing(name)} ({where})")
        else:
            self.add_uri(uri, name, captions, split, label)

    def add_uri(self, uri: str, name: str, captions: Iterable[str], split: str | None, label: str) -> None:
        """Add the image at ``uri``, whose key is made from ``name``."""
        cleaned = clean_captions(captions)
        records = self.listing.records
        if uri in self._positions:
            position = self._positions[uri]
            old = records[position]
            records[position] = replace(old, captions=old.captions + cleaned, label=old.label or label)
            return
        key = self._key(name, uri)
        self._positions[uri] = len(records)
        records.append(Record(self._corpus, key, uri, cleaned, split or split_by_hash(key), label))

    def issue(self, item: str, reason: str) -> None:
        """Note an item that is left out."""
        self.listing.issues.append(Issue(item, reason))

    def _key(self, name: str, uri: str) -> str:
        key = make_key(name.removeprefix("./").removeprefix("images/"))
        if key in self._keys:
            key = make_key(f"./{uri}")  # never safe as it is, so it gets the hash of the whole path
        self._keys.add(key)
        return key
