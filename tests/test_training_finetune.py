"""Whole runs on a small corpus: learning, resuming bit for bit, stopping, and what the checkpoint folder holds."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_corpus import write_corpus
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import PixelSettings, checkpoint_info, load_clip, save_clip
from clipsearch.clip.tokens import train_tokenizer
from clipsearch.corpora import Corpus, open_corpus
from clipsearch.errors import CheckpointError, CorpusError, InputError
from clipsearch.training import FinetuneSummary, TrainOptions, finetune, loop, step, tiny_options
from clipsearch.training.preparing import choose_splits
from clipsearch.training.validation import Scores, scores_from_json

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 10
OPTIONS = tiny_options(epochs=EPOCHS, batch_size=24, image_size=32, augment="none", device="cpu", learning_rate=2e-3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with open_corpus(write_corpus(tmp_path_factory.mktemp("corpora") / "blocks", per_class=24, corrupt=2)) as opened:
        yield opened


@pytest.fixture(scope="module")
def done(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneSummary]:
    out = tmp_path_factory.mktemp("models") / "blocks-tiny"
    return out, finetune(corpus, out, OPTIONS, command="clipsearch finetune blocks", quiet=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_learns_colours_from_captions_alone(done: tuple[Path, FinetuneSummary]) -> None:
    _, summary = done
    assert summary.before.zero_shot is not None
    assert summary.after.zero_shot is not None
    assert summary.after.zero_shot.hits[1] >= 0.8 > summary.before.zero_shot.hits[1]
    assert summary.after.retrieval is not None
    assert summary.before.retrieval is not None
    assert summary.after.retrieval.mean_mrr10 > summary.before.retrieval.mean_mrr10 + 0.1
    assert (summary.measured_on, summary.stopped) == ("test", "all epochs done")


def test_the_folder_holds_model_card_log_curves_and_ledger(done: tuple[Path, FinetuneSummary]) -> None:
    out, summary = done
    assert checkpoint_info(out) == (summary.model_id, 512)
    assert load_clip(out, "cpu").model_id == summary.model_id
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(summary.to_json()))
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] != "step"] == ["start", *["epoch"] * EPOCHS, "end"]
    steps, epochs = ([event for event in events if event["event"] == kind] for kind in ("step", "epoch"))
    assert {"loss", "seconds", "validation", "step", "logit_scale"} <= epochs[0].keys()
    assert [step["step"] for step in steps] == list(range(1, epochs[-1]["step"] + 1))
    assert {"loss", "learning_rate", "gradient_norm", "seconds"} <= steps[0].keys()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    assert "clipsearch finetune blocks" in card
    assert f"{summary.after.zero_shot.hits[1]:.3f}" in card  # type: ignore[union-attr]
    assert [json.loads(line)["item"] for line in (out / "left-out.jsonl").read_text().splitlines()] == [
        "images/broken_0.png",
        "images/broken_1.png",
    ]
    assert summary.bad_images == 2
    assert not out.with_name(out.name + ".run").exists()


def test_the_best_epoch_of_validation_is_kept(done: tuple[Path, FinetuneSummary]) -> None:
    out, summary = done
    epochs = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if '"epoch"' in line[:20]]
    mrr = [(e["validation"]["text_to_image_mrr@10"] + e["validation"]["image_to_text_mrr@10"]) / 2 for e in epochs]
    assert summary.best_epoch == mrr.index(max(mrr)) + 1
    assert summary.validation.retrieval is not None
    assert summary.validation.retrieval.mean_mrr10 == pytest.approx(max(mrr))


def test_the_same_seed_gives_the_same_weights(
    corpus: Corpus, done: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    finetune(corpus, tmp_path / "again", OPTIONS, quiet=True)
    assert equal(done[0], tmp_path / "again")


def interrupt_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.train_epoch

    def train_epoch(run: Any, *rest: Any) -> None:
        if run.progress.epoch == epoch:
            raise KeyboardInterrupt
        original(run, *rest)

    monkeypatch.setattr(loop, "train_epoch", train_epoch)


def test_an_interrupted_run_resumes_to_the_same_weights(
    corpus: Corpus,
    done: tuple[Path, FinetuneSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "model"
    for epoch in (2, 4):
        with monkeypatch.context() as patch:
            interrupt_after(epoch, patch)
            with pytest.raises(KeyboardInterrupt):
                finetune(corpus, out, OPTIONS, quiet=True)
        assert not out.exists()
        said = capsys.readouterr()
        assert f"in epoch {epoch + 1}. The best checkpoint" in said.out + said.err
        (best,) = (tmp_path / "model.run").glob("epoch-*")
        assert load_clip(best, "cpu").dim == 512
    summary = finetune(corpus, out, OPTIONS, quiet=True)
    assert equal(done[0], out)
    assert summary.before == done[1].before
    assert len([1 for line in (out / "log.jsonl").read_text().splitlines() if '"epoch"' in line[:20]]) == EPOCHS


def test_a_run_that_was_killed_while_finishing_trains_no_further(
    corpus: Corpus, done: tuple[Path, FinetuneSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("clipsearch.training.finetune"), "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(corpus, tmp_path / "model", OPTIONS, quiet=True)
    interrupt_after(EPOCHS, monkeypatch)
    assert finetune(corpus, tmp_path / "model", OPTIONS, quiet=True).epochs == EPOCHS
    assert equal(done[0], tmp_path / "model")


def test_an_interruption_before_the_first_epoch_says_that_nothing_is_there(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_after(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        finetune(corpus, tmp_path / "model", OPTIONS, quiet=True)
    said = capsys.readouterr()
    assert "There is no checkpoint yet. No state is saved yet" in said.out + said.err


def test_another_run_in_the_way_is_never_resumed_by_mistake(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(corpus, tmp_path / "model", OPTIONS, quiet=True)
    with pytest.raises(InputError, match="other data or options"):
        finetune(corpus, tmp_path / "model", replace(OPTIONS, seed=1), quiet=True)


def test_an_existing_folder_is_never_overwritten(corpus: Corpus, done: tuple[Path, FinetuneSummary]) -> None:
    with pytest.raises(CheckpointError, match="exists"):
        finetune(corpus, done[0], OPTIONS, quiet=True)


def test_training_stops_early_when_validation_gets_no_better(corpus: Corpus, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=50, patience=2, learning_rate=1e-9)
    summary = finetune(corpus, tmp_path / "model", options, quiet=True)
    assert summary.epochs < 12
    assert summary.epochs == summary.best_epoch + 2
    assert summary.stopped == "no better validation MRR@10 for 2 epochs"


def test_the_time_budget_ends_a_run_and_its_schedule(corpus: Corpus, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=100_000, max_minutes=0.06)
    summary = finetune(corpus, tmp_path / "model", options, quiet=True)
    assert summary.stopped == "the time budget is used up"
    assert summary.epochs < 1000
    assert summary.seconds < 30


def test_a_loss_that_explodes_stops_the_run_and_says_what_to_do(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "batch_loss", lambda _, images, *__: images.sum() * float("nan"))
    with pytest.raises(InputError, match="smaller --learning-rate"):
        finetune(corpus, tmp_path / "model", OPTIONS, quiet=True)


def test_a_clip_model_goes_through_the_same_loop(corpus: Corpus, tmp_path: Path) -> None:
    captions = [caption for record in corpus.records for caption in record.captions]
    tokenizer = train_tokenizer(captions, max_length=77)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 16}
    vision = {**shape, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    torch.manual_seed(0)
    start = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    save_clip(tmp_path / "start", start, tokenizer, PixelSettings(32).to_processor())
    options = TrainOptions(model=str(tmp_path / "start"), epochs=4, batch_size=24, learning_rate=3e-3, device="cpu")
    summary = finetune(corpus, tmp_path / "tuned", options, quiet=True)
    tuned = CLIPModel.from_pretrained(tmp_path / "tuned")
    assert tuned.config.model_type == "clip"
    assert summary.dim == 16
    assert summary.validation.retrieval is not None
    assert not torch.equal(tuned.visual_projection.weight, start.visual_projection.weight)
    assert load_clip(tmp_path / "tuned", "cpu").settings == load_clip(tmp_path / "start", "cpu").settings


def test_labels_and_file_names_never_reach_training(
    corpus: Corpus, tmp_path: Path, done: tuple[Path, FinetuneSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tuple(replace(r, label="") if r.split == "train" and "broken" not in r.uri else r for r in corpus.records)
    monkeypatch.setattr(corpus, "records", records)
    finetune(corpus, tmp_path / "blind", OPTIONS, quiet=True)
    assert equal(done[0], tmp_path / "blind")


def test_a_missing_validation_split_is_cut_from_train_the_same_way_each_time(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = tuple(replace(record, split="train") for record in corpus.records)
    monkeypatch.setattr(corpus, "records", everything)
    splits = choose_splits(corpus)
    assert splits.measured_on == "validation"
    assert 0.02 < len(splits.validation) / len(everything) < 0.25
    assert not {r.key for r in splits.validation} & {r.key for r in splits.train}
    assert choose_splits(corpus).validation == splits.validation


def test_a_corpus_without_captions_is_refused(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "records", tuple(replace(record, captions=()) for record in corpus.records))
    with pytest.raises(CorpusError, match="too few to train on"):
        finetune(corpus, tmp_path / "model", OPTIONS, quiet=True)


def test_scores_survive_json(done: tuple[Path, FinetuneSummary]) -> None:
    scores = done[1].after
    assert scores_from_json(json.loads(json.dumps(scores.to_json()))) == scores
    assert scores_from_json(Scores(None, None).to_json()) == Scores(None, None)
    assert Scores(None, None).line() == "nothing to measure"
