"""What every layout's reader shares: split names, class words, and records that never share a key."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import replace

from clipsearch.captions import clean_captions
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.source import Source
from clipsearch.keys import make_key
from clipsearch.records import Issue, Record

_SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip

Place = tuple[float | None, float | None]
"""Latitude and longitude in degrees (WGS 84); ``NOWHERE`` when unknown."""

NOWHERE: Place = (None, None)
PLACE_COLUMNS = ("latitude", "longitude")


def place_of(latitude: object, longitude: object) -> Place:
    """Two cells of a table as a place; two without a value (empty, blanks, NaN) are nowhere.

    Raises ``ValueError`` for what is on no map.
    """
    if _is_empty(latitude) and _is_empty(longitude):
        return NOWHERE
    try:
        north, east = float(str(latitude)), float(str(longitude))
    except ValueError:
        north = east = math.nan
    if not (-90 <= north <= 90 and -180 <= east <= 180):
        raise ValueError(
            f"latitude {latitude}, longitude {longitude} is no place, so the map will not show the image: give degrees "
            "from -90 to 90 and from -180 to 180"
        )
    return north, east


def _is_empty(cell: object) -> bool:
    return cell is None or str(cell).strip().lower() in ("", "nan")  # pandas writes NaN for a missing number


def split_name(text: str) -> str | None:
    """Map a corpus's word for a split (``val``, ``dev``, ...) to ours, or None when it is not one."""
    return _SPLIT_NAMES.get(text.strip().lower())


def split_in_name(path: str) -> str | None:
    """Read the split off a path: its file name first (``train-00000.tar``, ``textaug_valid_rsicd.jsonl``), then its
    folders from the innermost outwards (``val/0.tar``); None when no part says."""
    for part in reversed(path.replace("\\", "/").split("/")):
        for word in re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part)):
            if split := split_name(word):
                return split
    return None


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

    Entries for one image in one split join into one record (a CSV with one caption a row). An image that the source
    has in two splits stays in both, as two records of one URI: joining them would carry captions of the test split
    into training; the audit reports it. An image that is not there becomes an ``Issue`` and the others survive.
    """

    def __init__(self, source: Source) -> None:
        self.listing = Listing()
        self._source = source
        self._positions: dict[str, list[int]] = {}  # URI -> its records
        self._derived: set[int] = set()  # records whose split comes from their key
        self._keys: set[str] = set()

    def add(
        self, name: str, captions: Iterable[str], split: str | None, label: str, where: str, place: Place = NOWHERE
    ) -> None:
        """Add the image that a caption file calls ``name``; ``where`` (file and line) goes into an issue's
        reason.

        ``split`` None means that the corpus does not say: it is derived from the key.
        """
        if name.startswith(("http://", "https://")):
            self.issue(name, f"the image is an address on the network, and nothing is downloaded ({where})")
            return
        uri = self._source.index.find(name)
        if uri is None:
            self.issue(name, f"{self._source.index.why_missing(name)} ({where})")
        else:
            self.add_uri(uri, name, captions, split, label, place)

    def add_uri(
        self, uri: str, name: str, captions: Iterable[str], split: str | None, label: str, place: Place = NOWHERE
    ) -> None:
        """Add the image at ``uri``, whose key is made from ``name``."""
        cleaned = clean_captions(captions)
        records = self.listing.records
        for position in self._positions.get(uri, ()):
            old = records[position]
            if split in {None, old.split} or position in self._derived:
                if split is not None:
                    self._derived.discard(position)
                there = place if old.latitude is None else (old.latitude, old.longitude)
                records[position] = replace(
                    old, captions=old.captions + cleaned, label=old.label or label, split=split or old.split,
                    latitude=there[0], longitude=there[1],
                )  # fmt: skip
                return
        key = self._key(name, uri)
        self._positions.setdefault(uri, []).append(len(records))
        if split is None:
            self._derived.add(len(records))
        records.append(Record(self._source.corpus, key, uri, cleaned, split or split_by_hash(key), label, *place))

    def place(self, name: str, latitude: object, longitude: object) -> Place:
        """``place_of``; for what is none, nowhere and an issue of the image ``name``, which itself stays."""
        try:
            return place_of(latitude, longitude)
        except ValueError as error:
            self.issue(name, str(error))
            return NOWHERE

    def issue(self, item: str, reason: str) -> None:
        """Note an item that is left out."""
        self.listing.issues.append(Issue(item, reason))

    def finish(self) -> Listing:
        """The listing, with a class for each label."""
        labels = {record.label for record in self.listing.records if record.label}
        self.listing.classes = {label: words_of(label) for label in labels}
        return self.listing

    def _key(self, name: str, uri: str) -> str:
        key = make_key(name.removeprefix("./").removeprefix("images/"))
        number = len(self._positions.get(uri, ()))
        if key in self._keys:  # "./" is never safe as it is, so the key gets the hash of the whole path
            key = make_key(f"./{uri}#{number}" if number else f"./{uri}")
        self._keys.add(key)
        return key
