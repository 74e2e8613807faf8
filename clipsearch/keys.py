"""The one place where document keys and corpus names are made.

A key ends up in URLs and in Vespa document ids (``id:<corpus>:image::<key>``), where ``/`` and ``..`` reach
other paths; so every name is reduced to ``[A-Za-z0-9][A-Za-z0-9._-]*``, and a short hash tells apart names
that were reduced.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from clipsearch.errors import InputError

MAX_KEY_LENGTH = 160
"""Longest key in characters: longer names keep their start and get a hash."""

_HASH_LENGTH = 10
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOOKS_HASHED = re.compile(rf"-[0-9a-f]{{{_HASH_LENGTH}}}")
_CORPUS_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def make_key(name: str) -> str:
    """Turn a file name, or a URI relative to the corpus root, into a URL-safe document key.

    Safe names stay as they are (``airport_12.jpg``); every other name has its unsafe characters replaced
    and 40 bits of its SHA-256 appended (``sea/a b.jpg`` -> ``sea-a-b.jpg-<hash>``), so that two names never
    share a key in practice. Stable: the same name gives the same key on every machine. Raises
    ``InputError`` on an empty name.
    """
    if not name:
        raise InputError("a document key cannot be made from an empty file name")
    if _is_safe(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{_slug(name)}-{digest}"


def valid_corpus_name(name: str) -> str:
    """Return ``name`` if it can be the namespace of document ids, else raise ``InputError``."""
    if not _CORPUS_NAME.fullmatch(name) or len(name) > 64:
        raise InputError(
            f"{name!r} cannot be a corpus name: use 1 to 64 small letters, digits, '-' and '_', starting "
            "with a letter or digit"
        )
    return name


def corpus_name_from(text: str) -> str:
    """Make a valid corpus name out of a folder name: ``"My Corpus (v2)"`` -> ``"my-corpus-v2"``."""
    slug = re.sub(r"[^a-z0-9_]+", "-", _ascii(text).lower()).strip("-_")
    return valid_corpus_name(slug[:64] or "corpus")


def _is_safe(name: str) -> bool:
    # A plain name that ends like our own hashes is hashed too: otherwise it could equal another name's key.
    return (
        len(name) <= MAX_KEY_LENGTH
        and ".." not in name
        and _SAFE.fullmatch(name) is not None
        and _LOOKS_HASHED.fullmatch(name[-_HASH_LENGTH - 1 :]) is None
    )


def _slug(name: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", _ascii(name))
    slug = re.sub(r"\.{2,}", ".", slug).lstrip("._-")
    return slug[: MAX_KEY_LENGTH - _HASH_LENGTH - 1] or "x"


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
