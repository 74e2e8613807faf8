"""What a run leaves for people: a JSONL log, a picture of loss and metrics, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.training.summary import FinetuneSummary


class RunLog:
    """Appends one JSON object per line; a resumed run goes on in the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **values: Any) -> None:
        """Append one event; it is in the file when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def read(self, event: str) -> list[dict[str, Any]]:
        """All events of one kind, in order; a line that a crash cut short is passed over."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("event") == event:
                found.append(entry)
        return found

    def keep_epochs_before(self, epoch: int) -> None:
        """Forget epochs from ``epoch`` on: a resumed run will write them again."""
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines if line.endswith("}")]
            kept = [entry for entry in entries if entry.get("event") != "epoch" or entry["epoch"] < epoch]
            self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


def plot_curves(epochs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, zero-shot hits@k and MRR@10 over the epochs, as a PNG; ``epochs`` are the log's entries."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    numbers = [entry["epoch"] + 1 for entry in epochs]
    curves: list[tuple[str, dict[str, list[float]]]] = [
        ("training loss", {"loss": [entry["loss"] for entry in epochs]}),
        ("zero-shot hits@k, validation", _curves(epochs, "hits@")),
        ("MRR@10, validation", _curves(epochs, "mrr@10")),
    ]
    for axes, (title, lines) in zip(figure.subplots(1, 3), curves, strict=True):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        for label, values in lines.items():
            axes.plot(numbers, values, marker=".", label=label)
        if len(lines) > 1:
            axes.legend()
    figure.savefig(path, dpi=110)


def _curves(epochs: Sequence[Mapping[str, Any]], wanted: str) -> dict[str, list[float]]:
    names = [name for name in (epochs[0]["validation"] if epochs else {}) if wanted in name]
    return {name.replace("_", " "): [entry["validation"][name] for entry in epochs] for name in names}


def model_card(summary: FinetuneSummary) -> str:
    """README.md of a checkpoint folder: what it is, what it was trained on and how good it is."""
    start = summary.options["model"] or "the tiny preset, from scratch"
    command = f"```\n{summary.command}\n```" if summary.command else "(started from Python)"
    return f"""---
library_name: transformers
tags: [clip, clipsearch]
---
# {summary.name}

A CLIP model trained with clipsearch from {start}.

- Data: corpus `{summary.corpus}`, {summary.train_images:,} training images with {summary.train_captions:,} captions;
  the licence of the data is that of the corpus.
- Training: {summary.epochs} epochs in {summary.seconds:.0f} s on {summary.device}; kept epoch {summary.best_epoch},
  the best of the validation split by MRR@10. Labels, class names and file names were not used.
- Left out because they could not be decoded: {summary.bad_images} images.

| on {summary.measured_on} | before | after |
|---|---|---|
{_rows(summary)}

Command:

{command}

Load it with `clipsearch.clip.load_clip(FOLDER)`, or with transformers' own class after `import clipsearch.clip`.
"""


def _rows(summary: FinetuneSummary) -> str:
    rows = []
    if summary.before.zero_shot and summary.after.zero_shot:
        before, after = summary.before.zero_shot, summary.after.zero_shot
        rows += [
            f"| zero-shot hits@{k} ({after.images:,} images, {after.classes} classes) "
            f"| {before.hits[k]:.3f} | {after.hits[k]:.3f} |"
            for k in after.hits
        ]
    if summary.before.retrieval and summary.after.retrieval:
        old, new = summary.before.retrieval, summary.after.retrieval
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
