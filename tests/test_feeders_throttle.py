"""How many requests are in flight, and when an endpoint counts as gone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from feeders.throttle import LEAST, Breaker, Throttle


def settle(rate: Callable[[float], float], most: int = 64, rounds: int = 60_000) -> list[int]:
    """The targets of a feed whose throughput follows from the requests in flight."""
    random.seed(3)
    throttle, now, targets = Throttle(most), 0.0, []
    for _ in range(rounds):
        now += 1 / rate(throttle.target)
        throttle.acknowledged(throttle.target, now)
        targets.append(throttle.target)
    return targets[rounds // 2 :]


def test_it_goes_up_while_that_brings_throughput() -> None:
    assert sum(settle(lambda size: 100 * size)) / 30_000 > 50


def test_it_stays_low_where_more_requests_only_wait_longer() -> None:
    targets = settle(lambda size: 100 * min(size, 20))
    assert 17 <= sum(targets) / len(targets) <= 27


def test_overload_makes_it_smaller_at_once_but_never_nothing() -> None:
    throttle = Throttle(64)
    for _ in range(64):
        throttle.overloaded()
    assert throttle.target == 51  # all that were in flight met one overload
    for now in range(1000):
        throttle.acknowledged(throttle.target, now)
        throttle.overloaded()
    assert throttle.target == LEAST
    assert Throttle(2).target == 2


def test_the_breaker_is_half_open_after_a_while_of_failures_and_open_after_its_patience() -> None:
    breaker = Breaker(60)
    assert breaker.state(1000) == "closed"  # nothing asked yet
    breaker.asked(1000)
    breaker.failed(1001)
    assert [breaker.state(now) for now in (1002, 1010, 1012, 1059, 1061)] == [
        "closed", "closed", "half-open", "half-open", "open",
    ]  # fmt: skip
    assert breaker.alive(1059)
    assert not breaker.alive(1060)
    assert breaker.state(1100) == "closed"


@pytest.mark.parametrize("idle", [True, False])
def test_silence_counts_only_while_something_was_asked(idle: bool) -> None:
    breaker = Breaker(10)
    breaker.asked(0)
    if idle:
        breaker.idle()
    assert breaker.state(11) == ("closed" if idle else "open")
