"""The sample corpus is deterministic, whole, resumable, and says in words what it shows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from clipsearch.commands.sample import command
from clipsearch.corpora import open_corpus
from clipsearch.corpora.sample import write_sample
from clipsearch.corpora.sample.grammar import Facts, Thing, article, captions, noun_phrase, plural
from clipsearch.corpora.sample.scenes import CLASSES, draw_scene, split_of
from clipsearch.errors import CorpusError, InputError
from clipsearch.images import load_image

SMALL = {"size": 48, "progress": False, "processes": 1}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_there_are_at_least_sixteen_classes_each_with_words() -> None:
    assert len({scene.label for scene in CLASSES}) >= 16
    assert all(scene.words and scene.label == scene.label.lower() for scene in CLASSES)


@pytest.mark.parametrize("index", range(len(CLASSES)))
def test_every_class_draws_a_textured_picture_and_five_different_captions(index: int) -> None:
    words = set(CLASSES[index].words.split())
    for round_ in range(6):
        image, texts, label = draw_scene(index + round_ * len(CLASSES), 64, 3)
        pixels = np.asarray(image)
        assert pixels.shape == (64, 64, 3)
        assert pixels.std() > 5
        assert label == CLASSES[index].label
        assert len(set(texts)) == 5
        assert all(text == " ".join(text.split()) and text.isascii() for text in texts)
    assert any(words & set(text.split()) for text in texts)


def test_same_seed_same_pixels_and_another_seed_others() -> None:
    first, again, other = (draw_scene(30, 64, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(np.asarray(first[0]), np.asarray(again[0]))
    assert first[1:] == again[1:]
    assert not np.array_equal(np.asarray(first[0]), np.asarray(other[0]))


def test_mean_colour_alone_does_not_tell_the_class() -> None:
    """A nearest-centroid classifier on mean colours, on scenes it has not seen, stays far below one half."""
    count = len(CLASSES)
    colours = np.array([np.asarray(draw_scene(i, 32, 0)[0]).mean(axis=(0, 1)) for i in range(20 * count)])
    colours = colours.reshape(20, count, 3)
    centroids = colours[:10].mean(axis=0)
    distance = np.linalg.norm(colours[10:, :, None] - centroids[None, None], axis=-1)
    hits = (distance.argmin(axis=-1) == np.arange(count)).mean()
    assert hits < 0.35


def test_a_sample_opens_as_a_corpus(tmp_path: Path) -> None:
    images = 10 * len(CLASSES)
    summary = write_sample(tmp_path / "s", images=images, **SMALL)
    assert (summary.images, summary.drawn, summary.reused) == (images, images, 0)
    with open_corpus(tmp_path / "s") as corpus:
        assert corpus.name == "sample"
        assert not corpus.issues
        assert Counter(record.split for record in corpus.records) == {
            "train": 8 * len(CLASSES), "validation": len(CLASSES), "test": len(CLASSES),
        }  # fmt: skip
        assert set(Counter(record.label for record in corpus.records).values()) == {10}
        assert corpus.classes == {scene.label: scene.words for scene in CLASSES}
        assert corpus.prompt == "an aerial photograph of {}"
        assert all(len(record.captions) == 5 for record in corpus.records)
        assert load_image(corpus.read(corpus.records[7])).shape == (48, 48, 3)


def test_file_names_do_not_give_the_class_away(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", images=24, **SMALL)
    names = " ".join(record.key for record in open_corpus(tmp_path / "s").records)
    assert not any(scene.label in names for scene in CLASSES)


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", images=5, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    summary = write_sample(tmp_path / "s", images=5, **SMALL)
    assert (summary.drawn, summary.reused) == (0, 5)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}


def test_an_interrupted_run_continues_to_the_same_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch.corpora.sample import writing

    write_sample(tmp_path / "whole", images=100, **SMALL)
    real = writing.draw_scene

    def stop_at_90(index: int, size: int, seed: int):  # type: ignore[no-untyped-def]  # wraps the real one
        if index == 90:
            raise KeyboardInterrupt
        return real(index, size, seed)

    monkeypatch.setattr(writing, "draw_scene", stop_at_90)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "cut", images=100, **SMALL)
    assert not (tmp_path / "cut" / "manifest.json").exists()
    monkeypatch.setattr(writing, "draw_scene", real)
    summary = write_sample(tmp_path / "cut", images=100, **SMALL)
    assert (summary.drawn, summary.reused) == (20, 80)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_several_processes_draw_the_same_corpus_as_one(tmp_path: Path) -> None:
    write_sample(tmp_path / "one", images=48, **SMALL)
    write_sample(tmp_path / "two", images=48, **{**SMALL, "processes": 2})
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_other_arguments_replace_the_corpus(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", images=6, **SMALL)
    write_sample(tmp_path / "s", images=3, **{**SMALL, "size": 40})
    with open_corpus(tmp_path / "s") as corpus:
        assert len(corpus) == 3
        assert len(list((tmp_path / "s" / "images").iterdir())) == 3
        assert load_image(corpus.read(corpus.records[0])).shape == (40, 40, 3)


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CorpusError, match="not empty"):
        write_sample(tmp_path, images=3, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("wrong", [{"images": 0}, {"size": 8}, {"size": 5000}])
def test_impossible_arguments_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="--" + next(iter(wrong))):
        write_sample(tmp_path / "s", **wrong, progress=False)


def test_the_command_prints_a_summary_for_programs(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "s"), "--images", "4", "--size", "40", "--processes", "1", "--json"]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["drawn"] == 4


# --- grammar
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noun", "nouns"),
    [
        ("plane", "planes"), ("church", "churches"), ("tennis court", "tennis courts"), ("gully", "gullies"),
        ("runway", "runways"), ("bus", "buses"), ("row of parked cars", "rows of parked cars"),
    ],
)  # fmt: skip
def test_plurals(noun: str, nouns: str) -> None:
    assert plural(noun) == nouns


def test_articles() -> None:
    assert [article(word) for word in ("airport", "pond", "farmland")] == ["an airport", "a pond", "farmland"]


def test_quantities_agree_with_the_count() -> None:
    rng = np.random.default_rng(0)
    phrases = {count: {noun_phrase(Thing("car", count, "red"), rng) for _ in range(60)} for count in (1, 2, 5, 40)}
    assert phrases[1] == {"a red car"}
    assert phrases[2] == {"two red cars"}
    assert phrases[5] == {"five red cars", "several red cars", "some red cars"}
    assert all("car" in phrase and not phrase.startswith("a ") for phrase in phrases[40] - {"a lot of red cars"})


def test_captions_name_the_scene_and_its_things() -> None:
    facts = Facts(("airport",), [Thing("plane", 4, "white", "parked", "next to a terminal")], ["near a river"])
    rng = np.random.default_rng(0)
    written = [text for _ in range(40) for text in captions(facts, rng)]
    assert sum("airport" in text for text in written) >= 0.6 * len(written)
    assert any("white planes are parked next to a terminal" in text for text in written)
    assert any("airport" in text and "near a river" in text for text in written)


def test_splits_are_eighty_ten_ten_within_each_class() -> None:
    splits = Counter(split_of(index) for index in range(0, 240 * len(CLASSES), len(CLASSES)))
    assert splits == {"train": 192, "validation": 24, "test": 24}
