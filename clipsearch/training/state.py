"""A run that can be resumed: one safetensors file, replaced atomically at the end of each epoch.

Random numbers need no state: each epoch draws its own from the seed and the epoch's number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipsearch.errors import CheckpointError

FILE = "state.safetensors"


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``epoch``: the next one, from 0; ``seconds``: spent so far, over all sittings.

    ``best_folder``: name of the best checkpoint in the run folder; ``best_epoch`` from 0; ``fingerprint``: what the
    run was started with, so that another run is never resumed by mistake.
    """

    fingerprint: str = ""
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = -1
    best_folder: str = ""
    epochs_since_best: int = 0


def save_state(folder: Path, progress: Progress, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write model, optimiser and progress; a kill at any moment leaves the old or the new state, whole."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, entries in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in entries.items()}
    fresh = folder / f".{FILE}.tmp"
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            fresh,
            {"progress": json.dumps(asdict(progress))},
        )
        fresh.replace(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the run's state cannot be written to {folder}: {error}") from error


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


def restore(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put the saved weights and moments back, bit for bit."""
    with safe_open(folder / FILE, "pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    )
    moments: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, entry = name.split(".")
            moments.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
