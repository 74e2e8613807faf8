"""What a layout's reader is given: the place, what the user said of it, and the images that lie there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from clipsearch.corpora.index import ImageIndex
from clipsearch.corpora.store import ImageStore

IMAGE_PATHS = ("file", "filename", "file_name", "image", "path", "uri", "filepath", "image_path")
"""Names of a column that holds an image's path, best first."""

IMAGE_IDS = ("name", "image_id", "imageid", "id")
"""Names of a column that may hold an image's name without its suffix, where no other names it."""

CAPTIONS = ("captions", "caption", "text", "sentences", "title", "description", "texts", "raw", "report", "alt_text")
LABELS = ("class_name", "classname", "label", "class", "category", "labels")
SPLITS = ("split",)

_NUMBERED = re.compile(r"(?:captions?|text|sentence|raw|comment)_?\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns (or JSON fields) that the user named; empty ones are guessed. Names do not mind case."""

    image: str = ""
    captions: tuple[str, ...] = ()
    label: str = ""
    split: str = ""

    def captions_in(self, names: Sequence[str]) -> list[str]:
        """Which of a table's columns hold captions: those named, else the first usual name, else ``caption_0`` ..."""
        if self.captions:
            return [name for name in names if name.lower() in {wanted.lower() for wanted in self.captions}]
        usual = first_of(names, CAPTIONS)
        return [usual] if usual is not None else [name for name in names if _NUMBERED.fullmatch(name)]

    def label_in(self, names: Sequence[str]) -> str | None:
        """Which column holds the class."""
        return first_of(names, (self.label,) if self.label else LABELS)

    def split_in(self, names: Sequence[str]) -> str | None:
        """Which column holds the split."""
        return first_of(names, (self.split,) if self.split else SPLITS)

    def missing_from(self, names: Sequence[str]) -> str | None:
        """The first column that the user named and a table with the columns ``names`` does not have."""
        known = {name.lower() for name in names}
        wanted = (self.image, *self.captions, self.label, self.split)
        return next((name for name in wanted if name and name.lower() not in known), None)


def first_of(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The column that is called like the first of ``wanted`` that there is, whatever its case."""
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)


@dataclass
class Source:
    """One corpus that is being opened.

    ``path``: the file or folder that the user named; ``files``: for a pattern of several files, those; ``columns``:
    what the user said of the columns; ``store``: reads below the corpus root.
    """

    path: Path
    store: ImageStore
    corpus: str
    columns: Columns = Columns()
    files: Sequence[Path] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The corpus's folder, resolved."""
        return self.store.root

    @cached_property
    def index(self) -> ImageIndex:
        """All images below the root; made when a reader asks for it, since it takes a walk over the folder."""
        return ImageIndex(self.store.uris())

    def named_files(self, suffixes: tuple[str, ...]) -> list[str]:
        """The files with one of ``suffixes`` that the user means, relative to the root: the path itself when it is a
        file, the pattern's files, else all below the folder."""
        given = list(self.files) or ([self.path] if self.path.is_file() else [])
        if given:
            return [self.relative(path) for path in given if path.name.lower().endswith(suffixes)]
        return [name for name in self.store.files() if name.lower().endswith(suffixes)]

    def relative(self, path: Path) -> str:
        """``path`` relative to the root, with forward slashes."""
        return (path.parent.resolve() / path.name).relative_to(self.root).as_posix()

    def lying(self, depth: int = 0) -> list[PurePosixPath]:
        """Files at most ``depth`` folders below the root, in order."""
        return [PurePosixPath(name) for name in self.store.files() if name.count("/") <= depth]
