"""Work that another thread does while a query goes on."""

from __future__ import annotations

import threading

import pytest

from clipsearch.engine.index import ahead
from clipsearch.engine.index.ahead import Ahead


def test_what_another_thread_found_or_raised_is_what_its_caller_gets() -> None:
    def fail() -> int:
        raise ValueError("no such thing")

    assert Ahead(lambda: 7).result() == 7
    with pytest.raises(ValueError, match="no such thing"):
        Ahead(fail).result()
    with pytest.raises(ValueError, match="no such thing"):
        Ahead(fail, ahead=False).result()


def test_a_caller_does_not_wait_for_threads_that_are_busy_with_others() -> None:
    release = threading.Event()
    busy = [Ahead(lambda: release.wait(30)) for _ in range(max(1, ahead.OTHERS))]
    try:
        waiting = Ahead(threading.get_ident)
        assert waiting.result() == threading.get_ident()
    finally:
        release.set()
    assert all(each.result() for each in busy)


def test_without_ahead_the_work_is_done_where_it_is_asked_for() -> None:
    assert Ahead(threading.get_ident, ahead=False).result() == threading.get_ident()
