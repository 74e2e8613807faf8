"""A new model for a running index: filled, judged, switched, dropped; queries are answered all the time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from small_corpus import write_corpus
from small_index import running_engine
from small_models import Colours

from clipsearch.adapter import AdaptedModel, Adapter, Tower
from clipsearch.appwriter import EmbeddingField, write_app
from clipsearch.corpora import Corpus, open_corpus
from clipsearch.encoding import encode
from clipsearch.errors import CheckpointError, InputError
from clipsearch.generations.judging import held_out, judge
from clipsearch.generations.package import read_application, read_files
from clipsearch.generations.reembedding import Judging, Place, Sources, activate, drop, reembed
from clipsearch.records import Generation
from clipsearch.search import Filters, SearchClient, lexical, vector
from clipsearch.search.endpoint import Endpoint
from feeders.shards import feed_shards
from feeders.verify import verify

OLD, NEW = Colours("old", 24, "colours"), Colours("new", 16)
G1, G2 = Generation(1), Generation(2)
IMAGES = 48


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with open_corpus(write_corpus(tmp_path_factory.mktemp("blocks") / "blocks", 12)) as opened:
        yield opened


@pytest.fixture(scope="module")
def old_shards(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "old"
    encode(corpus, OLD, out, progress=False)
    return out


@contextmanager
def fed_engine(folder: Path, free_port: Callable[[], int], shards: Path) -> Iterator[Place]:
    """An engine with the images by the old model."""
    write_app([EmbeddingField("embedding", OLD.dim)], folder / "app")
    with running_engine(folder / "data", free_port, folder / "app") as engine:
        assert feed_shards(shards, engine.url, progress=False).complete
        yield Place(engine.url, f"http://127.0.0.1:{engine.deploy_port}", folder / "app")


@pytest.fixture(scope="module")
def one_engine(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], old_shards: Path
) -> Iterator[Place]:
    with fed_engine(tmp_path_factory.mktemp("engine"), free_port, old_shards) as here:
        yield here


@pytest.fixture
def here(one_engine: Place, old_shards: Path) -> Place:
    """The engine that tests share, with nothing but the first generation, which is active."""
    application = read_application(read_files(one_engine.app))
    activate(one_engine, G1)
    for each in application.generations[1:]:
        drop(one_engine, each.generation)
    return one_engine


class Asking(threading.Thread):
    """Asks all the time, by words and as a client with the old model; keeps what went wrong."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.client, self.wrong, self.asked, self.ended = SearchClient(url), [], 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                generation = self.client.generation_of("old")
                embedding = OLD.embed_texts(["a red block at the left"])[0]
                for request in (lexical("red block"), vector(embedding, generation=generation)):
                    if len(self.client.search(request).hits) != 10:
                        self.wrong.append(f"few hits for {request}")
            except Exception as error:
                self.wrong.append(repr(error))
            self.asked += 1

    def stop(self) -> None:
        self.ended.set()
        self.join(20)
        self.client.close()


def test_a_better_model_takes_over_and_no_query_notices(
    tmp_path: Path, corpus: Corpus, old_shards: Path, free_port: Callable[[], int]
) -> None:
    with fed_engine(tmp_path, free_port, old_shards) as here:
        switch_and_drop(here, Sources([corpus], work=tmp_path / "work"))


def switch_and_drop(here: Place, sources: Sources) -> None:
    asking = Asking(here.url)
    try:
        outcome = reembed(NEW, here, sources, Judging(lambda: OLD))
    finally:
        asking.stop()
    assert asking.wrong == []
    assert asking.asked > 5
    assert (outcome.filled, outcome.lacking, outcome.failed) == (IMAGES, 0, 0)
    assert outcome.switched
    assert outcome.old is not None
    assert outcome.new is not None
    assert outcome.new.mrr.mean() > outcome.old.mrr.mean()
    with SearchClient(here.url) as client:
        assert client.generations() == {G1: "old", G2: "new"}
        assert client.active() == G2
        assert (client.generation_of("old"), client.generation_of("new")) == (G1, G2)
        assert client.vector_size(G2) == NEW.dim
        with pytest.raises(CheckpointError, match=r"of old \(g1\) and new \(g2\)"):
            client.generation_of("other")
        drop(here, G1)
        with pytest.raises(CheckpointError, match="g1 of the embeddings was dropped"):
            client.search(vector(OLD.embed_texts(["red"])[0], generation=G1))
        with pytest.raises(CheckpointError, match=r"of new \(g2\)"):
            client.generation_of("old")
        assert len(client.search(lexical("red block")).hits) == 10
        best = client.search(vector(NEW.embed_texts(["the left is red"])[0], generation=G2)).hits[0]
        assert best.semantic > 0.9
        assert "embedding" not in (client.get(best.id) or {})
        assert client.search(vector(client.embedding(best.id, G2), generation=G2)).hits[0].semantic > 0.9
    with pytest.raises(InputError, match="already: there is nothing to do"):
        reembed(NEW, here, sources, Judging(force=True))


