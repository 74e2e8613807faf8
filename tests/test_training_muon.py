"""Muon turns convolutions and is AdamW for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clipsearch.clip import TinyOptions, build_tiny
from clipsearch.errors import InputError
from clipsearch.training.muon import RATE_SCALE, Muon, build_muon, muon_weights, orthogonalised
from clipsearch.training.optimiser import build_optimiser, set_learning_rate
from clipsearch.training.options import TrainOptions

SMALL = TinyOptions(dim=16, image_size=32, channels=(8, 16, 16), strides=(2, 2, 1), text_width=16)
OPTIONS = TrainOptions(optimiser="muon", learning_rate=1e-3)


def small_model() -> nn.Module:
    model: nn.Module = build_tiny(["a river", "a lake"], SMALL)[0].train()
    return model


def backward(model: nn.Module, seed: int = 0) -> None:
    model.zero_grad()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    ids = torch.arange(12).view(4, 3)
    images = model.get_image_features(pixel_values=pixels).pooler_output  # type: ignore[operator]
    texts = model.get_text_features(input_ids=ids).pooler_output  # type: ignore[operator]
    (images - texts).square().sum().backward()


@pytest.mark.parametrize("shape", [(16, 72), (72, 16), (20, 20)])
def test_an_update_has_singular_values_near_one_and_the_directions_of_its_gradient(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    update = orthogonalised(matrix)
    found = torch.linalg.svdvals(update)
    assert found.min() > (0.5 if shape[0] != shape[1] else 0.0)
    assert found.max() < 1.35
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (u.T @ update @ v.T).diag().median() > 0.6


def test_convolutions_of_feature_maps_turn_at_the_rate_and_keep_their_norm() -> None:
    model = small_model()
    weights = muon_weights(model)
    assert len(weights) == 2  # the one that reads pixels is not among them
    optimiser = build_optimiser(model, OPTIONS)
    for seed in range(3):
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        backward(model, seed)
        optimiser.step()
        for name, weight in weights.items():
            size = len(weight) ** 0.5
            old = before[name] * size / before[name].norm()
            step = (weight - old).norm() / size
            assert 0.3 * RATE_SCALE * 1e-3 < step < 1.3 * RATE_SCALE * 1e-3


def test_the_rest_moves_as_under_adamw() -> None:
    model = small_model()
    other = copy.deepcopy(model)
    ours, theirs = build_optimiser(model, OPTIONS), build_optimiser(other, TrainOptions(learning_rate=1e-3))
    turned = muon_weights(model)
    for seed in range(3):
        backward(model, seed)
        for mine, its in zip(model.parameters(), other.parameters(), strict=True):
            its.grad = None if mine.grad is None else mine.grad.clone()
        ours.step()
        theirs.step()
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        if name not in turned:
            assert torch.allclose(mine, its, rtol=1e-5, atol=1e-7), name


def test_its_state_comes_back_bit_for_bit() -> None:
    model = small_model()
    optimiser = build_optimiser(model, OPTIONS)
    backward(model)
    optimiser.step()
    other = copy.deepcopy(model)
    again = build_optimiser(other, OPTIONS)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for one, its in ((model, optimiser), (other, again)):
        backward(one, 1)
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_one_learning_rate_moves_all_groups() -> None:
    optimiser = build_optimiser(small_model(), OPTIONS)
    set_learning_rate(optimiser, 5e-4)
    assert {group["lr"] for group in optimiser.param_groups if group["muon"]} == {RATE_SCALE * 5e-4}
    assert {group["lr"] for group in optimiser.param_groups if not group["muon"]} == {5e-4}


def test_a_model_without_convolutions_is_refused() -> None:
    with pytest.raises(InputError, match="use adamw"):
        build_muon(nn.Linear(3, 3), [], 1e-3)
    assert isinstance(build_optimiser(small_model(), OPTIONS), Muon)
