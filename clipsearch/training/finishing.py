"""What comes after the last step: mix with the start model, measure once, and turn the run folder into the result."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.clip import Clip, load_clip, save_clip
from clipsearch.clip.checkpoint import resolve, slug, weights_hash
from clipsearch.clip.interpolate import snapshot
from clipsearch.errors import CheckpointError
from clipsearch.training.cache import DecodedSplit
from clipsearch.training.card import UNKNOWN, model_card
from clipsearch.training.loop import TrainingRun
from clipsearch.training.ood import OutOfDomain
from clipsearch.training.options import TrainOptions
from clipsearch.training.preparing import Before, selection_metric
from clipsearch.training.summary import FinetuneSummary
from clipsearch.training.validation import METRIC_NAMES, Scores, measure, scores_from_json, selection_score
from clipsearch.training.wiseft import Interpolation, Yardstick, choose_interpolation, plot_interpolation

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

MIXED = "mixed"
RESULTS = ("log.jsonl", "curves.png", "interpolation.png", "left-out.jsonl", "tensorboard")


@dataclass(frozen=True, slots=True)
class Ready:
    """A run with what its end needs: the test split, the corpora out of domain, and what was measured before."""

    run: TrainingRun
    corpus: Corpus
    measured_on: str
    test: DecodedSplit
    outside: Sequence[OutOfDomain]
    before: Before
    out: Path
    command: str
    bad_images: int


def interpolates(options: TrainOptions) -> bool:
    """Whether the run ends with a choice between start and tuned model."""
    return bool(options.model) and options.interpolate


def finish(ready: Ready, stopped: str) -> FinetuneSummary:
    """Choose the mix, measure it on the test split and out of domain, write the card, and publish the folder.

    Raises ``CheckpointError`` when it cannot be written; the run folder then still has everything.
    """
    run = ready.run
    folder = run.folder / run.progress.best_folder
    clip = load_clip(folder, str(run.clip.device))
    validation, mix = scores_from_json(run.progress.best_validation), None
    try:
        if interpolates(run.options):
            mix = interpolate(ready, clip)
        if mix:
            plot_interpolation(mix, run.folder / "interpolation.png")
            if mix.alpha != 1:
                folder = run.folder / MIXED
                save_clip(folder, clip.model, clip.tokenizer, clip.settings.to_processor(), overwrite=True)
                validation = measure(clip, run.validation, run.classes, run.prompt)
        summary = summarise(ready, clip, folder, validation, mix, stopped)
        run.log.write("end", **summary.to_json())
        run.log.draw()
        publish(run.folder, folder, ready.out, summary)
    except OSError as error:
        raise CheckpointError(
            f"{ready.out} cannot be written: {error.strerror or error}; training is done and {run.folder} has its "
            "result: make room and repeat the command, which only finishes it"
        ) from error
    run.log.say(f"after: {summary.after.line()} ({stopped})")
    for name, (_, after) in summary.out_of_domain.items():
        run.log.say(f"after, out of domain, {name}: {after.line()}")
    return summary


def interpolate(ready: Ready, clip: Clip) -> Interpolation | None:
    """WiSE-FT: leave the chosen mix of the start model and ``clip`` in ``clip``, and print the curve.

    None, and the tuned model as it is, where the validation split has nothing to choose by.
    """
    run = ready.run
    # the training loss says nothing about a mixture
    metric = run.metric if run.metric != "loss" else selection_metric("mrr10", run.validation, ready.corpus)
    if metric == "loss":
        run.log.say("Not mixed with the start model: validation has neither captions nor classes to choose the mix by")
        return None

    def score(model: Clip) -> float:
        return selection_score(metric, measure(model, run.validation, run.classes, run.prompt), run.progress.best_score)

    start = snapshot(load_clip(run.options.model, "cpu").model)
    yardstick = Yardstick("validation", METRIC_NAMES[metric], score)
    others = [other.yardstick() for other in ready.outside]
    mix = choose_interpolation(
        clip, start, snapshot(clip.model), yardstick, others, run.options.ood_loss, run.log.quiet
    )
    run.log.say(mix.table())
    return mix


def summarise(
    ready: Ready, clip: Clip, folder: Path, validation: Scores, mix: Interpolation | None, stopped: str
) -> FinetuneSummary:
    """Measure the final model and put everything about the run together."""
    run, before = ready.run, ready.before
    after = measure(clip, ready.test, run.classes, run.prompt)
    return FinetuneSummary(
        checkpoint=str(ready.out),
        name=ready.out.name,
        model_id=f"{slug(ready.out.resolve().name)}-{weights_hash(folder)}",
        dim=clip.dim,
        corpus=ready.corpus.name,
        device=clip.device.type,
        epochs=run.progress.epoch,
        best_epoch=run.progress.best_epoch + 1,
        seconds=round(run.budget.seconds, 1),
        train_images=len(run.train),
        train_captions=sum(len(record.captions) for record in run.train.records),
        bad_images=ready.bad_images,
        measured_on=ready.measured_on,
        before=before.test,
        after=after,
        validation=validation,
        options=run.options.to_json(),
        command=ready.command,
        stopped=stopped,
        metric=run.metric,
        validation_images=len(run.validation),
        test_images=len(ready.test),
        processes=run.world.size,
        out_of_domain={other.name: (before.outside[other.name], other.measure(clip)) for other in ready.outside},
        interpolation=mix.to_json() if mix else {},
        licences=licences(ready.corpus, run.options.model),
    )


def licences(corpus: Corpus, model: str) -> dict[str, str]:
    """The licences of the images and of the start model's folder, or that they do not say."""
    found = {"images": ", ".join(corpus.licences) or UNKNOWN}
    card = resolve(model)[0] / "README.md" if model else None
    if model:
        text = card.read_text(encoding="utf-8", errors="replace") if card and card.is_file() else ""
        said = re.search(r"^license:\s*(\S+)\s*$", text, re.M)
        found["start model"] = said.group(1) if said else UNKNOWN
    return found


def publish(folder: Path, final: Path, out: Path, summary: FinetuneSummary) -> None:
    """Put card, log, ledger and curves beside the weights, give the folder its name, and remove the run folder."""
    (final / "README.md").write_text(model_card(summary), encoding="utf-8")
    (final / "metrics.json").write_text(json.dumps(summary.to_json(), indent=2) + "\n", encoding="utf-8")
    for name in RESULTS:
        copy: Any = shutil.copytree if (folder / name).is_dir() else shutil.copy2
        if (folder / name).exists():
            shutil.rmtree(final / name, ignore_errors=True)
            copy(folder / name, final / name)
    final.rename(out)
    shutil.rmtree(folder, ignore_errors=True)
