"""Finding images by what caption files call them: a path, a bare name, or an id without suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable

from clipsearch.corpora.store import MEMBER
from clipsearch.images import SUFFIXES


class ImageIndex:
    """Looks up URIs of images; names that fit more than one image by their bare name find none.

    A name with a folder (``airport/1.jpg``) never finds an image of another folder (``bridge/1.jpg``), which would
    get its captions, unless all images lie in one folder, whose name then says nothing.
    """

    def __init__(self, uris: Iterable[str]) -> None:
        self.uris = list(uris)
        self._exact = set(self.uris)
        self._by_name: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        self._ambiguous: set[str] = set()
        self._one_folder = len({_folder(uri) for uri in self.uris}) == 1
        for uri in self.uris:
            name = base_name(uri)
            self._add(self._by_name, name, uri)
            self._add(self._by_stem, stem(name), uri)

    def find(self, name: str) -> str | None:
        """Return the URI of the image that ``name`` means, or None.

        Tried in this order: the path itself, the path below ``images/``, the bare file name anywhere, the
        bare name without its suffix (ImageCLEF's ids).
        """
        path = _path(name)
        for candidate in (path, f"images/{path}"):
            if candidate in self._exact:
                return candidate
        found = self._by_bare_name(path)
        if found is None or "/" not in path or self._one_folder or _folder(found) == _folder(path):
            return found
        return None

    def why_missing(self, name: str) -> str:
        """Say why ``find`` gave None."""
        path = _path(name)
        if "/" not in path and path in self._ambiguous:
            return "several images have this name: write its path, relative to the corpus folder"
        other = self._by_bare_name(path)
        return f"the image is missing; {other} has its name, but lies elsewhere" if other else "the image is missing"

    def _by_bare_name(self, path: str) -> str | None:
        bare = base_name(path)
        return self._by_name.get(bare) or self._by_stem.get(bare)

    def _add(self, table: dict[str, str], name: str, uri: str) -> None:
        if name in self._ambiguous:
            return
        known = table.setdefault(name, uri)
        if known != uri and not _is_copy(uri, known):
            self._ambiguous.add(name)
            del table[name]


def _path(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _folder(uri: str) -> str:
    """The name of the folder that an image lies in: ``images.zip!/rsicd/a.jpg`` -> ``rsicd``."""
    return base_name(uri.rpartition("/")[0])


def _is_copy(uri: str, known: str) -> bool:
    """Whether ``uri``, listed after ``known``, is the same image again: its archive was unpacked, or stored twice."""
    member = uri.partition(MEMBER)[2]
    return bool(member) and (MEMBER not in known or known.partition(MEMBER)[2] == member)


def base_name(uri: str) -> str:
    """The last part of a URI: ``images.zip!/rsicd/a.jpg`` -> ``a.jpg``."""
    return uri.rsplit("/", 1)[-1]


def stem(name: str) -> str:
    """``name`` without a known image suffix; ids may contain dots, so other suffixes stay."""
    root, suffix = os.path.splitext(name)  # noqa: PTH122 (500k calls)
    return root if suffix.lower() in SUFFIXES else name
