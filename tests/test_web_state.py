"""The page's state lives in its URL: parsed, checked, written back, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from clipsearch.errors import InputError
from clipsearch.search import PROFILES, Filters
from clipsearch.search.query import SIZES, SORTS
from clipsearch.search.terms import KINDS, Term
from clipsearch.web.state import CardLinks, PageState

TEXTS = st.text(st.characters(exclude_categories=["Cs"])).map(str.strip)
WEIGHTS = st.floats(-5, 5, allow_nan=False).filter(bool)
TERMS = st.one_of(
    st.builds(Term, WEIGHTS, st.sampled_from([kind for kind in KINDS if kind != "like"]), TEXTS.filter(bool)),
    st.builds(Term, WEIGHTS, st.just("like"), st.sampled_from(["id:rsicd:image::a.jpg", "id:b-1:image::B_2"])),
)
STATES = st.builds(
    PageState,
    q=TEXTS,
    ranking=st.sampled_from(["", *PROFILES]),
    size=st.sampled_from(["", *SIZES]),
    sort=st.sampled_from(list(SORTS)),
    img=st.sampled_from(["", "0" * 24]),
    terms=st.lists(TERMS, max_size=3).map(tuple),
    model=st.sampled_from(["", "model-1a2b"]),
    parts=st.booleans(),
    dups=st.booleans(),
    view=st.sampled_from(["", "list"]),
    corpus=st.sampled_from(["", "rsicd"]),
    label=st.sampled_from(["", "storage tanks & more", "a=b", "river ", " "]),
    like=st.sampled_from(["", "id:rsicd:image::a.jpg"]),
    page=st.integers(1, 40),
)


@settings(max_examples=60)
@given(STATES)
def test_a_url_restores_the_state_it_was_made_from(state: PageState) -> None:
    url = state.query_string(page=state.page)
    assert PageState.parse(QueryParams(url.removeprefix("?"))) == state
    assert PageState.parse(QueryParams(state.query_pairs(page=state.page))) == state


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
    state = PageState.parse({"q": " a ", "corpus": "rsicd", "label": "bridge ", "utm_source": "x"})
    assert state.q == "a"
    assert state.filters == Filters("rsicd", "bridge ", ""), "a filter compares whole values"
    assert not state.by_image
    assert PageState(img="abc").by_image


@pytest.mark.parametrize(
    "params",
    [
        {"ranking": "bm25"}, {"page": "0"}, {"page": "41"}, {"page": "x"}, {"alpha": "1.5"}, {"alpha": "nan"},
        {"size": "tiny"}, {"sort": "price"}, {"view": "map"}, {"with": "snow"}, {"with": "1:sql:x"},
        {"with": "1:text: "}, {"with": "9:text:x"}, {"with": "nan:text:x"}, {"with": "0:text:x"},
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named(params: dict[str, str]) -> None:
    with pytest.raises(InputError, match=next(iter(params))):
        PageState.parse(params)


def test_terms_are_parsed_printed_added_and_taken_off() -> None:
    term = Term.parse("-0.5:like:id:rsicd:image::a.jpg")
    assert term == Term(-0.5, "like", "id:rsicd:image::a.jpg")
    assert str(Term(1.0, "text", "a: b")) == "1:text:a: b"
    state = PageState(q="river", page=4)
    added = PageState.parse(QueryParams(state.plus(-0.5, term.value).removeprefix("?")))
    assert added == PageState(q="river", terms=(term,))
    assert added.plus(1, term.value) == "?q=river&with=1%3Alike%3Aid%3Arsicd%3Aimage%3A%3Aa.jpg"
    assert added.without(term) == "?q=river"


def test_the_small_form_adds_a_term_and_too_many_are_refused() -> None:
    state = PageState.parse(QueryParams("q=river&with=1:text:snow&add=boats&weight=-1"))
    assert state.terms == (Term(1.0, "text", "snow"), Term(-1.0, "text", "boats"))
    with pytest.raises(InputError, match="at most 12"):
        PageState.parse(QueryParams([("with", "1:text:a")] * 13))


@settings(max_examples=40)
@given(STATES, TEXTS)
def test_the_links_of_cards_are_those_of_the_state(state: PageState, value: str) -> None:
    links = CardLinks(state)
    alone = {"q": "", "img": "", "terms": (), "sort": "", "parts": False}
    for each in (value or "x", "id:rsicd:image::b+c.jpg", *(term.value for term in state.terms)):
        assert links.similar(each) == state.query_string(like=each, **alone)
        assert links.plus(-0.5, each) == state.plus(-0.5, each)
        assert links.choose("label", each) == state.query_string(label=each)
