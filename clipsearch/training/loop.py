"""The training loop, top to bottom: sample, augment, embed, compare, step; then validate, keep, save.

``train`` is the run, ``train_epoch`` one pass over the images, ``train_step`` one step. Everything random is drawn from
the seed, the epoch's number and the step's number in it, so that a run that was killed at any step and resumed is equal
to an uninterrupted one, bit for bit on CPU, unless it has a time bound.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipsearch.clip import Clip, save_clip
from clipsearch.clip.tokens import token_ids
from clipsearch.errors import CorpusError, InputError
from clipsearch.training.augment import augment
from clipsearch.training.averaging import Ema
from clipsearch.training.cache import DecodedSplit
from clipsearch.training.distributed import World
from clipsearch.training.interrupts import Interrupts
from clipsearch.training.loss import clamp_logit_scale
from clipsearch.training.optimiser import build_optimiser, learning_rate_factor, set_learning_rate
from clipsearch.training.options import AUGMENTATIONS, TrainOptions
from clipsearch.training.parameters import merged, prepare, set_training
from clipsearch.training.runlog import RunLog
from clipsearch.training.sampler import Batch, CaptionSampler, insert_tokens
from clipsearch.training.state import Learner, Progress, StateSaver, restore, save_state
from clipsearch.training.step import Stepper
from clipsearch.training.validation import METRIC_NAMES, Scores, measure, selection_score

MAX_WARMUP_STEPS = 200
MAX_SKIPPED_IN_A_ROW = 20
"""Steps without a finite gradient before a run gives up; fp16's loss scale needs a few to find its size."""


