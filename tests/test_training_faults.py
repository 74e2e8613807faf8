"""What goes wrong in a night's run: a full disk, a loss that is no number, thin classes, broken images."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_clip import write_clip
from small_corpus import write_corpus
from training_process import run, train_with_small_files

from clipsearch.clip import load_clip
from clipsearch.corpora import Corpus, open_corpus
from clipsearch.errors import CheckpointError, InputError
from clipsearch.training import TrainOptions, finetune, loop, state, step
from clipsearch.training.state import Progress, read_progress

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "blocks", per_class=16, corrupt=1)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Iterator[Corpus]:
    with open_corpus(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def options(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    start = write_clip(tmp_path_factory.mktemp("models") / "start", folder)
    return TrainOptions(
        model=str(start), epochs=3, batch_size=8, epoch_size=32, learning_rate=1e-3, precision="fp32", patience=0,
        interpolate=False, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    finetune(corpus, out, options, quiet=True)
    return out


def equal(first: Path, second: Path) -> bool:
    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return all(torch.equal(one[name], two[name]) for name in one)


def test_a_full_disk_within_an_epoch_costs_a_save_and_not_the_run(
    corpus: Corpus, options: TrainOptions, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real, saves, left = state.save_file, [], []

    def save_file(tensors: Any, path: Path, metadata: Any) -> None:
        saves.append(path)
        if len(saves) in (2, 3):
            path.write_bytes(b"half of it")
            raise FULL
        left.append(path.with_name(state.FILE).exists())
        real(tensors, path, metadata)

    monkeypatch.setattr(state, "save_file", save_file)
    finetune(corpus, tmp_path / "model", replace(options, save_minutes=1e-9))
    said = capsys.readouterr().out
    assert "step 2: the run's state" in said
    assert "No space left on device" in said
    assert "Training goes on and tries again later." in said
    assert left[1]  # the first save was still there when the fourth came
    assert equal(undisturbed, tmp_path / "model")


def test_a_full_disk_at_the_end_of_an_epoch_stops_the_run_and_destroys_nothing(
    corpus: Corpus, options: TrainOptions, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = loop.save_clip

    def save_clip(target: Path, *rest: Any, **more: Any) -> Path:
        if target.name == "epoch-0002":
            raise CheckpointError(f"{target} cannot be written: {FULL.strerror}")
        return real(target, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_clip", save_clip)
        patch.setattr(loop, "selection_score", lambda _, __, loss: -loss + 1000)
        patch.setattr(loop, "keep_if_best", better_each_time(loop.keep_if_best))
        with pytest.raises(CheckpointError, match="No space left on device"):
            finetune(corpus, tmp_path / "model", options, quiet=True)
    progress = read_progress(tmp_path / "model.run")
    assert progress is not None
    assert (progress.epoch, progress.best_folder) == (1, "epoch-0001")
    assert load_clip(tmp_path / "model.run" / "epoch-0001", "cpu").dim == 16
    assert "The same command goes on from step 4." in capsys.readouterr().err
    assert finetune(corpus, tmp_path / "model", options, quiet=True).epochs == 3


def better_each_time(keep: Any) -> Any:
    def wrapped(training: loop.TrainingRun, scores: Any) -> str:
        training.progress.best_score = -math.inf
        outdated: str = keep(training, scores)
        return outdated

    return wrapped


def test_files_that_the_system_refuses_leave_the_old_state_and_say_what_to_do(
    folder: Path, options: TrainOptions, tmp_path: Path, undisturbed: Path
) -> None:
    said = tmp_path / "said"
    assert run(train_with_small_files, folder, tmp_path / "model", replace(options, save_minutes=1e-9), said) == 1
    text = said.read_text()
    assert "cannot be written" in text
    assert "make room" in text
    progress = read_progress(tmp_path / "model.run")
    assert progress is not None
    assert progress.step == 2
    assert [path.name for path in (tmp_path / "model.run").glob(".*")] == []
    with open_corpus(folder) as opened:
        finetune(opened, tmp_path / "model", options, quiet=True)
    assert equal(undisturbed, tmp_path / "model")


def test_a_log_that_cannot_be_written_is_said_once_and_training_goes_on(
    corpus: Corpus, options: TrainOptions, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr("clipsearch.training.runlog.RunLog._append", refuse)
    monkeypatch.setattr("clipsearch.training.runlog.plot_curves", refuse)
    finetune(corpus, tmp_path / "model", options)
    assert capsys.readouterr().out.count("the log cannot be written (No space left on device)") == 1
    assert equal(undisturbed, tmp_path / "model")


def test_a_full_disk_at_the_very_end_keeps_the_result_and_the_next_call_finishes_it(
    corpus: Corpus, options: TrainOptions, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr("clipsearch.training.finishing.publish", refuse)
        with pytest.raises(CheckpointError, match=r"training is done and .*make room and repeat"):
            finetune(corpus, tmp_path / "model", options, quiet=True)
    monkeypatch.setattr(loop, "train_step", refuse)  # nothing is trained again
    finetune(corpus, tmp_path / "model", options, quiet=True)
    assert equal(undisturbed, tmp_path / "model")


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_best_checkpoint(
    corpus: Corpus, options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real, calls = step.batch_loss, []

    def batch_loss(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return real(*arguments) * (math.nan if len(calls) == 6 else 1.0)

    monkeypatch.setattr(step, "batch_loss", batch_loss)
    with pytest.raises(InputError, match="the loss became nan at step 6: give a smaller --learning-rate"):
        finetune(corpus, tmp_path / "model", options, quiet=True)
    best = tmp_path / "model.run" / "epoch-0001"
    assert f"The best checkpoint (epoch 1) is {best}." in capsys.readouterr().err
    assert all(value.isfinite().all() for value in load_file(best / "model.safetensors").values())


def test_a_gradient_that_is_not_finite_is_passed_over_and_counted(
    corpus: Corpus, options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.nn.utils.clip_grad_norm_, []

    def norm(parameters: Any, limit: float) -> torch.Tensor:
        calls.append(1)
        if len(calls) in (3, 4):
            parameters[0].grad.fill_(math.inf)
        return real(parameters, limit)

    monkeypatch.setattr(loop.torch.nn.utils, "clip_grad_norm_", norm)
    summary = finetune(corpus, tmp_path / "model", options, quiet=True)
    epochs = [json.loads(line) for line in (tmp_path / "model" / "log.jsonl").read_text().splitlines()]
    assert [epoch["skipped"] for epoch in epochs if epoch["event"] == "epoch"] == [2, 2, 2]
    assert summary.epochs == 3
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model" / "model.safetensors").values())


def test_gradients_that_stay_infinite_stop_the_run() -> None:
    progress = Progress(step=40)
    for _ in range(loop.MAX_SKIPPED_IN_A_ROW):
        assert not loop.count_skipped(progress, math.inf)
    with pytest.raises(InputError, match="21 steps in a row up to step 41 had no finite gradient"):
        loop.count_skipped(progress, math.nan)
    assert loop.count_skipped(progress, 1.0)
    assert (progress.skipped, progress.skipped_in_a_row) == (21, 0)


def test_a_class_with_one_image_and_a_class_of_broken_ones_are_trained_and_measured_around(
    tmp_path: Path, options: TrainOptions
) -> None:
    source = write_corpus(tmp_path / "blocks", per_class=8)
    rows = [json.loads(line) for line in (source / "captions.jsonl").read_text().splitlines()]
    lonely = {**rows[0], "label": "lonely"}
    for number in range(3):
        (source / "images" / f"no_{number}.png").write_bytes(b"no image")
    broken = [
        {"file": f"images/no_{number}.png", "captions": ["nothing"], "split": split, "label": "broken"}
        for number, split in enumerate(("train", "validation", "test"))
    ]
    kept = [*rows[1:], {**lonely, "split": "test"}, *broken]
    (source / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with open_corpus(source) as opened:
        summary = finetune(opened, tmp_path / "model", replace(options, epochs=1), quiet=True)
    assert summary.bad_images == 3
    assert summary.after.zero_shot is not None
    assert summary.after.zero_shot.classes == 6  # prompts of all classes compete; only what decodes is asked about
    ledger = [json.loads(line) for line in (tmp_path / "model" / "left-out.jsonl").read_text().splitlines()]
    assert [entry["item"] for entry in ledger] == [f"images/no_{number}.png" for number in range(3)]
