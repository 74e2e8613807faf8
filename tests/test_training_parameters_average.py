"""The moving average of the weights: by hand, swapped in and out, and resumed exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clipsearch.errors import CheckpointError
from clipsearch.training.averaging import Ema


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def train(model: nn.Sequential, ema: Ema, optimiser: torch.optim.Optimizer, steps: range) -> None:
    model.train()
    for step in steps:
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        model(batch).square().mean().backward()
        optimiser.step()
        ema.update()


def sgd(model: nn.Sequential) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_average_is_what_one_computes_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, 0.5)
    expected = 0.0
    for number, weight in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]):
        nn.init.constant_(model.weight, weight)
        ema.update()
        decay = min(0.5, (1 + number) / (10 + number))  # 0.1, 2/11, 3/12, ... and 0.5 from update 9 on
        expected = decay * expected + (1 - decay) * weight
    with ema.swapped():
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight.detach()) == 512


def test_batch_norms_statistics_are_averaged_and_its_counter_is_copied() -> None:
    model = network()
    start = model[1].running_mean.clone()
    ema = Ema(model, 0.9)
    train(model, ema, sgd(model), range(1))
    own = values(model)
    with ema.swapped():
        assert torch.allclose(model[1].running_mean, 0.1 * start + 0.9 * own["1.running_mean"])
        assert torch.allclose(model[0].weight, 0.1 * network()[0].weight + 0.9 * own["0.weight"])
        assert int(model[1].num_batches_tracked) == 1


def test_the_models_own_weights_come_back_bit_for_bit_whatever_happens() -> None:
    model = network()
    ema = Ema(model, 0.9)
    train(model, ema, sgd(model), range(3))
    own, parameters = values(model), list(model.parameters())

    def interrupted() -> None:
        with ema.swapped():
            assert not equal(values(model), own)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert equal(values(model), own)
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))


def test_frozen_parameters_take_no_room() -> None:
    model = network()
    model[0].requires_grad_(False)
    names = Ema(model, 0.9).state().keys()
    assert "average.0.weight" not in names
    assert {"updates", "average.2.weight", "average.1.running_var", "average.1.num_batches_tracked"} <= names


def test_a_resumed_average_equals_the_uninterrupted_one_bit_for_bit() -> None:
    model = network()
    ema = Ema(model, 0.99)
    train(model, ema, sgd(model), range(12))
    first = network()
    before = Ema(first, 0.99)
    train(first, before, sgd(first), range(5))
    saved, weights = before.state(), values(first)
    train(first, before, sgd(first), range(5, 7))  # what came after the save is lost
    second = network()
    second.load_state_dict(weights)
    after = Ema(second, 0.99)
    after.load(saved)
    train(second, after, sgd(second), range(5, 12))
    assert equal(after.state(), ema.state())
    assert equal(values(second), values(model))


def test_the_average_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"another model \(1.bias\)"):
        Ema(network(), 0.9).load(Ema(nn.Sequential(nn.Linear(3, 4)), 0.9).state())
    with pytest.raises(CheckpointError, match=r"another model \(updates\)"):
        Ema(nn.ReLU(), 0.9).load({})
    with pytest.raises(ValueError, match="decay"):
        Ema(network(), 1.0)
