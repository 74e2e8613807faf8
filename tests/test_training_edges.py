"""Corpora at the edge of what can be trained on: few captions, nothing to select by, options without effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from small_clip import write_clip
from small_corpus import write_corpus

from clipsearch.cli import cli
from clipsearch.corpora import Corpus, open_corpus
from clipsearch.errors import CorpusError
from clipsearch.training import TrainOptions, finetune, tiny_options

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "blocks", per_class=8)


@pytest.fixture(scope="module")
def start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "start", folder)


@pytest.fixture
def corpus(folder: Path) -> Iterator[Corpus]:
    with open_corpus(folder) as opened:
        yield opened


def with_captions(corpus: Corpus, template: str, splits: tuple[str, ...] = ("train", "validation", "test")) -> None:
    corpus.records = tuple(
        replace(r, captions=(template.format(r.label),) if template else ()) if r.split in splits else r
        for r in corpus.records
    )


def test_one_caption_a_class_still_trains(corpus: Corpus, start: Path, tmp_path: Path) -> None:
    with_captions(corpus, "a block of {}")
    options = TrainOptions(model=str(start), epochs=1, batch_size=16, device="cpu", interpolate=False)
    finetune(corpus, tmp_path / "model", options, quiet=True)
    events = map(json.loads, (tmp_path / "model" / "log.jsonl").read_text().splitlines())
    (epoch,) = [event for event in events if event["event"] == "epoch"]
    assert epoch["step"] >= 1
    assert epoch["loss"] > 0


def test_one_caption_for_everything_is_refused_by_its_reason(corpus: Corpus, tmp_path: Path) -> None:
    with_captions(corpus, "an image")
    with pytest.raises(CorpusError, match="one caption"):
        finetune(corpus, tmp_path / "model", tiny_options(epochs=1, image_size=16, device="cpu"), quiet=True)


@pytest.mark.parametrize("metric", ["mrr10", "loss"])
def test_without_anything_to_select_by_the_tuned_model_is_kept(
    corpus: Corpus, start: Path, tmp_path: Path, metric: str
) -> None:
    corpus.records = tuple(replace(r, captions=(), label="") if r.split == "validation" else r for r in corpus.records)
    options = TrainOptions(model=str(start), epochs=1, batch_size=4, learning_rate=1e-3, device="cpu", metric=metric)
    summary = finetune(corpus, tmp_path / "model", options, quiet=True)
    assert summary.interpolation == {}
    before, after = (load_file(each / "model.safetensors") for each in (start, tmp_path / "model"))
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_the_loss_selects_epochs_where_validation_has_labels_alone(corpus: Corpus, start: Path, tmp_path: Path) -> None:
    with_captions(corpus, "", ("validation",))
    options = TrainOptions(model=str(start), epochs=1, batch_size=4, device="cpu", metric="loss")
    summary = finetune(corpus, tmp_path / "model", options, quiet=True)
    assert summary.interpolation["measures"] == ["validation zero-shot hits@1"]


def test_options_without_effect_are_said(start: Path) -> None:
    (said,) = TrainOptions(model=str(start), image_size=32).check().warnings()
    assert "image-size" in said
    (said,) = TrainOptions(model=str(start), ood_loss=2.0).check().warnings()
    assert "ood-loss" in said


def test_what_is_left_out_is_said_and_counted(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "captions.jsonl").read_text().splitlines()
    whole = tmp_path / "corpus"
    (whole / "images").mkdir(parents=True)
    for image in (folder / "images").iterdir():
        (whole / "images" / image.name).write_bytes(image.read_bytes())
    gone = json.loads(rows[-1]) | {"file": "images/gone.png"}
    (whole / "captions.jsonl").write_text("\n".join([*rows, json.dumps(gone)]) + "\n")
    with open_corpus(whole) as corpus:
        train = [record.key for record in corpus.split("train")]
    (tmp_path / "exclude.txt").write_text(f"{train[0]}\nnobody\n")
    arguments = ["finetune", str(whole), "--preset", "tiny", "--epochs", "1", "--batch-size", "8", "--image-size", "16"]
    done = CliRunner().invoke(
        cli, [*arguments, "--exclude", str(tmp_path / "exclude.txt"), "--out", str(tmp_path / "model")]
    )
    assert done.exit_code == 0, done.output
    assert "1 image left out by" in done.output
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["train_images"] == len(train) - 1
    ledger = [json.loads(line) for line in (tmp_path / "model" / "left-out.jsonl").read_text().splitlines()]
    assert any("gone" in row["item"] for row in ledger)
