"""Feed, search and look, through the local engine as it is run: nothing of it is replaced by a stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fake_vespa import jpeg, unit
from small_index import running_engine
from starlette.testclient import TestClient

from clipsearch.commands.search import command as search_command
from clipsearch.errors import CheckpointError, RejectedError, ShardError
from clipsearch.images.patches import parse_patches
from clipsearch.records import Embedded, Record
from clipsearch.search import Filters, QueryEncoder, SearchClient, by_profile, hybrid, lexical, query, vector
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from clipsearch.web.app import UiConfig, by_model, create_app
from feeders.shards import feed_shards

DIM, COUNT = 512, 50
THINGS = ("river", "bridge", "stadium", "harbour", "forest")


def caption(number: int) -> str:
    return f"{number} boats beside a {THINGS[number % 5]}"


def part(number: int, place: int, dim: int = DIM) -> np.ndarray:
    """The embedding of one of the four parts that every other image has."""
    return unit(1000 + 4 * number + place, dim)


def write_shards(folder: Path, dim: int) -> Path:
    with ShardWriter(folder, dim) as writer:
        for number in range(COUNT):
            name = f"{number}.jpg"
            place = (10.0 + number, -20.0) if number < 10 else (None, None)
            captions = (caption(number), "an image")
            record = Record("demo", name, f"images/{name}", captions, "test", THINGS[number % 5], *place)
            patches = np.stack([part(number, place, dim) for place in range(4)]) if number % 2 else None
            width = 64 * 2 ** (number % 7)
            writer.add(
                Embedded(
                    record, unit(number, dim), jpeg(number), width, 48, f"{number:064x}", "random-1", patches,
                    None if patches is None else parse_patches("2x2").boxes(width, 48),
                )
            )  # fmt: skip
    write_manifest(folder, Manifest("demo", "random-1", dim, COUNT, complete=True))
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    home = tmp_path_factory.mktemp("engine")
    with running_engine(home / "data", free_port) as engine:
        (home / "shards").mkdir()
        summary = feed_shards(write_shards(home / "shards", DIM), engine.url, progress=False)
        assert (summary.fed, summary.failed) == (COUNT, 0)
        yield engine.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[SearchClient]:
    with SearchClient(url) as client:
        yield client


class Model:
    """Every text is the vector of image 7."""

    model_id, dim = "random-1", DIM

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.stack([unit(7, DIM) for _ in texts])

    def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
        return np.stack([unit(int(image.mean()) % COUNT, DIM) for image in images])


def test_words_find_the_captions_that_hold_them(client: SearchClient) -> None:
    found = client.search(lexical("stadiums", hits=20))  # stemmed to what the captions say
    assert found.total == COUNT // 5
    assert all(hit.fields["label"] == "stadium" and hit.lexical > 0 for hit in found.hits)
    assert "thumbnail" not in found.hits[0].fields
    assert "embedding" not in found.hits[0].fields


def test_a_vector_finds_its_image_with_cosine_one(client: SearchClient) -> None:
    best = client.search(vector(unit(7, DIM))).hits[0]
    assert best.id == "id:demo:image::7.jpg"
    assert best.semantic == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("profile", ["hybrid", "hybrid_linear"])
def test_the_hybrids_put_first_what_is_first_in_both_lists(client: SearchClient, profile: str) -> None:
    best = client.search(hybrid("7 stadium", unit(7, DIM), profile=profile)).hits[0]
    assert best.id == "id:demo:image::7.jpg"
    assert best.lexical > 0
    assert best.semantic > 0.9


def test_filters_restrict_every_ranking(client: SearchClient) -> None:
    for profile in ("lexical", "vector", "hybrid", "hybrid_linear"):
        filters = Filters(corpus="demo", label="river", split="test")
        request = by_profile(profile, "boats", unit(7, DIM), filters=filters, hits=50)
        assert {hit.fields["label"] for hit in client.search(request).hits} == {"river"}
        assert client.search(request).hits


def test_similar_images_and_documents_come_back(client: SearchClient) -> None:
    document_id = "id:demo:image::7.jpg"
    similar = client.search(vector(client.embedding(document_id), hits=6))
    scores = [float(unit(7, DIM) @ unit(number, DIM)) for number in range(COUNT)]
    assert [hit.id for hit in similar.hits] == [f"id:demo:image::{at}.jpg" for at in np.argsort(scores)[::-1][:6]]
    assert client.thumbnail(document_id) == jpeg(7)
    assert np.allclose(client.embedding(document_id), unit(7, DIM), rtol=2**-7)
    assert client.document_count("demo") == client.document_count() == COUNT
    assert client.document_count("other") == 0


def test_an_image_is_found_by_one_of_its_parts_which_the_hit_names(client: SearchClient) -> None:
    best = client.search(query.patches(part(7, 2), "random-1")).hits[0]
    assert (best.id, best.box) == ("id:demo:image::7.jpg", (0.0, 0.5, 0.5, 1.0))
    assert best.semantic == pytest.approx(1, abs=0.01)
    assert best.fields["patches_model"] == "random-1"
    found = client.search(query.patches(part(7, 2), "random-1", filters=Filters(label="river"), hits=50))
    assert {hit.fields["label"] for hit in found.hits} == {"river"}
    assert len(found.hits) == 5  # of ten, every other has parts


def test_parts_that_another_model_made_are_never_compared(client: SearchClient) -> None:
    with pytest.raises(CheckpointError, match=r"no image .* has patches of the model other-1: .*--patches 3x3"):
        client.search(query.patches(part(7, 2), "other-1"))
    nothing = client.search(query.patches(part(7, 2), "random-1", filters=Filters(label="none")))
    assert nothing.total == 0


def test_facets_count_what_matches_and_each_without_its_own_filter(client: SearchClient) -> None:
    counts = client.search(query.browse(facets=True, hits=0)).facets
    assert counts["label"] == dict.fromkeys(sorted(THINGS), 10)
    assert counts["corpus"] == {"demo": COUNT}
    assert counts["split"] == {"test": COUNT}
    widths = [64 * 2 ** (number % 7) for number in range(COUNT)]
    expected = {name: sum(low <= width <= high for width in widths) for name, (low, high) in query.SIZES.items()}
    assert counts["size"] == expected
    assert list(counts["size"]) == ["small", "medium", "large", "huge"]
    chosen = Filters(label="river", size="small")
    found = client.faceted(partial(by_profile, "hybrid", "boats", unit(7, DIM)), chosen, hits=3)
    assert [hit.fields["label"] for hit in found.hits] == ["river"] * 3
    assert found.facets["corpus"]["demo"] == found.total
    assert set(found.facets["label"]) == set(THINGS)
    assert sum(found.facets["label"].values()) == expected["small"]
    assert sum(found.facets["size"].values()) == 10
    assert client.search(lexical("boats")).facets == {}


def test_a_size_filter_and_every_order_restrict_and_sort(client: SearchClient) -> None:
    small = client.search(query.browse(filters=Filters(size="medium"), hits=50))
    assert {hit.fields["width"] for hit in small.hits} == {512}
    for make in (
        partial(lexical, "boats"), partial(vector, unit(7, DIM)), partial(query.patches, part(7, 2), "random-1"),
        partial(hybrid, "boats", unit(7, DIM), profile="hybrid_linear"), query.browse,
    ):  # fmt: skip
        for sort, falling in (("label", False), ("width", True), ("corpus", False)):
            values = [hit.fields[sort] for hit in client.search(make(sort=sort, hits=50, facets=True)).hits]
            assert values == sorted(values, reverse=falling)
            assert len(values) in (25, COUNT)


def test_only_images_with_a_place_are_on_the_map(client: SearchClient) -> None:
    everywhere = client.search(query.located(hits=50, facets=True))
    assert everywhere.total == 10
    assert {hit.fields["latitude"] for hit in everywhere.hits} == {10.0 + number for number in range(10)}
    assert {hit.fields["longitude"] for hit in everywhere.hits} == {-20.0}
    north = query.Area(15.0, -30.0, 90.0, 0.0)
    assert client.search(query.located(area=north)).total == 5
    assert client.search(lexical("river", area=north)).total == 1


def test_a_hit_says_how_much_of_the_query_one_caption_holds(client: SearchClient) -> None:
    for make in (lexical, partial(hybrid, embedding=unit(3, DIM))):
        hits = client.search(make("boats beside an image", hits=50)).hits
        assert {hit.complete for hit in hits} == {0.5}  # each half is in one caption
    assert client.search(lexical("boat besides rivers")).hits[0].complete == 1.0


def test_bounds_close_to_zero_are_understood(client: SearchClient) -> None:
    everywhere = query.Area(-2e-05, -180.0, 90.0, 1e-05)
    assert client.search(query.located(area=everywhere)).total == 10


def test_embeddings_travel_with_hits_that_ask_for_them(client: SearchClient) -> None:
    hits = client.search(hybrid("boats", unit(7, DIM), summary="hit_vector", hits=5)).hits
    for hit in hits:
        assert np.array_equal(hit.embedding, client.embedding(hit.id))
    assert hits[0].fields["captions"]
    assert "embedding" not in hits[0].fields
    bare = client.search(lexical("boats", summary="id")).hits[0]
    assert (bare.fields, bare.embedding) == ({}, None)
    assert bare.id.startswith("id:demo:image::")


def test_a_sample_of_the_index_is_some_of_its_embeddings(client: SearchClient) -> None:
    some = client.sample(20)
    assert some.shape == (20, DIM)
    assert np.array_equal(client.sample(20), some)
    stored = {client.embedding(f"id:demo:image::{number}.jpg").tobytes() for number in range(COUNT)}
    assert {row.tobytes() for row in some} < stored
    assert len(client.sample(500)) == COUNT


def test_vectors_of_another_size_are_refused_on_both_ways(url: str, tmp_path: Path) -> None:
    with SearchClient(url) as client, pytest.raises(CheckpointError, match="holds vectors of 512"):
        client.search(vector(unit(1, 256)))
    with pytest.raises(ShardError, match=r"stores vectors of 512.*app --dim 256"):
        feed_shards(write_shards(tmp_path, 256), url, progress=False)


@pytest.mark.parametrize(
    "text", ["'\" or true //", "captions:river", "+stadium -river", '"boats beside"', "@text", "*", "!!!", "(" * 50]
)
def test_hostile_words_are_answered_or_refused_in_a_sentence(client: SearchClient, text: str) -> None:
    status = 200
    try:
        client.search(lexical(text))
    except RejectedError as error:
        status = error.status
    assert status in (200, 400)


def test_the_terminal_shows_the_hits(url: str) -> None:
    done = CliRunner().invoke(search_command, ["stadium", "--profile", "lexical", "--url", url])
    assert done.exit_code == 0
    assert done.stdout.count("id:demo:image::") == 10


def test_the_page_shows_the_hits(url: str) -> None:
    page = TestClient(create_app(UiConfig(url, by_model(QueryEncoder(Model())))))
    for ranking in ("lexical", "vector", "hybrid", "hybrid_linear"):
        text = page.get("/", params={"q": "7 stadium", "ranking": ranking}).text
        assert 'src="/thumb/demo/7.jpg' in text
        assert caption(7) in text
        assert "all words" not in text, "of two words, that says nothing"
    said = page.get("/", params={"q": "7 boats stadium", "ranking": "hybrid"}).text
    assert said.count("all words") == 1
    assert "all words" not in page.get("/", params={"q": "7 boats stadium", "ranking": "vector"}).text
    assert page.get("/thumb/demo/7.jpg").content == jpeg(7)
    similar = page.get("/", params={"like": "id:demo:image::7.jpg"}).text
    assert similar.count('class="card"') == 23  # of 24, without the image itself
    assert page.get("/health").json()["documents"] == COUNT
