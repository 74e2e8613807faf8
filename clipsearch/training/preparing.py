"""What comes before the first step: splits, the run's folder, the model to start from, and how good that is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny, load_clip
from clipsearch.clip.pixels import resize_and_crop
from clipsearch.errors import CheckpointError, CorpusError, InputError
from clipsearch.records import Issue, Record
from clipsearch.training.cache import DecodedSplit, Pixels, decode_split, pixel_folder
from clipsearch.training.distributed import World
from clipsearch.training.ood import OutOfDomain
from clipsearch.training.options import TrainOptions
from clipsearch.training.runlog import RunLog
from clipsearch.training.state import TEMPORARY, Progress, read_progress
from clipsearch.training.validation import METRIC_NAMES, Scores, can_select, measure, scores_from_json

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

CACHE_MARGIN = 1.25
"""Side of the cached training images over the model's: what random crops are cut from."""

_EPOCH_FOLDER = re.compile(r"epoch-\d+")
_UNFINISHED = re.compile(r"\.(epoch-\d+|mixed)\.(.*\.tmp|old)")


@dataclass(frozen=True, slots=True)
class Splits:
    """Records by use. ``measured_on``: the name of the split that ``test`` is."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]
    measured_on: str


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
    """What must be equal for a run to be resumed: the training data and the options, apart from where it runs."""
    here = replace(options, workers=1, device="auto", max_minutes=0.0, save_minutes=0.0, pixel_cache="memory")
    texts = [[record.id, *record.captions] for record in splits.train]
    return hashlib.sha256(json.dumps([corpus.name, here.to_json(), texts]).encode()).hexdigest()[:16]


def open_run(folder: Path, wanted: str) -> Progress:
    """The progress of the run in ``folder``, or a new one. Raises ``InputError`` when another run is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error
    progress = read_progress(folder)
    if progress and progress.fingerprint != wanted:
        raise InputError(
            f"{folder} holds an interrupted run with other data or options: "
            "repeat its command to go on, choose another --out, or remove that folder"
        )
    remove_leftovers(folder, progress)
    return progress or Progress(fingerprint=wanted)


def remove_leftovers(folder: Path, progress: Progress | None) -> None:
    """Delete what a killed run was writing, and the checkpoints that its state does not know."""
    (folder / TEMPORARY).unlink(missing_ok=True)
    for path in folder.iterdir():
        unknown = progress is not None and _EPOCH_FOLDER.fullmatch(path.name) and path.name != progress.best_folder
        if unknown or _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def start_model(
    corpus: Corpus, splits: Splits, options: TrainOptions, world: World, quiet: bool
) -> tuple[Clip, DecodedSplit]:
    """The model to start from, and the training images as it wants them; a resumed run's weights come later."""
    clip = load_clip(options.model, str(world.device)) if options.model else None
    size = clip.image_size if clip else options.image_size
    side = PixelSettings(max(size, round(size * CACHE_MARGIN)))
    decoded = decode(corpus, splits.train, side, options, "train", quiet)
    if len(decoded) < 2:
        reason = decoded.issues[0].reason if decoded.issues else "there are none"
        raise CorpusError(f"{corpus.root}: fewer than two training images could be decoded ({reason})")
    if clip is None:
        captions = [caption for record in decoded.records for caption in record.captions]
        model, tokenizer = build_tiny(captions, TinyOptions(image_size=size), options.seed)
        clip = Clip(model, tokenizer, pixel_statistics(decoded.pixels, size), "tiny", world.device)
    return clip, decoded


def decode(
    corpus: Corpus, records: Sequence[Record], settings: PixelSettings, options: TrainOptions, name: str, quiet: bool
) -> DecodedSplit:
    """The records as squares of ``settings``, kept on disk from run to run where the options say so."""

    def preprocess(image: Pixels) -> Pixels:
        return resize_and_crop(image, settings)

    store = pixel_folder() if options.pixel_cache == "disk" else None
    return decode_split(
        corpus, records, preprocess, options.workers, f"decode {name}", quiet, store=store, recipe=repr(settings)
    )


