"""What the index and the result renderer need of stored documents, free of any store.

The document store implements ``DocumentReader``; the query room reads fields for summaries through it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    from clipsearch.engine.tensors import Tensor

# raw is bytes; array<string> is list[str] (other arrays: list of their element); weightedset<string> is dict[str, int].
FieldValue: TypeAlias = Union[str, int, float, bool, bytes, list[str], list[int], list[float], dict[str, int], "Tensor"]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One document as stored: its full id (``id:<namespace>:<type>::<key>``) and the fields that have a value."""

    id: str
    fields: Mapping[str, FieldValue]


class DocumentReader(Protocol):
    """Reads documents for summaries; safe to call from many threads at once."""

    def read(
        self, schema: str, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> list[StoredDocument | None]:
        """The documents ``lids`` of ``schema``, in that order; None for one removed since the search.

        ``fields``: only these are needed; None: all.
        """
        ...
