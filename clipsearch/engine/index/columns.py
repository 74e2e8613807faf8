"""Attribute columns: one value, or several, of each row, append-only (see ``growable``).

Numbers are kept in the field's own width. Strings are kept once in a dictionary and as codes in the column; lookups
fold case unless the field is ``cased``, as Vespa's attribute matching does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.package.model import Field

DTYPES: dict[str, Any] = {
    "int": np.int32,
    "long": np.int64,
    "float": np.float32,
    "double": np.float64,
    "bool": np.int8,
}
Mask = NDArray[np.bool_]


def _renumber(held: NDArray[np.int32], rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which entries of ascending ``held`` belong to ascending ``rows``, and the new row number of each."""
    position = np.searchsorted(rows, held)
    inside = position < len(rows)
    kept = np.flatnonzero(inside)[rows[position[inside]] == held[inside]]
    return kept, position[kept]


class NumberColumn:
    """A single-value number or bool; a row without a value holds the type's undefined value (bool: false)."""

    def __init__(self, field: Field) -> None:
        self.kind = field.type.kind
        dtype = DTYPES[self.kind]
        self.integer = self.kind in ("int", "long")
        self._missing = np.iinfo(dtype).min if self.integer else 0 if self.kind == "bool" else np.nan
        self._values = GrowableArray(dtype)

    def append(self, row: int, value: FieldValue | None) -> None:
        """Adds the next row's value; None: undefined."""
        self._values.append(self._missing if value is None else value)

    def copy_rows(self, rows: NDArray[Any], target: NumberColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0."""
        target._values.extend(self._values.view()[rows])

    def values(self, size: int) -> NDArray[Any]:
        """The first ``size`` rows in the field's own dtype."""
        return self._values.view(size)

    def missing(self, size: int) -> Mask:
        """Which of the first ``size`` rows have no value."""
        values = self.values(size)
        if self.kind == "bool":
            return np.zeros(size, np.bool_)
        return np.asarray(values == self._missing if self.integer else np.isnan(values))

    def match(self, size: int, test: Callable[[NDArray[Any]], Mask]) -> Mask:
        """Rows whose value passes ``test`` (vectorised); undefined values never do."""
        return test(self.values(size)) & ~self.missing(size)


class ManyNumbersColumn:
    """An array of numbers of each row, kept flat beside the row of each value."""

    def __init__(self, field: Field) -> None:
        assert field.type.element is not None
        self.kind = field.type.element.kind
        self._values = GrowableArray(DTYPES[self.kind])
        self._rows = GrowableArray(np.int32)

    def append(self, row: int, value: FieldValue | None) -> None:
        """Adds the next row's values."""
        values = list(value) if isinstance(value, (list, tuple, dict)) else []
        self._values.extend(values)
        self._rows.extend([row] * len(values))

    def copy_rows(self, rows: NDArray[Any], target: ManyNumbersColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0."""
        kept, renumbered = _renumber(self._rows.view(), rows)
        target._values.extend(self._values.view()[kept])
        target._rows.extend(renumbered)

    def flat(self, size: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Row and value of each value of the first ``size`` rows."""
        rows = self._rows.view()
        end = int(np.searchsorted(rows, size))
        return rows[:end], self._values.view(end)

    def match(self, size: int, test: Callable[[NDArray[Any]], Mask]) -> Mask:
        """Rows of which any value passes ``test`` (vectorised)."""
        rows, values = self.flat(size)
        mask = np.zeros(size, np.bool_)
        mask[rows[test(values)]] = True
        return mask


class StringColumn:
    """Strings of each row: one (string), or several (array<string>, weightedset<string>), as dictionary codes."""

    def __init__(self, field: Field) -> None:
        self.cased = field.cased
        self.single = field.type.kind == "string"
        self.words: list[str] = []
        self._codes_by_word: dict[str, int] = {}
        self._codes_by_key: dict[str, list[int]] = {}
        self._codes = GrowableArray(np.int32)
        self._rows = GrowableArray(np.int32)
        self._weights = GrowableArray(np.int32)

    def key(self, text: str) -> str:
        """What two strings are equal by."""
        return text if self.cased else text.lower()

    def _code(self, word: str) -> int:
        code = self._codes_by_word.get(word)
        if code is None:
            code = self._codes_by_word[word] = len(self.words)
            self.words.append(word)
            self._codes_by_key.setdefault(self.key(word), []).append(code)
        return code

    def append(self, row: int, value: FieldValue | None) -> None:
        """Adds the next row's string or strings; a missing single string is "", as in Vespa."""
        if self.single:
            self._codes.append(self._code("" if value is None else str(value)))
            return
        words = [str(word) for word in value] if isinstance(value, (list, tuple, dict)) else []
        weights = list(value.values()) if isinstance(value, dict) else [1] * len(words)
        self._weights.extend(np.array(weights, np.int32))
        self._codes.extend([self._code(word) for word in words])
        self._rows.extend([row] * len(words))

    def copy_rows(self, rows: NDArray[Any], target: StringColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0, and their words only."""
        kept, renumbered = (rows, rows) if self.single else _renumber(self._rows.view(), rows)
        used, codes = np.unique(self._codes.view()[kept], return_inverse=True)
        for code in used:
            target._code(self.words[code])
        target._codes.extend(codes)
        if not self.single:
            target._weights.extend(self._weights.view()[kept])
            target._rows.extend(renumbered)

    def flat(self, size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Row and code of each string of the first ``size`` rows; rows ascend."""
        if self.single:
            return np.arange(size, dtype=np.int32), self._codes.view(size)
        rows = self._rows.view()
        end = int(np.searchsorted(rows, size))
        return rows[:end], self._codes.view(end)

    def weights(self, size: int) -> NDArray[np.int32]:
        """The weight of each string of ``flat`` (1 where the field has none)."""
        rows, codes = self.flat(size)
        return np.ones(len(codes), np.int32) if self.single else self._weights.view(len(rows))

    def codes(self, text: str) -> list[int]:
        """The codes of strings equal to ``text`` under the field's case rule."""
        return list(self._codes_by_key.get(self.key(text), ()))

    def codes_where(self, test: Callable[[str], bool]) -> list[int]:
        """The codes of strings whose key passes ``test``."""
        return [code for key, codes in list(self._codes_by_key.items()) if test(key) for code in codes]

    def match(self, size: int, codes: list[int]) -> Mask:
        """Rows that hold any of ``codes``."""
        wanted = np.zeros(len(self.words) + 1, np.bool_)
        wanted[codes] = True
        rows, held = self.flat(size)
        found = wanted[held] if len(codes) != 1 else held == codes[0]
        if self.single:
            return found
        mask = np.zeros(size, np.bool_)
        mask[rows[found]] = True
        return mask


Column = NumberColumn | ManyNumbersColumn | StringColumn


def make_column(field: Field) -> Column:
    """The column for a non-tensor attribute ``field``."""
    element = field.type.element or field.type
    if element.kind == "string":
        return StringColumn(field)
    return NumberColumn(field) if field.type.element is None else ManyNumbersColumn(field)