def pixel_statistics(pixels: Pixels, size: int) -> PixelSettings:
    """Settings whose mean and std are those of (at most 1,000 of) the training images, evenly spread."""
    some = pixels[:: max(1, len(pixels) // 1000)].reshape(-1, 3) / 255.0
    mean, std = some.mean(axis=0), np.maximum(some.std(axis=0), 1e-3)
    return PixelSettings(
        size,
        mean=(round(float(mean[0]), 4), round(float(mean[1]), 4), round(float(mean[2]), 4)),
        std=(round(float(std[0]), 4), round(float(std[1]), 4), round(float(std[2]), 4)),
    )


def check_images(progress: Progress, train: DecodedSplit, log: RunLog) -> None:
    """Say when other training images can be decoded than in the sitting before: rows of a batch are other ones then."""
    now = hashlib.sha256("\n".join(record.id for record in train.records).encode()).hexdigest()[:16]
    if progress.images and progress.images != now:
        log.say(
            f"Warning: other training images than before can be decoded ({len(train):,} of them now): "
            "the run goes on, but will not equal an uninterrupted one"
        )
    progress.images = now


def selection_metric(wanted: str, validation: DecodedSplit, corpus: Corpus) -> str:
    """The metric that selects epochs: the wanted one, or for a validation split without captions hits@1 instead of
    the default. Raises ``InputError`` when the split cannot give what was asked for."""
    captioned = any(record.captions for record in validation.records)
    # with a single class every model is right
    labelled = len(corpus.classes) > 1 and any(record.label in corpus.classes for record in validation.records)
    if can_select(wanted, captioned, labelled):
        return wanted
    if wanted == TrainOptions().metric:
        return "hits1" if labelled else "loss"
    lacks = "class labels" if wanted.startswith("hits") else "captions"
    raise InputError(
        f"{METRIC_NAMES[wanted]} cannot select epochs: the validation split of {corpus.root} has no {lacks}; "
        "choose another --metric"
    )


def report_issues(unusable: Sequence[Issue], undecoded: Sequence[Issue], folder: Path, log: RunLog) -> None:
    """Write the ledger: entries of the corpus that could not be used, then images that could not be decoded."""
    if unusable:
        first = unusable[0]
        log.say(f"{len(unusable)} entries of the corpus are left out: {first.item} ({first.reason}) ...")
    if undecoded:
        first = undecoded[0]
        log.say(f"{len(undecoded)} images cannot be decoded and are left out: {first.item} ({first.reason}) ...")
    if issues := [*unusable, *undecoded]:
        lines = [json.dumps({"item": issue.item, "reason": issue.reason}) for issue in issues]
        (folder / "left-out.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Before:
    """The start model's scores on the test split and out of domain, and how many ``seconds`` that took."""

    test: Scores
    outside: dict[str, Scores]
    seconds: float


def measure_start(
    clip: Clip,
    test: DecodedSplit,
    corpus: Corpus,
    outside: Sequence[OutOfDomain],
    log: RunLog,
    options: TrainOptions,
    command: str,
) -> Before:
    """Measure the start model, and log it; a resumed run has it logged."""
    if starts := log.read("start"):
        known = {name: scores_from_json(values) for name, values in starts[0]["out_of_domain"].items()}
        return Before(scores_from_json(starts[0]["before"]), known, float(starts[0]["seconds"]))
    began = time.monotonic()
    before = measure(clip, test, corpus.classes, corpus.prompt)
    elsewhere = {other.name: other.measure(clip) for other in outside}
    seconds = time.monotonic() - began
    log.write(
        "start",
        command=command,
        options=options.to_json(),
        before=before.to_json(),
        out_of_domain={name: scores.to_json() for name, scores in elsewhere.items()},
        seconds=seconds,
    )
    log.say(f"before: {before.line()}")
    for name, scores in elsewhere.items():
        log.say(f"before, out of domain, {name}: {scores.line()}")
    return Before(before, elsewhere, seconds)
