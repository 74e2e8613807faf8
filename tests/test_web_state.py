"""The page's state lives in its URL: parsed, checked, written back, nothing lost."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import InputError
from clipsearch.search import PROFILES, Filters
from clipsearch.web.state import PageState

STATES = st.builds(
    PageState,
    q=st.text(st.characters(exclude_categories=["Cs"])).map(str.strip),
    ranking=st.sampled_from(["", *PROFILES]),
    corpus=st.sampled_from(["", "rsicd"]),
    label=st.sampled_from(["", "storage tanks & more", "a=b"]),
    like=st.sampled_from(["", "id:rsicd:image::a.jpg"]),
    page=st.integers(1, 40),
)


@given(STATES)
def test_a_url_restores_the_state_it_was_made_from(state: PageState) -> None:
    url = state.query_string(page=state.page)
    assert PageState.parse(dict(parse_qsl(url.removeprefix("?"), keep_blank_values=True))) == state


def test_defaults_are_left_out_of_the_url() -> None:
    assert PageState().query_string() == ""
    assert PageState(q="a river", ranking="hybrid", alpha=0.3).query_string() == "?q=a+river&ranking=hybrid"
    assert PageState(q="a", ranking="hybrid_linear", alpha=0.3).query_string() == "?q=a&ranking=hybrid_linear&alpha=0.3"


def test_another_query_starts_on_page_one() -> None:
    state = PageState(q="river", page=3)
    assert state.query_string(label="bridge") == "?q=river&label=bridge"
    assert state.query_string(page=4) == "?q=river&page=4"
    assert state.offset == 48


def test_filters_and_kind_of_query() -> None:
    state = PageState.parse({"corpus": "rsicd", "label": " bridge ", "utm_source": "x"})
    assert state.filters == Filters("rsicd", "bridge", "")
    assert not state.by_image
    assert PageState(img="abc").by_image


@pytest.mark.parametrize(
    "params",
    [{"ranking": "bm25"}, {"page": "0"}, {"page": "41"}, {"page": "x"}, {"alpha": "1.5"}, {"alpha": "nan"}],
)
def test_a_value_that_makes_no_sense_is_named(params: dict[str, str]) -> None:
    with pytest.raises(InputError, match=next(iter(params))):
        PageState.parse(params)
