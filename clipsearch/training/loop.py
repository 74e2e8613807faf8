"""The training loop, top to bottom: sample, augment, embed, compare, step; then validate, keep, save.

``train`` is the run, ``train_epoch`` one pass over the images. Everything random is drawn from the seed and the epoch's
number, so that a resumed run repeats an uninterrupted one bit for bit on CPU.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipsearch.clip import Clip, save_clip
from clipsearch.clip.tokens import pad, token_ids
from clipsearch.errors import InputError
from clipsearch.training.augment import augment
from clipsearch.training.cache import DecodedSplit
from clipsearch.training.loss import clamp_logit_scale, contrastive_loss
from clipsearch.training.optimiser import build_optimiser, learning_rate_factor, set_learning_rate
from clipsearch.training.options import AUGMENTATIONS, TrainOptions
from clipsearch.training.runlog import RunLog, plot_curves
from clipsearch.training.sampler import CaptionSampler, insert_tokens
from clipsearch.training.state import Progress, restore, save_state
from clipsearch.training.validation import Scores, measure

MAX_WARMUP_STEPS = 200


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
    """What ``train`` works on: the model, both splits as pixels, and the folder that holds the run."""

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
    quiet: bool = False


def train(run: TrainingRun) -> str:
    """Train until the epochs, the time or the patience are used up; returns why it stopped.

    After every epoch the run folder holds the best checkpoint so far and the state to resume from.
    """
    options = run.options
    model = run.clip.model
    optimiser = build_optimiser(model, options.learning_rate, options.weight_decay)
    if run.progress.epoch:
        restore(run.folder, model, optimiser)
    sampler = CaptionSampler([record.captions for record in run.train.records], options.batch_size, options.seed)
    pixels = torch.from_numpy(run.train.pixels).permute(0, 3, 1, 2).to(run.clip.device)  # (N, 3, S', S') uint8
    while not (reason := stop_reason(run)):
        loss = train_epoch(run, sampler, pixels, optimiser)
        model.eval()
        with precision(run.clip.device):
            scores = measure(run.clip, run.validation, run.classes, run.prompt)
        finish_epoch(run, loss, scores, optimiser)
    return reason


def stop_reason(run: TrainingRun) -> str:
    """Why the run is over, or "" while it is not; a resumed run that was over stays so."""
    progress, options = run.progress, run.options
    if progress.epoch >= options.epochs:
        return "all epochs done"
    if options.patience and progress.epochs_since_best >= options.patience:
        return f"no better validation MRR@10 for {options.patience} epochs"
    if progress.epoch and run.budget.progress(progress.step) >= 1:
        return "the time budget is used up"
    return ""


def train_epoch(run: TrainingRun, sampler: CaptionSampler, pixels: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """One pass: each image at most once, with one of its captions. Returns the mean loss."""
    options, clip, progress = run.options, run.clip, run.progress
    seed = hash((options.seed, progress.epoch)) & 0x7FFFFFFF
    torch.manual_seed(seed)  # dropout, where a model has it
    generator = torch.Generator().manual_seed(seed)  # augmentation
    noise = np.random.default_rng(seed)
    warmup = min(MAX_WARMUP_STEPS, round(options.warmup * run.budget.total_steps))
    changes = AUGMENTATIONS[options.augment]
    clip.model.train()
    losses: list[float] = []
    bar = tqdm(total=len(sampler), desc=f"epoch {progress.epoch + 1}", unit="step", leave=False, disable=run.quiet)
    for batch in sampler.epoch(progress.epoch):
        done = run.budget.progress(progress.step)
        if done >= 1 and losses:
            break
        set_learning_rate(optimiser, options.learning_rate * learning_rate_factor(progress.step, warmup, done))
        images = augment(pixels[batch.images], clip.image_size, changes, generator)  # (B, 3, S, S)
        with precision(clip.device):
            image_features = clip.image_features(clip.normalise(images))  # (B, D)
            text_features = embed_captions(clip, batch.captions, options.token_noise, noise)  # (B, D)
        loss = contrastive_loss(image_features, text_features, clip.model.logit_scale)
        losses.append(check_finite(float(loss.detach()), progress.step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        torch.nn.utils.clip_grad_norm_(clip.model.parameters(), options.max_grad_norm)
        optimiser.step()
        clamp_logit_scale(clip.model.logit_scale)
        progress.step += 1
        bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
        bar.update()
    bar.close()
    return float(np.mean(losses)) if losses else math.nan


def embed_captions(
    clip: Clip, captions: Sequence[str], chance: float, generator: np.random.Generator, parts: int = 4
) -> Tensor:
    """(B, D) text features in the order given; on CPU in parts of like lengths, which halves the padding."""
    ids = token_ids(clip.tokenizer, captions, clip.text_length)
    if chance:
        special = set(clip.tokenizer.all_special_ids)
        choices = [number for number in range(len(clip.tokenizer)) if number not in special]
        ids = [insert_tokens(text, chance, choices, clip.text_length, generator) for text in ids]
    if clip.device.type != "cpu" or len(captions) < 8 * parts:
        return clip.token_features(pad(clip.tokenizer, ids))
    order = np.argsort([len(text) for text in ids], kind="stable")
    split = np.array_split(order, parts)
    features = torch.cat([clip.token_features(pad(clip.tokenizer, [ids[i] for i in part])) for part in split])
    return features[torch.from_numpy(np.argsort(order))]


def finish_epoch(run: TrainingRun, loss: float, scores: Scores, optimiser: torch.optim.Optimizer) -> None:
    """Keep the checkpoint if it is the best so far, log, save the state: in an order in which a kill loses nothing."""
    progress = run.progress
    score = scores.retrieval.mean_mrr10 if scores.retrieval else -loss
    outdated = ""
    if progress.best_epoch < 0 or score > progress.best_score:
        folder = run.folder / f"epoch-{progress.epoch + 1:04d}"
        clip = run.clip
        save_clip(folder, clip.model, clip.tokenizer, clip.settings.to_processor(), overwrite=True)
        outdated, progress.best_folder = progress.best_folder, folder.name
        progress.best_score, progress.best_epoch, progress.epochs_since_best = score, progress.epoch, 0
    else:
        progress.epochs_since_best += 1
    run.log.write(
        "epoch",
        epoch=progress.epoch,
        step=progress.step,
        loss=loss,
        seconds=run.budget.seconds,
        logit_scale=float(run.clip.model.logit_scale.detach().exp()),
        validation=scores.to_json(),
    )
    progress.epoch += 1
    progress.seconds = run.budget.seconds
    save_state(run.folder, progress, run.clip.model, optimiser)
    if outdated:
        remove_checkpoint(run.folder / outdated)
    plot_curves(run.log.read("epoch"), run.folder / "curves.png")
    if not run.quiet:
        tqdm.write(f"epoch {progress.epoch}: loss {loss:.3f}, {scores.line()} ({progress.seconds:.0f} s)")


def remove_checkpoint(folder: Path) -> None:
    """Delete an outdated checkpoint of this run."""
    shutil.rmtree(folder, ignore_errors=True)


def check_finite(loss: float, step: int) -> float:
    """The loss itself. Raises ``InputError`` when it is NaN or infinite: training on would destroy the weights."""
    if not math.isfinite(loss):
        raise InputError(f"the loss became {loss} at step {step + 1}: give a smaller --learning-rate")
    return loss


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the processor multiplies bf16 natively (it halves the time of a step), else nothing."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    if device.type == "cpu" and native_bf16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


@cache
def native_bf16() -> bool:
    """Whether this CPU has bf16 matrix instructions (AVX512_BF16 or AMX); False where the system does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
