"""Tokenising, normalising and stemming as Vespa does for English."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsearch.engine.index.linguistics import normalize, split, stem, terms, tokenize


def test_all_recorded_sentences_are_cut_into_vespas_tokens(shared: Path) -> None:
    lines = (shared / "vespa/cases/tokenizer.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 25
    for case in cases:
        assert tokenize(case["input"]) == case["unstemmed"], case["input"]
        assert [normalize(token) for token in split(case["input"])] == case["unstemmed"], case["input"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("dogs", "dog"), ("walking", "walk"), ("bridges", "bridg"), ("airports", "airport"), ("sky", "sky")],
)
def test_words_are_stemmed_by_snowball(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_terms_are_stemmed_only_when_asked() -> None:
    assert terms("The Dogs' rivers") == ["the", "dog", "river"]
    assert terms("The Dogs' rivers", stemming=False) == ["the", "dogs", "rivers"]


def test_accents_are_kept_when_the_field_does_not_normalise() -> None:
    assert tokenize("Café") == ["cafe"]
    assert tokenize("Café", accents=True) == ["café"]
