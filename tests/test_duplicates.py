"""Near-duplicates: what is the same picture joins the first of its kind, and nothing else does."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipsearch.records import Hit
from clipsearch.search.duplicates import THRESHOLD, collapse


def hit(name: str, embedding: Any = None, **fields: Any) -> Hit:
    return Hit(name, 1.0, fields, embedding=embedding)


def names(hits: list[Hit], threshold: float = THRESHOLD) -> list[list[str]]:
    return [[group.first.id, *(other.id for other in group.others)] for group in collapse(hits, threshold)]


def at(cosine: float) -> np.ndarray:
    """A vector with this cosine to the first axis, of any length."""
    return 3 * np.array([cosine, np.sqrt(1 - cosine**2), 0], np.float32)


def test_the_same_file_is_collapsed_in_rank_order() -> None:
    hits = [hit("a", content_hash="1"), hit("b", content_hash="2"), hit("c", content_hash="1"), hit("d")]
    assert names(hits) == [["a", "c"], ["b"], ["d"]]


def test_files_without_a_hash_and_hits_without_an_embedding_stay_apart() -> None:
    hits = [hit("a", content_hash=""), hit("b", content_hash=""), hit("c"), hit("d")]
    assert names(hits) == [["a"], ["b"], ["c"], ["d"]]


def test_embeddings_join_only_above_the_threshold() -> None:
    hits = [hit("a", at(1)), hit("b", at(0.9996)), hit("c", at(0.999)), hit("d", at(0.5))]
    assert names(hits) == [["a", "b"], ["c"], ["d"]]
    assert names(hits, 0.99) == [["a", "b", "c"], ["d"]]


def test_likeness_is_not_handed_on_along_a_chain() -> None:
    angles = np.arccos(0.96) * np.arange(4)
    chain = [hit(str(n), np.array([np.cos(angle), np.sin(angle)])) for n, angle in enumerate(angles)]
    assert names(chain, 0.95) == [["0", "1"], ["2", "3"]]


def test_a_copy_of_a_copy_by_file_joins_the_copys_group() -> None:
    hits = [hit("a", at(1), content_hash="1"), hit("b", at(0.9999), content_hash="2"), hit("c", content_hash="2")]
    assert names(hits) == [["a", "b", "c"]]


def test_images_of_other_proportions_are_no_copies() -> None:
    same = {"width": 640, "height": 480}
    hits = [hit("a", at(1), **same), hit("b", at(1), width=160, height=119), hit("c", at(1), width=480, height=640)]
    assert names(hits) == [["a", "b"], ["c"]]


def test_damaged_embeddings_and_those_of_another_size_match_nothing() -> None:
    bad = [np.zeros(3), np.full(3, np.nan), np.ones(4), np.ones((2, 2))]
    hits = [hit("a", np.ones(3)), *(hit(str(n), each) for n, each in enumerate(bad))]
    assert len(collapse(hits)) == 5
    assert collapse([]) == ()


def test_a_resized_copy_of_a_photograph_joins_it_and_its_mirror_image_stays_apart(shared: Path) -> None:
    """Pixels stand for embeddings here: a copy by way of another size, and the mirrored picture."""
    with zipfile.ZipFile(shared / "data" / "rsicd" / "images.zip") as archive:
        image = Image.open(io.BytesIO(archive.read("rsicd/airport_1.jpg"))).convert("RGB")
    small = np.asarray(image.resize((160, 160)).resize((32, 32)), np.float32).ravel()
    whole = np.asarray(image.resize((32, 32)), np.float32).ravel()
    mirrored = np.asarray(image.resize((32, 32)), np.float32)[:, ::-1].ravel()
    vectors = [vector - vector.mean() for vector in (whole, small, mirrored)]
    assert names([hit(str(n), vector) for n, vector in enumerate(vectors)], 0.99) == [["0", "1"], ["2"]]
