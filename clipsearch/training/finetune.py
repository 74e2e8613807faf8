"""``finetune``: from a corpus to a checkpoint folder that says how good it is."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny, choose_device, load_clip
from clipsearch.clip.checkpoint import slug, weights_hash
from clipsearch.clip.pixels import resize_and_crop
from clipsearch.errors import CheckpointError, CorpusError, InputError
from clipsearch.records import Issue, Record
from clipsearch.training.cache import DecodedSplit, Pixels, decode_split
from clipsearch.training.loop import Budget, TrainingRun, train
from clipsearch.training.options import TrainOptions, tiny_options
from clipsearch.training.runlog import RunLog, model_card
from clipsearch.training.sampler import CaptionSampler
from clipsearch.training.state import Progress, read_progress
from clipsearch.training.summary import FinetuneSummary
from clipsearch.training.validation import Scores, measure, scores_from_json

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

CACHE_MARGIN = 1.25
"""Side of the cached training images over the model's: what random crops are cut from."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Records by use. ``measured_on``: the name of the split that ``test`` is."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]
    measured_on: str


def finetune(
    corpus: Corpus, out: Path, options: TrainOptions | None = None, *, command: str = "", quiet: bool = False
) -> FinetuneSummary:
    """Train on the ``train`` split, keep the best epoch of ``validation`` by MRR@10, measure ``test`` once, at the end.

    ``out`` appears when the run is complete; until then everything is in ``out`` + ``.run``, from where the same call
    goes on after an interruption. Raises ``CorpusError`` when the corpus cannot be trained on, ``CheckpointError`` when
    the start model or ``out`` cannot be used, ``InputError`` for options that make no sense or a loss that explodes.
    """
    started = time.monotonic()
    options = (options or tiny_options()).check()
    if out.exists():
        raise CheckpointError(f"{out} exists: choose another folder, or remove it first")
    splits = choose_splits(corpus)
    folder = out.with_name(out.name + ".run")
    progress = open_run(folder, fingerprint(corpus, splits, options))
    clip, train_split = start_model(corpus, splits, options, folder, progress, quiet)
    validation, test = (
        decode_split(corpus, records, clip.preprocess, options.workers, f"decode {name}", quiet)
        for name, records in (("validation", splits.validation), (splits.measured_on, splits.test))
    )
    log = RunLog(folder / "log.jsonl")
    issues = report_issues([*train_split.issues, *validation.issues, *test.issues], folder, quiet)
    before, evaluation_seconds = measure_start(clip, test, corpus, log, progress, options, command, quiet)
    sampler = CaptionSampler([record.captions for record in train_split.records], options.batch_size)
    limit = max(options.max_minutes * 60 - 1.5 * evaluation_seconds - 2, 1.0) if options.max_minutes else 0.0
    budget = Budget(options.epochs * len(sampler), limit, progress.seconds, started)
    run = TrainingRun(
        clip, train_split, validation, corpus.classes, corpus.prompt, options, folder, log, budget, progress, quiet
    )
    stopped = train_or_say_where(run)
    return finish(run, corpus, splits, test, before, out, stopped, command, issues)


def choose_splits(corpus: Corpus) -> Splits:
    """The corpus' own splits, captioned images only; a tenth of ``train`` stands in for a missing ``validation``.

    Which tenth depends on the keys alone, so that it is the same in every run. Without a ``test`` split the validation
    split is measured, and the summary says so.
    """
    train_records = [record for record in corpus.split("train") if record.captions]
    validation, test = corpus.split("validation"), corpus.split("test")
    if not validation:
        validation = [record for record in train_records if _tenth(record.key)]
        train_records = [record for record in train_records if not _tenth(record.key)]
    if len(train_records) < 2:
        raise CorpusError(f"{corpus.root} has {len(train_records)} training images with captions: too few to train on")
    return Splits(train_records, validation, test or validation, "test" if test else "validation")


def _tenth(key: str) -> bool:
    return hashlib.sha256(key.encode()).digest()[0] < 26


def fingerprint(corpus: Corpus, splits: Splits, options: TrainOptions) -> str:
    """What must be equal for a run to be resumed: the training data and the options, where it runs apart."""
    fixed = replace(options, workers=1, device="auto", max_minutes=0.0).to_json()
    texts = [[record.key, *record.captions] for record in splits.train]
    return hashlib.sha256(json.dumps([corpus.name, fixed, texts]).encode()).hexdigest()[:16]


