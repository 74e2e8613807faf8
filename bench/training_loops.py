"""Three ways to train the same CLIP on the same pairs: ours, the plain transformers loop, and open_clip's.

Each has ``data(rows)``, the work between stored pairs and the model's inputs, and ``step(inputs)``: forward, backward,
clipping and an AdamW step, all with the same hyper-parameters.
"""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny
from clipsearch.clip.tokens import token_ids, train_tokenizer
from clipsearch.training.loss import clamp_logit_scale
from clipsearch.training.options import TrainOptions
from clipsearch.training.step import Stepper

ARCHITECTURES = ("vit-b-32", "tiny")
LEARNING_RATE = 1e-5
SENTENCES = """many planes are parked near a terminal in an airport
some green trees around long buildings with white roofs and a river with bridge over it
two tennis courts next to road cars piece of bare land storage tanks square centre railway station
there is the surrounded by on side viaduct beach blue water dense residential area farmland football field"""
WORDS = sorted(set(SENTENCES.split()))


@dataclass(frozen=True, slots=True)
class Pairs:
    """``pixels`` (N, S, S, 3) uint8 and N captions of RSICD's lengths: about 11 words, 35 at most."""

    pixels: NDArray[np.uint8]
    captions: list[str]


def make_pairs(count: int, size: int, seed: int = 0) -> Pairs:
    """Random pixels and captions; seeded."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(np.round(generator.lognormal(2.35, 0.35, count)), 4, 35).astype(int)
    captions = [" ".join(generator.choice(WORDS, length)) + " ." for length in lengths]
    return Pairs(generator.integers(0, 256, (count, size, size, 3), np.uint8), captions)


def build(architecture: str, device: torch.device) -> Clip:
    """The architecture with random weights, seeded; its tokenizer is learned from the benchmark's words."""
    torch.manual_seed(0)
    if architecture == "tiny":
        model, tokenizer = build_tiny([SENTENCES, SENTENCES + "."], TinyOptions())
        return Clip(model, tokenizer, PixelSettings(64), "tiny-random", device)
    tokenizer = train_tokenizer([SENTENCES, SENTENCES + "."], max_length=77)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(CLIPConfig(text_config={**ends, "pad_token_id": tokenizer.eos_token_id}))  # defaults are B/32
    return Clip(model, tokenizer, PixelSettings(224), "vit-b-32-random", device)


class Loop(Protocol):
    """One way to train."""

    def data(self, rows: Sequence[int]) -> Any:
        """The model's inputs for these pairs."""
        ...

    def step(self, inputs: Any) -> float:
        """One step; returns the loss."""
        ...


class Ours:
    """``Stepper`` on the cached uint8 pixels, which lie on the device; texts tokenised per batch, as in a run."""

    def __init__(self, clip: Clip, pairs: Pairs, **options: Any) -> None:
        self.clip = clip
        self.captions = pairs.captions
        self.pixels = torch.from_numpy(pairs.pixels).permute(0, 3, 1, 2).to(clip.device)  # (N, 3, S, S) uint8
        self.stepper = Stepper(clip, TrainOptions(**options))
        self.clip.model.train()
        self.optimiser = adamw(clip.model)

    def data(self, rows: Sequence[int]) -> Any:
        """Normalised images (N, 3, S, S) and token ids."""
        images = self.clip.normalise(self.pixels[list(rows)])
        return images, token_ids(self.clip.tokenizer, [self.captions[row] for row in rows], self.clip.text_length)

    def step(self, inputs: Any) -> float:
        """One step of the training loop; returns the loss."""
        images, ids = inputs
        loss = self.stepper.backward(images, ids, range(len(ids)))
        finish(self.clip.model, self.optimiser, self.clip.model.logit_scale)
        return loss


