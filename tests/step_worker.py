"""What the tests of a training step share: a small float64 model, one batch, its loss and gradients in each setting.

Run by torchrun it is one of several processes that compute them together; the main one writes them to the folder given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny
from clipsearch.clip.tokens import token_ids
from clipsearch.training.distributed import World
from clipsearch.training.options import TrainOptions
from clipsearch.training.step import Stepper

SIZE = 16
COLOURS, PLACES = ("red", "green", "blue", "many"), ("river", "bridge", "tank", "plane", "field", "harbour", "forest")
WORDS = [*COLOURS, *PLACES, "of", "the", "near"]
TINY = TinyOptions(
    dim=16, image_size=SIZE, channels=(8, 16), strides=(2, 2), text_width=16, text_layers=1, text_heads=2
)
SETTINGS: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunks": {"chunk": 4},
    "siglip": {"loss": "siglip", "chunk": 5},
    "positives": {"loss": "multi-positive"},
    "batch-norm": {"model": "tiny"},
}
"""What one process and two must agree on."""


def small_clip(kind: str = "vit", dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Clip:
    """A CLIP with random weights: two transformers (``vit``) or the tiny preset with its batch norm (``tiny``)."""
    model, tokenizer = build_tiny([" ".join(WORDS)], TINY)
    if kind == "vit":
        tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "attention_dropout": dropout}
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        vision = {"image_size": SIZE, "patch_size": 8, **tower}
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config={**text, **tower, **ends}, vision_config=vision, projection_dim=16))
    clip = Clip(model.to(dtype), tokenizer, PixelSettings(SIZE), "small")
    clip.model.text_model.set_attn_implementation("sdpa")  # the eager one has its softmax in float32
    clip.model.train()
    return clip


def batch(clip: Clip, count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[list[int]], list[int]]:
    """Random pixels, texts of 2 to 21 words, and groups in which a third of the rows have a partner."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=dtype)
    lengths = torch.randint(2, 22, (count,), generator=generator)
    words = [[WORDS[int(i)] for i in torch.randint(0, len(WORDS), (int(n),), generator=generator)] for n in lengths]
    groups = [row // 2 if row % 6 < 2 else 1000 + row for row in range(count)]
    return images, token_ids(clip.tokenizer, [" ".join(text) for text in words], clip.text_length), groups


def gradients(clip: Clip) -> dict[str, Tensor]:
    """All gradients of the model, copied."""
    return {name: p.grad.clone() for name, p in clip.model.named_parameters() if p.grad is not None}


def one_step(setting: Mapping[str, Any], world: World, count: int = 21) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of this process's rows of a batch of ``count``; the batch norm's statistics among them."""
    clip = small_clip(setting.get("model", "vit"))
    clip.model.train()
    images, ids, groups = batch(clip, count)
    rows = world.rows(count)
    options = TrainOptions(**{"precision": "fp32", **{k: v for k, v in setting.items() if k != "model"}})
    stepper = Stepper(clip, options, world)
    loss = stepper.backward(images[rows], ids[rows], groups[rows])
    found = gradients(clip)
    found |= {f"extra.{number}": p.grad for number, p in enumerate(stepper.parameters()) if p.grad is not None}
    found |= {name: b.clone() for name, b in clip.model.named_buffers() if "running" in name or "tracked" in name}
    return loss, found


def main(folder: Path) -> None:
    """All settings in the world of torchrun's environment."""
    torch.set_num_threads(1)
    with World.start("cpu") as world:
        assert world.agree(world.rank) == 0
        clip = small_clip()
        if not world.is_main:
            torch.nn.init.zeros_(clip.model.logit_scale)
        world.broadcast(clip.model)
        assert float(clip.model.logit_scale.detach()) > 1
        for name, setting in SETTINGS.items():
            loss, found = one_step(setting, world)
            tensors = {"loss": torch.tensor(loss, dtype=torch.float64), **found}
            save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.{world.rank}")
        world.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
