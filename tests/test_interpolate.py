"""Between the start model and the tuned one: the mixture, the rule that chooses, and what it saves from forgetting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny
from clipsearch.clip.interpolate import mix, snapshot
from clipsearch.errors import CheckpointError
from clipsearch.training.loss import contrastive_loss
from clipsearch.training.optimiser import build_optimiser
from clipsearch.training.options import TrainOptions
from clipsearch.training.wiseft import (
    ALPHAS,
    Interpolation,
    Point,
    Yardstick,
    choose_interpolation,
    interpolation_from_json,
    plot_interpolation,
)

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = {
    **{"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 220, 50)},
    **{"purple": (150, 40, 200), "orange": (240, 140, 30), "white": (240, 240, 240), "black": (15, 15, 15)},
}
WORDS = list(COLOURS)


def norm_model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model(torch.randn(9, 3) + seed)
    return model


def test_the_ends_are_the_two_models_bit_for_bit() -> None:
    start, tuned = snapshot(norm_model(1)), snapshot(norm_model(2))
    assert all(torch.equal(tensor, start[name]) for name, tensor in mix(start, tuned, 0).items())
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in mix(start, tuned, 1).items())


def test_batch_norms_statistics_mix_and_its_counter_is_the_tuned_models() -> None:
    start, tuned = snapshot(norm_model(1)), snapshot(norm_model(2))
    tuned["1.num_batches_tracked"] += 6
    mixed = mix(start, tuned, 0.25)
    assert torch.allclose(mixed["1.running_var"], 0.75 * start["1.running_var"] + 0.25 * tuned["1.running_var"])
    assert torch.allclose(mixed["0.weight"], 0.75 * start["0.weight"] + 0.25 * tuned["0.weight"])
    assert mixed["1.num_batches_tracked"] == 7
    assert mixed["1.num_batches_tracked"].dtype == torch.int64


def test_what_both_models_share_stays_bit_for_bit() -> None:
    start = snapshot(norm_model(1))
    mixed = mix(start, start, 0.3)
    assert all(torch.equal(tensor, start[name]) for name, tensor in mixed.items())


def test_half_precision_weights_are_mixed_in_single_precision() -> None:
    start, tuned = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}, {"w": torch.tensor([3.0], dtype=torch.bfloat16)}
    mixed = mix(start, tuned, 0.5)["w"]
    assert (float(mixed), mixed.dtype) == (2.0, torch.bfloat16)


def test_models_of_two_architectures_cannot_be_mixed() -> None:
    with pytest.raises(CheckpointError, match=r"bias is absent in the start model and \(4,\) in the tuned"):
        mix(snapshot(nn.Linear(3, 4, bias=False)), snapshot(nn.Linear(3, 4)), 0.5)
    with pytest.raises(CheckpointError, match=r"weight is \(4, 2\) in the start model and \(4, 3\)"):
        mix(snapshot(nn.Linear(2, 4, bias=False)), snapshot(nn.Linear(3, 4, bias=False)), 0.5)


def test_a_snapshot_does_not_change_with_its_model() -> None:
    model = norm_model(1)
    kept = snapshot(model)
    nn.init.zeros_(model[0].weight)
    assert kept["0.weight"].abs().sum() > 0


def line(scores: dict[float, float], name: str) -> Yardstick:
    """A yardstick that reads the model's one weight, which is alpha, and looks the score up."""
    return Yardstick(name, "hits@1", lambda clip: scores[round(float(clip.model.weight.detach()), 1)])


def choose(validation: dict[float, float], *outside: dict[float, float], ood_loss: float = 1.0) -> Interpolation:
    clip: Any = SimpleNamespace(model=nn.Linear(1, 1, bias=False))
    start, tuned = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
    yardsticks = [line(scores, f"far{number}") for number, scores in enumerate(outside)]
    found = choose_interpolation(clip, start, tuned, line(validation, "near"), yardsticks, ood_loss)
    assert float(clip.model.weight.detach()) == pytest.approx(found.alpha)
    return found


RISING = {alpha: 0.5 + 0.3 * alpha for alpha in ALPHAS}
FALLING = {alpha: 0.7 - 0.04 * alpha for alpha in ALPHAS}


def test_the_best_validation_within_the_allowed_loss_is_chosen() -> None:
    assert choose(RISING, FALLING).alpha == 0.2
    assert choose(RISING, FALLING, ood_loss=2).alpha == 0.5
    assert choose(RISING, FALLING, ood_loss=100).alpha == 1
    assert choose(RISING, FALLING, ood_loss=0).alpha == 0
    assert "start model, is kept" in choose(RISING, FALLING, ood_loss=0).reason()


