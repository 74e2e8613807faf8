"""Every word on page one: for a query of 3 to 6 content words out of one caption, a hit's caption holds them all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_vespa import unit
from pageone import content_queries, holds_every_word, stem
from small_index import ROOT, running_engine

from clipsearch.corpora import open_corpus
from clipsearch.records import Embedded, Record
from clipsearch.search import SearchClient, hybrid, query
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from feeders.shards import feed_shards

DIM, PAGE = 512, 20
_WORDS = """
planes bridge river road trees buildings storage tanks harbour boats field football stadium beach sea waves desert
mountain forest church square pond farmland industrial parking cars runway terminal red white green grey yellow blue
large small narrow wide curved straight dense sparse tall low parked crossing surrounded winding bright dark old new
round rectangular playground tennis swimming pool railway station park
"""
WORDS = _WORDS.split()


def write_shards(folder: Path, records: Sequence[Record], vectors: np.ndarray) -> Path:
    folder.mkdir()
    with ShardWriter(folder, DIM) as writer:
        for number, (record, vector) in enumerate(zip(records, vectors, strict=True)):
            writer.add(Embedded(record, vector, b"", 224, 224, f"{number:064x}", "random-1"))
    write_manifest(folder, Manifest(records[0].corpus, "random-1", DIM, len(records), complete=True))
    return folder


def share_on_page_one(client: SearchClient, records: Sequence[Record], count: int) -> tuple[float, float]:
    """Share of queries with such a hit on the first page, and of those whose first hit is one.

    The semantic list is noise: what it puts on the page is the worst that a model can do to the other lists.
    """
    captions = [caption for record in records for caption in record.captions]
    good = first = 0
    for number, text in enumerate(content_queries(captions, count)):
        hits = client.search(hybrid(text, unit(500_000 + number, DIM), hits=PAGE)).hits
        held = [holds_every_word(hit.fields["captions"], text) for hit in hits]
        assert [hit.complete == 1 for hit in hits] == held, text  # the index stems as this test does
        good += any(held)
        first += held[0]
    return good / count, first / count


@pytest.fixture
def engine(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[str]:
    with running_engine(tmp_path / "data", free_port, ROOT / "vespa_app") as running:
        yield running.url


@pytest.mark.soak
def test_page_one_holds_every_word_of_the_query(
    engine: str, tmp_path: Path, rounds: Callable[[int, int], int], request: pytest.FixtureRequest
) -> None:
    count = rounds(60, 1000)
    records = wordy(400) if count == 60 else open_corpus(request.getfixturevalue("shared") / "data" / "rsicd").records
    vectors = np.stack([unit(number, DIM) for number in range(len(records))])
    feed_shards(write_shards(tmp_path / "shards", records, vectors), engine, progress=False)
    with SearchClient(engine) as client:
        good, first = share_on_page_one(client, records, count)
    print(f"{count} queries, {len(records)} images: every word on page one for {good:.1%}, in hit one for {first:.1%}")
    assert good >= 0.99


def test_page_one_of_a_short_query_has_what_only_the_vector_found(engine: str, tmp_path: Path) -> None:
    captions = ["an old aqueduct" + " near water" * (number % 7) for number in range(40)] + ["plain fields"] * 360
    records = [Record("words", f"{n}.jpg", f"{n}.jpg", (caption,)) for n, caption in enumerate(captions)]
    vectors = np.stack([unit(number, DIM) for number in range(len(records))])
    feed_shards(write_shards(tmp_path / "shards", records, vectors), engine, progress=False)
    with SearchClient(engine) as client:
        for text in ("aqueducts", "old aqueduct"):
            request = hybrid(text, unit(500_000, DIM), hits=PAGE)
            assert 3 <= vector_only(client, request) <= PAGE - 3, text
            with_the_default = request | {"input.query(whole)": 1}
            assert vector_only(client, with_the_default) == 0, "what anybody may still ask for"
        three = hybrid("an old aqueduct", unit(500_000, DIM), hits=PAGE)
        hits = client.search(three).hits
        assert all(hit.is_complete for hit in hits)
        weightless = {hit.id: hit.relevance for hit in client.search(three | {"input.query(whole)": 0}).hits}
        assert hits[0].relevance == pytest.approx(weightless[hits[0].id] + 1 / 61, abs=1e-6)


def vector_only(client: SearchClient, request: query.Request) -> int:
    """How many hits hold no word of the query."""
    return sum(hit.lexical == 0 for hit in client.search(request).hits)


def wordy(count: int) -> list[Record]:
    """Records with five captions of common words: many hold all words of a query, few in one caption.

    Two lists alone, BM25 and a semantic one of noise, show such a caption on page one for 43 % of queries over 400.
    """
    generator, shares = random.Random(0), [1 / (place + 3) for place in range(len(WORDS))]

    def caption() -> str:
        return " ".join(generator.choices(WORDS, shares, k=generator.randint(4, 10)))

    return [Record("words", f"{n}.jpg", f"{n}.jpg", tuple(caption() for _ in range(5))) for n in range(count)]


def test_queries_are_content_words_of_one_caption_and_stems_are_compared() -> None:
    captions = ["many white planes are parked near buildings", "a river and a bridge"]
    queries = content_queries(captions, 50, seed=3)
    assert queries == content_queries(captions, 50, seed=3)
    assert {len(query.split()) for query in queries} == {3, 4}
    assert not {"are", "near", "a"} & {word for query in queries for word in query.split()}
    assert stem("planes") == stem("plane")
    assert holds_every_word(captions, "plane building parks")
    assert not holds_every_word(captions, "plane bridge")  # in two captions