def open_run(folder: Path, wanted: str) -> Progress:
    """The progress of the run in ``folder``, or a new one. Raises ``InputError`` when another run is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error
    progress = read_progress(folder)
    if progress is None:
        (folder / "log.jsonl").unlink(missing_ok=True)
        return Progress(fingerprint=wanted)
    if progress.fingerprint != wanted:
        raise InputError(
            f"{folder} holds an interrupted run with other data or options: "
            "repeat its command to go on, choose another --out, or remove that folder"
        )
    return progress


def start_model(
    corpus: Corpus, splits: Splits, options: TrainOptions, folder: Path, progress: Progress, quiet: bool
) -> tuple[Clip, DecodedSplit]:
    """The model to start or go on from, and the training images as it wants them."""
    device = choose_device(options.device)
    source = str(folder / progress.best_folder) if progress.best_folder else options.model
    clip = load_clip(source, options.device) if source else None
    size = clip.image_size if clip else options.image_size
    side = PixelSettings(max(size, round(size * CACHE_MARGIN)))

    def preprocess(image: Pixels) -> Pixels:
        return resize_and_crop(image, side)

    decoded = decode_split(corpus, splits.train, preprocess, options.workers, "decode train", quiet)
    if len(decoded) < 2:
        reason = decoded.issues[0].reason if decoded.issues else "there are none"
        raise CorpusError(f"{corpus.root}: fewer than two training images could be decoded ({reason})")
    if clip is None:
        captions = [caption for record in decoded.records for caption in record.captions]
        model, tokenizer = build_tiny(captions, TinyOptions(image_size=size), options.seed)
        clip = Clip(model, tokenizer, pixel_statistics(decoded.pixels, size), "tiny", device)
    return clip, decoded


def pixel_statistics(pixels: Pixels, size: int) -> PixelSettings:
    """Settings whose mean and std are those of (at most 1,000 of) the training images, evenly spread."""
    some = pixels[:: max(1, len(pixels) // 1000)].reshape(-1, 3) / 255.0
    mean, std = some.mean(axis=0), np.maximum(some.std(axis=0), 1e-3)
    return PixelSettings(
        size,
        mean=(round(float(mean[0]), 4), round(float(mean[1]), 4), round(float(mean[2]), 4)),
        std=(round(float(std[0]), 4), round(float(std[1]), 4), round(float(std[2]), 4)),
    )


def report_issues(issues: Sequence[Issue], folder: Path, quiet: bool) -> int:
    """Write the ledger of images that could not be decoded; returns how many there are."""
    if issues:
        lines = [json.dumps({"item": issue.item, "reason": issue.reason}) for issue in issues]
        (folder / "left-out.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if not quiet:
            tqdm.write(
                f"{len(issues)} images cannot be decoded and are left out: {issues[0].item} ({issues[0].reason}) ..."
            )
    return len(issues)


def measure_start(
    clip: Clip,
    test: DecodedSplit,
    corpus: Corpus,
    log: RunLog,
    progress: Progress,
    options: TrainOptions,
    command: str,
    quiet: bool,
) -> tuple[Scores, float]:
    """The start model's scores on the test split, and how many seconds that took; a resumed run has them logged."""
    starts = log.read("start") if progress.epoch else []
    if starts:
        log.keep_epochs_before(progress.epoch)
        return scores_from_json(starts[0]["before"]), float(starts[0]["seconds"])
    began = time.monotonic()
    before = measure(clip, test, corpus.classes, corpus.prompt)
    seconds = time.monotonic() - began
    log.write("start", command=command, options=options.to_json(), before=before.to_json(), seconds=seconds)
    if not quiet:
        tqdm.write(f"before: {before.line()}")
    return before, seconds


def train_or_say_where(run: TrainingRun) -> str:
    """``train``; when it is interrupted or fails, say which checkpoint is left and how to go on."""
    try:
        return train(run)
    except BaseException:
        best = run.progress.best_folder
        if best:
            tqdm.write(
                f"Stopped after epoch {run.progress.epoch}. The best checkpoint (epoch {run.progress.best_epoch + 1}) "
                f"is {run.folder / best}; the same command goes on."
            )
        else:
            tqdm.write("Stopped before the first epoch was done: there is no checkpoint yet.")
        raise


def finish(
    run: TrainingRun,
    corpus: Corpus,
    splits: Splits,
    test: DecodedSplit,
    before: Scores,
    out: Path,
    stopped: str,
    command: str,
    bad_images: int,
) -> FinetuneSummary:
    """Measure the best checkpoint on the test split and turn the run folder into ``out``."""
    best = load_clip(run.folder / run.progress.best_folder, run.options.device)
    after = measure(best, test, corpus.classes, corpus.prompt)
    epochs = run.log.read("epoch")
    summary = FinetuneSummary(
        checkpoint=str(out),
        name=out.name,
        model_id=f"{slug(out.resolve().name)}-{weights_hash(run.folder / run.progress.best_folder)}",
        dim=best.dim,
        corpus=corpus.name,
        device=best.device.type,
        epochs=run.progress.epoch,
        best_epoch=run.progress.best_epoch + 1,
        seconds=round(run.budget.seconds, 1),
        train_images=len(run.train),
        train_captions=sum(len(record.captions) for record in run.train.records),
        bad_images=bad_images,
        measured_on=splits.measured_on,
        before=before,
        after=after,
        validation=scores_from_json(epochs[run.progress.best_epoch]["validation"]),
        options=run.options.to_json(),
        command=command,
        stopped=stopped,
    )
    run.log.write("end", **summary.to_json())
    publish(run.folder, run.folder / run.progress.best_folder, out, summary)
    if not run.quiet:
        tqdm.write(f"after: {after.line()} ({stopped})")
    return summary


def publish(folder: Path, best: Path, out: Path, summary: FinetuneSummary) -> None:
    """Put card, log, ledger and curves beside the weights, give the folder its name, and remove the run folder."""
    (best / "README.md").write_text(model_card(summary), encoding="utf-8")
    (best / "metrics.json").write_text(json.dumps(summary.to_json(), indent=2) + "\n", encoding="utf-8")
    for name in ("log.jsonl", "curves.png", "left-out.jsonl"):
        if (folder / name).exists():
            shutil.copy2(folder / name, best / name)
    best.rename(out)
    shutil.rmtree(folder, ignore_errors=True)
