"""open_clip's checkpoints become Hugging Face folders and come back, and give the same embeddings on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from clipsearch.cli import cli
from clipsearch.clip import PixelSettings, TinyOptions, build_tiny, load_clip, openclip, reference, save_clip
from clipsearch.clip.convert import convert
from clipsearch.clip.renaming import open_clip_weights, pairs
from clipsearch.clip.tokens import token_ids, train_tokenizer
from clipsearch.clip.vocabulary import find_tokenizer, is_openai_vocabulary
from clipsearch.errors import CheckpointError

CAPTIONS = ["many planes are parked", "a river and a bridge", "storage tanks"]
TEXTS = ["many planes", "a river and a lake near storage tanks", "x"]


def hf_folder(folder: Path, act: str = "quick_gelu", text_act: str = "", **vision: Any) -> Path:
    """A small CLIP whose weights are all far from their starting values, as a Hugging Face folder."""
    tokenizer = train_tokenizer(CAPTIONS * 3, max_length=24)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 12}
    tokens = {kind: getattr(tokenizer, kind) for kind in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"hidden_size": 8, "intermediate_size": 20, "max_position_embeddings": 24, "vocab_size": len(tokenizer)}
    image = {"hidden_size": 16, "intermediate_size": 45, "image_size": 16, "patch_size": 8, "hidden_act": act}
    config = CLIPConfig(
        text_config=shape | tokens | text | {"hidden_act": text_act or act},
        vision_config=shape | image | vision,
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    settings = PixelSettings(16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resample=2, resize=0)
    return save_clip(folder, model, tokenizer, settings.to_processor())


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("clip") / "hf")


@pytest.fixture(scope="module")
def open_clip(hf: Path) -> Path:
    convert(hf, hf.parent / "open_clip")
    return hf.parent / "open_clip"


def edited(source: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    """A copy of an open_clip folder with another configuration or other weights."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    weights = load_file(folder / "open_clip_model.safetensors")
    change(config["model_cfg"], weights)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize(("act", "eps"), [("quick_gelu", 1e-5), ("gelu", 1e-6), ("gelu_new", 1e-5)])
def test_there_and_back_again_no_bit_of_a_weight_is_another(tmp_path: Path, act: str, eps: float) -> None:
    start = hf_folder(tmp_path / "start", act, layer_norm_eps=eps)
    there, back = convert(start, tmp_path / "there"), convert(tmp_path / "there", tmp_path / "back")
    assert (there.to, back.to) == ("open_clip", "hf")
    before, after = load_clip(start, "cpu"), load_clip(tmp_path / "back", "cpu")
    weights = after.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.model.state_dict().items())
    assert after.settings == before.settings
    assert after.text_length == before.text_length == 24
    np.testing.assert_allclose(after.embed_texts(TEXTS), before.embed_texts(TEXTS), atol=1e-6)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_allclose(after.embed_images([image]), before.embed_images([image]), atol=1e-6)


def test_a_report_beside_the_weights_says_how_far_the_two_forms_differ(open_clip: Path) -> None:
    report = json.loads((open_clip / "conversion.json").read_text())
    assert 0 < report["image"] < 1e-5
    assert 0 < report["text"] < 1e-5
    assert report["to"] == "open_clip"
    assert report["architecture"] == "ViT 16x2, patches of 8 px, 12 dimensions"
    assert report["parameters"] == sum(
        value.numel() for value in load_file(open_clip / "open_clip_model.safetensors").values()
    )


