"""Patches in the engine: what the exact search finds is found, after updates, removals, a restart and in a visit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from fake_vespa import unit

from clipsearch.appwriter import EmbeddingField, write_app
from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request
from clipsearch.engine.query import SearchHandler
from clipsearch.search import query
from clipsearch.search.answers import read_hit
from feeders.documents import bfloat16_hex

DIM, COUNT = 16, 120
JSON = {"content-type": "application/json"}
Blocks = dict[str, Any]


class Index:
    """An engine in this process, and what it should hold: document to label to patch."""

    def __init__(self, home: Path) -> None:
        self.home = home
        write_app([EmbeddingField("embedding", DIM)], home / "app")
        self.engine = Engine(home / "data", home / "app")
        self.truth: dict[str, Blocks] = {}
        self.waiting: list[Any] = []

    def restart(self) -> None:
        self.settle()
        self.engine.close()
        self.engine = Engine(self.home / "data")

    def send(self, method: str, key: str, fields: dict[str, Any] | None = None) -> None:
        body = orjson.dumps({"fields": fields or {}})
        path = f"/document/v1/demo/image/docid/{key}"
        self.waiting.append(self.engine.documents.feed(Request(method, path, (), JSON, body)))

    def settle(self) -> None:
        """Wait until all that was sent is acknowledged."""
        for answer in self.waiting:
            assert answer.result().status == 200, answer.result().body
        self.waiting.clear()

    def put(self, number: int, blocks: Blocks, model: str = "m") -> None:
        fields = {"captions": ["an image"], "embedding": bfloat16_hex(unit(number, DIM)), "corpus": "demo"}
        if blocks:
            fields |= {"patches": {"blocks": spelled(blocks)}, "patches_model": model}
        self.send("POST", str(number), fields)
        self.truth[str(number)] = blocks if model == "m" else {}

    def nearest(self, vector: np.ndarray, hits: int = 20) -> list[tuple[str, tuple[float, ...] | None]]:
        body = orjson.dumps(query.patches(vector, "m", hits=hits))
        answer = SearchHandler(self.engine).handle(Request("POST", "/search/", (), JSON, body))
        assert answer.status == 200, answer.body
        found = map(read_hit, orjson.loads(answer.body)["root"].get("children", ()))
        return [(hit.id.rpartition(":")[2], hit.box) for hit in found]

    def exact(self, vector: np.ndarray, hits: int = 20) -> list[tuple[str, tuple[float, ...]]]:
        best = []
        for key, blocks in self.truth.items():
            if blocks:
                label, cosine = max(((label, float(row @ vector)) for label, row in blocks.items()), key=lambda x: x[1])
                best.append((cosine, key, tuple(int(part) / 1000 for part in label.split("-"))))
        return [(key, box) for _, key, box in sorted(best, reverse=True)[:hits]]


def spelled(blocks: Blocks) -> dict[str, str]:
    return {label: bfloat16_hex(row) for label, row in blocks.items()}


def some(number: int) -> Blocks:
    """No patch, or up to nine, whose cells bfloat16 holds exactly enough."""
    labels = [f"{333 * x}-{333 * y}-{333 * x + 333}-{333 * y + 333}" for y in range(3) for x in range(3)]
    return {label: unit(10_000 + 9 * number + place, DIM) for place, label in enumerate(labels[: number % 10])}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path)
    yield index
    index.engine.close()


def agree(index: Index) -> None:
    index.settle()
    for seed in range(12):
        vector = unit(77_000 + seed, DIM)
        found, exact = index.nearest(vector), index.exact(vector)
        assert found[0] == exact[0]
        assert len(set(found) & set(exact)) >= len(exact) - 1  # bfloat16 may swap neighbours at the end


def test_patches_are_searched_as_they_are_after_updates_removals_and_a_restart(index: Index) -> None:
    for number in range(COUNT):
        index.put(number, some(number), "other" if number % 7 == 3 else "m")
    agree(index)
    for number in range(0, 60, 3):
        index.send("DELETE", str(number))
        del index.truth[str(number)]
    for number in (61, 62, 63):  # other patches, no patches, and one patch more
        index.put(number, some(number))
    index.send("PUT", "61", {"patches": {"assign": {"blocks": spelled(some(9))}}})
    index.truth["61"] = some(9)
    index.send("PUT", "62", {"patches": {"assign": None}, "patches_model": {"assign": None}})
    index.truth["62"] = {}
    index.send("PUT", "63", {"patches": {"add": {"blocks": {"0-0-1000-1000": bfloat16_hex(unit(5, DIM))}}}})
    index.truth["63"] = {**some(63), "0-0-1000-1000": unit(5, DIM)}
    index.put(70, {})
    index.send("PUT", "70", {"patches": {"assign": {"blocks": spelled(some(1009))}}, "patches_model": {"assign": "m"}})
    index.truth["70"] = some(1009)
    agree(index)
    assert index.nearest(unit(5, DIM), 1) == [("63", (0.0, 0.0, 1.0, 1.0))]
    index.restart()
    agree(index)
    index.put(71, some(8))
    index.restart()
    agree(index)


def test_a_visit_gives_patches_back_as_they_were_fed(index: Index) -> None:
    for number in range(20):
        index.put(number, some(number))
    index.settle()
    path = "/document/v1/demo/image/docid/"
    asked = (("fieldSet", "image:patches"), ("wantedDocumentCount", "100"), ("format.tensors", "hex"))
    answer = index.engine.container.handle(Request("GET", path, asked, {}, b""))
    documents = orjson.loads(answer.body)["documents"]
    found = {one["id"].rpartition(":")[2]: one["fields"].get("patches", {}).get("blocks", {}) for one in documents}
    assert found == {str(number): spelled(some(number)) for number in range(20)}
