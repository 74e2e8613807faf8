"""The text index: segments, tails, counts and files, against a plain Counter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from query_support import make_schema

from clipsearch.engine.index import text as text_module
from clipsearch.engine.index.linguistics import terms, tokenize
from clipsearch.engine.index.text import ELEMENT_GAP, TextIndex
from clipsearch.engine.package.model import Field, FieldType

FIELD = make_schema().fields["captions"]
WORDS = ["river", "bridges", "a", "Running", "café", "storage", "x1"]


class Files:
    """``PartFiles`` in memory: what was appended, cut to what was there at the last save."""

    def __init__(self) -> None:
        self.held: dict[str, list[np.ndarray]] = {}
        self.small: dict[str, bytes] = {}

    def append(self, name: str, values: np.ndarray) -> None:
        self.held.setdefault(name, []).append(values.copy())

    def array(self, name: str, dtype: Any) -> np.ndarray:
        parts = self.held.get(name, [])
        assert all(part.dtype == dtype for part in parts)
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    mapped = array

    def replace(self, name: str, data: bytes) -> None:
        self.small[name] = data

    def read(self, name: str) -> bytes:
        return self.small.get(name, b"")


class Model:
    """A ``TextIndex`` beside what should be in it."""

    def __init__(self, field: Field = FIELD) -> None:
        self.index = TextIndex(field)
        self.rows: list[list[str]] = []
        self.live: list[bool] = []

    def extend(self, values: list[list[str]]) -> None:
        self.index.extend(len(self.rows), values)
        self.rows += values
        self.live += [True] * len(values)

    def forget(self, row: int) -> None:
        self.index.forget(row)
        self.live[row] = False

    def check(self, index: TextIndex | None = None) -> None:
        index = index or self.index
        live = np.array(self.live, np.bool_)
        snapshot = index.snapshot(live)
        counts = [Counter(term for text in row for term in terms(text)) for row in self.rows]
        assert index.lengths.view().tolist() == [sum(count.values()) for count in counts]
        assert index.total_length == sum(sum(c.values()) for c, alive in zip(counts, self.live, strict=True) if alive)
        every = np.arange(len(counts))
        for term in {term for word in WORDS for term in terms(word)} | {"nowhere"}:
            expected = {row: count[term] for row, count in enumerate(counts) if count[term]}
            rows, frequencies, count = snapshot.postings(term)
            assert dict(zip(rows.tolist(), frequencies.tolist(), strict=True)) == expected
            assert rows.tolist() == sorted(expected)
            assert count == sum(self.live[row] for row in expected)
            counted = snapshot.counts_in(snapshot.number(term), every)
            assert counted.tolist() == [each[term] for each in counts]


def some(random: np.random.Generator, count: int) -> list[list[str]]:
    return [
        [" ".join(random.choice(WORDS, random.integers(0, 5))) for _ in range(random.integers(0, 3))]
        for _ in range(count)
    ]


@pytest.mark.parametrize(("tail", "rows"), [(0, 1 << 18), (7, 16), (30, 30), (1 << 30, 1 << 18)])
def test_postings_and_counts_are_exact_however_rows_are_sealed(
    tail: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "TAIL_TOKENS", tail)
    monkeypatch.setattr(text_module, "MAX_ROWS", rows)
    random = np.random.default_rng(tail)
    model = Model()
    for _ in range(40):
        model.extend(some(random, int(random.integers(0, 9))))
        alive = [row for row, live in enumerate(model.live) if live]
        for row in random.permutation(alive)[: random.integers(0, 4)].tolist():
            model.forget(row)
        model.check()
    found = len(model.index._segments)
    assert found <= 4 if rows == 1 << 18 else found > 4  # few, unless they may not grow
    assert (found == 0) == (tail == 1 << 30)


def test_an_older_snapshot_keeps_its_counts_while_rows_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "TAIL_TOKENS", 4)
    index = TextIndex(FIELD)
    index.extend(0, [["river"]] * 10)
    before = index.snapshot(np.ones(10, np.bool_))
    index.extend(10, [["river bridge"]] * 10)
    for row in range(5):
        index.forget(row)
    live = np.arange(20) >= 5
    assert index.snapshot(live).postings("river")[2] == 15
    rows, _, count = before.postings("river")
    assert (rows.tolist(), count) == (list(range(10)), 10)
    assert before.postings("bridg")[2] == 0


def test_a_segment_ends_where_it_is_full_and_a_row_longer_than_that_has_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_module, "TAIL_TOKENS", 0)
    monkeypatch.setattr(text_module, "MAX_TOKENS", 10)
    model = Model()
    model.extend([["river a"]] * 12 + [["a " * 50]] + [["bridges"]] * 3)
    model.check()
    assert [segment.tokens for segment in model.index._segments] == [10, 10, 4, 50, 3]


def test_what_is_saved_in_steps_is_restored_with_its_dead_rows() -> None:
    random, files, model = np.random.default_rng(0), Files(), Model()
    for _ in range(4):
        model.extend(some(random, 30))
        model.forget(int(np.flatnonzero(model.live)[3]))
        model.index.save(files)  # type: ignore[arg-type]
    restored = TextIndex(FIELD)
    restored.restore(files, len(model.rows))  # type: ignore[arg-type]
    model.check(restored)
    model.index = restored
    model.extend(some(random, 5))
    model.forget(0 if model.live[0] else 1)
    model.check()
    restored.save(files)  # type: ignore[arg-type]
    again = TextIndex(FIELD)
    again.restore(files, len(model.rows))  # type: ignore[arg-type]
    model.check(again)


@pytest.mark.parametrize("name", ["tokens", "ends", "lengths", "words", "word_sizes"])
def test_files_that_do_not_fit_together_are_refused(name: str) -> None:
    files, model = Files(), Model()
    model.extend(some(np.random.default_rng(1), 20))
    model.index.save(files)  # type: ignore[arg-type]
    files.held[name][0] = files.held[name][0][:-1]
    with pytest.raises(ValueError, match="captions"):
        TextIndex(FIELD).restore(files, 20)  # type: ignore[arg-type]


def test_one_by_one_and_in_bulk_give_the_same() -> None:
    values = some(np.random.default_rng(5), 50)
    one, many = TextIndex(FIELD), TextIndex(FIELD)
    for row, value in enumerate(values):
        one.append(row, value)
    many.extend(0, values)
    live = np.ones(50, np.bool_)
    for word in WORDS:
        for left, right in zip(one.snapshot(live).postings(word), many.snapshot(live).postings(word), strict=True):
            np.testing.assert_array_equal(left, right)


def test_compaction_keeps_the_live_rows_and_their_words_only() -> None:
    model = Model()
    model.extend([["river bridges", "sea"], ["once"], ["a river"], []])
    model.forget(1)
    target = TextIndex(FIELD)
    model.index.copy_rows(np.array([0, 2, 3]), target)
    assert sorted(target._numbers) == ["a", "bridg", "river", "sea"]
    tokens, owner = target.token_rows(np.array([0, 1, 2]))
    assert owner.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2]
    assert (tokens == ELEMENT_GAP).tolist() == [False, False, True, False, True, False, False, True, True]
    assert target.snapshot(np.ones(3, np.bool_)).postings("river")[0].tolist() == [0, 1]
    assert target.total_length == 5


def test_a_value_that_is_no_list_is_one_text_and_exact_fields_keep_it_whole() -> None:
    index = TextIndex(FIELD)
    index.extend(0, ["Running rivers", None, {"river": 3, "sea": 1}])
    live = np.ones(3, np.bool_)
    assert index.snapshot(live).postings("river")[0].tolist() == [0, 2]
    exact = TextIndex(Field("name", FieldType("string"), index=True, match="exact"))
    exact.extend(0, ["New York", "", "new york"])
    assert exact.snapshot(live).postings("new york")[0].tolist() == [0, 2]
    assert exact.lengths.view().tolist() == [1, 0, 1]


@pytest.mark.parametrize("text", ["Straße ½ né́e", "a🙂b", "x\u0301y", "日本 river's", "A-B_c"])
def test_tokens_are_the_same_whether_characters_were_met_before_or_not(text: str) -> None:
    assert tokenize(text) == tokenize(text)
