"""One change to one document, as document/v1 takes it: what every feeder makes and the dispatcher delivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import orjson

from clipsearch.search.endpoint import SCHEMA, parse_id

Kind = Literal["put", "update", "remove"]
METHODS: dict[str, str] = {"put": "POST", "update": "PUT", "remove": "DELETE"}
_COUNTING = frozenset({"increment", "decrement", "multiply", "divide"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the document ``id`` (``id:<corpus>:image::<key>``).

    ``fields``: of a put, the whole document (``document_fields``); of an update, Vespa's update operations
    (``{"captions": {"assign": [...]}}``); None for a remove. ``condition``: a document selection
    (``image.content_hash == "..."``) without which nothing is done; ``create``: an update makes the document when it
    is missing.
    """

    kind: Kind
    id: str
    fields: Mapping[str, Any] | None = None
    condition: str = ""
    create: bool = False

    def path(self) -> str:
        """Path and query of the request. Raises ``InputError`` for an id that is no image's."""
        corpus, key = parse_id(self.id)
        path = f"/document/v1/{corpus}/{SCHEMA}/docid/{key}"
        options = [f"condition={quote(self.condition, safe='')}"] if self.condition else []
        options += ["create=true"] if self.create else []
        return f"{path}?{'&'.join(options)}" if options else path

    def body(self) -> bytes:
        """The request's JSON; empty for a remove. Raises ``TypeError`` for fields that are no JSON."""
        return b"" if self.fields is None else orjson.dumps({"fields": self.fields}, option=orjson.OPT_SERIALIZE_NUMPY)

    @property
    def idempotent(self) -> bool:
        """Whether doing it twice is the same as doing it once: not so for ``increment`` and the like, and appending."""
        if self.kind != "update" or self.fields is None:
            return True
        return not any(_repeats(change) for change in self.fields.values())


def _repeats(change: Any) -> bool:
    if not isinstance(change, Mapping):
        return False
    if _COUNTING & change.keys() or isinstance(change.get("add"), list):
        return True
    nested = [change[name] for name in ("match", "modify") if isinstance(change.get(name), Mapping)]
    return any(one.get("operation") in ("add", "multiply") or _repeats(one) for one in nested)
