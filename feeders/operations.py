"""One change to one document, as document/v1 takes it: what every feeder makes and the dispatcher delivers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import orjson

from clipsearch.search.endpoint import SCHEMA, parse_id

Kind = Literal["put", "update", "remove"]
Method = Literal["POST", "PUT", "DELETE"]
_METHODS: dict[Kind, Method] = {"put": "POST", "update": "PUT", "remove": "DELETE"}
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

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no harm.

        Counting (``increment``...) and appending to an array are not, unless a condition guards them.
        """
        if self.kind != "update" or self.condition or self.fields is None:
            return True
        return not any(_accumulates(change) for change in self.fields.values())


@dataclass(slots=True)
class Request:
    """An operation as it travels: path with query, and the JSON body, made once however often it is sent.

    ``id_hash`` and ``content_hash``, 64 bits each, are what the journal knows it by: the document, and what is done
    to it.
    """

    id: str
    kind: Kind
    method: Method
    path: str
    body: bytes
    repeatable: bool
    id_hash: int
    content_hash: int


def to_request(operation: Operation) -> Request:
    """What is sent for ``operation``. Raises ``InputError`` for an id that is no image's, and ``TypeError`` for
    fields that are no JSON.
    """
    corpus, key = parse_id(operation.id)
    body, query = b"", ""
    if operation.fields is not None:
        body = orjson.dumps({"fields": operation.fields}, option=orjson.OPT_SERIALIZE_NUMPY)
    if operation.condition:
        query = f"condition={quote(operation.condition, safe='')}"
    if operation.create:
        query += "&create=true" if query else "create=true"
    path = f"/document/v1/{corpus}/{SCHEMA}/docid/{key}" + (f"?{query}" if query else "")
    content = hashlib.blake2b(f"{operation.kind}?{query}\n".encode(), digest_size=8)
    content.update(body)
    return Request(
        operation.id, operation.kind, _METHODS[operation.kind], path, body, operation.repeatable,
        int.from_bytes(hashlib.blake2b(operation.id.encode(), digest_size=8).digest(), "little"),
        int.from_bytes(content.digest(), "little") or 1,
    )  # fmt: skip


def _accumulates(change: Any) -> bool:
    if not isinstance(change, Mapping):
        return False
    if _COUNTING & change.keys() or isinstance(change.get("add"), list):
        return True
    nested = [change[name] for name in ("match", "modify") if isinstance(change.get(name), Mapping)]
    return any(one.get("operation") in ("add", "multiply") or _accumulates(one) for one in nested)
