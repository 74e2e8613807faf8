"""Captions are cleaned the same way in every corpus."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.captions import clean_caption, clean_captions


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("many planes are parked .", "many planes are parked"),
        ("many planes are parked  . .", "many planes are parked"),
        ("CT scan. Arrow: a cyst.", "CT scan. Arrow: a cyst."),
        ("  two\tlines\r\nhere ", "two lines here"),
        ("cafe\u0301", "caf\u00e9"),
        ("null\x00byte", "null byte"),
        ("half \ud800 surrogate", "half surrogate"),
        (" . ", ""),
        ("", ""),
    ],
)
def test_a_caption_becomes_one_clean_line(raw: str, clean: str) -> None:
    assert clean_caption(raw) == clean


@given(st.text())
def test_a_clean_caption_is_single_spaced_nfc_and_stays_when_cleaned_again(text: str) -> None:
    clean = clean_caption(text)
    assert clean == " ".join(clean.split())
    assert unicodedata.is_normalized("NFC", clean)
    assert clean_caption(clean) == clean


@given(st.text(st.characters(exclude_categories=())))
def test_a_clean_caption_holds_nothing_that_vespa_refuses(text: str) -> None:
    clean = clean_caption(text)
    clean.encode("utf-8")
    assert not any(ord(char) < 32 or (ord(char) & 0xFFFE) == 0xFFFE for char in clean)


def test_empty_captions_are_dropped_and_repeated_ones_stay() -> None:
    assert clean_captions(["a pond .", "", " .", "a pond ."]) == ("a pond", "a pond")
