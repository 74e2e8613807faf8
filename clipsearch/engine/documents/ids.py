"""Document ids: ``id:<namespace>:<type>:<key/values>:<user part>``, and their place in document/v1 paths.

Source: Vespa's document reference ("Document IDs") and ``com.yahoo.document.idstring.IdIdString``.
The key/value part is empty, ``n=<number>`` or ``g=<group>``.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from clipsearch.errors import DocumentError

_NUMBER_LIMIT = 1 << 64
_ILLEGAL = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


class DocumentId(NamedTuple):
    """A parsed id; at most one of ``number`` and ``group`` is set. ``text`` is the whole id."""

    namespace: str
    type: str
    user: str
    number: int | None
    group: str | None
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def path(self) -> str:
        """The percent-encoded document/v1 path of this document."""
        place = "docid"
        if self.number is not None:
            place = f"number/{self.number}"
        elif self.group is not None:
            place = f"group/{quote(self.group, safe='')}"
        head = f"/document/v1/{quote(self.namespace, safe='')}/{quote(self.type, safe='')}"
        return f"{head}/{place}/{quote(self.user, safe='/')}"


def parse_id(text: str) -> DocumentId:
    """``text`` as an id. Raises ``DocumentError`` (400) that quotes it and says what an id looks like."""
    parts = text.split(":", 4)
    if len(parts) < 5 or parts[0] != "id":
        raise DocumentError(f"'{text}' is not a document id: expected id:<namespace>:<type>:<key/value>:<user part>")
    _, namespace, doctype, location, user = parts
    return make_id(namespace, doctype, user, location, text)


def make_id(namespace: str, doctype: str, user: str, location: str = "", text: str = "") -> DocumentId:
    """An id from its parts, checked; ``location`` is "", ``n=<number>`` or ``g=<group>``."""
    text = text or f"id:{namespace}:{doctype}:{location}:{user}"
    if not (namespace and doctype and user):
        empty = "namespace" if not namespace else "document type" if not doctype else "user part"
        raise DocumentError(f"'{text}' is not a document id: its {empty} is empty")
    bad = _ILLEGAL.search(text)
    if bad is not None:
        raise DocumentError(f"Illegal code point U+{ord(bad[0]):04X} in document id {text!a}")
    if ":" in namespace:
        raise DocumentError(f"'{text}' is not a document id: its namespace contains ':'")
    if not location:
        return DocumentId(namespace, doctype, user, None, None, text)
    number, group = _location(location, text)
    if number is not None:  # n=007 and n=7 are the same document
        text = f"id:{namespace}:{doctype}:n={number}:{user}"
    return DocumentId(namespace, doctype, user, number, group, text)


def _location(location: str, text: str) -> tuple[int | None, str | None]:
    key, equals, value = location.partition("=")
    if equals and key == "g" and value:
        return None, value
    if equals and key == "n" and value.isdecimal() and value.isascii() and int(value) < _NUMBER_LIMIT:
        return int(value), None
    raise DocumentError(f"'{text}' is not a document id: '{location}' is neither n=<number> nor g=<group>")
