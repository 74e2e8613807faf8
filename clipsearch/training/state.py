"""A run that can be resumed at any step: one safetensors file, replaced atomically.

It holds what the next step depends on: weights, optimiser moments, averaged weights, loss scale and progress. Random
numbers need no state: each step draws its own from the seed, the epoch's number and the step's number in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipsearch.errors import CheckpointError

if TYPE_CHECKING:
    from clipsearch.training.averaging import Ema
    from clipsearch.training.step import Stepper

FILE = "state.safetensors"
TEMPORARY = f".{FILE}.tmp"


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``epoch``: the one that is being done, from 0; ``batch``: its steps that are done, and
    ``loss_sum`` over them; ``step``: over all epochs; ``seconds``: spent so far, over all sittings.

    ``skipped``: steps whose gradients were not finite, ``skipped_in_a_row`` the last ones of them. ``best_folder``:
    name of the best checkpoint in the run folder; ``best_epoch`` from 0; ``best_validation``: its scores as plain
    values. ``images``: hash of the training images that could be decoded; ``fingerprint``: what the run was started
    with, so that another run is never resumed by mistake.
    """

    fingerprint: str = ""
    images: str = ""
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = -1
    best_folder: str = ""
    best_validation: dict[str, Any] = field(default_factory=dict)
    epochs_since_best: int = 0

    @property
    def started(self) -> bool:
        """Whether there is anything to resume."""
        return self.step > 0 or self.epoch > 0 or self.batch > 0

    @property
    def loss(self) -> float:
        """Mean loss over the steps of this epoch so far; NaN before the first."""
        return self.loss_sum / self.batch if self.batch else float("nan")

    def count_step(self, loss: float, seconds: float) -> None:
        """One more step is done."""
        self.batch += 1
        self.step += 1
        self.loss_sum += loss
        self.seconds = seconds

    def finish_epoch(self, seconds: float) -> None:
        """The next epoch is up."""
        self.epoch += 1
        self.batch, self.loss_sum, self.seconds = 0, 0.0, seconds


@dataclass(slots=True)
class Learner:
    """What changes with each step: ``model`` and what trains it; ``ema`` may be absent."""

    model: torch.nn.Module
    optimiser: torch.optim.Optimizer
    stepper: Stepper
    ema: Ema | None = None

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser changes: of the model, and what the loss has of its own."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state as named tensors, and what is no tensor as plain values."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        plain: dict[str, Any] = {f"stepper.{name}": value for name, value in self.stepper.state().items()}
        for number, entries in self.optimiser.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
                else:
                    plain[f"optimiser.{number}.{name}"] = value
        if self.ema:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.state().items()}
        return tensors, plain

    def load(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Put back what ``tensors`` gave, bit for bit."""

        def part(prefix: str) -> dict[str, Any]:
            both = {**tensors, **plain}
            return {name.removeprefix(prefix): value for name, value in both.items() if name.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        moments: dict[int, dict[str, Any]] = {}
        for name, value in part("optimiser.").items():
            number, _, entry = name.partition(".")
            moments.setdefault(int(number), {})[entry] = value
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        if self.ema:
            self.ema.load(part("ema."))
        self.stepper.load_state(part("stepper."))


def save_state(folder: Path, progress: Progress, learner: Learner) -> None:
    """Write the whole state; a kill or a full disk at any moment leaves the old or the new one, whole.

    Raises ``CheckpointError`` when it cannot be written; the state of before is then still there.
    """
    tensors, plain = learner.tensors()
    fresh = folder / TEMPORARY
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            fresh,
            {"progress": json.dumps(asdict(progress)), "plain": json.dumps(plain)},
        )
        flush(fresh)
        fresh.replace(folder / FILE)
        flush(folder)
    except (OSError, SafetensorError) as error:
        fresh.unlink(missing_ok=True)  # a partly written file would keep the disk full
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        raise CheckpointError(
            f"the run's state ({size / 1e6:,.0f} MB) cannot be written to {folder}: {error}; the state of before "
            "is still there: make room and repeat the command, which goes on from it"
        ) from error


class StateSaver:
    """Saves the state every ``minutes`` (0: never by itself), in the main process only.

    ``say`` tells a person when a save within an epoch fails: the run goes on, since its work is in memory and the disk
    may have room again by the next time.
    """

    def __init__(self, folder: Path, minutes: float, is_main: bool, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.minutes = minutes
        self.is_main = is_main
        self.say = say
        self.saved = time.monotonic()

    def save_if_due(self, progress: Progress, learner: Learner) -> None:
        """Save when the time since the last one is over; never raises for a full disk."""
        if self.minutes and time.monotonic() - self.saved >= 60 * self.minutes:
            try:
                self.save(progress, learner)
            except CheckpointError as error:
                self.saved = time.monotonic()
                self.say(f"step {progress.step}: {error}. Training goes on and tries again later.")

    def save(self, progress: Progress, learner: Learner) -> None:
        """Save now."""
        if self.is_main:
            save_state(self.folder, progress, learner)
        self.saved = time.monotonic()


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk itself: a power cut then loses nothing."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_progress(folder: Path) -> Progress | None:
    """The progress of the run in ``folder``; None when there is none that can be resumed."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return Progress(**json.loads(file.metadata()["progress"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: remove {folder} to start again ({error})") from error


def restore(folder: Path, learner: Learner) -> None:
    """Put the saved weights, moments and averages back, bit for bit. Raises ``CheckpointError`` when they do not fit
    the model."""
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            plain = json.loads(file.metadata().get("plain", "{}"))
        learner.load(tensors, plain)
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} does not fit the model: remove {folder} to start again ({reason})") from error
