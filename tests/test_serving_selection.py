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
        "id.group == null",
        "music.year < now()",
        "1 < 2",
        r'music.artist != "a \"quoted\" name"',
        "'dogs' == music.tags",
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
        ("music.year + 1 == 2", r"'\+'"),
        ("house.rooms == 2", "house"),
        ("house", "house"),
        ("music.rooms == 2", "rooms"),
        ("music.cover == 2", "cover"),
        ("id.bucket == 2", "id.bucket"),
        ("music.artist =~ '('", None),
        ("not " * 2000 + "true", "nested too deeply"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(text: str, named: str | None) -> None:
    with pytest.raises(DocumentError, match=named):
        selects(text)
