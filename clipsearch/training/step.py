"""One training step up to the gradients: towers, loss, backward; in every precision, in parts, over processes.

``Stepper.backward`` leaves the same gradients whatever the parts and the number of processes, rounding apart; what
differs is memory and time. Where that cannot be (batch norm in parts, dropout over processes) ``gradcache`` and
``Stepper`` say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipsearch.clip import Clip
from clipsearch.errors import InputError
from clipsearch.training.distributed import World, share_batch_norm
from clipsearch.training.gradcache import CachedTower, Rows, Tower, generator_states, set_generator_states, untracked
from clipsearch.training.loss import LOSSES, batch_loss, calibrated_bias, same_group
from clipsearch.training.options import TrainOptions
from clipsearch.training.precision import LossScale, checkpoint_activations, choose_precision, compile_towers

CPU_TEXT_PARTS = 4
"""Parts of like lengths that texts are embedded in on CPU: it halves the padding, and more rows would gain nothing."""
CUDA_LENGTHS = 8
"""On CUDA texts are padded to multiples of this: whole tensor-core tiles, and few shapes to compile."""


class Stepper:
    """What turns a batch into gradients.

    ``notes``: what was asked for and could not be had, for a person. ``bias``: SigLIP's learned bias, or None. It is no
    weight of CLIP (it moves all logits alike and ranks nothing), so it lives here and not in the model: checkpoints
    stay plain CLIP. The optimiser takes it from ``parameters()``, the run's state from ``state()``.

    Under several processes dropout draws each process's own masks: seed them by rank, and expect one process's
    gradients only from models without dropout, as pretrained CLIPs are.
    """

    def __init__(self, clip: Clip, options: TrainOptions, world: World | None = None) -> None:
        if options.loss not in LOSSES:
            raise InputError(f"there is no loss {options.loss!r}: choose one of {', '.join(LOSSES)}")
        self.clip = clip
        self.options = options
        self.world = world or World(device=clip.device)
        self.precision = choose_precision(options.precision, clip.device)
        self.scale = LossScale(2.0**16 if self.precision.needs_scale else 1.0)
        self.bias = nn.Parameter(torch.zeros((), device=clip.device)) if options.loss == "siglip" else None
        self.calibrated = False
        self.notes: list[str] = []
        if options.checkpointing and len(checkpoint_activations(clip.model)) < 2:
            self.notes.append("--checkpointing changes only towers of transformer layers: not the convolutional one")
        if options.compile and (note := compile_towers(clip.model, clip.device)):
            self.notes.append(note)
        if self.world.size > 1:
            share_batch_norm(clip.model)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained besides the model's own parameters: SigLIP's bias."""
        if self.bias is not None:
            yield self.bias

    def state(self) -> dict[str, float]:
        """What a resumed run needs besides model and optimiser: plain numbers."""
        numbers = {"scale": self.scale.value, "good": float(self.scale.good), "calibrated": float(self.calibrated)}
        return numbers if self.bias is None else {**numbers, "bias": float(self.bias.detach())}

    def load_state(self, state: dict[str, float]) -> None:
        """Go on from ``state()``."""
        self.scale.value, self.scale.good = state["scale"], int(state["good"])
        self.calibrated = bool(state["calibrated"])
        if self.bias is not None:
            with torch.no_grad():
                self.bias.fill_(state["bias"])

    def backward(self, images: Tensor, ids: Sequence[Sequence[int]], groups: Sequence[int]) -> float:
        """The loss over the whole batch; its exact gradients are left in the parameters, which had others before.

        ``images``: (B, 3, S, S) float, normalised; ``ids``: B token id lists, ``groups``: B numbers, equal for rows
        that are positives of each other. Under several processes all three are this rank's rows (``World.rows``) of
        one global batch, and the loss is the whole batch's in every process.
        """
        if not len(images) == len(ids) == len(groups) > 0:
            raise ValueError(f"{len(images)} images, {len(ids)} texts and {len(groups)} groups are no batch")
        counts = self.world.counts(len(images))
        everyone = self.world.gather(torch.as_tensor(groups, device=self.clip.device), counts).tolist()
        parts = min(*counts, -(-max(counts) // self.options.chunk)) if self.options.chunk else 1
        towers = self._towers(images, ids, parts)
        before = generator_states(self.clip.device)
        loss = self._attempt(towers, counts, everyone)
        while not self._finish():
            if not np.isfinite(loss) or not self.scale.overflowed():
                return loss  # not the scale's fault: the loop refuses such a loss
            set_generator_states(before, self.clip.device)
            with untracked(self.clip.model):
                loss = self._attempt(towers, counts, everyone)
        self.scale.succeeded()
        return loss

    def _attempt(self, towers: tuple[Tower, Tower], counts: list[int], groups: list[int]) -> float:
        """The loss; gradients of the scaled loss from this rank's rows are left in the parameters."""
        for parameter in self._trained():
            parameter.grad = None
        cached: list[CachedTower] = []
        with self.precision.autocast():  # around all parts, so that weights are cast once
            if len(towers[0].parts) > 1:
                cached = [CachedTower(tower, self.clip.model, self.clip.device) for tower in towers]
                images, texts = (tower.features for tower in cached)
            else:
                images, texts = (tower.features() for tower in towers)
        both = self.world.gather_features(torch.cat([images, texts], dim=1), counts)
        images, texts = both.tensor_split(2, dim=1)  # (B, D) of all processes
        logit_scale = self.clip.model.logit_scale
        if self.bias is not None and not self.calibrated:
            with torch.no_grad():
                self.bias.fill_(calibrated_bias(images, texts, logit_scale, same_group(groups, images.device)))
            self.calibrated = True
        loss = batch_loss(self.options.loss, images, texts, logit_scale, groups, self.bias)
        if loss.requires_grad:
            (loss * self.scale.value).backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        for tower in cached:
            tower.backward()
        return float(loss.detach())

    def _finish(self) -> bool:
        """Sum the gradients over processes and undo the scale; whether all are finite (not looked at without scale)."""
        for parameter in (self.clip.model.logit_scale, *self.parameters()):
            if parameter.grad is not None:
                parameter.grad /= self.world.size  # every rank has the whole gradient of these
        trained = self._trained()
        self.world.reduce_gradients(trained)
        return not self.precision.needs_scale or self.scale.unscale(trained)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in (*self.clip.model.parameters(), *self.parameters()) if p.requires_grad]

    def _towers(self, images: Tensor, ids: Sequence[Sequence[int]], parts: int) -> tuple[Tower, Tower]:
        """Both towers in ``parts`` parts; texts in several even of one part, where the device is faster with them."""

        def embed_images(rows: Rows) -> Tensor:
            chosen = images if len(rows) == len(images) else images[int(rows[0]) : int(rows[-1]) + 1]
            with self.precision.autocast():
                return self.clip.image_features(chosen)

        def embed_texts(rows: Rows) -> Tensor:
            tokens = self._pad([ids[row] for row in rows])
            with self.precision.autocast():
                return self.clip.token_features(tokens)

        rows = np.arange(len(images))
        few = CPU_TEXT_PARTS if self.clip.device.type == "cpu" and len(ids) >= 8 * CPU_TEXT_PARTS else 1
        text_parts = max(parts, few)
        by_length = np.argsort([len(text) for text in ids], kind="stable") if text_parts > 1 else rows
        return (
            Tower(embed_images, np.array_split(rows, parts)),
            Tower(embed_texts, np.array_split(by_length, text_parts)),
        )

    def _pad(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, (n, longest) int64, on the device."""
        lengths = np.array([len(text) for text in ids])
        longest = int(lengths.max())
        if self.clip.device.type == "cuda":
            longest = min(self.clip.text_length, -(-longest // CUDA_LENGTHS) * CUDA_LENGTHS)
        tokens = np.full((len(ids), longest), self.clip.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.arange(longest)[None, :] < lengths[:, None]
        tokens[mask] = np.concatenate([np.asarray(text, dtype=np.int64) for text in ids])
        device: Any = self.clip.device
        return {
            "input_ids": torch.from_numpy(tokens).to(device, non_blocking=True),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device, non_blocking=True),
        }
