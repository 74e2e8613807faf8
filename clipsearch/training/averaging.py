"""An exponential moving average of the weights, which is measured and kept in place of the last step's.

With LoRA the two factors are averaged, each by itself, as the field does, and not their product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clipsearch.errors import CheckpointError

UPDATES = "updates"
_AVERAGE = "average."


class Ema:
    """Averages of all trained parameters and of the floating buffers, batch norm's running statistics among them.

    The decay warms up as min(decay, (1 + n) / (10 + n)) at update n, as in TensorFlow's moving average, so that a short
    run does not remember its first weights. Integer buffers are those of the model at its last update. Build it after
    ``parameters.prepare`` and, in a resumed run, after the model is restored; then ``load`` the saved state.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, not {decay}")
        self.decay = decay
        self.updates = 0
        self._model = model
        self._averages = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        """What is averaged, by name: the model's own tensors, as they are now."""
        trained = {name: tensor for name, tensor in self._model.named_parameters() if tensor.requires_grad}
        return trained | dict(self._model.named_buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights in; after each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        old, new = [], []
        for name, tensor in self._tensors().items():
            if tensor.is_floating_point():
                old.append(self._averages[name])
                new.append(tensor.detach())
            else:
                self._averages[name].copy_(tensor)
        torch._foreach_lerp_(old, new, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own, bit for bit, whatever happened inside."""
        tensors = self._tensors()
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._fill(tensors, self._averages)
        try:
            yield
        finally:
            self._fill(tensors, own)

    @staticmethod
    @torch.no_grad()
    def _fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        """All that an exact resume needs: ``updates``, an int64 scalar, and ``average.<name>`` for each tensor."""
        averages = {_AVERAGE + name: tensor.clone() for name, tensor in self._averages.items()}
        return {UPDATES: torch.tensor(self.updates), **averages}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave. Raises ``CheckpointError`` when it is that of another model."""
        averages = {name.removeprefix(_AVERAGE): value for name, value in state.items() if name.startswith(_AVERAGE)}
        wrong = [name for name in self._averages.keys() | averages.keys() if not self._fits(name, averages)]
        if wrong or UPDATES not in state:
            raise CheckpointError(
                f"the saved moving average is of another model ({min(wrong, default=UPDATES)}): "
                "remove the run's folder to start again"
            )
        self._fill(self._averages, averages)
        self.updates = int(state[UPDATES])

    def _fits(self, name: str, averages: Mapping[str, Tensor]) -> bool:
        mine, other = self._averages.get(name), averages.get(name)
        return mine is not None and other is not None and mine.shape == other.shape