@dataclass(slots=True)
class Budget:
    """How far a run is: by steps or by time, whichever is further. ``limit`` in seconds, 0 for none."""

    total_steps: int
    limit: float = 0.0
    spent_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds spent, earlier sittings included."""
        return self.spent_before + time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """Share of the run that is done, in [0, 1]."""
        by_time = self.seconds / self.limit if self.limit > 0 else 0.0
        return min(1.0, max(step / self.total_steps, by_time))


@dataclass(slots=True)
class TrainingRun:
    """What ``train`` works on: the model, both splits as pixels, and the folder that holds the run.

    ``metric``: the one of ``METRIC_NAMES`` that selects, which the validation split can give.
    """

    clip: Clip
    train: DecodedSplit
    validation: DecodedSplit
    classes: Mapping[str, str]
    prompt: str
    options: TrainOptions
    folder: Path
    log: RunLog
    budget: Budget
    progress: Progress
    world: World
    metric: str = "mrr10"


def train(run: TrainingRun) -> str:
    """Train until the epochs, the time or the patience are used up; returns why it stopped.

    After every epoch the run folder holds the best checkpoint so far; it holds the state to resume from after every
    epoch, every ``save_minutes``, and after Ctrl-C, which raises ``KeyboardInterrupt`` when its step is done.
    """
    learner = build_learner(run)
    if run.progress.started:
        restore(run.folder, learner)
    sampler = build_sampler(run.train, run.options)
    pixels = place_pixels(run)
    saver = StateSaver(run.folder, run.options.save_minutes, run.world.is_main, run.log.say)
    with Interrupts() as interrupts:
        while not (reason := run.world.agree(stop_reason(run))):
            train_epoch(run, learner, sampler, pixels, saver, interrupts)
            if run.world.is_main:
                with evaluated(learner), learner.stepper.precision.autocast():
                    scores = measure(run.clip, run.validation, run.classes, run.prompt)
                    outdated = keep_if_best(run, scores)
                finish_epoch(run, learner, scores, outdated)
            run.progress = run.world.agree(run.progress)
            if run.world.agree(interrupts.asked):
                raise KeyboardInterrupt
    return reason


def build_learner(run: TrainingRun) -> Learner:
    """The model with its optimiser and what else changes from step to step, the same in every process."""
    model, options = run.clip.model, run.options
    counts = prepare(model, options)
    stepper = Stepper(run.clip, options, run.world)
    run.world.broadcast(model)
    optimiser = build_optimiser(model, options)
    if own := list(stepper.parameters()):
        optimiser.add_param_group({"params": own, "weight_decay": 0.0, "lr_scale": 1.0})
    for line in (counts.line(), *stepper.notes):
        run.log.say(line)
    return Learner(model, optimiser, stepper, Ema(model, options.ema) if options.ema else None)


def place_pixels(run: TrainingRun) -> Tensor:
    """(N, 3, S', S') uint8: on the device where the options say so, else in memory, or mapped from disk.

    Raises ``InputError`` when the device has no room for all of them.
    """
    pixels = torch.from_numpy(run.train.pixels).permute(0, 3, 1, 2)
    if run.options.pixel_cache != "device":
        return pixels
    try:
        return pixels.to(run.clip.device)
    except torch.OutOfMemoryError as error:
        size = f"{pixels.numel() / 1e9:.1f} GB"
        raise InputError(f"{run.clip.device} has no room for {size} of pixels: give --pixel-cache memory") from error


def build_sampler(split: DecodedSplit, options: TrainOptions) -> CaptionSampler:
    """Batches of one caption of each image; losses that know several positives get equal captions side by side.

    Raises ``CorpusError`` where all images have the same caption: there is nothing to tell apart.
    """
    captions = [record.captions for record in split.records]
    several = options.loss == "multi-positive"
    sampler = CaptionSampler(captions, options.batch_size, options.seed, options.epoch_size, duplicates=several)
    if sampler.distinct < 2:
        raise CorpusError(
            f"all {len(captions):,} training images have one caption, {captions[0][0]!r}: nothing tells them apart"
        )
    return sampler


def stop_reason(run: TrainingRun) -> str:
    """Why the run is over, or "" while it is not; a resumed run that was over stays so."""
    progress, options = run.progress, run.options
    if progress.epoch >= options.epochs:
        return "all epochs done"
    if options.patience and progress.epochs_since_best >= options.patience:
        return f"no better validation {METRIC_NAMES[run.metric]} for {options.patience} epochs"
    if progress.epoch and run.budget.progress(progress.step) >= 1:
        return "the time budget is used up"
    return ""


def train_epoch(
    run: TrainingRun,
    learner: Learner,
    sampler: CaptionSampler,
    pixels: Tensor,
    saver: StateSaver,
    interrupts: Interrupts,
) -> None:
    """One pass, or the rest of one: each image at most once, with one of its captions."""
    options, progress, world = run.options, run.progress, run.world
    warmup = min(MAX_WARMUP_STEPS, round(options.warmup * run.budget.total_steps))
    set_training(learner.model)
    title = f"epoch {progress.epoch + 1}"
    bar = tqdm(total=len(sampler), initial=progress.batch, desc=title, unit="step", leave=False, disable=run.log.quiet)
    with bar:
        for batch in sampler.epoch(progress.epoch, skip=progress.batch):
            done, asked = world.agree((run.budget.progress(progress.step), interrupts.asked))
            if asked:
                saver.save(progress, learner)
                raise KeyboardInterrupt
            if done >= 1 and progress.batch:
                break
            rate = options.learning_rate * learning_rate_factor(progress.step, warmup, done)
            set_learning_rate(learner.optimiser, rate)
            loss, norm = train_step(run, learner, batch, pixels)
            progress.count_step(loss, run.budget.seconds)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            run.log.step(progress, len(sampler), loss, norm, rate, logit_scale(run.clip))
            saver.save_if_due(progress, learner)


def train_step(run: TrainingRun, learner: Learner, batch: Batch, pixels: Tensor) -> tuple[float, float]:
    """One step on one batch: returns the loss and the norm of its gradient, before clipping.

    Raises ``InputError`` when the loss is not finite: training on would destroy the weights.
    """
    options, clip, progress, mine = run.options, run.clip, run.progress, run.world.rows(len(batch.images))
    seed = step_seed(options.seed, progress.epoch, progress.batch)
    torch.manual_seed(seed + run.world.rank)  # dropout, where a model has it
    generator = torch.Generator().manual_seed(seed)
    rows = pixels[batch.images].to(clip.device, non_blocking=True)
    images = augment(rows, clip.image_size, AUGMENTATIONS[options.augment], generator)  # (B, 3, S, S)
    ids = caption_ids(clip, batch.captions, options.token_noise, np.random.default_rng(seed))
    loss = learner.stepper.backward(clip.normalise(images[mine]), ids[mine], batch.groups[mine])
    check_finite(loss, progress.step)
    norm = float(torch.nn.utils.clip_grad_norm_(learner.parameters(), options.max_grad_norm))
    if count_skipped(progress, norm):
        learner.optimiser.step()
        clamp_logit_scale(clip.model.logit_scale)
        if learner.ema:
            learner.ema.update()
    return loss, norm


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """A number of 63 bits for one step, the same on every machine."""
    return int(np.random.SeedSequence((seed, epoch, batch)).generate_state(1, np.uint64)[0] >> 1)


def caption_ids(clip: Clip, captions: list[str], chance: float, generator: np.random.Generator) -> list[list[int]]:
    """Token ids of each caption, with random tokens put in where ``chance`` is above 0."""
    ids = token_ids(clip.tokenizer, captions, clip.text_length)
    if not chance:
        return ids
    special = set(clip.tokenizer.all_special_ids)
    choices = [number for number in range(len(clip.tokenizer)) if number not in special]
    return [insert_tokens(text, chance, choices, clip.text_length, generator) for text in ids]


@contextmanager
def evaluated(learner: Learner) -> Iterator[None]:
    """Inside, the model is what would be kept: in evaluation mode, averaged (EMA), with LoRA merged in."""
    learner.model.eval()
    with learner.ema.swapped() if learner.ema else nullcontext(), merged(learner.model):
        yield


def keep_if_best(run: TrainingRun, scores: Scores) -> str:
    """Write the model as a checkpoint if no epoch was better; returns the folder that it outdates, if any."""
    progress = run.progress
    score = selection_score(run.metric, scores, progress.loss)
    if progress.best_epoch >= 0 and score <= progress.best_score:
        progress.epochs_since_best += 1
        return ""
    folder = run.folder / f"epoch-{progress.epoch + 1:04d}"
    clip = run.clip
    save_clip(folder, clip.model, clip.tokenizer, clip.settings.to_processor(), overwrite=True)
    outdated, progress.best_folder = progress.best_folder, folder.name
    progress.best_score, progress.best_epoch, progress.epochs_since_best = score, progress.epoch, 0
    progress.best_validation = scores.to_json()
    return outdated if outdated != folder.name else ""


def finish_epoch(run: TrainingRun, learner: Learner, scores: Scores, outdated: str) -> None:
    """Log, save the state, and only then remove what is outdated: in an order in which a kill loses nothing."""
    progress, loss = run.progress, run.progress.loss
    run.log.epoch(progress, scores, logit_scale(run.clip), run.budget.seconds)
    progress.finish_epoch(run.budget.seconds)
    save_state(run.folder, progress, learner)
    if outdated:
        shutil.rmtree(run.folder / outdated, ignore_errors=True)
    run.log.say(f"epoch {progress.epoch}: loss {loss:.3f}, {scores.line()} ({progress.seconds:.0f} s)")


def logit_scale(clip: Clip) -> float:
    """The model's inverse temperature."""
    return float(clip.model.logit_scale.detach().exp())


def check_finite(loss: float, step: int) -> float:
    """The loss itself. Raises ``InputError`` when it is NaN or infinite: training on would destroy the weights."""
    if not math.isfinite(loss):
        raise InputError(
            f"the loss became {loss} at step {step + 1}: give a smaller --learning-rate, or --precision fp32"
        )
    return loss


def count_skipped(progress: Progress, norm: float) -> bool:
    """Whether the step can be taken: a gradient that is not finite is passed over, and counted.

    Raises ``InputError`` when too many come in a row.
    """
    if math.isfinite(norm):
        progress.skipped_in_a_row = 0
        return True
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
        raise InputError(
            f"{progress.skipped_in_a_row} steps in a row up to step {progress.step + 1} had no finite gradient: "
            "give a smaller --learning-rate, or --precision fp32"
        )
    return False
