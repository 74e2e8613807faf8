"""The document operations that the store's writer applies, one at a time, in the order they arrive.

What a condition, ``create`` and a missing document mean together is Vespa's (docs: "Document conditional writes"):
a condition on a missing document fails unless ``create`` is set, an update of a missing document without ``create``
succeeds and does nothing, and so does a remove.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipsearch.engine.documents.batch import Writes
from clipsearch.engine.documents.ids import DocumentId
from clipsearch.engine.documents.selection import Selection
from clipsearch.engine.documents.tables import Row
from clipsearch.engine.documents.updates import Update
from clipsearch.engine.index.documents import FieldValue
from clipsearch.errors import DocumentError

Fields = Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class Put:
    """Writes the whole document, whatever was there."""

    id: DocumentId
    fields: Fields
    condition: Selection | None = None
    create: bool = False

    def content(self, writes: Writes) -> Fields | None:
        """The document's new fields, None when there is nothing to write. Raises ``DocumentError`` (412)."""
        if self.condition is not None:
            check_condition(self.condition, writes.find_row(str(self.id)), self.id, self.create)
        return self.fields


@dataclass(frozen=True, slots=True)
class Modify:
    """Changes some fields of a document, or of an empty one with ``create``."""

    id: DocumentId
    update: Update
    condition: Selection | None = None
    create: bool = False

    def content(self, writes: Writes) -> Fields | None:
        """As ``Put.content``."""
        old = writes.find_row(str(self.id))
        check_condition(self.condition, old, self.id, self.create)
        if old is None:
            return self.update.apply({}) if self.create else None
        return self.update.apply(old.fields)


@dataclass(frozen=True, slots=True)
class Remove:
    """Removes a document; one that is missing is no error."""

    id: DocumentId
    condition: Selection | None = None

    def check(self, writes: Writes) -> None:
        """Raises ``DocumentError`` (412) when the condition does not hold."""
        if self.condition is not None:
            check_condition(self.condition, writes.find_row(str(self.id)), self.id, create=False)


Operation = Put | Modify | Remove


def check_condition(condition: Selection | None, old: Row | None, doc: DocumentId, create: bool) -> None:
    """Raises ``DocumentError`` (412) when ``condition`` does not hold for the stored document ``old``."""
    if condition is None:
        return
    if old is None:
        if not create:
            raise DocumentError(f"Condition '{condition.text}' not met: {doc} does not exist", status=412)
    elif not condition.matches(doc, old.fields):
        raise DocumentError(f"Condition '{condition.text}' did not match document {doc}", status=412)
