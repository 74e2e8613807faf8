"""What numbers the towers compute in, and the switches that trade accuracy, memory or start-up time for speed.

Weights, gradients and the optimiser stay float32 in every setting, and so do the logits of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipsearch.errors import InputError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """``dtype`` that autocast multiplies matrices in, on ``device``; float32 means no autocast."""

    dtype: torch.dtype
    device: torch.device

    @property
    def name(self) -> str:
        """As the option spells it: fp32, bf16 or fp16."""
        return next(name for name, dtype in _TYPES.items() if dtype == self.dtype)

    @property
    def needs_scale(self) -> bool:
        """Whether gradients must be scaled up on their way: fp16 loses those under 6e-8."""
        return self.dtype == torch.float16

    def autocast(self) -> AbstractContextManager[object]:
        """The context to run towers in."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def choose_precision(name: str, device: torch.device) -> Precision:
    """``auto``: bf16 where the processor multiplies it natively, fp16 on CUDA devices older than that, else fp32.

    On CUDA fp32 is true float32: TF32, which keeps 10 bits of the mantissa, is off for products and convolutions.
    (bf16 is as fast again.) Raises ``InputError`` for another name.
    """
    if name not in PRECISIONS:
        raise InputError(f"there is no precision {name!r}: choose one of {', '.join(PRECISIONS)}")
    if name == "auto":
        name = "fp32"
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        elif device.type == "cpu" and native_bf16():
            name = "bf16"
    if name == "fp32" and device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    return Precision(_TYPES[name], device)


@cache
def native_bf16() -> bool:
    """Whether this CPU has bf16 matrix instructions (AVX512_BF16 or AMX); False where the system does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@dataclass(slots=True)
class LossScale:
    """The factor that lifts fp16 gradients over its smallest number: a power of two, so that it rounds nothing.

    Unlike ``torch.amp.GradScaler``, whose rule for the factor this follows, an overflow repeats the batch at half the
    factor instead of dropping it: no step is lost and the loop has no case of its own. ``good``: batches since then.
    """

    value: float = 1.0
    good: int = 0
    interval: int = 2000

    def unscale(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Divide all gradients by the factor, in place; whether all are finite."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return True
        torch._foreach_mul_(gradients, 1 / self.value)
        return bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())

    def overflowed(self) -> bool:
        """Halve the factor; False when it is so small that the gradients themselves must be infinite."""
        self.value, self.good = self.value / 2, 0
        return self.value >= 2.0**-10

    def succeeded(self) -> None:
        """Count a batch; after ``interval`` of them the factor is doubled."""
        self.good += 1
        if self.good >= self.interval:
            self.value, self.good = min(self.value * 2, 2.0**24), 0


def checkpoint_activations(model: Any) -> list[str]:
    """Keep only the input of each layer and recompute the rest in the backward pass; the names of the towers that can.

    About a third more time for a fraction of the memory (Chen et al. 2016). Dropout is repeated exactly.
    """
    done = []
    for name in ("vision_model", "text_model"):
        tower = getattr(model, name)
        if getattr(tower, "supports_gradient_checkpointing", False):
            current = getattr(tower, "activation_checkpointing_enable", None)  # the name since transformers 5.20 or so
            (current or tower.gradient_checkpointing_enable)()  # both default to the form that replays dropout
            done.append(name)
    return done


def compile_towers(model: Any, device: torch.device) -> str:
    """Compile both towers in place (names of weights stay); "" or, where nothing can be compiled, why, for a person."""
    reason = compiler_missing(device.type)
    if reason:
        return f"--compile is left out: {reason}"
    model.vision_model.compile()
    model.text_model.compile(dynamic=True)  # lengths differ from batch to batch
    return ""


@cache
def compiler_missing(device: str) -> str:
    """Why ``torch.compile`` cannot work here, found by compiling one addition; "" where it does."""
    try:
        compiled = torch.compile(lambda x: torch.sin(x) + 1, dynamic=False)
        if not math.isclose(float(compiled(torch.zeros(4, device=device))[0]), 1.0):
            return "torch.compile computes wrong results on this machine"
    except Exception as error:  # torch raises many types here, some of them private
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        return f"torch.compile does not work on this machine ({type(error).__name__}: {line}); it needs a C++ compiler"
    return ""
