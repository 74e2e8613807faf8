"""Several processes train one model as one process would: features gathered, gradients summed, batch norm shared.

Each process (rank) embeds its rows of the same global batch. All ranks then hold all features and compute the same loss
over all of them; a rank's backward pass goes through its own rows only, and the sum of the ranks' gradients is the
gradient of the whole. So one collective gathers features and one sums gradients, and nothing needs a wrapper around
the model. The price: each rank holds the whole (B, B) matrix of logits, 4 bytes times B squared.

Start with ``torchrun --nproc-per-node N``; without it everything here is a world of one and costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from clipsearch.clip import choose_device
from clipsearch.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long a rank waits for another, which may be evaluating; torchrun ends all when one dies, so nothing hangs."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run. ``rank``: this one's number from 0; ``size``: how many; ``device``: this one's."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def start(cls, device: str = "auto") -> World:
        """The world that torchrun's environment describes (gloo on CPU, NCCL on CUDA), else a world of one.

        Under torchrun ``auto`` and ``cuda`` are the CUDA device of the local rank. Raises ``InputError`` where there
        are fewer devices than local processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or "RANK" not in os.environ:
            return cls(device=choose_device(device))
        if device in ("auto", "cuda") and torch.cuda.is_available():
            local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= count:
                raise InputError(
                    f"torchrun started more processes than the {count} CUDA devices: lower --nproc-per-node"
                )
            own = torch.device("cuda", local)
            torch.cuda.set_device(own)
        else:
            own = choose_device("cpu" if device == "auto" else device)
        backend = "nccl" if own.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE, device_id=own if own.type == "cuda" else None)
        return cls(distributed.get_rank(), size, own)

    def stop(self) -> None:
        """Leave the other processes; a world of one has nobody to leave."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that logs, evaluates and saves."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This rank's rows of ``count``: consecutive, in the order of ranks, their numbers differing by at most one.

        Raises ``InputError`` where there are fewer rows than processes.
        """
        if count < self.size:
            raise InputError(
                f"a batch of {count} cannot be shared by {self.size} processes: give a larger --batch-size"
            )
        small, extra = divmod(count, self.size)
        start = self.rank * small + min(self.rank, extra)
        return slice(start, start + small + (self.rank < extra))

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier()

    def agree(self, value: T) -> T:
        """The main process's ``value`` (anything that pickles), in every process: for decisions such as to stop."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        agreed: T = box[0]
        return agreed

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """(n, ...) of each rank -> (N, ...) of all in the order of ranks, without gradients. ``counts``: n by rank."""
        if self.size == 1:
            return rows.detach()
        longest = max(counts)
        padded = F.pad(rows.detach(), [0, 0] * (rows.ndim - 1) + [0, longest - len(rows)]).contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def gather_features(self, features: Tensor, counts: Sequence[int]) -> Tensor:
        """(n, D) of each rank -> (N, D) of all; gradients flow into this rank's rows alone.

        With the same loss computed by every rank from all rows, and parameter gradients summed over ranks by
        ``reduce_gradients``, that is the exact gradient.
        """
        if self.size == 1:
            return features
        everything = self.gather(features, counts)
        start = sum(counts[: self.rank])
        return torch.cat([everything[:start], features, everything[start + len(features) :]])

    def counts(self, rows: int) -> list[int]:
        """How many rows each rank has, given this one's."""
        if self.size == 1:
            return [rows]
        own = torch.tensor([rows], device=self.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        return [int(part) for part in parts]

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all ranks, in place, one collective per type of number."""
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            distributed.all_reduce(flat)
            sizes = [gradient.numel() for gradient in gradients]
            for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
                gradient.copy_(part.view_as(gradient))

    def broadcast(self, model: nn.Module) -> None:
        """Give every process the main one's parameters and buffers."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                distributed.broadcast(tensor.data, src=0)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any device (torch's ``SyncBatchNorm`` is for CUDA alone).

    Same parameters, buffers and names as ``nn.BatchNorm2d``, so checkpoints do not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``input`` (B, C, H, W) normalised by the statistics of all processes' batches; running ones in eval mode."""
        if not self.training:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = float(_sum_over_ranks(x.new_tensor([x.numel() / x.shape[1]]))[0])
        mean = _sum_over_ranks(x.sum(dim=(0, 2, 3))) / count  # (C,)
        centred = x - mean[:, None, None]
        variance = _sum_over_ranks(centred.square().sum(dim=(0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._track(mean.detach(), variance.detach() * count / max(1.0, count - 1))
        y = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def share_batch_norm(model: nn.Module) -> None:
    """Turn each ``nn.BatchNorm2d`` of ``model`` into a ``SharedBatchNorm2d``, in place, keeping its parameters."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(
                    child.num_features,
                    child.eps,
                    child.momentum,
                    child.affine,
                    child.track_running_stats,
                    device="meta",
                )
                shared._parameters, shared._buffers = child._parameters, child._buffers
                setattr(module, name, shared.train(child.training))


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; a rank's share in it gets the sum of all ranks' gradients of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total: Tensor = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return total