def test_each_corpus_outside_the_domain_is_protected_not_their_mean() -> None:
    gaining = {alpha: 0.5 + 0.1 * alpha for alpha in ALPHAS}
    assert choose(RISING, gaining).alpha == 1
    found = choose(RISING, gaining, FALLING)
    assert found.alpha == 0.2
    assert found.reason() == (
        "alpha 0.2 has the best near hits@1 of the 3 mixtures of 11 that lose at most 1 point out of domain"
    )


def test_of_equals_the_one_nearest_to_the_start_is_chosen() -> None:
    flat = dict.fromkeys(ALPHAS, 0.5) | {0.3: 0.6, 0.8: 0.6}
    assert choose(flat).alpha == 0.3


def test_without_a_corpus_outside_validation_decides_and_the_gap_is_said() -> None:
    found = choose(RISING | {0.9: 0.95})
    assert found.alpha == 0.9
    assert "nothing out of domain was measured" in found.reason()
    assert "nothing out of domain was measured" in found.table()


def test_the_table_the_log_and_the_picture_tell_the_same(tmp_path: Path) -> None:
    found = choose(RISING, FALLING, FALLING)
    rows = found.table().splitlines()
    assert rows[0].split() == ["alpha", "near", "hits@1", "far0", "hits@1", "far1", "hits@1"]
    assert rows[3].split() == ["*", "0.2", "0.560", "(+6.0)", "0.692", "(-0.8)", "0.692", "(-0.8)"]
    assert len(rows) == 1 + len(ALPHAS) + 1
    assert interpolation_from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.chosen == Point(0.2, RISING[0.2], (FALLING[0.2], FALLING[0.2]))
    for name, interpolation in {"with": found, "without": choose(RISING)}.items():
        plot_interpolation(interpolation, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def small_clip(seed: int) -> Clip:
    options = TinyOptions(
        dim=32, image_size=16, channels=(16, 32, 32), strides=(2, 2, 1), text_width=48, text_layers=1, text_heads=2
    )
    return Clip(*build_tiny([f"a {word} thing" for word in WORDS], options, seed), PixelSettings(16), "small")


def paint(words: list[str], haze: bool, generator: np.random.Generator) -> Any:
    """(N, 16, 16, 3) uint8: one noisy colour a picture, which ``haze`` makes pale."""
    colours = np.array([COLOURS[word] for word in words], float)[:, None, None]
    noise = generator.normal(0, 40, (len(words), 16, 16, 3))
    return np.clip((0.4 * colours + 130 if haze else colours) + noise, 0, 255).astype(np.uint8)


def learn(clip: Clip, haze: bool, steps: int, learning_rate: float, seed: int) -> None:
    """Train on clear pictures alone, or on hazy ones alone."""
    generator = np.random.default_rng(seed)
    optimiser = build_optimiser(clip.model, TrainOptions(learning_rate=learning_rate, weight_decay=0))
    clip.model.train()
    for _ in range(steps):
        drawn = list(generator.permutation(WORDS))
        images = clip.normalise(torch.from_numpy(paint(drawn, haze, generator)).permute(0, 3, 1, 2))
        texts = clip.text_features([f"a {word} thing" for word in drawn])
        loss = contrastive_loss(clip.image_features(images), texts, clip.model.logit_scale)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    clip.model.eval()


def accuracy(haze: bool) -> Yardstick:
    """Zero-shot hits@1 over the eight colours."""
    shown = WORDS * 25
    pixels = paint(shown, haze, np.random.default_rng(99))

    def score(clip: Clip) -> float:
        prompts = clip.embed_texts([f"a {word} thing" for word in WORDS])
        found = (clip.embed_pixels(pixels) @ prompts.T).argmax(axis=1)
        return float(np.mean([WORDS[number] == word for number, word in zip(found, shown, strict=True)]))

    return Yardstick("hazy" if haze else "clear", "hits@1", score)


@pytest.mark.soak
def test_interpolation_keeps_what_fine_tuning_forgets_and_part_of_what_it_gains(
    rounds: Callable[[int, int], int],
) -> None:
    for seed in range(rounds(1, 5)):
        clip = small_clip(seed)
        learn(clip, haze=False, steps=60, learning_rate=2e-3, seed=seed)
        start = snapshot(clip.model)
        learn(clip, haze=True, steps=40, learning_rate=1e-3, seed=seed + 50)
        tuned = snapshot(clip.model)
        found = choose_interpolation(clip, start, tuned, accuracy(haze=True), [accuracy(haze=False)])
        first, last = found.points[0], found.points[-1]
        assert last.validation > first.validation + 0.5
        assert last.outside[0] < first.outside[0] - 0.1, "fine-tuning alone forgets clear pictures"
        assert 0 < found.alpha < 1
        assert found.chosen.outside[0] >= first.outside[0] - 0.01
        assert found.chosen.validation > first.validation + 0.03
        assert accuracy(haze=False).score(clip) == found.chosen.outside[0], "the chosen weights are in the model"
