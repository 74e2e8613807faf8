"""The outcome of an operation: told once to everybody, from whichever thread, whatever a listener does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from clipsearch.engine.documents.outcome import Outcome
from clipsearch.errors import StoreError


def test_whoever_waits_gets_the_value_and_whoever_comes_late_too() -> None:
    outcome: Outcome[int] = Outcome()
    told: list[int] = []
    waiting = [threading.Thread(target=lambda: told.append(outcome.result(10))) for _ in range(5)]
    for thread in waiting:
        thread.start()
    assert not outcome.done()
    with pytest.raises(TimeoutError):
        outcome.exception(0.01)
    outcome.finish(None, 7)
    for thread in waiting:
        thread.join(10)
    outcome.add_done_callback(lambda it: told.append(it.result()))
    assert told == [7] * 6
    assert outcome.done()
    assert outcome.exception() is None


def test_an_error_is_raised_by_result_and_given_by_exception() -> None:
    outcome: Outcome[None] = Outcome()
    error = StoreError("the disk is full")
    outcome.finish(error)
    assert outcome.exception() is error
    with pytest.raises(StoreError, match="the disk is full"):
        outcome.result()


def test_a_listener_that_raises_costs_neither_the_others_nor_the_writer(caplog: pytest.LogCaptureFixture) -> None:
    outcome: Outcome[None] = Outcome()
    told: list[str] = []

    def bad(_: object) -> None:
        raise RuntimeError("nobody listens any more")

    outcome.add_done_callback(lambda _: told.append("first"))
    outcome.add_done_callback(bad)
    outcome.add_done_callback(lambda _: told.append("last"))
    outcome.finish(None)
    assert told == ["first", "last"]
    assert "nobody listens any more" in caplog.text


def test_a_late_listener_that_raises_costs_its_caller_nothing(caplog: pytest.LogCaptureFixture) -> None:
    outcome: Outcome[None] = Outcome()
    outcome.finish(None)

    def bad(_: object) -> None:
        raise RuntimeError("nobody listens any more")

    outcome.add_done_callback(bad)
    assert "nobody listens any more" in caplog.text


def test_what_is_finished_stays_as_it_is_and_a_second_time_is_an_error() -> None:
    outcome: Outcome[int] = Outcome()
    told: list[int] = []
    outcome.add_done_callback(lambda it: told.append(it.result()))
    outcome.finish(None, 1)
    with pytest.raises(RuntimeError, match="finished already"):
        outcome.finish(StoreError("the disk is full"), 2)
    assert outcome.result() == 1
    assert told == [1]


def test_a_listener_that_comes_as_it_is_finished_is_told_exactly_once(rounds: Callable[[int, int], int]) -> None:
    for _ in range(rounds(300, 20_000)):
        outcome: Outcome[None] = Outcome()
        told: list[int] = []
        start = threading.Barrier(2)

        def finish(outcome: Outcome[None] = outcome, start: threading.Barrier = start) -> None:
            start.wait()
            outcome.finish(None)

        thread = threading.Thread(target=finish)
        thread.start()
        start.wait()
        outcome.add_done_callback(lambda _, told=told: told.append(1))
        thread.join()
        assert told == [1]
