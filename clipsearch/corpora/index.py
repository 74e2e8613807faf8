"""Finding images by what caption files call them: a path, a bare name, or an id without suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable

from clipsearch.images import SUFFIXES


class ImageIndex:
    """Looks up URIs of images; names that fit more than one image by their bare name find none."""

    def __init__(self, uris: Iterable[str]) -> None:
        self.uris = list(uris)
        self._exact = set(self.uris)
        self._by_name: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        self._ambiguous: set[str] = set()
        for uri in self.uris:
            name = base_name(uri)
            self._add(self._by_name, name, uri)
            self._add(self._by_stem, stem(name), uri)

    def find(self, name: str) -> str | None:
        """Return the URI of the image that ``name`` means, or None.

        Tried in this order: the path itself, the path below ``images/``, the bare file name anywhere, the
        bare name without its suffix (ImageCLEF's ids).
        """
        path = name.strip().replace("\\", "/").removeprefix("./")
        for candidate in (path, f"images/{path}"):
            if candidate in self._exact:
                return candidate
        bare = base_name(path)
        return self._by_name.get(bare) or self._by_stem.get(bare)

    def why_missing(self, name: str) -> str:
        """Say why ``find`` gave None."""
        if base_name(name.replace("\\", "/")) in self._ambiguous:
            return "several images have this name: write its path, relative to the corpus folder"
        return "the image is missing"

    def _add(self, table: dict[str, str], name: str, uri: str) -> None:
        if name in self._ambiguous:
            return
        # Files come before archive members: an unpacked copy beside its archive is the same image, not a
        # second.
        if name in table and "!/" not in uri:
            self._ambiguous.add(name)
            del table[name]
        else:
            table.setdefault(name, uri)


def base_name(uri: str) -> str:
    """The last part of a URI: ``images.zip!/rsicd/a.jpg`` -> ``a.jpg``."""
    return uri.rsplit("/", 1)[-1]


def stem(name: str) -> str:
    """``name`` without a known image suffix; ids may contain dots, so other suffixes stay."""
    root, suffix = os.path.splitext(name)  # noqa: PTH122 (500k calls)
    return root if suffix.lower() in SUFFIXES else name
