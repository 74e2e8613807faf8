"""Regular expressions of queries and document selections that are sure to end soon.

Vespa's RE2 takes linear time for any pattern; Python's engine backtracks, and holds every other thread meanwhile. So
constructs that RE2 does not have, and those that can take very long, are refused by name: when the pattern is read,
or at a value that is too long for it.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from clipsearch.errors import ExpressionError

MAX_STEPS = 10_000_000  # about 0.2 s
_TOKENS = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[ims]*\)|\((?:\?(?:P<\w+>|[ims]*:))?|[*+?]\??|\{\d*,?\d*\}\??|.", re.DOTALL
)
_BOUNDS = re.compile(r"\{(\d{0,6})(,?)(\d{0,6})\}\??")


class Pattern:
    """A compiled pattern. Raises ``ExpressionError`` for one that is malformed or not supported."""

    def __init__(self, text: str, ignore_case: bool = False) -> None:
        self.text = text
        self._unbounded, self._choices = _work(text)
        try:
            classes = re.ASCII if text.isascii() else 0  # RE2's \d, \w, \s and \b know ASCII only
            self._compiled = re.compile(text, (re.IGNORECASE if ignore_case else 0) | classes)
        except (re.error, OverflowError, RecursionError) as error:
            raise ExpressionError(f"'{text}' is not a regular expression: {error}") from error

    def search(self, value: str) -> bool:
        """Whether the pattern occurs in ``value``. Raises ``ExpressionError`` when finding out could take very long."""
        depth = self._unbounded + 1  # a search may start anywhere
        if self._choices * math.comb(len(value) + depth, depth) > MAX_STEPS:
            raise ExpressionError(
                f"'{self.text}' has too many repetitions and alternatives for the local engine's regular expressions "
                f"on a value of {len(value)} characters"
            )
        return self._compiled.search(value) is not None


@lru_cache(maxsize=64)
def compile_pattern(text: str, ignore_case: bool = False) -> Pattern:
    """``Pattern``, kept for the next time."""
    return Pattern(text, ignore_case)


def _work(text: str) -> tuple[int, int]:
    """How many repetitions have no end, and how many ways there are through everything else."""
    unbounded, choices, alternatives, before = 0, 1, [1], ""
    for token in _TOKENS.findall(text):
        bounds = _BOUNDS.fullmatch(token)
        repeats = token[0] in "*+" or bounds is not None
        again = before == ")" or before[:1] in ("*", "+", "?") or _BOUNDS.fullmatch(before) is not None
        if token[0] == "[" and re.search(r"\[:\^?\w+:\]?", token):
            raise ExpressionError(f"'{text}': classes such as [[:alpha:]] are not supported by the local engine")
        if (repeats and again) or (token[0] == "?" and before == "(") or re.fullmatch(r"\\[1-9]", token):
            raise ExpressionError(
                f"'{text}': repetitions of a group or of a repetition, look-around and back references in regular "
                "expressions are not supported by the local engine"
            )
        if token[0] in "*+" or (bounds is not None and bounds[2] and not bounds[3]):
            unbounded += 1
        elif token[0] == "?":
            choices *= 2
        elif bounds is not None and bounds[2]:
            choices *= max(1, int(bounds[3]) - int(bounds[1] or 0) + 1)
        elif token == "|":
            alternatives[-1] += 1
        elif token == ")" and len(alternatives) > 1:
            choices *= alternatives.pop()
        elif token[0] == "(" and token[-1] != ")":
            alternatives.append(1)
        before = token
    return unbounded, choices * alternatives[0]
