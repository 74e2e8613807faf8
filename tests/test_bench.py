"""The benchmark's own code on a few hundred documents: the workload's shape, our side's counts and recall; no times."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
MODULES = ("workload", "common", "app", "ours_peer", "rounds", "engines", "report")


@pytest.fixture(scope="module")
def bench() -> Iterator[None]:
    """Makes the benchmark's modules importable, as its workers see them."""
    before = list(sys.path)
    sys.path[:0] = [str(BENCH), str(BENCH / "peers")]
    yield
    sys.path[:] = before
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(bench: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import workload

    folder = tmp_path_factory.mktemp("bench") / "workload"
    workload.make(folder, documents=600, queries=40)
    return folder


@pytest.fixture(scope="module")
def worker(folder: Path) -> Any:
    """Our side of the benchmark, in this process, over the documents that it fed itself."""
    import common
    import ours_peer

    made = common.Worker(ours_peer.Maker(), folder, folder.with_name("index"))
    cost = made.do({"do": "build"})
    assert cost["docs_per_s"] > 0
    assert 1 < cost["disk_mb"] < 50
    assert made.do({"do": "open"})["open_s"] > 0
    yield made
    made._peer.engine.close()


def test_the_workload_is_the_same_for_the_same_seed_and_another_for_another(folder: Path, tmp_path: Path) -> None:
    import workload

    first = workload.load(folder)
    again = workload.make(tmp_path / "again", documents=600, queries=40)
    assert np.array_equal(first.vectors, again.vectors)
    assert (first.captions, first.texts) == (again.captions, again.texts)
    other = workload.make(tmp_path / "other", documents=600, queries=40, seed=1)
    assert not np.array_equal(first.vectors, other.vectors)
    marked = (tmp_path / "other" / "vectors.npy").stat().st_mtime_ns
    workload.make(tmp_path / "other", documents=600, queries=40, seed=1)
    assert (tmp_path / "other" / "vectors.npy").stat().st_mtime_ns == marked, "made once"


def test_the_workload_looks_like_clip_and_like_captions(folder: Path) -> None:
    import workload

    made = workload.load(folder)
    assert made.vectors.shape == (600, 512)
    assert made.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-5)
    images = (made.vectors @ made.vectors.T)[np.triu_indices(600, 1)]
    assert images.mean() == pytest.approx(0.5, abs=0.03)
    assert (made.queries @ made.vectors.T).mean() == pytest.approx(0.11, abs=0.03)
    held = Counter(word for caption in made.captions for word in set(caption.split()))
    shares = [count / 600 for _, count in held.most_common(4)]
    assert shares[0] == pytest.approx(0.73, abs=0.07)
    assert min(shares[1:]) > 0.38
    assert 11 < np.mean([len(caption.split()) for caption in made.captions]) < 15
    assert {len(text.split()) for text in made.texts} <= set(range(3, 9))
    assert 0 <= made.buckets.min() <= made.buckets.max() <= 99


def test_exact_search_orders_by_inner_product_and_stored_vectors_are_truncated(folder: Path) -> None:
    import workload

    made = workload.load(folder)
    best = np.argsort(-(made.queries[0] @ made.vectors.T), kind="stable")[:10]
    assert made.truth[100][0].tolist() == best.tolist()
    few = made.truth[1][0]
    assert set(made.buckets[few[few >= 0]]) == {0}
    assert workload.bfloat16(np.float32([0.1])).tolist() == [0.099609375]
    assert workload.recall([[1, 2], [3]], np.array([[1, 5, -1], [3, 4, -1]])) == 0.5


@pytest.mark.parametrize(("phase", "percent"), [("vector", 100), ("filter_1", 1), ("filter_10", 10)])
def test_our_nearest_neighbours_are_those_of_exact_search(worker: Any, folder: Path, phase: str, percent: int) -> None:
    import workload

    made = workload.load(folder)
    answer = worker.do({"do": "phase", "name": phase})
    assert len(answer["ms"]) == 40
    assert answer["cpu_ms"] > 0
    assert workload.recall(answer["found"], made.stored[percent]) >= 0.999
    assert workload.recall(answer["found"], made.truth[percent]) >= 0.97
    assert all(made.buckets[row] < percent for found in answer["found"] for row in found)


def test_our_words_and_our_fusion_find_what_holds_the_words(worker: Any, folder: Path) -> None:
    import workload

    made = workload.load(folder)
    lexical = worker.do({"do": "phase", "name": "lexical"})["found"]
    hybrid = worker.do({"do": "phase", "name": "hybrid"})["found"]
    for text, words, both, nearest in zip(made.texts, lexical, hybrid, made.stored[100], strict=True):
        assert len(words) <= len(both) == 10
        for row in words:
            assert set(text.split()) & set(made.captions[row].split())
        assert set(both) & (set(words) | set(nearest.tolist()))


def test_a_phase_ends_when_its_budget_is_spent(worker: Any) -> None:
    assert len(worker.do({"do": "phase", "name": "lexical", "budget": 0.0})["ms"]) == 20


def test_the_tables_show_every_engine_and_why_one_failed(bench: None) -> None:
    import report

    one = {"p50": 1.0, "p99": 2.0, "cpu": 0.5, "queries": 20}
    near = one | {"recall": 0.991, "recall_stored": 1.0}
    phases = {"lexical": one, "vector": near, "hybrid": one, "filter_1": near, "filter_10": near}
    built = {"docs_per_s": 100.0, "cpu_s": 1.0, "disk_mb": 2.0, "peak_rss_mb": 3.0}
    fast = {name: phase | {"p50": 0.5} for name, phase in phases.items()}
    found = {
        "documents": 10,
        "machine": "here",
        "versions": {"zvec": "1.0"},
        "in_process": {
            "clipsearch": {"build": built, "phases": phases, "open_s": 0.1, "rss_mb": 1.0, "anon_mb": 1.0},
            "zvec": {"build": built, "phases": fast, "open_s": 0.1, "rss_mb": 1.0, "anon_mb": 1.0},
            "lancedb": {"build": {"failed": "pip: no wheel"}, "failed": "pip: no wheel"},
        },
    }
    shown = report.tables(found)
    assert "failed: pip: no wheel" in shown
    assert "1.00 / 2.00 [0.50] 0.9910 (1.0000)" in shown
    assert "hybrid       ours / best peer = 2.00 (zvec, p50 0.50 ms)" in shown
