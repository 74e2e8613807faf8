"""What ``finetune`` returns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from clipsearch.training.validation import Scores


@dataclass(frozen=True, slots=True)
class FinetuneSummary:
    """The result of one run; ``before`` and ``after`` are measured on ``measured_on``, a split that chose nothing.

    ``checkpoint``: the folder; ``model_id``: as ``load_clip`` will name it; ``seconds``: wall clock of the whole run,
    decoding and evaluation included, earlier sittings of a resumed run too.
    """

    checkpoint: str
    name: str
    model_id: str
    dim: int
    corpus: str
    device: str
    epochs: int
    best_epoch: int
    seconds: float
    train_images: int
    train_captions: int
    bad_images: int
    measured_on: str
    before: Scores
    after: Scores
    validation: Scores
    options: dict[str, Any]
    command: str = ""
    stopped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.to_json() if isinstance(value, Scores) else value for name, value in values.items()}