def test_a_model_that_is_not_better_is_filled_but_not_switched_to(here: Place, tmp_path: Path, corpus: Corpus) -> None:
    blind = Colours("blind", 8, "nothing")
    sources = Sources([corpus], work=tmp_path / "work")
    outcome = reembed(blind, here, sources, Judging(lambda: OLD))
    assert not outcome.switched
    assert outcome.reason == "it is not better"
    assert reembed(blind, here, sources, Judging(force=True)).had == IMAGES
    named = f'name="ranking.profile">default_{outcome.generation.name}<'
    assert named in (here.app / "search/query-profiles/default.xml").read_text()
    assert activate(here, G1).active == G1
    drop(here, outcome.generation)
    again = reembed(blind, here, sources, Judging(force=True))
    assert again.generation > outcome.generation  # what Vespa may still hold of the dropped field must not come back


def test_a_kill_in_the_middle_resumes_with_what_is_lacking(here: Place, tmp_path: Path, corpus: Corpus) -> None:
    last = read_application(read_files(here.app)).last
    script, arguments = Path(__file__).with_name("reembed_process.py"), [here.url, here.deploy_url, here.app]
    run = [sys.executable, script, 20, *arguments, corpus.root, tmp_path / "work"]
    assert subprocess.run([str(each) for each in run], stdout=subprocess.DEVNULL, check=False).returncode == -9
    outcome = reembed(NEW, here, Sources([corpus], work=tmp_path / "work"), Judging(switch=False))
    assert outcome.generation == Generation(last + 1)
    assert outcome.had + outcome.filled == IMAGES
    assert 0 < outcome.had <= 20
    assert outcome.complete


def test_a_folder_that_is_behind_what_is_deployed_is_healed_and_another_refused(
    here: Place, tmp_path: Path, corpus: Corpus
) -> None:
    sources = Sources([corpus], work=tmp_path / "work")
    services = here.app / "services.xml"
    services.write_text(services.read_text().replace("One container cluster", "Our container cluster"))
    before = {path: path.read_bytes() for path in here.app.rglob("*") if path.is_file()}
    generation = reembed(NEW, here, sources, Judging(switch=False)).generation
    after = {path: path.read_bytes() for path in here.app.rglob("*") if path.is_file()}
    for path in after.keys() - before.keys():
        path.unlink()
    for path, content in before.items():
        path.write_bytes(content)
    assert reembed(NEW, here, sources, Judging(force=True)).had == IMAGES
    assert after.keys() == {path for path in here.app.rglob("*") if path.is_file()}
    assert "Our container cluster" in services.read_text()
    write_app([EmbeddingField("embedding", 99)], tmp_path / "other")
    with pytest.raises(InputError, match="was not made of"):
        drop(Place(here.url, here.deploy_url, tmp_path / "other"), G1)
    with pytest.raises(InputError, match="is active"):
        drop(here, generation)


def adapter_of(base: str, dim: int, seed: int = 0) -> Adapter:
    random = np.random.default_rng(seed)

    def tower() -> Tower:
        return Tower(*(random.normal(0, 0.3, shape).astype(np.float32) for shape in ((dim, 4), (4, dim))))

    return Adapter(base, tower(), tower(), 0.5)