class Plain:
    """What tutorials do: ``CLIPProcessor`` on each batch, texts padded to the longest that the model takes, fp32."""

    def __init__(self, clip: Clip, pairs: Pairs) -> None:
        self.clip, self.pairs = clip, pairs
        self.images = [Image.fromarray(one) for one in pairs.pixels]
        self.processor = CLIPProcessor(clip.settings.to_processor(), clip.tokenizer)
        clip.model.train()
        self.optimiser = adamw(clip.model)

    def data(self, rows: Sequence[int]) -> Any:
        """What ``CLIPProcessor`` gives for these pairs."""
        return self.processor(
            text=[self.pairs.captions[row] for row in rows],
            images=[self.images[row] for row in rows],
            return_tensors="pt",
            padding="max_length",
            max_length=self.clip.text_length,
            truncation=True,
        ).to(self.clip.device)

    def step(self, inputs: Any) -> float:
        """Forward, backward and update, with the model's own loss; returns it."""
        self.optimiser.zero_grad()
        loss = self.clip.model(**inputs, return_loss=True).loss
        loss.backward()
        finish(self.clip.model, self.optimiser, self.clip.model.logit_scale)
        return float(loss.detach())


class OpenClip:
    """open_clip's model, loss and tokenizer under bf16 autocast, its step as in its own training loop.

    Its image transforms are left out (they run in other processes there): the pixels come as ours do.
    """

    def __init__(self, clip: Clip, pairs: Pairs, library: Any) -> None:
        self.clip, self.captions = clip, pairs.captions
        self.pixels = torch.from_numpy(pairs.pixels).permute(0, 3, 1, 2).to(clip.device)
        self.model = library.create_model("ViT-B-32", device=clip.device).train()
        self.loss = library.ClipLoss()
        self.tokenizer = library.get_tokenizer("ViT-B-32")
        self.optimiser = adamw(self.model)

    def data(self, rows: Sequence[int]) -> Any:
        """Normalised images and open_clip's token ids."""
        images = self.clip.normalise(self.pixels[list(rows)])
        return images, self.tokenizer([self.captions[row] for row in rows]).to(self.clip.device)

    def step(self, inputs: Any) -> float:
        """One step in bf16 autocast; returns the loss."""
        self.optimiser.zero_grad()
        with torch.autocast(self.clip.device.type, torch.bfloat16):
            images, texts, scale = self.model(*inputs)[:3]
            loss = self.loss(images, texts, scale)
        loss.backward()
        finish(self.model, self.optimiser, self.model.logit_scale)
        return float(loss.detach())


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """The same optimiser for all, in its fused form."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)


def finish(model: nn.Module, optimiser: torch.optim.Optimizer, logit_scale: nn.Parameter) -> None:
    """What follows the backward pass in all loops: clip, step, clamp."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    clamp_logit_scale(logit_scale)


def copied(clip: Clip) -> Clip:
    """The same weights again, to be trained apart."""
    return Clip(copy.deepcopy(clip.model), clip.tokenizer, clip.settings, clip.model_id, clip.device)


def open_clip(work: Path) -> Any:
    """The library, installed below ``work`` where it is missing. Raises ``RuntimeError`` with why it cannot be.

    It imports torchvision for its image transforms and for one kind of layer; where torchvision cannot be had beside
    this torch, an empty stand-in lets it import: its model, loss and tokenizer use none of it.
    """
    folder = work / "open_clip"
    if importlib.util.find_spec("open_clip") is None:
        if not (folder / "open_clip").is_dir():
            packages = ("open_clip_torch", "ftfy", "wcwidth")
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(folder),
                *packages,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"pip: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        sys.path.append(str(folder))
    with torchvision_stand_in():
        try:
            return importlib.import_module("open_clip")
        except Exception as error:
            raise RuntimeError(f"open_clip cannot be imported: {error}") from error


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Inside, ``import torchvision`` works where it is not installed: any name in it is an empty class."""

    class Named(type):
        def __getattr__(cls, name: str) -> str:
            if name.startswith("__"):
                raise AttributeError(name)
            return name  # members of enumerations, which stand in defaults

    class Empty(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Named(name, (), {})

    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.transforms")
    names = (*names, "torchvision.transforms.functional")
    absent = importlib.util.find_spec("torchvision") is None
    for name in names if absent else ():
        sys.modules[name] = Empty(name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])
    try:
        yield
    finally:
        for name in names if absent else ():
            sys.modules.pop(name, None)
