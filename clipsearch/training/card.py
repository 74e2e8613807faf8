"""The model card: what a checkpoint is, what it was trained on, how good it is, and where it stops being good."""

from __future__ import annotations

from clipsearch.training.options import TrainOptions
from clipsearch.training.summary import FinetuneSummary
from clipsearch.training.validation import METRIC_NAMES, Scores
from clipsearch.training.wiseft import interpolation_from_json

UNKNOWN = "not stated"


def model_card(summary: FinetuneSummary) -> str:
    """README.md of a checkpoint folder, in the hub's format: Markdown below a YAML header."""
    start = summary.options["model"] or "the tiny preset, from scratch"
    command = f"```\n{summary.command}\n```" if summary.command else "(started from Python)"
    return f"""---
library_name: transformers
tags: [clip, clipsearch]
{_licence_field(summary)}---
# {summary.name}

A CLIP model trained with clipsearch from {start}.

## Data

- Corpus `{summary.corpus}`: {summary.train_images:,} training images with {summary.train_captions:,} captions,
  {summary.validation_images:,} validation images (they chose the epoch), {summary.test_images:,} images of the split
  `{summary.measured_on}` (measured below{"" if summary.measured_on == "test" else "; there is no test split"}).
- Left out because they could not be decoded: {summary.bad_images:,} images.
- Labels, class names and file names were not used in training.
- Licence: {_licences(summary)}.

## Training

{summary.epochs} epochs in {summary.seconds:,.0f} s on {_devices(summary)}; stopped because: {summary.stopped}. Kept is
epoch {summary.best_epoch}, the best of the validation split by {METRIC_NAMES[summary.metric]}.

{_mix(summary)}Command:

{command}

Options that differ from the defaults of a fine-tuning run: {_changed(summary)}.

## How good it is

| on {summary.measured_on} | before | after |
|---|---|---|
{_rows(summary.before, summary.after)}
{_out_of_domain(summary)}
## Limits

- The figures are those of this corpus. On images of another kind the model is as good as the out-of-domain table
  says, and unknown where there is none: measure with `clipsearch evaluate` before use.
- It knows the objects and the words of its captions, with their mistakes and their gaps, and takes over the biases of
  its start model. It must not decide anything about people.

Load it with `clipsearch.clip.load_clip(FOLDER)`, or with transformers' own class after `import clipsearch.clip`.
"""


def _licence_field(summary: FinetuneSummary) -> str:
    """The hub's ``license`` field; only where all parts agree on one."""
    known = set(summary.licences.values())
    return f"license: {known.pop()}\n" if len(known) == 1 and UNKNOWN not in known else ""


def _licences(summary: FinetuneSummary) -> str:
    parts = [f"{part}: {licence}" for part, licence in summary.licences.items()]
    return "; ".join(parts) or f"{UNKNOWN} by the corpus: ask its makers before you publish the model"


def _devices(summary: FinetuneSummary) -> str:
    return summary.device if summary.processes == 1 else f"{summary.processes} processes, {summary.device}"


def _mix(summary: FinetuneSummary) -> str:
    if not summary.interpolation:
        return ""
    curve = interpolation_from_json(summary.interpolation)
    return f"Its weights lie between the start model's and the tuned ones (WiSE-FT):\n\n```\n{curve.table()}\n```\n\n"


def _changed(summary: FinetuneSummary) -> str:
    usual = TrainOptions().to_json()
    changed = [
        f"{name} = {value!r}" for name, value in summary.options.items() if name != "model" and value != usual[name]
    ]
    return ", ".join(changed) or "none"


def _out_of_domain(summary: FinetuneSummary) -> str:
    tables = [
        f"\n| out of domain: {name} | before | after |\n|---|---|---|\n{_rows(before, after)}\n"
        for name, (before, after) in summary.out_of_domain.items()
    ]
    return "".join(tables)


def _rows(before: Scores, after: Scores) -> str:
    rows = []
    if before.zero_shot and after.zero_shot:
        rows += [
            f"| zero-shot hits@{k} ({after.zero_shot.images:,} images, {after.zero_shot.classes} classes) "
            f"| {before.zero_shot.hits[k]:.3f} | {after.zero_shot.hits[k]:.3f} |"
            for k in after.zero_shot.hits
        ]
    if before.retrieval and after.retrieval:
        old, new = before.retrieval, after.retrieval
        rows += [
            f"| MRR@10 text to image | {old.text_to_image_mrr10:.3f} | {new.text_to_image_mrr10:.3f} |",
            f"| MRR@10 image to text | {old.image_to_text_mrr10:.3f} | {new.image_to_text_mrr10:.3f} |",
        ]
        rows += [
            f"| R@{k} text to image, image to text "
            f"| {old.text_to_image_hits[k]:.3f}, {old.image_to_text_hits[k]:.3f} "
            f"| {new.text_to_image_hits[k]:.3f}, {new.image_to_text_hits[k]:.3f} |"
            for k in new.text_to_image_hits
        ]
    return "\n".join(rows)
