"""The in-memory index against plain Python and numpy, under puts, updates and removals."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from query_support import VECTOR, make_schema

from clipsearch.engine.index import Index
from clipsearch.engine.index import index as index_module
from clipsearch.engine.index.linguistics import terms
from clipsearch.engine.tensors import Tensor
from clipsearch.errors import DocumentError, PackageError

WORDS = ["river", "bridge", "bridges", "airport", "a", "green", "running", "storage", "tanks", "church"]


def random_document(random: np.random.Generator) -> dict[str, Any]:
    captions = [" ".join(random.choice(WORDS, random.integers(0, 9))) for _ in range(random.integers(0, 4))]
    vector = Tensor(VECTOR, (random.integers(-8, 8, 4) / 4).astype(np.float32))
    document: dict[str, Any] = {
        "captions": captions,
        "width": int(random.integers(1, 9)),
        "label": str(random.choice(WORDS)),
    }
    if random.random() < 0.9:
        document["embedding"] = vector
    return document


def check(index: Index, model: dict[int, dict[str, Any]]) -> None:
    """Every count, posting and value of ``index`` is what ``model`` gives."""
    snapshot = index.snapshot()
    live = np.flatnonzero(snapshot.live)
    assert sorted(snapshot.lids[live].tolist()) == sorted(model)
    assert snapshot.documents == len(index) == len(model)
    counted = {
        lid: Counter(term for caption in fields["captions"] for term in terms(caption)) for lid, fields in model.items()
    }
    assert snapshot.total_lengths["captions"] == sum(sum(counts.values()) for counts in counted.values())
    for word in {term for each in WORDS for term in terms(each)}:
        rows, frequencies, count = snapshot.postings("captions", word)
        alive = snapshot.live[rows]
        found = dict(zip(snapshot.lids[rows[alive]].tolist(), frequencies[alive].tolist(), strict=True))
        assert found == {lid: counts[word] for lid, counts in counted.items() if counts[word]}
        assert count == len(found)
    for row in live:
        fields = model[int(snapshot.lids[row])]
        assert snapshot.generation.columns["width"].values(snapshot.size)[row] == fields["width"]
        present = snapshot.generation.tensors["embedding"].present(snapshot.size)[row]
        assert present == ("embedding" in fields)
        if present:
            batch = snapshot.generation.tensors["embedding"].batch(np.array([row]))
            np.testing.assert_array_equal(batch.values[0], fields["embedding"].cells)


@pytest.mark.parametrize("compact_at", [3, 10**9])
def test_counts_are_exact_after_any_puts_updates_and_removals(compact_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "COMPACT_AT_DEAD_ROWS", compact_at)
    random = np.random.default_rng(7)
    index, model = Index(make_schema(), True), {}
    for step in range(400):
        lid = int(random.integers(0, 60))
        if random.random() < 0.3:
            index.remove(lid)
            model.pop(lid, None)
        else:
            model[lid] = random_document(random)
            index.put(lid, model[lid])
        if step % 40 == 39:
            check(index, model)
    dead = index.snapshot().size - len(model)
    assert dead < 60 if compact_at == 3 else dead > 150


def test_words_that_no_document_has_any_more_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "COMPACT_AT_DEAD_ROWS", 20)
    index = Index(make_schema(), True)
    for version in range(2000):
        index.put(version % 5, {"captions": [f"word{version} river", "sea"], "label": f"label{version}"})
    generation = index.snapshot().generation
    assert len(generation.texts["captions"]._numbers) < 60
    assert len(generation.columns["label"].words) < 60
    for version in range(1995, 2000):
        assert index.snapshot().postings("captions", f"word{version}")[2] == 1
    assert index.snapshot().postings("captions", "river")[2] == 5


def test_a_snapshot_does_not_change_when_documents_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "COMPACT_AT_DEAD_ROWS", 5)
    index = Index(make_schema(), True)
    for lid in range(10):
        index.put(lid, {"captions": ["river"], "width": lid})
    before = index.snapshot()
    for lid in range(10):
        index.put(lid, {"captions": ["bridge"], "width": -1})
    index.remove(3)
    rows, _, count = before.postings("captions", "river")
    assert (len(rows), count) == (10, 10)
    assert before.postings("captions", "bridg")[2] == 0
    assert before.generation.columns["width"].values(before.size)[before.live].tolist() == list(range(10))
    assert index.snapshot().postings("captions", "bridg")[2] == 9


def test_readers_beside_a_writer_see_whole_documents() -> None:
    index = Index(make_schema(), True)
    index.put(0, {"captions": ["river"] * 1, "width": 1})
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            snapshot = index.snapshot()
            rows = np.flatnonzero(snapshot.live)
            widths = snapshot.generation.columns["width"].values(snapshot.size)[rows]
            lengths = snapshot.generation.texts["captions"].lengths.view()[rows]
            if len(rows) != 1 or widths[0] != lengths[0]:
                torn.append((len(rows), widths, lengths))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(300):
        width = version % 7 + 1
        index.put(0, {"captions": ["river"] * width, "width": width})
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_a_value_that_does_not_fit_leaves_the_document_as_it_was() -> None:
    index = Index(make_schema(), True)
    index.put(0, {"captions": ["river"], "width": 5})
    with pytest.raises(DocumentError, match="width"):
        index.put(0, {"captions": ["bridge"], "width": 2**40})
    index.put(1, {"captions": ["bridge"], "width": 6})
    check(index, {0: {"captions": ["river"], "width": 5}, 1: {"captions": ["bridge"], "width": 6}})


def test_a_schema_that_vespa_would_stem_with_kstem_is_refused() -> None:
    with pytest.raises(PackageError, match="snowballStemmingForEnglish") as caught:
        Index(make_schema(), snowball=False)
    assert "configurations=[ApplicationConfiguration('ai.vespa.opennlp.open-nlp'" in str(caught.value)  # pyvespa's way


def test_removing_what_is_not_there_changes_nothing() -> None:
    index = Index(make_schema(), True)
    index.remove(9)
    assert index.version == 0
