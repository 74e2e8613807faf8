"""A corpus as the other rooms see it: records, the items that were left out, and a way to read an image's
bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from clipsearch.corpora.store import ImageStore
from clipsearch.errors import InputError
from clipsearch.records import SPLITS, Issue, Record

AERIAL_PROMPT = "an aerial photograph of {}"
"""The prompt that CLIP-rsicd's zero-shot evaluation used; for satellite and aerial corpora."""

PHOTO_PROMPT = "a photo of {}"
"""The prompt of CLIP's paper, for everything else."""


@dataclass(slots=True)
class Listing:
    """What a layout's reader found: records, what it left out, label -> prompt words, the prompt, and licence ->
    number of images where the source says."""

    records: list[Record] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    prompt: str = PHOTO_PROMPT
    licences: dict[str, int] = field(default_factory=dict)


class Corpus:
    """Images with captions below one folder.

    ``records`` in the order of the corpus's own files; ``issues``: items that were left out and why;
    ``classes``: label -> words for a prompt (``{"storagetanks": "storage tanks"}``), sorted by label;
    ``prompt``: a template with ``{}``; ``layout``: the name of the layout that was detected; ``licences``: licence ->
    number of images, empty where the source does not say.
    """

    def __init__(self, name: str, layout: str, store: ImageStore, listing: Listing) -> None:
        self.name = name
        self.layout = layout
        self.root: Path = store.root
        self.records: Sequence[Record] = tuple(listing.records)
        self.issues: Sequence[Issue] = tuple(listing.issues)
        self.classes: Mapping[str, str] = dict(sorted(listing.classes.items()))
        self.prompt = listing.prompt
        self.licences: Mapping[str, int] = dict(listing.licences)
        self._store = store

    def read(self, record: Record) -> bytes:
        """Return the bytes of the record's image file; thread-safe. Raises ``ImageError`` with the reason."""
        return self._store.read(record.uri)

    def split(self, name: str) -> list[Record]:
        """Return the records of one split (``train``, ``validation`` or ``test``), in corpus order."""
        if name not in SPLITS:
            raise InputError(f"there is no split {name!r}: choose one of {', '.join(SPLITS)}")
        return [record for record in self.records if record.split == name]

    def close(self) -> None:
        """Close open archives."""
        self._store.close()

    def __len__(self) -> int:
        return len(self.records)

    def __enter__(self) -> Corpus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
