"""The package's ``hybrid`` profile is reciprocal rank fusion of three lists, and nothing else: words, vectors, and
captions that hold every word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from query_support import Served

from clipsearch.engine.package import load_package, read_folder
from clipsearch.engine.tensors import Tensor, parse_type, truncate_bfloat16

APP = Path(__file__).resolve().parent.parent / "vespa_app"
TYPE = parse_type("tensor<bfloat16>(x[512])")
LEXICAL = "select documentid from image where userInput(@text)"
VECTOR = "select documentid from image where {targetHits:100}nearestNeighbor(embedding,q)"
HYBRID = "select documentid from image where ({targetHits:100}nearestNeighbor(embedding,q)) or userInput(@text)"
RERANKED = 1000
QUERIES = ["river bridge", "a green church", "storage tanks beside a river", "zebra"]


@pytest.fixture(scope="module")
def served() -> Served:
    """1,500 images around 12 centres, captions from a vocabulary with common and rare words."""
    random = np.random.default_rng(11)
    package = load_package(read_folder(APP))
    engine = Served(package.schemas["image"])
    words = ["a", "river", "bridge", "green", "church", "storage", "tanks", "beside", "airport", "boat"]
    share = 1 / np.arange(1, 11)
    centres = random.normal(size=(12, 512))
    for lid in range(1500):
        embedding = centres[lid % 12] + random.normal(size=512)
        cells = truncate_bfloat16(embedding / np.linalg.norm(embedding))
        captions = [" ".join(random.choice(words, random.integers(3, 9), p=share / share.sum())) for _ in range(2)]
        engine.put(lid, {"captions": captions, "embedding": Tensor(TYPE, cells)})
    return engine


def unit(seed: int) -> list[float]:
    direction = np.random.default_rng(seed).normal(size=512)
    found: list[float] = (direction / np.linalg.norm(direction)).tolist()
    return found


def listed(
    served: Served, yql: str, profile: str, text: str, seed: int, hits: int, **more: object
) -> list[dict[str, Any]]:
    body = {"yql": yql, "ranking": profile, "text": text, "input.query(q)": unit(seed), "hits": hits, "maxHits": 1500}
    body |= more
    status, root = served.post(body)
    assert status == 200, root
    children: list[dict[str, Any]] = root.get("children", [])
    return children


def holds_all(served: Served, document_id: str, text: str) -> bool:
    """Whether one caption of a document has every word of ``text``; the vocabulary has one form of each word."""
    captions = served.store.documents["image", int(document_id.rpartition(":")[2])].fields["captions"]
    assert isinstance(captions, list)
    return any(set(text.split()) <= set(str(caption).split()) for caption in captions)


@pytest.mark.parametrize("whole", [None, 0.0, 0.5], ids=["as deployed", "two lists", "half"])
@pytest.mark.parametrize(("text", "seed"), [(text, seed) for seed, text in enumerate(QUERIES)])
def test_hybrid_is_the_fusion_of_its_lists(served: Served, text: str, seed: int, whole: float | None) -> None:
    lexical = {hit["id"]: hit["relevance"] for hit in listed(served, LEXICAL, "lexical", text, seed, 1500)}
    vector = [hit["id"] for hit in listed(served, VECTOR, "vector", text, seed, 1500)]
    assert len(vector) == 100
    fused = {key: 1 / (61 + rank) for rank, key in enumerate(vector)}
    # Equal BM25 scores rank in the order of the first phase: the vector's list, then the rest of the lexical one.
    before = [*vector, *(key for key in lexical if key not in fused)][:RERANKED]
    words = np.array([lexical.get(key, 0.0) for key in before])
    for rank, position in enumerate(np.argsort(-words, kind="stable")):
        if words[position] > 0:
            fused[before[position]] = fused.get(before[position], 0.0) + 1 / (61 + rank)
    third = (1.0 if whole is None else whole) / 61  # all of that list are at its first rank
    fused = {key: share + third * holds_all(served, key, text) for key, share in fused.items()}
    weight = {} if whole is None else {"input.query(whole)": whole}
    got = listed(served, HYBRID, "hybrid", text, seed, 10, **weight)
    expected = sorted(fused.values(), reverse=True)[:10]
    assert [hit["relevance"] for hit in got] == pytest.approx(expected, abs=1e-12)
    for hit in got:  # equal shares may stand in any order, so each hit is compared by its own
        assert hit["relevance"] == pytest.approx(fused[hit["id"]], abs=1e-12)


@pytest.mark.parametrize("text", QUERIES[:2])
def test_each_hit_carries_its_lexical_and_semantic_part(served: Served, text: str) -> None:
    lexical = {hit["id"]: hit["relevance"] for hit in listed(served, LEXICAL, "lexical", text, 1, 400)}
    for hit in listed(served, HYBRID + " ", "hybrid", text, 1, 20):
        assert "matchfeatures" not in hit.get("fields", {})  # select documentid leaves it out
    body = {"yql": HYBRID.replace("documentid", "*"), "ranking": "hybrid", "text": text, "input.query(q)": unit(1)}
    _, root = served.post(body)
    for hit in root["children"]:
        features = hit["fields"]["matchfeatures"]
        if hit["id"] in lexical:
            assert features["bm25(captions)"] == pytest.approx(lexical[hit["id"]])
        assert 0 < features["closeness(field,embedding)"] <= 1


def test_the_linear_blend_follows_alpha(served: Served) -> None:
    vector = [hit["id"] for hit in listed(served, VECTOR, "vector", "river", 2, 5)]
    body = {"yql": HYBRID, "ranking": "hybrid_linear", "text": "river", "input.query(q)": unit(2), "hits": 5}
    _, root = served.post({**body, "input.query(alpha)": 1})
    assert [hit["id"] for hit in root["children"]] == vector
    _, root = served.post({**body, "input.query(alpha)": "0"})
    lexical = [hit["id"] for hit in listed(served, LEXICAL, "lexical", "river", 2, 5)]
    assert [hit["id"] for hit in root["children"]] == lexical


def test_hybrid_without_a_vector_is_the_lexical_order_after_captions_that_hold_every_word(served: Served) -> None:
    text = "river boat"
    lexical = [hit["id"] for hit in listed(served, LEXICAL, "lexical", text, 0, 1000)]
    none = {"input.query(whole)": 0}
    assert [hit["id"] for hit in listed(served, LEXICAL, "hybrid", text, 0, 20, **none)] == lexical[:20]
    shares = {key: 1 / (61 + rank) + holds_all(served, key, text) / 61 for rank, key in enumerate(lexical)}
    expected = sorted(lexical, key=lambda key: -shares[key])[:20]
    assert [hit["id"] for hit in listed(served, LEXICAL, "hybrid", text, 0, 20)] == expected
    assert expected != lexical[:20]


def test_the_hundred_best_of_each_list_are_fused_when_more_match_than_are_reranked() -> None:
    """3,000 candidates for 2,000 places, the best by words the farthest by vector: one score alone loses a list."""
    count, random = 3000, np.random.default_rng(5)
    package = load_package(read_folder(APP))
    profile = package.schemas["image"].rank_profiles["hybrid"]
    assert profile.global_phase is not None
    assert profile.global_phase.rerank_count < count
    engine = Served(package.schemas["image"])
    target, aside = np.array(unit(3)), random.normal(size=512)
    for lid in range(count):
        cells = (1 - lid / count) * target + (lid / count) * aside / np.linalg.norm(aside)
        caption = " ".join(["river"] + ["boat"] * (20 - 20 * lid // count))  # later ones are shorter: a higher BM25
        cells = truncate_bfloat16(cells / np.linalg.norm(cells))
        engine.put(lid, {"captions": [caption], "embedding": Tensor(TYPE, cells)})
    lexical = [hit["id"] for hit in listed(engine, LEXICAL, "lexical", "river", 3, 100)]
    vector = [hit["id"] for hit in listed(engine, VECTOR, "vector", "river", 3, 100)]
    assert not set(lexical) & set(vector)
    got = {hit["id"]: hit["relevance"] for hit in listed(engine, HYBRID, "hybrid", "river", 3, 400)}
    assert {*lexical, *vector} <= set(got)
    for rank, key in enumerate(lexical):  # ties of BM25 rank after each other, so a share is at least that of its list
        assert got[key] >= 1 / (61 + 100 + rank), "its lexical share, behind at most the vector's hundred"
    for rank, key in enumerate(vector):
        assert got[key] > 1 / (61 + rank), "its vector share, and a lexical one"
