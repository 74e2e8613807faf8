"""The document selection language."""

from __future__ import annotations

from typing import Any

import pytest
from serving import music

from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.selection import compile_selection
from clipsearch.errors import DocumentError

DOC = parse_id("id:space:music:n=7:one")
FIELDS: dict[str, Any] = {
    "artist": "Tom Waits",
    "year": 1985,
    "score": 0.5,
    "live": True,
    "tags": ["rain", "dogs"],
    "genres": {"blues": 3},
    "cover": b"x",
    "embedding": object(),
}


def selects(text: str) -> bool:
    return compile_selection(text, music().schemas).matches(DOC, FIELDS)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "music",
        'music.artist == "Tom Waits"',
        "music.artist = 'Tom*'",
        "music.artist =~ '^Tom'",
        "music.year > 1980 and music.year <= 1985",
        "music.year == 1 OR NOT music.year < 3",
        "not (music.year == 1 or music.year == 2)",
        "music.live == true",
        "music.plays == null",
        "music.artist != null",
        'music.tags == "dogs"',
        'music.genres == "blues"',
        "id.namespace == 'space' and id.type == 'music' and id.user == 7 and id.specific == 'one'",
        'id == "id:space:music:n=7:one"',
        "music.artist",
        "music.tags and not music.plays",
        "not music.tags == 'dogs'",
        "music.tags != 'dogs'",
        "music.year + 15 == 2000",
        "music.year - 1 - 1 == 1983 and music.year / 2 == 992 and music.year % 2 == 1",
        "-7 / 2 == -3 and -7 % 2 == -1",
        "2 + 3 * 4 == 14 and (2 + 3) * 4 == 20 and music.score * 2 == 1.0 and 0x1F == 31 and 5 % 3 * 2 == 4",
        "music.artist + '!' == 'Tom Waits!'",
        "music.artist.lowercase() == 'tom waits' and music.year.abs() == 1985 and ('A').lowercase() == 'a'",
        "music.tags[1] == 'dogs'",
        "music.tags[$x] == 'dogs'",
        'music.genres{blues} == 3 and music.genres{"blues"} > 2',
        "music.genres{$x} == 3",
        "music.tags[7] == null and music.genres{jazz} == null",
        "id.scheme == 'id' and ID.NAMESPACE = 's?a*'",
        "((music.year) == (1985))",
        r"'\x41\t' == 'A\t'",
        "music.live == 1",
        "not id.user < 3",
        "music.year < now()",
        "1 < 2",
        r'music.artist != "a \"quoted\" name"',
        "music.genres == 'blues' and 'blues' == music.genres",
        "music.tags == music.tags",
        "(" * 300 + "true" + ")" * 300,
    ],
)
def test_a_fitting_document_is_selected(text: str) -> None:
    assert selects(text)


@pytest.mark.parametrize(
    "text",
    [
        "false",
        'music.artist == "Tom"',
        "music.artist =~ '^Waits'",
        "music.year >= 1986",
        "music.artist == null",
        "music.artist < 3",
        "id.user == 8",
        "2000 < music.tags",
        "'dogs' == music.tags",
        "id.group == null",
        "not id.group == null",
        "music.tags[$x] == 'dogs' and music.tags[$x] == 'rain'",
        "music.plays",
        "music.cover",
        "music.cover == null",
        "music.embedding != null",
        "music.artist - 'x' == 1",
        "music.artist =~ '^tom'",
        "music.score % 2 == 0",
        "music.year < music.tags",
    ],
)
def test_another_document_is_not_selected(text: str) -> None:
    assert not selects(text)


def test_a_comparison_with_a_field_that_has_no_value_is_neither_true_nor_false() -> None:
    assert not selects("music.plays > 1")
    assert not selects("not (music.plays > 1)")
    assert selects("music.plays > 1 or true")
    assert not selects("music.plays > 1 and true")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("music.year ==", "ending here"),
        ("music.year +", "ending here"),
        ("1 + 1", "alone"),
        ("'x'", "alone"),
        ("music.artist.size() == 2", "No function 'size'"),
        ("music.year / 0 == 1", "Division by zero"),
        ("music.year == 1e3", "e3"),
        ("music.year == 99999999999999999999", "64-bit"),
        ("music.tags{x} == 1", "tags"),
        ("music.artist[0] == 'T'", "artist"),
        ("music.artist.first == 'T'", "artist"),
        ("$x == 1", r"\$x"),
        ("(music.year == 1) == 1", "as a value"),
        ("music == 1", "as a value"),
        ("id.gid == 'x'", "id.gid"),
        (r"music.artist == 'a\qb'", "Could not parse"),
        ("house.rooms == 2", "house"),
        ("house", "house"),
        ("music.rooms == 2", "rooms"),
        ("id.bucket == 2", "id.bucket"),
        ("music.artist =~ '('", None),
        ("not " * 2000 + "true", "nested too deeply"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(text: str, named: str | None) -> None:
    with pytest.raises(DocumentError, match=named):
        selects(text)
