"""Which parameters are trained and at which rate: groups, layer-wise decay, frozen towers, LoRA and its merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny, load_clip, save_clip
from clipsearch.clip.tokens import train_tokenizer
from clipsearch.errors import InputError
from clipsearch.training.loss import contrastive_loss
from clipsearch.training.optimiser import build_optimiser, parameter_groups, set_learning_rate
from clipsearch.training.options import TrainOptions
from clipsearch.training.parameters import (
    count_parameters,
    is_adapter,
    layer_scales,
    lora_layers,
    merge,
    merged,
    prepare,
    set_training,
    tower_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["a red block", "a green block", "a blue circle", "two yellow stripes"]
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8))
OPTIONS = TrainOptions(model="start", learning_rate=1e-3)


def clip_model(layers: int = 2) -> Clip:
    """A CLIPModel with random weights."""
    tokenizer = train_tokenizer(TEXTS, max_length=16)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**shape, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**shape, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    return Clip(model, tokenizer, PixelSettings(32), "random")


def tiny_model(text_layers: int = 2) -> Clip:
    """The tiny preset, smaller still, with a transformer as text tower or, at 0 layers, the tower of words."""
    options = TinyOptions(
        dim=16,
        image_size=32,
        channels=(8, 16, 16),
        strides=(2, 2, 1),
        text_width=48,
        text_layers=text_layers,
        text_heads=3,
        text_length=16,
    )
    return Clip(*build_tiny(TEXTS, options), PixelSettings(32), "tiny")


def word_model() -> Clip:
    """The tiny preset with its tower of words."""
    return tiny_model(text_layers=0)


MODELS = pytest.mark.parametrize("build", [clip_model, tiny_model, word_model])


def steps(clip: Clip, options: TrainOptions, count: int = 3) -> list[float]:
    """Prepare, and train on one batch; the losses."""
    prepare(clip.model, options)
    optimiser = build_optimiser(clip.model, options)
    set_training(clip.model)
    losses = []
    for _ in range(count):
        images, texts = clip.image_features(clip.normalise(PIXELS)), clip.text_features(TEXTS)
        loss = contrastive_loss(images, texts, clip.model.logit_scale)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    clip.model.eval()
    return losses


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def features(clip: Clip) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([clip.image_features(clip.normalise(PIXELS)), clip.text_features(TEXTS)])


@MODELS
@pytest.mark.parametrize("freeze", ["", "image", "text"])
@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_the_groups_hold_each_trained_parameter_once(build: Any, freeze: str, lora: int, decay: float) -> None:
    model = build().model
    if lora and build is tiny_model:
        freeze = "image"
    if build is word_model:
        lora = 0
    counts = prepare(model, TrainOptions(model="start", freeze=freeze, lora=lora))
    groups = parameter_groups(model, 0.1, decay)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(map(id, trained))
    assert counts.trained == sum(parameter.numel() for parameter in trained)
    assert len({(group["lr_scale"], group["weight_decay"]) for group in groups}) == len(groups)
    scales = [group["lr_scale"] for group in groups]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == 1


def test_biases_norms_the_temperature_and_positions_do_not_decay() -> None:
    model = clip_model().model
    kept = {id(p) for group in parameter_groups(model, 0.1) if not group["weight_decay"] for p in group["params"]}
    decayed = {name for name, parameter in model.named_parameters() if id(parameter) not in kept}
    assert {"text_model.embeddings.token_embedding.weight", "visual_projection.weight"} <= decayed
    assert "vision_model.embeddings.patch_embedding.weight" in decayed
    endings = ("bias", "position_embedding.weight", "class_embedding", "logit_scale", "norm1.weight", "layrnorm.weight")
    assert not [name for name in decayed if name.endswith(endings)]


def test_layers_learn_slower_the_further_they_are_from_the_projection() -> None:
    scales = layer_scales([name for name, _ in clip_model(layers=3).model.named_parameters()], 0.5)
    expected = {
        "logit_scale": 1,
        "visual_projection.weight": 1,
        "vision_model.post_layernorm.weight": 0.5,
        "vision_model.encoder.layers.2.mlp.fc1.weight": 0.5,
        "vision_model.encoder.layers.0.self_attn.q_proj.bias": 0.125,
        "vision_model.pre_layrnorm.weight": 0.0625,
        "vision_model.embeddings.class_embedding": 0.0625,
        "text_model.embeddings.token_embedding.weight": 0.0625,
        "text_model.final_layer_norm.bias": 0.5,
    }
    assert {name: scales[name] for name in expected} == expected
    assert layer_scales(["vision_model.blocks.0.weight", "vision_model.blocks.1.weight", "x"], 0.5) == {
        "vision_model.blocks.0.weight": 0.25,
        "vision_model.blocks.1.weight": 0.5,
        "x": 1.0,
    }


def test_lora_factors_have_the_rate_of_their_layer() -> None:
    model = clip_model().model
    prepare(model, TrainOptions(model="start", lora=2))
    scales = layer_scales([name for name, _ in model.named_parameters()], 0.5)
    assert scales["text_model.encoder.layers.0.mlp.fc1.lora_B.default.weight"] == 0.25
    assert scales["text_model.encoder.layers.1.self_attn.q_proj.lora_A.default.weight"] == 0.5


def test_setting_the_learning_rate_keeps_the_scales() -> None:
    model = clip_model().model
    optimiser = build_optimiser(model, TrainOptions(learning_rate=1e-3, layer_decay=0.5))
    rates = [group["lr"] for group in optimiser.param_groups]
    assert max(rates) == 1e-3
    assert min(rates) == 1e-3 / 8
    set_learning_rate(optimiser, 2e-3)
    assert [group["lr"] for group in optimiser.param_groups] == [2 * rate for rate in rates]


def test_a_model_without_towers_has_groups_too() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    assert [group["lr_scale"] for group in parameter_groups(model, 0.1, 0.5)] == [1, 1]
    with pytest.raises(InputError, match="Sequential has no vision_model"):
        prepare(model, TrainOptions())


@MODELS
@pytest.mark.parametrize("frozen", ["image", "text"])
def test_a_frozen_tower_stays_bit_for_bit_with_its_statistics(build: Any, frozen: str) -> None:
    clip = build()
    before = state(clip.model)
    steps(clip, TrainOptions(model="start", freeze=frozen, learning_rate=1e-3))
    after = state(clip.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if tower_of(name) == frozen]
    other = "text" if frozen == "image" else "image"
    assert [name for name in changed if tower_of(name) == other]
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= changed


def test_the_counts_say_what_is_trained() -> None:
    model = clip_model().model
    everything = count_parameters(model)
    assert everything.trained == everything.total == sum(p.numel() for p in model.parameters())
    frozen = prepare(model, TrainOptions(model="start", freeze="image"))
    assert (frozen.image_tower, frozen.text_tower) == (0, everything.text_tower)
    assert frozen.rest == 2 * 16 * 32 + 1
    adapted = prepare(clip_model().model, TrainOptions(model="start", lora=2))
    per_layer = 4 * 2 * (32 + 32) + 2 * 2 * (32 + 64)  # attention's four and the MLP's two linear layers
    assert adapted.image_tower == adapted.text_tower == 2 * per_layer
    assert adapted.total == everything.total
    assert adapted.to_json()["trained"] == 4 * per_layer + frozen.rest
    assert f"{adapted.trained:,} parameters are trained" in adapted.line()


def test_lora_starts_from_the_same_model_and_is_seeded() -> None:
    clip = clip_model()
    before = features(clip)
    torch.manual_seed(5)
    prepare(clip.model, TrainOptions(model="start", lora=2, seed=3))
    assert torch.equal(features(clip), before)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    again, other = clip_model().model, clip_model().model
    prepare(again, TrainOptions(model="start", lora=2, seed=3))
    prepare(other, TrainOptions(model="start", lora=2, seed=4))
    first, second, third = (state(model) for model in (clip.model, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_lora_trains_its_factors_and_the_projections_alone() -> None:
    clip = clip_model()
    prepare(clip.model, TrainOptions(model="start", lora=2))
    assert len(list(lora_layers(clip.model))) == 2 * 2 * 6
    trained = {name for name, parameter in clip.model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if not is_adapter(name)} == {
        "logit_scale",
        "visual_projection.weight",
        "text_projection.weight",
    }
    assert len(trained) == 3 + 2 * 24


def test_merged_lora_equals_the_wrapped_model_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    clip = clip_model()
    plain = set(clip.model.state_dict())
    untouched = features(clip)
    losses = steps(clip, TrainOptions(model="start", lora=4, learning_rate=1e-2), count=8)
    assert losses[-1] < losses[0]
    wrapped, weights = features(clip), state(clip.model)
    assert (wrapped - untouched).abs().max() > 0.01
    with merged(clip.model):
        assert set(clip.model.state_dict()) == plain
        assert (features(clip) - wrapped).abs().max() < 1e-6
        save_clip(tmp_path / "saved", clip.model, clip.tokenizer, clip.settings.to_processor())
    assert torch.equal(features(clip), wrapped)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in clip.model.state_dict().items())
    assert (features(load_clip(tmp_path / "saved", "cpu")) - wrapped).abs().max() < 1e-6
    merge(clip.model)
    assert set(clip.model.state_dict()) == plain
    assert (features(clip) - wrapped).abs().max() < 1e-6
    merge(clip.model)  # a plain model stays as it is
    assert set(clip.model.state_dict()) == plain


def test_the_wrapped_model_comes_back_when_saving_fails() -> None:
    clip = clip_model()
    prepare(clip.model, TrainOptions(model="start", lora=2))
    with pytest.raises(OSError, match="disk"), merged(clip.model):
        raise OSError("no space left on the disk")
    assert len(list(lora_layers(clip.model))) == 24


def test_lora_on_convolutions_is_refused_by_name() -> None:
    clip = tiny_model()
    with pytest.raises(InputError, match=r"image tower \(clipsearch_conv_tower\) are convolutions.*--freeze image"):
        prepare(clip.model, TrainOptions(model="start", lora=2))
    assert not list(lora_layers(clip.model))
    words = word_model().model
    with pytest.raises(InputError, match=r"are convolutions: train without --lora$"):
        prepare(words, TrainOptions(model="start", lora=2))
    with pytest.raises(InputError, match=r"text tower \(clipsearch_word_tower\) is no stack of layers"):
        prepare(words, TrainOptions(model="start", lora=2, freeze="image"))
    counts = prepare(clip.model, TrainOptions(model="start", lora=2, freeze="image"))
    assert counts.image_tower == 0 < counts.text_tower
    assert all(tower_of(name) == "text" for name, _ in lora_layers(clip.model))


def test_training_mode_is_for_towers_that_are_trained() -> None:
    model = tiny_model().model
    set_training(model)
    assert all(module.training for module in model.modules())
    prepare(model, TrainOptions(model="start", freeze="image"))
    set_training(model)
    assert not any(module.training for module in model.vision_model.modules())
    assert model.text_model.training


@MODELS
def test_adafactor_learns_and_survives_rows_without_gradients(build: Any) -> None:
    clip = build()
    tokens = clip.model.text_model.embeddings.token_embedding.weight
    before = tokens.detach().clone()
    losses = steps(clip, TrainOptions(model="start", optimiser="adafactor", learning_rate=1e-2, weight_decay=0), 12)
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in clip.model.parameters())
    used = sorted({token for text in TEXTS for token in clip.tokenizer(text)["input_ids"]})
    unused = [row for row in range(len(tokens)) if row not in used]
    assert torch.equal(tokens[unused], before[unused])
    assert not torch.equal(tokens[used], before[used])


def test_adafactors_moments_are_small_and_come_back() -> None:
    clip = clip_model()
    options = TrainOptions(model="start", optimiser="adafactor", learning_rate=1e-2)
    optimiser = build_optimiser(clip.model, options)
    (features_of := clip.text_features(TEXTS)).sum().backward()  # type: ignore[no-untyped-call]
    assert features_of.shape == (4, 16)
    optimiser.step()
    saved = optimiser.state_dict()
    kept = sum(value.numel() for entry in saved["state"].values() for value in entry.values())
    touched = sum(p.numel() for p in clip.model.parameters() if p.grad is not None)
    assert kept < 0.25 * touched
    again = build_optimiser(clip.model, options)
    again.load_state_dict(saved)
    assert again.state_dict()["state"].keys() == saved["state"].keys()
