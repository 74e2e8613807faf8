"""Evaluating a checkpoint on a corpus: the figures, the bad images, the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_corpus import COLOURS, write_corpus

from clipsearch.cli import cli
from clipsearch.corpora import open_corpus
from clipsearch.errors import CorpusError
from clipsearch.evaluation import embed_split, evaluate, retrieval, table, zero_shot


class Oracle:
    """A stand-in for ``Clip`` that sees the colour of a block and reads its name: four dimensions, one per colour."""

    model_id, dim, image_size, text_length = "oracle-0", 4, 8, 1000
    embedded_images = 0

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(image[::5, ::5])

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.embedded_images += len(pixels)
        palette = np.array(list(COLOURS.values()), np.float32)
        far = np.linalg.norm(pixels.reshape(len(pixels), 1, -1, 3) - palette[None, :, None], axis=3)
        return np.eye(4, dtype=np.float32)[np.median(np.sort(far)[:, :, :32], axis=2).argmin(axis=1)]

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        rows = [[float(colour in text) for colour in COLOURS] for text in texts]
        return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "blocks", per_class=12, corrupt=1)


def test_an_oracle_is_always_right_about_classes_and_ties_within_them(folder: Path) -> None:
    with open_corpus(folder) as corpus:
        scores = zero_shot(Oracle(), corpus, "validation")  # type: ignore[arg-type]
        assert scores.hits[1] == 1.0
        assert scores.classes == 4
        found = retrieval(Oracle(), corpus, "validation")  # type: ignore[arg-type]
        same_colour = len(corpus.split("validation")) // 4
        assert found.text_to_image_hits[1] == pytest.approx(1 / same_colour)
        assert found.captions == 3 * found.images


def test_one_pass_over_the_images_gives_both_and_the_bad_ones_are_counted(folder: Path) -> None:
    oracle = Oracle()
    with open_corpus(folder) as corpus:
        result = evaluate(oracle, corpus, "train")  # type: ignore[arg-type]
        assert oracle.embedded_images == len(corpus.split("train")) - 1
    assert result.left_out == 1
    assert result.zero_shot is not None
    assert result.retrieval is not None
    text = table(result)
    assert "hits@1   1.0000" in text
    assert "1 images could not be decoded" in text
    assert json.loads(json.dumps(result.to_json()))["zero_shot"]["hits"]["1"] == 1.0


def test_embeddings_keep_the_order_of_the_records(folder: Path) -> None:
    with open_corpus(folder) as corpus:
        whole = embed_split(Oracle(), corpus, "train")  # type: ignore[arg-type]
        parts = embed_split(Oracle(), corpus, "train", batch_size=3)  # type: ignore[arg-type]
    assert whole.records == parts.records
    assert (whole.images == parts.images).all()
    for record, vector in zip(whole.records, whole.images, strict=True):
        assert list(COLOURS)[int(vector.argmax())] == record.label


def test_a_split_without_labels_captions_or_images_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_corpus(folder) as corpus:
        monkeypatch.setattr(corpus, "classes", {})
        with pytest.raises(CorpusError, match="no class labels"):
            zero_shot(Oracle(), corpus)  # type: ignore[arg-type]
        assert evaluate(Oracle(), corpus).zero_shot is None  # type: ignore[arg-type]
        monkeypatch.setattr(corpus, "records", ())
        with pytest.raises(CorpusError, match="no image in its test split"):
            evaluate(Oracle(), corpus)  # type: ignore[arg-type]


def test_the_commands_train_and_measure(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    options = ["--preset", "tiny", "--epochs", "1", "--image-size", "16", "--batch-size", "16", "--device", "cpu"]
    done = CliRunner().invoke(cli, ["finetune", str(folder), "--out", str(model), *options, "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["epochs"] == 1
    assert set(summary["after"]) >= {"hits@1", "text_to_image_mrr@10", "image_to_text_mrr@10"}
    measured = CliRunner().invoke(cli, ["evaluate", str(model), "--corpus", str(folder), "--device", "cpu", "--json"])
    assert measured.exit_code == 0, measured.output
    result = json.loads(measured.stdout)
    assert result["model_id"] == summary["model_id"]
    assert result["zero_shot"]["hits"]["1"] == pytest.approx(summary["after"]["hits@1"])


def test_a_start_must_be_chosen(folder: Path, tmp_path: Path) -> None:
    for start in ([], ["--preset", "tiny", "--model", "x"]):
        done = CliRunner().invoke(cli, ["finetune", str(folder), "--out", str(tmp_path / "m"), *start])
        assert done.exit_code == 2
        assert "--preset tiny" in done.output
