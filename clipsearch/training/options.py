"""Every knob of a training run in one frozen object, with the defaults of the two ways to start."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from clipsearch.errors import InputError


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """Image augmentation, each image drawing its own changes.

    ``min_scale``: smallest side of the random crop, as a share of the image's side; the crop is resized to the model's
    input. ``stretch``: largest ratio between the crop's sides (1: always square).

    ``horizontal_flip`` mirrors left and right. ``vertical_flip`` and ``quarter_turns`` (rotations by right angles) are
    only for images where up is arbitrary: seen from above, or through a microscope.

    ``jitter``: strength of the change of brightness and contrast; ``colour``: of saturation and of the balance of red,
    green and blue; 0 for none.
    """

    min_scale: float = 0.75
    stretch: float = 1.0
    horizontal_flip: bool = True
    vertical_flip: bool = True
    quarter_turns: bool = True
    jitter: float = 0.1
    colour: float = 0.1


AUGMENTATIONS = {
    "aerial": AugmentOptions(),
    "natural": AugmentOptions(min_scale=0.7, stretch=4 / 3, vertical_flip=False, quarter_turns=False, colour=0.2),
    # left and right are findings, and grey pictures stay grey
    "medical": AugmentOptions(
        min_scale=0.8, horizontal_flip=False, vertical_flip=False, quarter_turns=False, colour=0.0
    ),
    "none": AugmentOptions(1.0, 1.0, False, False, False, 0.0, 0.0),
}


LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (1, 1_000_000),
    "max_minutes": (0, 1e6),
    "batch_size": (2, 1 << 20),
    "learning_rate": (1e-12, 10),
    "weight_decay": (0, 10),
    "warmup": (0, 0.9),
    "max_grad_norm": (1e-6, 1e6),
    "patience": (0, 1_000_000),
    "token_noise": (0, 0.9),
    "image_size": (16, 1024),
    "workers": (1, 256),
    "seed": (0, 2**31),
    "chunk": (0, 1 << 20),
    "epoch_size": (0, 1 << 40),
    "layer_decay": (0.01, 1),
    "lora": (0, 1024),
    "ema": (0, 0.99999),
    "ood_loss": (0, 100),
    "save_minutes": (0, 1e6),
}

METRICS = ("mrr10", "recall1", "recall5", "recall10", "mean-recall", "hits1", "hits3", "hits5", "hits10", "loss")
"""What selects the best epoch: retrieval both ways, zero-shot hits@k, or the training loss."""

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": ("clip", "multi-positive", "siglip"),
    "metric": METRICS,
    "optimiser": ("adamw", "adafactor", "muon"),
    "freeze": ("", "image", "text"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "pixel_cache": ("memory", "disk", "device"),
}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. Defaults fine-tune a pretrained CLIP; ``tiny_options`` trains the tiny preset from scratch.

    Start: ``model`` is a checkpoint folder or hub name, or "" for the tiny preset, whose input is ``image_size`` px.

    Length: ``epochs`` and ``max_minutes`` both bound the run (0 minutes: no bound); the learning rate follows whichever
    is further, so that a slow machine still finishes its cosine. A run with a time bound depends on the clock, and so
    only one without is equal bit for bit when it is repeated or resumed. ``epoch_size``: images drawn for an epoch
    (0: all). ``patience``: epochs without a better ``metric`` on validation before stopping early (0: never).
    ``warmup``: share of the run. ``save_minutes``: time between saved states within an epoch (0: at its end only).

    What is learned: ``loss`` and ``optimiser`` by name; ``chunk``: pairs that are in memory at once, with the whole
    batch's exact gradients (0: all); ``layer_decay``: factor on the learning rate from each layer to the one below;
    ``freeze``: a tower that stays as it is; ``lora``: rank of the low-rank updates that replace full training (0:
    none); ``ema``: decay of the averaged weights that are then validated and kept (0: none); ``token_noise``: chance of
    a random token before each token of a caption, which teaches a small text tower to pass over words that it does
    not know, such as those of a prompt.

    Forgetting: ``ood``: corpora measured before and after as out of domain; ``interpolate``: mix the start model and
    the tuned one (WiSE-FT), as far as at most ``ood_loss`` points are lost there.
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
    loss: str = "clip"
    chunk: int = 0
    epoch_size: int = 0
    metric: str = "mrr10"
    optimiser: str = "adamw"
    layer_decay: float = 1.0
    freeze: str = ""
    lora: int = 0
    ema: float = 0.0
    interpolate: bool = True
    ood: tuple[str, ...] = ()
    ood_loss: float = 1.0
    precision: str = "auto"
    compile: bool = False
    checkpointing: bool = False
    pixel_cache: str = "memory"
    save_minutes: float = 5.0

    def check(self) -> TrainOptions:
        """Itself. Raises ``InputError`` that names the option when a value makes no sense."""
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name.replace('_', '-')} must be from {low} to {high}, not {getattr(self, name)}")
        if self.augment not in AUGMENTATIONS:
            raise InputError(f"there is no augmentation {self.augment!r}: choose one of {', '.join(AUGMENTATIONS)}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(repr(choice) for choice in choices)
                raise InputError(f"{name.replace('_', '-')} must be one of {known}, not {getattr(self, name)!r}")
        if not self.model and (self.lora or self.freeze):
            option = "lora" if self.lora else "freeze"
            raise InputError(f"{option} needs a pretrained model: a tower at random weights has nothing worth keeping")
        return self

    def warnings(self) -> list[str]:
        """Sentences about values that are allowed and are known mistakes; empty for a usual run."""
        found = []
        usual = 1e-4 if self.lora else 1e-5
        if self.model and self.optimiser == "adamw" and self.learning_rate > 10 * usual:
            times = self.learning_rate / usual
            found.append(
                f"learning rate {self.learning_rate:g} is {times:.0f} times {'LoRA' if self.lora else 'CLIP'} "
                f"fine-tuning's usual {usual:g}: expect the start model's knowledge to be lost"
            )
        if self.model and self.batch_size < 32 and self.loss != "siglip":
            found.append(
                f"batch size {self.batch_size} gives a caption {self.batch_size - 1} wrong images to tell from: "
                "128 or more learn better, and --chunk fits them into any memory"
            )
        if self.model and self.image_size != TrainOptions().image_size:
            found.append(f"image-size {self.image_size} has no effect: {self.model} has its own input size")
        if self.ood_loss != TrainOptions().ood_loss and not (self.model and self.interpolate and self.ood):
            found.append("ood-loss has no effect: it bounds the mix with a start model, and needs --model and --ood")
        return found

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
        optimiser="muon",
    )
    return replace(start, **changes)


def option_names() -> list[str]:
    """The names of all options, as ``TrainOptions`` spells them."""
    return [field.name for field in fields(TrainOptions)]
