"""Lists that a request gives by parameters: of values for ``in``, of tokens and their weights for ``weightedSet``.

They are read in one go, however long they are. Source: Vespa's ``ParameterListParser``.
"""

from __future__ import annotations

import re
from typing import Any

from clipsearch.engine.query.literals import Numeral, is_integer
from clipsearch.errors import QueryError

_SPACES = re.compile(r"[^\S\t-\r\x1c-\x1f\x85]*")  # what Java calls a space character: no tab, no end of a line
_TRIMMED = "".join(map(chr, range(33)))  # what Java trims
_ENDS = {ends: re.compile(f"[{re.escape(ends)}]") for ends in ("'", '"', ",", ":", "]", ",]", ",}")}
_WHOLE = re.compile(r"[+-]?\d+")


class _Scanner:
    """Reads ``text`` from left to right, each character once. Source: Vespa's ``ParameterListParser``."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0

    def peek(self) -> str:
        """The next character that is no space, which is then the current one; "" at the end."""
        character = self.text[self.position : self.position + 1]
        if "!" <= character <= "~":
            return character
        found = _SPACES.match(self.text, self.position)
        self.position = found.end() if found is not None else self.position
        return self.text[self.position : self.position + 1]

    def skip(self, character: str) -> bool:
        """Passes ``character`` if it is the next one."""
        found = self.peek() == character
        self.position += found
        return found

    def expect(self, character: str) -> None:
        """Passes ``character``. Raises ``QueryError`` for another one."""
        if not self.skip(character):
            got = f"got '{self.peek()}'" if self.peek() else "reached the end"
            raise QueryError(f"Expected '{character}' at position {self.position} but {got}")

    def until(self, ends: str, *, or_end: bool = False) -> str:
        """The text before the next one of ``ends``, or with ``or_end`` the rest."""
        found = _ENDS[ends].search(self.text, self.position)
        if found is None and not or_end:
            raise QueryError(f"Expected one of {', '.join(ends)} after position {self.position}")
        start, self.position = self.position, len(self.text) if found is None else found.start()
        return self.text[start : self.position]

    def quoted(self) -> str | None:
        """The content of a string in quotes, None where none begins."""
        for quote in ("'", '"'):
            if self.skip(quote):
                content = self.until(quote)
                self.position += 1
                return content
        return None

    def number(self, ends: str, bits: int) -> int:
        """A whole number of so many ``bits`` before one of ``ends``."""
        start, written = self.position, self.until(ends).strip(_TRIMMED)
        if (
            not _WHOLE.fullmatch(written)
            or len(written) > 20
            or not -(2 ** (bits - 1)) <= int(written) < 2 ** (bits - 1)
        ):
            raise QueryError(f"Expected an integer of {bits} bits at position {start}, but got '{written[:40]}'")
        return int(written)


def parameter_list(text: str) -> list[Any]:
    """The values of ``in (@parameter)``: ``1, 2`` or ``a, 'b c' "d,e"``, in ``[]`` or not; bare ones may be integers.

    Raises ``QueryError`` for a quote that is not closed and for a value that is empty.
    """
    scanner, found = _Scanner(text), list[Any]()
    array = scanner.skip("[")
    while (following := scanner.peek()) and not (array and following == "]"):
        quoted = scanner.quoted()
        if quoted is not None:
            found.append(quoted)
        else:
            bare = scanner.until(",]" if array else ",", or_end=True).strip(_TRIMMED)
            if not bare:
                raise QueryError(f"in: a value is missing at position {scanner.position} of the parameter")
            found.append(int(bare) if is_integer(bare) else bare)
        scanner.skip(",")
    if array:
        scanner.expect("]")
    return found


def parameter_weights(text: str) -> dict[str, Any]:
    """The tokens of ``weightedSet(field, @parameter)``: ``{a: 1, 'b c': 2}`` or ``[[11, 1], [37, 2]]``."""
    scanner = _Scanner(text)
    opening = scanner.peek()
    if opening not in ("[", "{"):
        raise QueryError(f"Expected a string starting by '[' or '{{', but was '{opening}'")
    closing = "]" if opening == "[" else "}"
    scanner.skip(opening)
    tokens: dict[str, Any] = {}
    while scanner.peek() != closing:
        if opening == "{":
            quoted = scanner.quoted()
            token = scanner.until(":").strip(_TRIMMED) if quoted is None else quoted
            scanner.expect(":")
            weight = scanner.number(",}", 32)
        else:
            scanner.expect("[")
            token = str(scanner.number(",", 64))
            scanner.expect(",")
            weight = scanner.number("]", 32)
            scanner.expect("]")
        tokens[token] = Numeral(weight)
        scanner.skip(",")
        if not scanner.peek():
            raise QueryError(f"Expected an array or map ending by '{closing}'")
    return tokens
