"""What ``finetune`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from clipsearch.training.validation import Scores


@dataclass(frozen=True, slots=True)
class FinetuneSummary:
    """The result of one run; ``before`` and ``after`` are measured on ``measured_on``, a split that chose nothing.

    ``checkpoint``: the folder; ``model_id``: as ``load_clip`` will name it; ``seconds``: wall clock of the whole run,
    decoding and evaluation included, earlier sittings of a resumed run too. ``out_of_domain``: corpus name ->
    (scores before, scores after), on images that did not choose the mix either. ``interpolation``: the mix of start
    and tuned model that was chosen (``alpha`` and the curve), empty where there was none to choose.
    ``licences``: of the data and the start model, where they say so.
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
    metric: str = "mrr10"
    validation_images: int = 0
    test_images: int = 0
    processes: int = 1
    out_of_domain: Mapping[str, tuple[Scores, Scores]] = field(default_factory=dict)
    interpolation: dict[str, Any] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value.to_json() if isinstance(value, Scores) else value for name, value in values.items()}
        plain["out_of_domain"] = {
            name: {"before": before.to_json(), "after": after.to_json()}
            for name, (before, after) in self.out_of_domain.items()
        }
        return plain
