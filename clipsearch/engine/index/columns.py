"""Attribute columns: one value, or several, of each row, append-only (see ``growable``).

Numbers are kept in the field's own width. Strings are kept once (``words``) and as codes in the column; lookups fold
case unless the field is ``cased``, as Vespa's attribute matching does. ``extend`` adds nothing when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.index.files import PartFiles
from clipsearch.engine.index.growable import GrowableArray
from clipsearch.engine.index.words import Words
from clipsearch.engine.package.model import Field

DTYPES: dict[str, Any] = {
    "byte": np.int8,
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


class _Saved:
    """The arrays of a column by file name, and how much of each is in its file."""

    def __init__(self, arrays: Mapping[str, GrowableArray]) -> None:
        self._arrays = arrays
        self._sizes = dict.fromkeys(arrays, 0)

    def save(self, files: PartFiles) -> None:
        """Writes what each array has more than its file."""
        for name, held in self._arrays.items():
            files.append(name, held.view()[self._sizes[name] :])
            self._sizes[name] = held.size

    def restore(self, files: PartFiles) -> None:
        """Gives the empty arrays what their files have."""
        for name, held in self._arrays.items():
            held.adopt(files.array(name, held.view().dtype))
            self._sizes[name] = held.size


def _check_rows(held: GrowableArray, rows: int) -> None:
    """Raises ``ValueError`` when ascending row numbers ``held`` are not all of ``rows`` rows."""
    if held.size and not 0 <= int(held.view()[-1]) < rows:
        raise ValueError("a column has values of rows that do not exist")


class NumberColumn:
    """A single-value number or bool; a row without a value holds the type's undefined value (bool: false)."""

    def __init__(self, field: Field) -> None:
        self.kind = field.type.kind
        dtype = DTYPES[self.kind]
        self.integer = self.kind in ("byte", "int", "long")
        self._missing = np.iinfo(dtype).min if self.integer else 0 if self.kind == "bool" else np.nan
        self._dtype = dtype
        self._values = GrowableArray(dtype)
        self._saved = _Saved({"values": self._values})

    def append(self, row: int, value: FieldValue | None) -> None:
        """Adds the next row's value; None: undefined."""
        self._values.append(self._missing if value is None else value)

    def extend(self, first_row: int, values: Sequence[FieldValue | None]) -> None:
        """Adds the values of the rows from ``first_row`` on."""
        missing = self._missing
        self._values.extend(np.array([missing if value is None else value for value in values], self._dtype))

    def save(self, files: PartFiles) -> None:
        """Writes what is new since the last save."""
        self._saved.save(files)

    def restore(self, files: PartFiles, rows: int) -> None:
        """Gives this empty column what was saved."""
        self._saved.restore(files)
        if self._values.size != rows:
            raise ValueError(f"a column has {self._values.size} rows, not {rows}")

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
        self._dtype = DTYPES[self.kind]
        self._values = GrowableArray(self._dtype)
        self._rows = GrowableArray(np.int32)
        self._saved = _Saved({"values": self._values, "rows": self._rows})

    def append(self, row: int, value: FieldValue | None) -> None:
        """Adds the next row's values."""
        self.extend(row, [value])

    def extend(self, first_row: int, values: Sequence[FieldValue | None]) -> None:
        """Adds the values of the rows from ``first_row`` on."""
        lists = [list(value) if isinstance(value, (list, tuple, dict)) else [] for value in values]
        flat = np.array([item for items in lists for item in items], self._dtype)
        self._rows.extend(_owners(first_row, lists))
        self._values.extend(flat)

    def save(self, files: PartFiles) -> None:
        """Writes what is new since the last save."""
        self._saved.save(files)

    def restore(self, files: PartFiles, rows: int) -> None:
        """Gives this empty column what was saved."""
        self._saved.restore(files)
        _check_rows(self._rows, rows)

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
    """Strings of each row: one (string), or several (array<string>, weightedset<string>), as codes of ``words``."""

    def __init__(self, field: Field) -> None:
        self.cased = field.cased
        self.single = field.type.kind == "string"
        self.words = Words(self.cased)
        self._codes = GrowableArray(np.int32)
        self._rows = GrowableArray(np.int32)
        self._weights = GrowableArray(np.int32)
        several = {} if self.single else {"rows": self._rows, "weights": self._weights}
        self._saved = _Saved({"codes": self._codes, **several})

    def key(self, text: str) -> str:
        """What two strings are equal by."""
        return self.words.key(text)

    def append(self, row: int, value: FieldValue | None) -> None:
        """Adds the next row's string or strings; a missing single string is "", as in Vespa."""
        self.extend(row, [value])

    def extend(self, first_row: int, values: Sequence[FieldValue | None]) -> None:
        """Adds the strings of the rows from ``first_row`` on."""
        if self.single:
            self._codes.extend(self.words.codes(["" if value is None else str(value) for value in values]))
            return
        lists = [[str(word) for word in value] if isinstance(value, (list, tuple, dict)) else [] for value in values]
        weights: list[Any] = []
        for value, words in zip(values, lists, strict=True):
            weights += value.values() if isinstance(value, dict) else [1] * len(words)
        numbers = np.array(weights, np.int32)
        self._codes.extend(self.words.codes([word for words in lists for word in words]))
        self._weights.extend(numbers)
        self._rows.extend(_owners(first_row, lists))

    def save(self, files: PartFiles) -> None:
        """Writes what is new since the last save."""
        self.words.save(files)
        self._saved.save(files)

    def restore(self, files: PartFiles, rows: int) -> None:
        """Gives this empty column what was saved."""
        self.words.restore(files)
        self._saved.restore(files)
        codes = self._codes.view()
        if (self.single and len(codes) != rows) or self._rows.size != self._weights.size:
            raise ValueError(f"a column has {len(codes)} strings for {rows} rows")
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.words):
            raise ValueError("a column has codes without a string")
        _check_rows(self._rows, rows)

    def copy_rows(self, rows: NDArray[Any], target: StringColumn) -> None:
        """Gives the empty ``target`` the ascending ``rows`` of this column, renumbered from 0, and their words only."""
        kept, renumbered = (rows, rows) if self.single else _renumber(self._rows.view(), rows)
        used, codes = np.unique(self._codes.view()[kept], return_inverse=True)
        for code in used:
            target.words.code(self.words[int(code)])
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
        return self.words.find(self.key(text))

    def codes_where(self, test: Callable[[str], bool]) -> list[int]:
        """The codes of strings whose key passes ``test``."""
        return [code for key, code in self.words.pairs() if test(key)]

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


def _owners(first_row: int, lists: Sequence[Sequence[Any]]) -> NDArray[Any]:
    """The row of each item of ``lists``, the first of which is ``first_row``."""
    sizes = [len(items) for items in lists]
    return np.repeat(np.arange(first_row, first_row + len(lists), dtype=np.int32), sizes)


Column = NumberColumn | ManyNumbersColumn | StringColumn


def make_column(field: Field) -> Column:
    """The column for a non-tensor attribute ``field``."""
    element = field.type.element or field.type
    if element.kind == "string":
        return StringColumn(field)
    return NumberColumn(field) if field.type.element is None else ManyNumbersColumn(field)
