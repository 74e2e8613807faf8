"""The real data sets open as they are distributed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from clipsearch.corpora import open_corpus
from clipsearch.images import load_image


def test_rsicd_opens_whole_from_its_zip(shared: Path) -> None:
    with open_corpus(shared / "data" / "rsicd") as corpus:
        splits = Counter(record.split for record in corpus.records)
        assert splits == {"train": 8734, "validation": 1094, "test": 1093}
        assert not corpus.issues
        assert len(corpus.classes) == 30
        assert corpus.classes["denseresidential"] == "dense residential"
        captions = sum(len(record.captions) for record in corpus.records)
        assert captions == 5 * 10_921 - 3  # three of them are empty in the source
        assert len({record.id for record in corpus.records}) == 10_921
        labelled = [record for record in corpus.split("test") if record.label]
        assert len(labelled) == 1027
        assert load_image(corpus.read(labelled[0])).shape == (192, 192, 3)


def test_the_augmented_captions_of_rsicd_open_as_a_table(shared: Path) -> None:
    with open_corpus(shared / "data" / "rsicd" / "textaug_test_rsicd.jsonl") as corpus:
        assert len(corpus) == 1093
        assert not corpus.issues
        assert corpus.records[0].uri.startswith("images.zip!/rsicd/")


def test_roco_opens_whole(shared: Path) -> None:
    corpus = open_corpus(shared / "data" / "roco")
    assert Counter(record.split for record in corpus.records) == {"train": 958, "validation": 123, "test": 123}
    assert not corpus.issues
    assert all(len(record.captions) == 1 for record in corpus.records)
    assert load_image(corpus.read(corpus.records[5])).ndim == 3


def test_eurosat_opens_as_class_folders(shared: Path) -> None:
    corpus = open_corpus(shared / "data" / "eurosat")
    assert len(corpus) == 1500
    assert Counter(record.label for record in corpus.records)["SeaLake"] == 150
    assert corpus.classes["HerbaceousVegetation"] == "herbaceous vegetation"
    assert load_image(corpus.read(corpus.records[0])).shape == (64, 64, 3)
