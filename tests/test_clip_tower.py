"""The convolutional tower and the tiny preset: loadable by transformers' own classes, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, VisionTextDualEncoderModel

from clipsearch.clip import (
    Clip,
    ConvTower,
    ConvTowerConfig,
    PixelSettings,
    TinyOptions,
    WordTower,
    WordTowerConfig,
    build_tiny,
    load_clip,
    save_clip,
)

CAPTIONS = ["many planes are parked near a terminal", "a river with a bridge", "storage tanks near a river"]
SMALL = TinyOptions(dim=32, image_size=32, channels=(8, 16), strides=(2, 2), text_width=32, text_layers=1, text_heads=2)

SMALL_WORDS = replace(SMALL, text_layers=0)


def trained_a_little(seed: int = 0) -> tuple[object, object]:
    """A tiny model whose batch norms have seen images, so that their statistics are not those of a new model."""
    model, tokenizer = build_tiny(CAPTIONS, SMALL, seed)
    model.train()
    model.get_image_features(pixel_values=torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 3)
    return model.eval(), tokenizer


def test_the_tower_pools_each_image_to_one_vector() -> None:
    tower = ConvTower(ConvTowerConfig(channels=(8, 8, 16), strides=(2, 1, 2), image_size=32)).eval()
    output = tower(torch.zeros(2, 3, 32, 32))
    assert output.pooler_output.shape == (2, 16)
    assert output.last_hidden_state.shape == (2, 16, 8, 8)
    assert torch.equal(tower(torch.zeros(2, 3, 32, 32), return_dict=False)[1], output.pooler_output)


def test_auto_classes_know_the_tower() -> None:
    config = AutoConfig.for_model("clipsearch_conv_tower", channels=[8], strides=[2])
    assert isinstance(config, ConvTowerConfig)
    assert config.hidden_size == 8
    assert isinstance(AutoModel.from_config(config), ConvTower)


def test_widths_and_strides_must_match() -> None:
    with pytest.raises(ValueError, match="one entry per convolution"):
        ConvTowerConfig(channels=(8, 8), strides=(2,))


def test_a_saved_model_is_loaded_bit_for_bit_by_transformers_own_class(tmp_path: Path) -> None:
    model, tokenizer = trained_a_little()
    save_clip(tmp_path / "tiny", model, tokenizer, PixelSettings(32).to_processor())
    again = VisionTextDualEncoderModel.from_pretrained(tmp_path / "tiny")
    assert again.state_dict().keys() == model.state_dict().keys()  # type: ignore[attr-defined]
    for name, value in model.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, again.state_dict()[name]), name  # batch norm's running means among them


def test_the_folder_describes_its_tokenizer_and_its_images(tmp_path: Path) -> None:
    model, tokenizer = trained_a_little()
    settings = PixelSettings(32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_clip(tmp_path / "tiny", model, tokenizer, settings.to_processor())
    assert AutoTokenizer.from_pretrained(tmp_path / "tiny")("a river").input_ids == tokenizer("a river").input_ids  # type: ignore[operator]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "tiny", backend="pil")
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert dict(processor.crop_size) == {"height": 32, "width": 32}


def test_the_same_seed_builds_the_same_model() -> None:
    first, second, other = (build_tiny(CAPTIONS, SMALL, seed)[0] for seed in (3, 3, 4))
    weights = [model.visual_projection.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_tiny(CAPTIONS, SMALL, 9)
    assert torch.equal(before, torch.random.get_rng_state())


def test_importing_the_room_is_all_that_a_foreign_program_needs(tmp_path: Path) -> None:
    save_clip(tmp_path / "tiny", *trained_a_little(), PixelSettings(32).to_processor())
    code = (
        "import sys, clipsearch.clip; from transformers import VisionTextDualEncoderModel as M;"
        "print(type(M.from_pretrained(sys.argv[1]).vision_model).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "ConvTower"


def test_words_count_whatever_their_order_and_padding() -> None:
    torch.manual_seed(0)
    tower = WordTower(WordTowerConfig(vocab_size=20, hidden_size=8, eos_token_id=19)).eval()
    torch.nn.init.normal_(tower.embeddings.token_weight.weight)
    texts = torch.tensor([[18, 3, 5, 7, 19, 19, 19], [18, 7, 3, 5, 19, 2, 11], [18, 7, 3, 6, 19, 19, 19]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 3)
    with_mask, without = tower(texts, mask).pooler_output, tower(texts).pooler_output
    assert torch.equal(with_mask, without)
    assert torch.allclose(without[0], without[1], atol=1e-6)
    assert not torch.allclose(without[0], without[2], atol=1e-3)
    assert torch.allclose(tower(texts[:1, :5]).pooler_output, without[:1], atol=1e-6)
    assert torch.equal(tower(texts, return_dict=False)[1], without)


def test_a_token_of_small_weight_says_nothing() -> None:
    torch.manual_seed(0)
    tower = WordTower(WordTowerConfig(vocab_size=20, hidden_size=8, eos_token_id=19)).eval()
    with torch.no_grad():
        tower.embeddings.token_weight.weight[4] = -5
    output = tower(torch.tensor([[18, 3, 4, 19], [18, 4, 3, 19]])).pooler_output
    assert torch.allclose(output, tower(torch.tensor([[18, 3, 19]])).pooler_output.expand(2, 8), atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1])
def test_both_text_towers_are_saved_and_loaded(layers: int, tmp_path: Path) -> None:
    options = TinyOptions(dim=32, image_size=32, channels=(8, 16), strides=(2, 2), text_width=32, text_layers=layers)
    model, tokenizer = build_tiny(CAPTIONS, options)
    clip = Clip(model, tokenizer, PixelSettings(32), "tiny")
    save_clip(tmp_path / "tiny", model, tokenizer, clip.settings.to_processor())
    again = load_clip(tmp_path / "tiny", "cpu")
    assert type(again.model.text_model).__name__ == ("CLIPTextModel" if layers else "WordTower")
    assert again.text_length == options.text_length
    texts = again.embed_texts(CAPTIONS)
    assert (texts == clip.embed_texts(CAPTIONS)).all()
    assert abs(texts[0] - texts[1]).max() > 1e-3


def test_words_that_training_captions_hardly_have_start_with_a_small_weight() -> None:
    captions = ["a river", "a river", "a bridge"] * 50
    model, tokenizer = build_tiny(captions, SMALL_WORDS)
    logits = model.text_model.embeddings.token_weight.weight[:, 0]
    often, seldom, never = (tokenizer(word)["input_ids"][1] for word in ("river", "bridge", "q"))
    assert logits[often] > logits[seldom] > logits[never] + 0.2
    clip = Clip(model, tokenizer, PixelSettings(32), "tiny")
    bare, foreign, known = clip.embed_texts(["a river", "a qq river zz", "a bridge river"])
    assert bare @ foreign > 0.9 > bare @ known


def test_a_new_model_starts_with_vectors_of_unit_scale() -> None:
    model, _ = build_tiny(CAPTIONS, TinyOptions(image_size=32))
    tables = model.text_model.embeddings.token_embedding, model.visual_projection, model.text_projection
    for table in tables:  # of length about 1 each, and not the N(0, 1) of torch's own embedding tables
        assert float(table.weight.detach().norm(dim=1).mean()) == pytest.approx(1, rel=0.05)