def test_the_written_form_embeds_texts_as_open_clip_pads_and_pools_them(hf: Path, open_clip: Path) -> None:
    clip = load_clip(hf, "cpu")
    weights = load_file(open_clip / "open_clip_model.safetensors")
    config = json.loads((open_clip / "open_clip_config.json").read_text())
    architecture = openclip.read_architecture(config["model_cfg"], "it")
    ids = torch.zeros((len(TEXTS), 24), dtype=torch.long)  # open_clip pads with zeros, to the full length
    for row, tokens in enumerate(token_ids(clip.tokenizer, TEXTS, 24)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    found = torch.nn.functional.normalize(reference.encode_text(weights, architecture, ids), dim=1)
    np.testing.assert_allclose(found.numpy(), clip.embed_texts(TEXTS), atol=1e-6)


def test_open_clip_itself_loads_what_was_written_and_agrees(hf: Path, open_clip: Path) -> None:
    library = pytest.importorskip("open_clip", reason="open_clip is not installed here", exc_type=ImportError)
    model, clip = library.create_model(f"local-dir:{open_clip}").eval(), load_clip(hf, "cpu")
    tokens = library.get_tokenizer(f"local-dir:{open_clip}")(TEXTS)
    pixels = torch.rand((2, 3, 16, 16))
    with torch.inference_mode():
        np.testing.assert_allclose(
            model.encode_text(tokens, normalize=True).numpy(), clip.embed_texts(TEXTS), atol=1e-6
        )
        np.testing.assert_allclose(model.encode_image(pixels, normalize=True), clip.image_features(pixels), atol=1e-6)


def test_a_conversion_that_changes_embeddings_is_refused_and_leaves_nothing(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(weights: Any, architecture: Any) -> dict[str, Tensor]:
        converted = open_clip_weights(weights, architecture)
        name = "visual.transformer.resblocks.1.attn.in_proj_weight"
        return converted | {name: converted[name].roll(16, dims=0)}  # query, key and value in another order

    monkeypatch.setattr("clipsearch.clip.convert.open_clip_weights", swapped)
    with pytest.raises(CheckpointError, match=r"was not converted: embeddings differ by .* \(image\)"):
        convert(hf, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bare_weights_need_an_architecture_and_a_vocabulary(hf: Path, open_clip: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    weights = load_file(open_clip / "open_clip_model.safetensors")
    # as training with several processes saves them, in half precision, and with what OpenAI's archive adds
    odd = {f"module.{name}": value.half() for name, value in weights.items()}
    save_file(odd | {"module.context_length": torch.tensor(24)}, bare)
    with pytest.raises(CheckpointError, match="--architecture, one of ViT-S-32-alt"):
        convert(bare, tmp_path / "out")
    config = str(open_clip / "open_clip_config.json")
    with pytest.raises(CheckpointError, match="--tokenizer"):
        convert(bare, tmp_path / "out", architecture=config)
    convert(bare, tmp_path / "out", architecture=config, tokenizer=str(hf))
    found, expected = load_clip(tmp_path / "out", "cpu").embed_texts(TEXTS), load_clip(hf, "cpu").embed_texts(TEXTS)
    assert (found * expected).sum(axis=1).min() > 0.9999
    with pytest.raises(CheckpointError, match=r"lacks visual.transformer.resblocks.2|does not fit its architecture"):
        convert(bare, tmp_path / "other", architecture="ViT-B-32", tokenizer=str(hf))
    with pytest.raises(CheckpointError, match="'ViT-B-31' is not known; known are ViT-S-32-alt"):
        convert(bare, tmp_path / "other", architecture="ViT-B-31", tokenizer=str(hf))


def test_text_towers_of_their_own_and_texts_pooled_at_an_end_token_are_understood(
    hf: Path, open_clip: Path, tmp_path: Path
) -> None:
    end = load_clip(hf, "cpu").tokenizer.eos_token_id

    def change(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        config["custom_text"] = True
        config["text_cfg"] |= {"pool_type": "eos", "eos_id": end}
        for name in [name for name in weights if not name.startswith(("visual", "logit"))]:
            weights[f"text.{name}"] = weights.pop(name)
        weights["logit_bias"] = torch.tensor(-10.0)

    result = convert(edited(open_clip, tmp_path / "custom", change), tmp_path / "out")
    assert result.notes == ("logit_bias was left out: it moves all scores alike",)
    np.testing.assert_array_equal(
        load_clip(tmp_path / "out", "cpu").embed_texts(TEXTS), load_clip(hf, "cpu").embed_texts(TEXTS)
    )


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision_cfg", "layers", [3, 4, 6, 3], "a ResNet image tower.*converts plain ViT models"),
        (
            "vision_cfg",
            "timm_model_name",
            "vit_base_patch16_siglip_224",
            "image tower vit_base_patch16_siglip_224 of timm",
        ),
        ("text_cfg", "hf_model_name", "roberta-base", "the text tower roberta-base of Hugging Face"),
        ("text_cfg", "pool_type", "last", "pools texts by 'last'"),
        ("text_cfg", "no_causal_mask", True, "text_cfg.no_causal_mask True"),
        ("vision_cfg", "ls_init_value", 0.1, "vision_cfg.ls_init_value 0.1"),
        ("vision_cfg", "pool_type", "avg", "vision_cfg.pool_type avg"),
        ("text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"}, "tokenizer_kwargs"),
        ("vision_cfg", "image_size", [16, 32], "must be square"),
        ("vision_cfg", "head_width", 5, "cannot be split over"),
        ("vision_cfg", "image_size", 24, r"visual.positional_embedding is \(5, 16\) and should be \(10, 16\)"),
        ("vision_cfg", "layers", 3, r"lacks visual.transformer.resblocks.2"),
        ("vision_cfg", "layers", 1, r"tensors that its architecture does not"),
        ("text_cfg", "vocab_size", "many", "is no open_clip configuration that can be converted"),
    ],
)
def test_what_a_hugging_face_clip_cannot_hold_is_refused_by_name(
    open_clip: Path, tmp_path: Path, part: str, key: str, value: Any, message: str
) -> None:
    source = edited(open_clip, tmp_path / "source", lambda config, _: config[part].update({key: value}))
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_open_clip_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    mixed = hf_folder(tmp_path / "mixed", "quick_gelu", "gelu")
    with pytest.raises(CheckpointError, match="no CLIP whose towers use quick_gelu and gelu"):
        convert(mixed, tmp_path / "out")
    model, tokenizer = build_tiny(CAPTIONS, TinyOptions(dim=8, channels=(4, 4), strides=(2, 2), text_width=8))
    save_clip(tmp_path / "tiny", model, tokenizer, PixelSettings(16).to_processor())
    with pytest.raises(CheckpointError, match="such as the tiny preset, which open_clip cannot hold"):
        convert(tmp_path / "tiny", tmp_path / "out")


def test_sources_that_are_no_checkpoint_say_what_to_do(hf: Path, open_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"weights.pt is pickled and could run code.*save_file"):
        convert(tmp_path / "weights.pt", tmp_path / "out")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no config.json and no open_clip_config.json.*--architecture"):
        convert(folder, tmp_path / "out")
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"no safetensors weights \(only open_clip_pytorch_model.bin"):
        convert(folder, tmp_path / "out")
    (folder / "open_clip_model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        convert(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is already in the form hf"):
        convert(hf, tmp_path / "out", to="hf")
    with pytest.raises(CheckpointError, match="exists: choose another folder"):
        convert(hf, open_clip)
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        convert(tmp_path / "nowhere", tmp_path / "out")


def test_a_vocabulary_of_another_size_is_refused(open_clip: Path, hf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train_tokenizer(["quite other words", "other words, and words of others"]).save_pretrained(other)
    with pytest.raises(CheckpointError, match=r"has 5\d\d tokens and the text tower 5\d\d"):
        convert(open_clip, tmp_path / "out", tokenizer=str(other))


def test_the_sizes_by_name_are_those_of_the_published_models() -> None:
    large = openclip.read_architecture(openclip.by_name("ViT-L-14-336-quickgelu"), "it")
    assert (large.dim, large.image_size, large.image.heads, large.text.heads) == (768, 336, 16, 12)
    assert large.image.activation == large.text.activation == "quick_gelu"
    giant = openclip.read_architecture(openclip.by_name("ViT-bigG-14"), "it")
    assert (giant.image.hidden, giant.image.heads, giant.text.layers) == (8192, 16, 32)
    base = openclip.read_architecture(openclip.by_name("ViT-B-32"), "it")
    shapes = {part for _, targets, _ in pairs(base) for part in targets}
    with torch.device("meta"):
        assert shapes == set(CLIPModel(CLIPConfig()).state_dict())
    for name in openclip.names():  # and written again they are the same
        read = openclip.read_architecture(openclip.by_name(name), name)
        assert openclip.read_architecture(openclip.write_architecture(read, False), name) == read


def test_clips_own_vocabulary_is_read_from_each_of_its_files(shared: Path, tmp_path: Path) -> None:
    base = openclip.read_architecture(openclip.by_name("ViT-B-32"), "it")
    texts = ["a photo of a cat", "naïve café – 12 storage tanks & 🛩️"]
    ids = []
    for names in (("vocab.json", "merges.txt"), ("bpe_simple_vocab_16e6.txt.gz",)):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            shutil.copy(shared / "data" / "clip_bpe" / name, folder)
        tokenizer = find_tokenizer(folder, "", base)
        assert is_openai_vocabulary(tokenizer)
        ids.append([tokenizer(text)["input_ids"] for text in texts])
    assert ids[0] == ids[1]


def test_the_command_prints_what_it_did_and_fails_with_a_sentence(hf: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["convert", str(hf), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["to"] == "open_clip"
    again = CliRunner().invoke(cli, ["convert", str(tmp_path / "out"), "--out", str(tmp_path / "back")])
    assert "Embeddings differ by at most" in again.output
    failed = CliRunner().invoke(cli, ["convert", str(hf), "--out", str(tmp_path / "out")])
    assert failed.exit_code != 0
