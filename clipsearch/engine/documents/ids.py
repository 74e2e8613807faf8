"""Document ids: ``id:<namespace>:<type>:<key/values>:<user part>``, and their place in document/v1 paths.

Source: Vespa's document reference ("Document IDs") and ``com.yahoo.document.idstring.IdIdString``.
The key/value part is empty, ``n=<number>`` or ``g=<group>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from clipsearch.errors import DocumentError

_NUMBER_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class DocumentId:
    """A parsed id; at most one of ``number`` and ``group`` is set."""

    namespace: str
    type: str
    user: str
    number: int | None = None
    group: str | None = None

    def __str__(self) -> str:
        location = "" if self.number is None else f"n={self.number}"
        if self.group is not None:
            location = f"g={self.group}"
        return f"id:{self.namespace}:{self.type}:{location}:{self.user}"

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
    for name, part in (("namespace", namespace), ("document type", doctype), ("user part", user)):
        if not part:
            raise DocumentError(f"'{text}' is not a document id: its {name} is empty")
    bad = next((c for c in text if ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF or ord(c) in (0xFFFE, 0xFFFF)), None)
    if bad is not None:
        raise DocumentError(f"Illegal code point U+{ord(bad):04X} in document id {text!a}")
    if ":" in namespace:
        raise DocumentError(f"'{text}' is not a document id: its namespace contains ':'")
    number, group = _location(location, text)
    return DocumentId(namespace, doctype, user, number, group)


def _location(location: str, text: str) -> tuple[int | None, str | None]:
    if not location:
        return None, None
    key, equals, value = location.partition("=")
    if equals and key == "g" and value:
        return None, value
    if equals and key == "n" and value.isdecimal() and value.isascii() and int(value) < _NUMBER_LIMIT:
        return int(value), None
    raise DocumentError(f"'{text}' is not a document id: '{location}' is neither n=<number> nor g=<group>")
