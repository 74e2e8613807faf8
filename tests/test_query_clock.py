"""A search's time: its timeout, its timing, its trace."""

from __future__ import annotations

import time
from typing import Any

import pytest
from query_support import Served, make_schema

from clipsearch.engine.package.model import Phase, RankProfile
from clipsearch.engine.query import execution
from clipsearch.engine.query.clock import Clock, parse_timeout
from clipsearch.errors import QueryError

PROFILE = RankProfile(
    "three",
    first_phase=Phase("bm25(captions)"),
    second_phase=Phase("attribute(width)"),
    global_phase=Phase("reciprocal_rank(attribute(width))"),
)
WORDS = "select * from image where userInput('river')"


@pytest.fixture
def served() -> Served:
    engine = Served(make_schema(profiles=[PROFILE]))
    for lid in range(20):
        engine.put(lid, {"captions": ["river " * (lid % 3)], "width": lid})
    return engine


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2", 2.0), ("2.5s", 2.5), ("500ms", 0.5), (" 20 µs", 2e-5), (".5", 0.5), ("1ks", 1000.0), ("", None)],
)
def test_a_time_without_a_unit_is_in_seconds(written: str, seconds: float | None) -> None:
    assert parse_timeout(written) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("written", ["soon", "-1", "5 minutes", "1e3"])
def test_what_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(QueryError, match="timeout"):
        parse_timeout(written)


@pytest.mark.parametrize(
    "query",
    [
        {"yql": WORDS, "timeout": "0"},
        {"yql": WORDS, "timeout": "1µs", "ranking": "three"},
        {"yql": WORDS + " timeout 0"},
        {"yql": "select * from image where true order by width", "timeout": "0.000001"},
    ],
)
def test_a_query_whose_time_is_over_is_answered_504(served: Served, query: dict[str, Any]) -> None:
    status, root = served.post(query)
    assert status == 504
    assert [(error["code"], error["summary"]) for error in root["errors"]] == [(12, "Timed out")]
    assert "children" not in root


def test_time_that_runs_out_between_two_phases_is_noticed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "PRUNING", False)
    run = execution.Matcher.run

    def slow(self: Any, root: Any) -> Any:
        time.sleep(0.05)
        return run(self, root)

    monkeypatch.setattr(execution.Matcher, "run", slow)
    assert served.post({"yql": WORDS, "timeout": "20ms"})[0] == 504
    assert served.post({"yql": WORDS, "timeout": "60s"})[0] == 200
    assert served.post({"yql": WORDS})[0] == 200  # Vespa's default of 500 ms is not enforced


def test_a_trace_names_each_phase_with_its_time(served: Served) -> None:
    served.post({"yql": WORDS, "ranking": "three", "trace.level": 1})
    messages = [child["message"] for child in served.whole["trace"]["children"]]
    names = [message.partition(":")[0] for message in messages]
    assert names == ["parse", "match", "first phase", "second phase", "global phase", "summary"]
    assert all(message.endswith(" ms") for message in messages)
    served.post({"yql": WORDS})
    assert "trace" not in served.whole


def test_a_step_is_not_begun_when_the_time_is_over() -> None:
    clock = Clock(0.0)
    with pytest.raises(QueryError, match="0 ms"), clock.step("match"):
        raise AssertionError("begun")
    assert clock.steps == []
