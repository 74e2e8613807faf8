"""Every knob of a training run in one frozen object, with the defaults of the two ways to start."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from clipsearch.errors import InputError


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """Image augmentation. ``min_scale``: smallest side of the random crop, as a share of the image's side.

    ``quarter_turns``: rotations by right angles, and vertical flips: only where up is arbitrary (nadir images).
    ``jitter``: strength of the brightness, contrast and colour change, 0 for none.
    """

    min_scale: float = 0.75
    horizontal_flip: bool = True
    quarter_turns: bool = True
    jitter: float = 0.1


AUGMENTATIONS = {
    "aerial": AugmentOptions(),
    "natural": AugmentOptions(quarter_turns=False),
    "medical": AugmentOptions(min_scale=0.8, horizontal_flip=False, quarter_turns=False),
    "none": AugmentOptions(min_scale=1.0, horizontal_flip=False, quarter_turns=False, jitter=0.0),
}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. Defaults fine-tune a pretrained CLIP; ``tiny_options`` trains the tiny preset from scratch.

    ``model``: checkpoint folder or hub name, or "" for the tiny preset. ``epochs`` and ``max_minutes`` both bound the
    run (0 minutes: no bound); the learning rate follows whichever is further, so that a slow machine still finishes
    its cosine. ``patience``: epochs without a better validation MRR@10 before stopping early (0: never).
    ``warmup``: share of the run. ``token_noise``: chance of a random token before each token of a caption, which
    teaches a small text tower to pass over words that it does not know, such as those of a prompt.
    """

    model: str = ""
    augment: str = "aerial"
    epochs: int = 10
    max_minutes: float = 0.0
    batch_size: int = 128
    learning_rate: float = 1e-5
    weight_decay: float = 0.1
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    patience: int = 3
    token_noise: float = 0.0
    image_size: int = 64
    seed: int = 0
    device: str = "auto"
    workers: int = 4

    def check(self) -> TrainOptions:
        """Itself. Raises ``InputError`` that names the option when a value makes no sense."""
        limits = {
            "epochs": (1, 1_000_000),
            "max_minutes": (0, 1e6),
            "batch_size": (2, 1 << 20),
            "learning_rate": (1e-12, 10),
            "warmup": (0, 0.9),
            "patience": (0, 1_000_000),
            "token_noise": (0, 0.9),
            "image_size": (16, 1024),
            "workers": (1, 256),
            "seed": (0, 2**31),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name.replace('_', '-')} must be from {low} to {high}, not {getattr(self, name)}")
        if self.augment not in AUGMENTATIONS:
            raise InputError(f"there is no augmentation {self.augment!r}: choose one of {', '.join(AUGMENTATIONS)}")
        return self

    def to_json(self) -> dict[str, Any]:
        """All options as plain values."""
        return asdict(self)


def tiny_options(**changes: Any) -> TrainOptions:
    """The options that train the tiny preset from scratch, with ``changes``."""
    start = TrainOptions(
        epochs=40,
        batch_size=128,
        learning_rate=1.5e-3,
        warmup=0.05,
        patience=0,
        token_noise=0.15,
    )
    return replace(start, **changes)


def option_names() -> list[str]:
    """The names of all options, as ``TrainOptions`` spells them."""
    return [field.name for field in fields(TrainOptions)]
