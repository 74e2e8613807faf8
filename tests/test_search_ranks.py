"""Where hits stand in the lists by words and by vector of a fusion, asked for by two requests that carry ids alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_vespa import DIM, FakeVespa, serve_fake, unit

from clipsearch.errors import UnreachableError
from clipsearch.search import Filters, SearchClient
from clipsearch.search.query import FIRST
from clipsearch.search.ranks import ListRanks, list_ranks


@pytest.fixture
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        server.add("a.jpg", ["a river", "river"], 1)
        server.add("b.jpg", ["a bridge"], 2)
        server.add("c.jpg", ["a river"], 3, corpus="other")
        yield server


def test_both_lists_are_ranked_from_one(fake: FakeVespa) -> None:
    ranks = list_ranks(SearchClient(fake.url), "river", unit(2), Filters(), FIRST)
    assert ranks.lexical == {"id:demo:image::a.jpg": 1, "id:other:image::c.jpg": 2}
    assert ranks.semantic["id:demo:image::b.jpg"] == 1
    assert sorted(ranks.semantic.values()) == [1, 2, 3]
    sent = [query for query in fake.queries if query["hits"] == 100]
    assert {query["presentation.summary"] for query in sent} == {"id"}
    assert {query["ranking.profile"] for query in sent} == {"lexical", "vector"}


def test_filters_and_depth_hold_for_both_lists(fake: FakeVespa) -> None:
    ranks = list_ranks(SearchClient(fake.url), "river", unit(2), Filters(corpus="other"), FIRST, depth=1)
    assert ranks == ListRanks({"id:other:image::c.jpg": 1}, {"id:other:image::c.jpg": 1})


def test_a_list_that_nothing_asks_for_is_empty_and_costs_no_request(fake: FakeVespa) -> None:
    client = SearchClient(fake.url)
    assert list_ranks(client, " ", None) == ListRanks()
    assert fake.queries == []
    assert list_ranks(client, "river", None).semantic == {}
    assert list_ranks(client, "", unit(1, DIM)).lexical == {}


def test_an_endpoint_that_is_away_raises_what_a_search_raises() -> None:
    with pytest.raises(UnreachableError):
        list_ranks(SearchClient("http://127.0.0.1:9", timeout=0.5), "river", unit(1))
