"""Which parameters are trained: all, all but a frozen tower, or low-rank updates (LoRA) that are merged away again.

Everything outside the two towers, which is the two projections and the temperature, is trained in every case: it is
through its projection that a frozen tower still follows the other one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clipsearch.errors import InputError

if TYPE_CHECKING:
    from clipsearch.training.options import TrainOptions

TOWERS = {"image": "vision_model", "text": "text_model"}
"""Tower -> its name in ``CLIPModel`` and ``VisionTextDualEncoderModel`` alike."""

_NUMBERED = re.compile(r"(.*?\.\d+)\.")
_ADAPTER = re.compile(r"\.lora_[AB]\.")


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Trained scalars by part, and ``total``, the size of the plain model: LoRA's own are trained, but not in it."""

    image_tower: int
    text_tower: int
    rest: int
    total: int

    @property
    def trained(self) -> int:
        """All scalars that the optimiser changes."""
        return self.image_tower + self.text_tower + self.rest

    def line(self) -> str:
        """One line for people."""
        parts = {"image tower": self.image_tower, "text tower": self.text_tower, "projections, temperature": self.rest}
        shares = ", ".join(f"{name} {count:,}" for name, count in parts.items())
        return f"{self.trained:,} parameters are trained, {self.trained / self.total:.1%} of {self.total:,} ({shares})"

    def to_json(self) -> dict[str, int]:
        """The counts, with ``trained``, as plain values."""
        return {"trained": self.trained, **asdict(self)}


def prepare(model: nn.Module, options: TrainOptions) -> ParameterCounts:
    """Freeze what ``options.freeze`` names and wrap layers with LoRA of rank ``options.lora``, in place.

    Before the optimiser is built, and before a state is restored into the model. LoRA (Hu et al. 2021) goes on every
    linear layer of attention and MLP of the towers that are not frozen, with alpha twice the rank and B at zero, so
    that the model is the same before the first step; A is drawn from ``options.seed``. Raises ``InputError`` for a
    model that has no two towers, and for LoRA on a tower whose layers are convolutions.
    """
    for module in TOWERS.values():
        if not isinstance(getattr(model, module, None), nn.Module):
            raise InputError(f"{type(model).__name__} has no {module}: CLIP models with two towers can be trained")
    if options.lora:
        _add_lora(model, [name for name in TOWERS if name != options.freeze], options.lora, options.seed)
    for name, parameter in model.named_parameters():
        tower = tower_of(name)
        parameter.requires_grad_(not tower or (tower != options.freeze and (not options.lora or is_adapter(name))))
    return count_parameters(model)


def count_parameters(model: nn.Module) -> ParameterCounts:
    """How many parameters of each part have ``requires_grad``, and how many the model has without LoRA."""
    trained = {"image": 0, "text": 0, "": 0}
    total = 0
    for name, parameter in model.named_parameters():
        trained[tower_of(name)] += parameter.numel() if parameter.requires_grad else 0
        total += 0 if is_adapter(name) else parameter.numel()
    return ParameterCounts(trained["image"], trained["text"], trained[""], total)


def set_training(model: nn.Module) -> None:
    """``model.train()``, except for frozen towers: batch norm would go on counting there, and dropout add noise."""
    model.train()
    for module in TOWERS.values():
        tower = getattr(model, module, None)
        if isinstance(tower, nn.Module) and not any(parameter.requires_grad for parameter in tower.parameters()):
            tower.eval()


def tower_of(name: str) -> str:
    """``image``, ``text`` or "" for a parameter's or module's full name."""
    first = name.removeprefix("_orig_mod.").split(".", 1)[0]  # torch.compile's prefix
    return next((tower for tower, module in TOWERS.items() if module == first), "")


def is_adapter(name: str) -> bool:
    """Whether a parameter's full name is that of a LoRA factor."""
    return bool(_ADAPTER.search(name))


def layer_of(name: str) -> str:
    """The numbered layer that a parameter or module belongs to, "" for none: ``vision_model.encoder.layers.3``."""
    found = _NUMBERED.match(f"{name}.") if tower_of(name) else None
    return found.group(1) if found else ""


def layer_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """Parameter name -> factor on the learning rate, ``decay`` for each layer between it and its tower's projection.

    ``names`` in the model's own order, which in towers is that of the data: what comes before the first numbered layer
    (patch, token and position embeddings) is one step below it, and what follows the last one (its norm) belongs to
    it, as in open_clip. Projections, and all outside the towers, have 1. Layer-wise decay: BEiT (Bao et al. 2021).
    """
    names = list(names)
    layers: dict[str, list[str]] = {tower: [] for tower in TOWERS}
    depths: dict[str, int] = {}
    for name in names:
        if tower := tower_of(name):
            layer = layer_of(name)
            if layer and layer not in layers[tower]:
                layers[tower].append(layer)
            depths[name] = layers[tower].index(layer) + 1 if layer else len(layers[tower])
    return {
        name: decay ** (len(layers[tower_of(name)]) + 1 - depths[name]) if name in depths else 1.0 for name in names
    }


def _add_lora(model: nn.Module, towers: Iterable[str], rank: int, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    targets = []
    for tower in towers:
        names, reason = _linear_layers(model, tower)
        if not names:
            raise InputError(f"--lora adapts linear layers, and {reason}: {_advice(model, tower)}")
        targets += names
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    if hasattr(model, "peft_config"):
        del model.peft_config  # saving would otherwise look for an adapter


def _linear_layers(model: nn.Module, tower: str) -> tuple[list[str], str]:
    """Full names of the linear layers inside a tower's numbered layers; none, and why, where convolutions do the work.

    A convolution before them is no hindrance: the patch embedding of a vision transformer stays as it is.
    """
    inside = [(name, module) for name, module in model.named_modules() if tower_of(name) == tower and layer_of(name)]
    kind = getattr(getattr(model, TOWERS[tower]).config, "model_type", type(model).__name__)
    if any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) for _, module in inside):
        return [], f"the layers of the {tower} tower ({kind}) are convolutions"
    names = [name for name, module in inside if isinstance(module, nn.Linear)]
    return names, f"the {tower} tower ({kind}) is no stack of layers that have them"


def _advice(model: nn.Module, tower: str) -> str:
    other = next(name for name in TOWERS if name != tower)
    if _linear_layers(model, other)[0]:
        return f"train without --lora, or add --freeze {tower} to adapt the {other} tower alone"
    return "train without --lora"


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Full name and module of each layer that LoRA wraps."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, the model is a plain CLIP with LoRA's updates in its weights; afterwards it is bit for bit as before.

    For measuring and saving in the middle of training: what is measured is what is saved. Nothing happens without LoRA.
    """
    wrapped = dict(lora_layers(model))
    merge(model)
    try:
        yield
    finally:
        for name, layer in wrapped.items():
            model.set_submodule(name, layer)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Turn a model with LoRA into a plain CLIP, in place and for good; without LoRA it stays as it is."""
    for name, layer in list(lora_layers(model)):
        base = layer.base_layer
        plain = nn.Linear(base.in_features, base.out_features, base.bias is not None, device="meta")
        plain.weight = nn.Parameter(base.weight + layer.get_delta_weight("default").to(base.weight.dtype))
        if base.bias is not None:
            plain.bias = base.bias
        plain.requires_grad_(base.weight.requires_grad)
        model.set_submodule(name, plain.train(layer.training))
