"""Feed, search and look, through the local engine as it is run: nothing of it is replaced by a stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fake_vespa import jpeg, unit
from small_index import running_engine
from starlette.testclient import TestClient

from clipsearch.commands.search import command as search_command
from clipsearch.errors import CheckpointError, RejectedError, ShardError
from clipsearch.records import Embedded, Record
from clipsearch.search import Filters, QueryEncoder, SearchClient, by_profile, hybrid, lexical, vector
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from clipsearch.web.app import UiConfig, create_app
from feeders.shards import feed_shards

DIM, COUNT = 512, 50
THINGS = ("river", "bridge", "stadium", "harbour", "forest")


def caption(number: int) -> str:
    return f"{number} boats beside a {THINGS[number % 5]}"


def write_shards(folder: Path, dim: int) -> Path:
    with ShardWriter(folder, dim) as writer:
        for number in range(COUNT):
            name = f"{number}.jpg"
            record = Record("demo", name, f"images/{name}", (caption(number), "an image"), "test", THINGS[number % 5])
            writer.add(Embedded(record, unit(number, dim), jpeg(number), 64, 48, f"{number:064x}", "random-1"))
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
    similar = client.similar(document_id, hits=5)
    scores = [float(unit(7, DIM) @ unit(number, DIM)) for number in range(COUNT)]
    expected = [f"id:demo:image::{number}.jpg" for number in np.argsort(scores)[::-1][1:6]]
    assert [hit.id for hit in similar.hits] == expected
    assert client.thumbnail(document_id) == jpeg(7)
    assert np.allclose(client.embedding(document_id), unit(7, DIM), rtol=2**-7)
    assert client.document_count("demo") == client.document_count() == COUNT
    assert client.document_count("other") == 0


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
    page = TestClient(create_app(UiConfig(url, QueryEncoder(Model()))))
    for ranking in ("lexical", "vector", "hybrid", "hybrid_linear"):
        text = page.get("/", params={"q": "7 stadium", "ranking": ranking}).text
        assert 'src="/thumb/demo/7.jpg' in text
        assert caption(7) in text
    assert page.get("/thumb/demo/7.jpg").content == jpeg(7)
    assert page.get("/", params={"like": "id:demo:image::7.jpg"}).text.count('class="card"') == 24
    assert page.get("/health").json()["documents"] == COUNT
