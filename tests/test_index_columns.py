"""Attribute columns: values, missing values, several values of a document, and compaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.engine.index.columns import Column, ManyNumbersColumn, NumberColumn, StringColumn, make_column
from clipsearch.engine.index.files import GenerationFiles
from clipsearch.engine.index.growable import BlockedRows, GrowableArray
from clipsearch.engine.package.model import Field, FieldType


def filled(kind: FieldType, values: Sequence[Any], **options: Any) -> Column:
    column = make_column(Field("f", kind, attribute=True, **options))
    for row, value in enumerate(values):
        column.append(row, value)
    return column


@pytest.mark.parametrize(("kind", "value"), [("int", 7), ("long", 2**40), ("float", 0.5), ("double", 0.1)])
def test_a_number_that_is_missing_matches_nothing(kind: str, value: float) -> None:
    column = filled(FieldType(kind), [value, None, value])
    assert isinstance(column, NumberColumn)
    assert column.missing(3).tolist() == [False, True, False]
    assert column.match(3, lambda held: held < value + 1).tolist() == [True, False, True]
    assert column.values(3)[0] == value


def test_a_missing_bool_is_false() -> None:
    column = filled(FieldType("bool"), [True, None])
    assert isinstance(column, NumberColumn)
    assert column.match(2, lambda held: held == 0).tolist() == [False, True]


def test_any_of_several_numbers_matches() -> None:
    column = filled(FieldType("array", FieldType("int")), [[1, 2], None, [], [2, 3]])
    assert isinstance(column, ManyNumbersColumn)
    assert column.match(4, lambda held: held == 2).tolist() == [True, False, False, True]
    assert column.match(3, lambda held: held == 2).tolist() == [True, False, False]


def test_strings_are_equal_without_regard_to_case_unless_cased() -> None:
    values = ["Sea", "sea", "SEA", None]
    for cased, expected in ((False, [True, True, True, False]), (True, [False, True, False, False])):
        column = filled(FieldType("string"), values, cased=cased)
        assert isinstance(column, StringColumn)
        assert column.match(4, column.codes("sea")).tolist() == expected
        assert column.match(4, column.codes("")).tolist() == [False, False, False, True]


def test_weighted_sets_keep_their_weights_and_lists_have_weight_one() -> None:
    weighted = filled(FieldType("weightedset", FieldType("string")), [{"a": 5, "b": -2}, None, {"a": 1}])
    listed = filled(FieldType("array", FieldType("string")), [["a", "a"], ["b"]])
    assert isinstance(weighted, StringColumn)
    assert isinstance(listed, StringColumn)
    assert weighted.weights(3).tolist() == [5, -2, 1]
    assert weighted.match(3, weighted.codes("A")).tolist() == [True, False, True]
    assert listed.weights(2).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FieldType("int"), [1, None, 3, 4]),
        (FieldType("string"), ["a", "b", "a", None]),
        (FieldType("array", FieldType("string")), [["a", "b"], [], ["c"], ["a"]]),
        (FieldType("array", FieldType("long")), [[1], [2, 3], [], [4, 4]]),
    ],
)
def test_compaction_keeps_the_live_rows_in_order(kind: FieldType, values: list[Any]) -> None:
    column, kept = filled(kind, values), np.array([1, 3])
    copy = make_column(Field("f", kind, attribute=True))
    column.copy_rows(kept, copy)  # type: ignore[arg-type]  # both are what make_column gives for one kind
    expected = filled(kind, [values[row] for row in kept])
    if isinstance(copy, NumberColumn) and isinstance(expected, NumberColumn):
        assert copy.values(2).tolist() == expected.values(2).tolist()
    elif isinstance(copy, StringColumn) and isinstance(expected, StringColumn):
        assert [copy.words[code] for code in copy.flat(2)[1]] == [expected.words[c] for c in expected.flat(2)[1]]
        assert copy.flat(2)[0].tolist() == expected.flat(2)[0].tolist()
    elif isinstance(copy, ManyNumbersColumn) and isinstance(expected, ManyNumbersColumn):
        assert [part.tolist() for part in copy.flat(2)] == [part.tolist() for part in expected.flat(2)]


@pytest.mark.parametrize(
    ("kind", "values", "wrong"),
    [
        (FieldType("int"), [1, None, 3, 4], 2**40),
        (FieldType("double"), [0.1, None, 3], []),
        (FieldType("bool"), [True, None, False], "x"),
        (FieldType("string"), ["a", "B", "b", None], None),
        (FieldType("array", FieldType("string")), [["a", "b"], None, [], ["a"]], None),
        (FieldType("weightedset", FieldType("string")), [{"a": 3}, None, {"b": -1, "a": 2}], {"a": 2**40}),
        (FieldType("array", FieldType("long")), [[1], [2, 3], None, [4, 4]], ["x"]),
    ],
)
def test_extending_is_appending_one_by_one_and_adds_nothing_when_it_fails(
    kind: FieldType, values: list[Any], wrong: Any, tmp_path: Path
) -> None:
    one_by_one, together = filled(kind, values), make_column(Field("f", kind, attribute=True))
    together.extend(0, values[:1])
    if wrong is not None:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            together.extend(1, [*values[1:], wrong])
    together.extend(1, values[1:])
    saved = []
    for name, column in (("a", one_by_one), ("b", together)):
        files = GenerationFiles(tmp_path / name)
        column.save(files.part("f"))
        files.flush(1)
        saved.append({entry: (files.folder / entry).read_bytes() for entry in files.entries})
    assert saved[0] == saved[1]
    assert any(saved[0].values())


def test_views_stay_true_while_arrays_grow() -> None:
    growing = GrowableArray(np.int32, capacity=2)
    growing.extend([1, 2])
    before = growing.view()
    for value in range(100):
        growing.append(value)
    assert before.tolist() == [1, 2]
    assert growing.view().tolist() == [1, 2, *range(100)]


def test_rows_are_taken_across_blocks_in_any_order() -> None:
    rows = BlockedRows(3, np.float32)
    rows.rows_per_block = 4
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    for value in values:
        rows.append(value)
    wanted = np.array([9, 0, 4, 4, 7])
    np.testing.assert_array_equal(rows.take(wanted), values[wanted])
    np.testing.assert_array_equal(np.concatenate([block for _, block in rows.blocks(9)]), values[:9])
