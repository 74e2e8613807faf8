"""Regular expressions that are sure to end soon."""

from __future__ import annotations

import time

import pytest

from clipsearch.engine.patterns import compile_pattern
from clipsearch.errors import ExpressionError


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("^air.*(port|field)$", True),
        (r"[*+]+|r{1,2}p", True),
        (r"^\)+$", False),
        (r"\*+", False),
        ("(?i:AIR)[a-z]*?d?$", True),
        ("(?P<head>a)(i|r)?", True),
        ("[]a+*]{2}", False),
    ],
)
def test_a_pattern_is_searched_anywhere_in_a_value(pattern: str, found: bool) -> None:
    assert compile_pattern(pattern).search("airport") is found
    assert compile_pattern(pattern, ignore_case=True).search("AIRPORT") is found


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a){2}", "a*+", "a**", r"(a)\1", "(?P<x>a)(?P=x)", "(?=a)", "(?<!a)", "(?(1)a)", "(", "[", "a{9}{9}"],
)
def test_what_re2_has_not_or_may_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(ExpressionError, match="regular expression"):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["a*a*a*a*a*a*b", "a?" * 30 + "a" * 30, "(a|a|aa)" * 20 + "b", "a{1,9}" * 9 + "b"])
def test_a_pattern_that_may_take_long_is_refused_at_a_value_that_is_long(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ExpressionError, match="too many repetitions"):
        compile_pattern(pattern).search("a" * 300)
    assert time.perf_counter() - started < 0.5
    assert compile_pattern("a*a*b").search("a" * 300) is False
