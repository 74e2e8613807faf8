"""The feeding benchmark's own code: every client gets the same documents, and the tables say what was measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from clipsearch.shards import open_shards
from feeders.documents import document_rows

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench() -> Iterator[Any]:
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(BENCH), str(BENCH / "peers")]
    import bench_feed

    yield bench_feed
    sys.path[:] = before
    for name in set(sys.modules) - known:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("thumbnail", [0, 100])
def test_all_clients_feed_the_same_documents(bench: Any, tmp_path: Path, thumbnail: int) -> None:
    vectors = np.eye(20, 512, dtype=np.float32)
    workload = SimpleNamespace(vectors=vectors, captions=[f"caption {row}" for row in range(20)])
    folder = bench.write_documents(tmp_path / "documents", workload, 15, thumbnail)
    lines = [orjson.loads(line) for line in (folder / "documents.jsonl").read_bytes().splitlines()]
    ours = list(document_rows(open_shards(folder / "shards")))
    assert [(line["put"], line["fields"]) for line in lines] == ours
    assert len(ours) == 15
    assert bool(lines[0]["fields"]["thumbnail"]) == bool(thumbnail)


def test_the_tables_name_every_client_and_ratio(bench: Any) -> None:
    one = {"docs_per_s": 1000.0, "client_ms": 0.2, "server_ms": 0.4, "peak_mb": 100.0}
    verify = {"code": 0, "said": ["Clean"]}
    found = {
        "documents": 10, "machine": "2 CPUs", "clients": dict.fromkeys(bench.CLIENTS, one),
        "rounds": {"clipsearch": [one | {"verify": verify}]}, "ratios": {"pyvespa": 1.5, "vespa feed": 1.0},
        "without_engine": {"10": one},
    }  # fmt: skip
    text = bench.tables(found)
    assert all(title in text for title in bench.CLIENTS.values())
    assert "1.50 times pyvespa, 1.00 times vespa feed" in text
    assert "exit code 0: Clean" in text
