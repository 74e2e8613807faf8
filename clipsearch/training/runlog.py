"""What a run writes down as it goes: a JSONL log, the same for TensorBoard, a picture of loss and metrics.

None of it may stop a run: where it cannot be written, that is said once and training goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipsearch.training.state import Progress
from clipsearch.training.tensorboard import EventFile, scalars_of
from clipsearch.training.validation import Scores

STEPS_PER_EPOCH = 20
"""How many steps of an epoch are logged, at least; short epochs log all, and long ones one step in 50 or more often."""

SECONDS_PER_PICTURE = 10


class RunLog:
    """Appends one JSON object per line; a resumed run goes on in the same file.

    ``folder``: where ``log.jsonl``, ``tensorboard`` and ``curves.png`` go. Only the main process writes and says.
    """

    def __init__(self, folder: Path, quiet: bool = False, is_main: bool = True) -> None:
        self.path = folder / "log.jsonl"
        self.quiet = quiet or not is_main
        self.is_main = is_main
        self._events: EventFile | None = None
        self._complained = False
        self._drawn = time.monotonic()

    def say(self, text: str) -> None:
        """Tell a person, above the progress bar."""
        if not self.quiet:
            tqdm.write(text)

    def write(self, event: str, **values: Any) -> None:
        """Append one event; it is in the file when this returns."""
        if self.is_main:
            try:
                self._append({"event": event, **values})
            except OSError as error:
                self._complain(error)

    def step(
        self, progress: Progress, steps: int, loss: float, gradient_norm: float, learning_rate: float, scale: float
    ) -> None:
        """Log the step that ``progress`` has just counted, if its turn has come; ``steps``: those of an epoch."""
        if progress.batch % min(50, max(1, steps // STEPS_PER_EPOCH)):
            return
        self.write(
            "step",
            step=progress.step,
            at=round(progress.epoch + progress.batch / steps, 4),
            loss=loss,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            logit_scale=scale,
            seconds=progress.seconds,
        )

    def epoch(self, progress: Progress, scores: Scores, scale: float, seconds: float) -> None:
        """Log the epoch that ``progress`` has just done, and draw the curves if the last picture is old."""
        self.write(
            "epoch",
            epoch=progress.epoch,
            step=progress.step,
            loss=progress.loss,
            seconds=seconds,
            logit_scale=scale,
            skipped=progress.skipped,
            validation=scores.to_json(),
        )
        if time.monotonic() - self._drawn >= SECONDS_PER_PICTURE:
            self.draw()

    def draw(self) -> None:
        """Draw the curves so far."""
        self._drawn = time.monotonic()
        try:
            plot_curves(self.read("epoch"), self.path.with_name("curves.png"), self.read("step"))
        except OSError as error:
            self._complain(error)

    def read(self, event: str) -> list[dict[str, Any]]:
        """All events of one kind, in order; a line that a crash cut short is passed over."""
        return [entry for entry in self._entries() if entry.get("event") == event]

    def go_on(self, progress: Progress) -> None:
        """Forget what was done after ``progress`` was saved, which a resumed run will do again; a new run begins
        with nothing."""
        if not self.is_main:
            return
        kept = [entry for entry in self._entries() if _is_before(entry, progress)] if progress.started else []
        fresh = self.path.with_name(".log.jsonl.tmp")
        fresh.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        fresh.replace(self.path)
        self._events = EventFile(self.path.with_name("tensorboard"), fresh=True)
        for entry in kept:
            self._show(entry)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._show(entry)

    def _show(self, entry: Mapping[str, Any]) -> None:
        scalars = scalars_of(entry)
        if scalars:
            self._events = self._events or EventFile(self.path.with_name("tensorboard"))
            self._events.add(entry["step"], scalars)

    def _entries(self) -> list[dict[str, Any]]:
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self.say(f"{self.path.parent}: the log cannot be written ({error.strerror or error}); training goes on")
        self._complained = True


def _is_before(entry: Mapping[str, Any], progress: Progress) -> bool:
    kind = entry.get("event")
    if kind == "epoch":
        return bool(entry["epoch"] < progress.epoch)
    return kind != "end" and (kind != "step" or bool(entry["step"] <= progress.step))


def plot_curves(epochs: Sequence[Mapping[str, Any]], path: Path, steps: Sequence[Mapping[str, Any]] = ()) -> None:
    """Loss, zero-shot hits@k and MRR@10 over the epochs, as a PNG; both are the log's entries."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    numbers = [entry["epoch"] + 1 for entry in epochs]
    curves: list[tuple[str, dict[str, list[float]]]] = [
        ("training loss", {"mean of the epoch": [entry["loss"] for entry in epochs]}),
        ("zero-shot hits@k, validation", _curves(epochs, "hits@")),
        ("MRR@10, validation", _curves(epochs, "mrr@10")),
    ]
    for number, (axes, (title, lines)) in enumerate(zip(figure.subplots(1, 3), curves, strict=True)):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if number == 0 and steps:
            axes.plot([s["at"] for s in steps], [s["loss"] for s in steps], color="0.75", linewidth=0.8, label="step")
        for label, values in lines.items():
            axes.plot(numbers, values, marker=".", label=label)
        if len(axes.lines) > 1:
            axes.legend()
    figure.savefig(path, dpi=110)


def _curves(epochs: Sequence[Mapping[str, Any]], wanted: str) -> dict[str, list[float]]:
    names = [name for name in (epochs[0]["validation"] if epochs else {}) if wanted in name]
    return {name.replace("_", " "): [entry["validation"][name] for entry in epochs] for name in names}
