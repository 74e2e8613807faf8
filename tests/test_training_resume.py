"""A run that is killed at any step, or in the middle of a save, goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_clip import write_clip
from small_corpus import write_corpus
from training_process import run, save_for_ever, start, train_until

from clipsearch.clip import load_clip
from clipsearch.corpora import Corpus, open_corpus
from clipsearch.training import TrainOptions, finetune, loop
from clipsearch.training.state import FILE, read_progress

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS_PER_EPOCH, EPOCHS = 5, 3
STEPS = STEPS_PER_EPOCH * EPOCHS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "blocks", per_class=16, corrupt=1)


@pytest.fixture(scope="module")
def options(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """Everything random and everything stateful at once: dropout, augmentation, token noise, subsets, averages."""
    folder = write_clip(tmp_path_factory.mktemp("models") / "start", corpus, dropout=0.1)
    return TrainOptions(
        model=str(folder), epochs=EPOCHS, batch_size=8, epoch_size=8 * STEPS_PER_EPOCH, learning_rate=1e-3, seed=3,
        token_noise=0.1, ema=0.9, loss="siglip", precision="fp32", interpolate=False, device="cpu", patience=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    assert run(train_until, corpus, out, options, -1, 3) == 0
    return out


def logged(out: Path) -> list[dict[str, Any]]:
    """What the log says about steps and epochs, the clock apart."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    wanted = [entry for entry in entries if entry["event"] in ("step", "epoch")]
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in wanted]


def assert_equal_runs(first: Path, second: Path) -> None:
    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert logged(first) == logged(second)
    names = ("before", "after", "validation", "best_epoch", "epochs", "stopped")
    old, new = (json.loads((out / "metrics.json").read_text()) for out in (first, second))
    assert {name: old[name] for name in names} == {name: new[name] for name in names}


def test_a_run_killed_at_random_steps_equals_an_uninterrupted_one_bit_for_bit(
    corpus: Path, options: TrainOptions, uninterrupted: Path, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    assert [entry["step"] for entry in logged(uninterrupted) if entry["event"] == "step"] == list(range(1, STEPS + 1))
    draw = random.Random(20)
    plans = [sorted(draw.sample(range(STEPS), 3))]
    plans += [[draw.randrange(STEPS)] for _ in range(rounds(0, 20))]
    for number, kills in enumerate(plans):
        out = tmp_path / f"model-{number}" / "model"
        for kill in kills:
            assert run(train_until, corpus, out, options, kill, 3) == -signal.SIGKILL
            progress = read_progress(out.with_name("model.run"))
            assert (progress.step if progress else 0) == max(kill // 3 * 3, kill // STEPS_PER_EPOCH * STEPS_PER_EPOCH)
        assert run(train_until, corpus, out, options, -1, 3) == 0
        assert_equal_runs(uninterrupted, out)
        print(f"killed in step {', '.join(map(str, kills))} of {STEPS}: equal")


def test_the_latest_checkpoint_always_loads_after_a_kill_during_a_save(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    draw = random.Random(50)
    in_the_middle, last, folder = 0, 0, tmp_path / "model.run"
    kills = rounds(5, 50)
    for number in range(kills):
        ready = tmp_path / f"ready-{number}"
        process = start(save_for_ever, folder, ready)
        while not ready.exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 2.0) * float(ready.read_text()))
        process.kill()
        process.join()
        in_the_middle += any(path.name.startswith(".") for path in folder.iterdir())
        progress = read_progress(folder)
        assert progress is not None
        assert progress.epoch > last  # the next process restores this state: it must go on from the last
        last = progress.epoch
        assert load_clip(folder / progress.best_folder, "cpu").dim == 512
        assert progress.best_epoch == progress.epoch - 1  # each epoch was the best
    print(f"killed {kills} times, {in_the_middle} of them with a write half done; {last} saves were complete")


def test_ctrl_c_saves_the_state_at_its_step(
    corpus: Path, options: TrainOptions, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "model"
    original = loop.train_step

    def train_step(training: loop.TrainingRun, *rest: Any) -> Any:
        if training.progress.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return original(training, *rest)

    with open_corpus(corpus) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", train_step)
            with pytest.raises(KeyboardInterrupt):
                finetune(opened, out, options, quiet=True)
        progress = read_progress(tmp_path / "model.run")
        assert progress is not None
        assert (progress.step, progress.epoch, progress.batch) == (8, 1, 3)
        assert "The same command goes on from step 8." in capsys.readouterr().err
        finetune(opened, out, options, quiet=True)
    assert_equal_runs(uninterrupted, out)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_images_that_no_longer_decode_are_told_when_a_run_goes_on(
    corpus: Path, options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with open_corpus(corpus) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "keep_if_best", stop)
            with pytest.raises(KeyboardInterrupt):
                finetune(opened, tmp_path / "model", replace(options, save_minutes=1e-9), quiet=True)
        read = Corpus.read
        gone = opened.split("train")[0]

        def failing(self: Corpus, record: Any) -> bytes:
            return b"" if record == gone else read(self, record)

        monkeypatch.setattr(Corpus, "read", failing)
        finetune(opened, tmp_path / "model", replace(options, save_minutes=1e-9))
    assert "other training images than before can be decoded" in capsys.readouterr().out
    assert (tmp_path / "model.run" / FILE).exists() is False
