"""Document keys are safe in URLs, stable, and never shared by two names."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import InputError
from clipsearch.keys import MAX_KEY_LENGTH, corpus_name_from, make_key, valid_corpus_name

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAMES = st.text(st.characters(exclude_categories=()), min_size=1, max_size=300)


@given(NAMES)
def test_every_key_is_safe_in_a_url(name: str) -> None:
    key = make_key(name)
    assert SAFE.fullmatch(key)
    assert ".." not in key
    assert len(key) <= MAX_KEY_LENGTH


@given(NAMES, NAMES)
def test_two_names_never_share_a_key(first: str, second: str) -> None:
    assert (make_key(first) == make_key(second)) == (first == second)


@given(NAMES)
def test_the_key_of_a_key_belongs_to_no_other_name(name: str) -> None:
    key = make_key(name)
    assert make_key(key) == key if key == name else make_key(key) != key


@given(st.lists(st.sampled_from("a/.-_ \\é"), min_size=2, max_size=8).map("".join))
def test_names_of_awkward_characters_stay_apart(name: str) -> None:
    variants = {name, name + "x", "x" + name, name.replace("/", "-"), name.replace(".", "-")}
    assert len({make_key(variant) for variant in variants}) == len(variants)


def test_a_safe_name_stays_as_it_is() -> None:
    assert make_key("airport_12.jpg") == "airport_12.jpg"


def test_a_key_is_the_same_on_every_machine() -> None:
    assert make_key("sea/a b.jpg") == "sea-a-b.jpg-c389ef2aea"


def test_long_names_that_differ_at_their_end_stay_apart() -> None:
    keys = sorted(make_key("x" * 500 + str(number)) for number in range(50))
    assert all(a != b for a, b in pairwise(keys))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        make_key("")


@pytest.mark.parametrize("name", ["rsicd", "a", "2024-set", "my_set"])
def test_valid_corpus_names_pass(name: str) -> None:
    assert valid_corpus_name(name) == name


@pytest.mark.parametrize("name", ["", "RSICD", "-x", "a:b", "a/b", "a b", "x" * 65, "a\n"])
def test_other_corpus_names_are_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(InputError, match="small letters"):
        valid_corpus_name(name)


@given(st.text(max_size=100))
def test_a_corpus_name_can_be_made_of_any_folder_name(text: str) -> None:
    assert valid_corpus_name(corpus_name_from(text))


def test_a_folder_name_becomes_a_readable_corpus_name() -> None:
    assert corpus_name_from("My Corpus (v2)") == "my-corpus-v2"
