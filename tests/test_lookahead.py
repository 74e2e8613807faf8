"""The bounded look-ahead that every reader of images shares."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from clipsearch.lookahead import batched, map_ahead


def test_results_come_in_the_order_of_the_items_whatever_each_takes() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.002 * (number % 2 == 0))
        return number * number

    assert list(map_ahead(slow_if_even, range(40), 4, 8)) == [number * number for number in range(40)]


def test_no_more_items_are_taken_than_results_may_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = map_ahead(str, items(), 2, 5)
    assert [next(results), next(results)] == ["0", "1"]
    assert taken <= 6
    results.close()
    assert taken <= 6


def test_what_the_function_raises_is_raised_at_its_place() -> None:
    results = map_ahead(lambda number: 1 // number, [1, 0, 1], 2, 3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_batches_hold_every_item_once_and_the_last_may_be_short() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []
