"""``finetune``: from a corpus to a checkpoint folder that says how good it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from tqdm import tqdm

from clipsearch.errors import CheckpointError
from clipsearch.training.distributed import World
from clipsearch.training.finishing import Ready, finish, interpolates
from clipsearch.training.loop import Budget, TrainingRun, build_sampler, train
from clipsearch.training.ood import read_out_of_domain
from clipsearch.training.options import TrainOptions, tiny_options
from clipsearch.training.preparing import (
    check_images,
    choose_splits,
    decode,
    fingerprint,
    measure_start,
    open_run,
    report_issues,
    selection_metric,
    start_model,
)
from clipsearch.training.runlog import RunLog
from clipsearch.training.state import read_progress
from clipsearch.training.summary import FinetuneSummary
from clipsearch.training.wiseft import ALPHAS

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

T = TypeVar("T")


def finetune(
    corpus: Corpus, out: Path, options: TrainOptions | None = None, *, command: str = "", quiet: bool = False
) -> FinetuneSummary:
    """Train on the ``train`` split, keep the best epoch of ``validation``, measure ``test`` once, at the end.

    ``out`` appears when the run is complete; until then everything is in ``out`` + ``.run``, from where the same call
    goes on after an interruption. Under torchrun every process calls this, on one file system, and the main one
    writes. Raises ``CorpusError`` when the corpus cannot be trained on, ``CheckpointError`` when the start model or
    ``out`` cannot be used or written, ``InputError`` for options that make no sense or a loss that explodes.
    """
    started = time.monotonic()
    options = (options or tiny_options()).check()
    if out.exists():
        raise CheckpointError(f"{out} exists: choose another folder, or remove it first")
    with World.start(options.device) as world:
        ready = prepare_run(world, corpus, out, options, command, quiet, started)
        stopped = train_or_say_where(ready.run)
        return once(world, lambda: finish(ready, stopped))


def once(world: World, work: Callable[[], T]) -> T:
    """What ``work`` returns in the main process, in every process."""
    return cast(T, world.agree(work() if world.is_main else None))


def prepare_run(
    world: World, corpus: Corpus, out: Path, options: TrainOptions, command: str, quiet: bool, started: float
) -> Ready:
    """Everything before the first step: splits, state, model, pixels, and the scores of the start model."""
    splits = choose_splits(corpus)
    folder = out.with_name(out.name + ".run")
    log = RunLog(folder, quiet, world.is_main)
    progress = once(world, lambda: open_run(folder, fingerprint(corpus, splits, options)))
    log.go_on(progress)
    for warning in options.warnings():
        log.say(f"Warning: {warning}")
    clip, train_split = start_model(corpus, splits, options, world, log.quiet)
    check_images(progress, train_split, log)
    sampler = build_sampler(train_split, options)
    if sampler.batch_size < min(options.batch_size, sampler.epoch_size):
        log.say(
            f"Warning: the training captions are {sampler.distinct} different ones, and no batch holds one twice: "
            f"batches are of {sampler.batch_size}. Richer captions or --loss multi-positive learn more."
        )
    validation, test = (
        decode(corpus, records, clip.settings, options, name, log.quiet)
        for name, records in (("validation", splits.validation), (splits.measured_on, splits.test))
    )
    metric = selection_metric(options.metric, validation, corpus)
    outside = read_out_of_domain(options, clip, log.quiet)
    issues = [
        *train_split.issues,
        *validation.issues,
        *test.issues,
        *(one for other in outside for one in other.issues),
    ]
    if world.is_main:
        report_issues(corpus.issues, issues, folder, log)
    before = once(world, lambda: measure_start(clip, test, corpus, outside, log, options, command))
    reserve = 2 + before.seconds * (1.5 + (len(ALPHAS) if interpolates(options) else 0))
    limit = max(options.max_minutes * 60 - reserve, 1.0) if options.max_minutes else 0.0
    budget = Budget(options.epochs * len(sampler), limit, progress.seconds, started)
    run = TrainingRun(
        clip, train_split, validation, corpus.classes, corpus.prompt, options, folder, log, budget, progress, world,
        metric,
    )  # fmt: skip
    return Ready(run, corpus, splits.measured_on, test, outside, before, out, command, len(issues))


def train_or_say_where(run: TrainingRun) -> str:
    """``train``; when it is interrupted or fails, say which checkpoint is left and how to go on."""
    try:
        return train(run)
    except BaseException:
        progress, saved = run.progress, read_progress(run.folder)
        parts = [f"Stopped after step {progress.step:,}, in epoch {progress.epoch + 1}."]
        if progress.best_folder:
            best = run.folder / progress.best_folder
            parts.append(f"The best checkpoint (epoch {progress.best_epoch + 1}) is {best}.")
        else:
            parts.append("There is no checkpoint yet.")
        if saved:
            parts.append(f"The same command goes on from step {saved.step:,}.")
        else:
            parts.append("No state is saved yet: the same command starts again.")
        if run.world.is_main:
            tqdm.write(" ".join(parts), file=sys.stderr)
        raise