def test_an_adapter_is_swapped_in_without_opening_an_image(here: Place, tmp_path: Path) -> None:
    adapter = adapter_of("old", OLD.dim)
    model = AdaptedModel(OLD, adapter)
    outcome = reembed(model, here, Sources(adapter=adapter, work=tmp_path), Judging(force=True))
    assert (outcome.filled, outcome.lacking, outcome.switched) == (IMAGES, 0, True)
    with SearchClient(here.url) as client:
        generation = client.generation_of(model.model_id)
        hit = client.search(lexical("red block")).hits[0]
        stored = client.embedding(hit.id)
        assert np.allclose(client.embedding(hit.id, generation), adapter.apply_images(stored[None])[0], atol=0.01)


def test_shards_of_the_new_model_are_fed_and_verified_in_their_own_generation(
    here: Place, tmp_path: Path, corpus: Corpus, old_shards: Path
) -> None:
    new = reembed(NEW, here, Sources([corpus], work=tmp_path), Judging(force=True)).generation
    shards = next(tmp_path.glob("blocks-*"))
    assert verify(shards, here.url, progress=False).complete
    assert verify(old_shards, here.url, progress=False).complete
    assert feed_shards(shards, here.url, progress=False).complete
    assert verify(shards, here.url, progress=False).complete
    with SearchClient(here.url) as client:
        assert client.count_of_model("new", new) == IMAGES
    for command in (feed_shards, verify):  # a put replaces the whole document, so that none is of the old model now
        with pytest.raises(CheckpointError, match="none of the model old"):
            command(old_shards, here.url, progress=False)
    activate(here, G1)
    drop(here, new)
    assert feed_shards(old_shards, here.url, progress=False).complete


def test_scores_are_those_of_pyvespas_own_evaluator(here: Place, corpus: Corpus) -> None:
    from vespa.application import Vespa
    from vespa.evaluation import VespaEvaluator

    captions = held_out(corpus.records, "test", 12)
    with SearchClient(here.url) as client:
        ours = judge(client, captions, OLD, G1, "test")

    filters = Filters(corpus.name, split="test")

    def request(text, hits):  # type: ignore[no-untyped-def]  # pyvespa looks at annotations, and knows no strings
        return vector(OLD.embed_texts([text])[0], filters=filters, hits=hits)

    evaluator = VespaEvaluator(
        {str(number): caption.text for number, caption in enumerate(captions)},
        {str(n): {i.split("::")[1] for i in caption.relevant} for n, caption in enumerate(captions)},
        request, Vespa(here.url), accuracy_at_k=[10], precision_recall_at_k=[10], mrr_at_k=[10],
    )  # fmt: skip
    theirs = evaluator()
    assert theirs["mrr@10"] == pytest.approx(ours.mrr.mean())
    assert theirs["recall@10"] == pytest.approx(ours.recall.mean())


def test_what_is_missing_to_judge_is_said_before_anything_is_deployed(tmp_path: Path, corpus: Corpus) -> None:
    nowhere = Place("http://127.0.0.1:1", "http://127.0.0.1:1", tmp_path)
    with pytest.raises(InputError, match="--old"):
        reembed(NEW, nowhere, Sources([corpus]), Judging())
    with pytest.raises(InputError, match="--corpus"):
        reembed(NEW, nowhere, Sources(), Judging(force=True))
    with pytest.raises(InputError, match="no captions in its split 'train'"):
        held_out([], "train", 10)


def test_a_document_that_changed_since_keeps_no_embedding_of_the_old_picture(
    here: Place, tmp_path: Path, corpus: Corpus, old_shards: Path
) -> None:
    endpoint = Endpoint(here.url)
    record = corpus.records[0]
    fields = endpoint.get(record.corpus, record.key, "image:[document]") or {}
    fields["embedding"] = {"values": fields["embedding"]["values"]}
    endpoint.put(record.corpus, record.key, fields | {"content_hash": "of another picture"})
    outcome = reembed(NEW, here, Sources([corpus], work=tmp_path / "work"), Judging(lambda: OLD))
    endpoint.close()
    feed_shards(old_shards, here.url, progress=False)
    assert (outcome.filled, outcome.lacking, outcome.switched) == (IMAGES - 1, 1, False)
    assert "1 documents lack" in outcome.reason
