"""``load_clip`` and ``Clip``: unit vectors, the same alone and in a batch, and clear words for broken folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import (
    Clip,
    PixelSettings,
    TinyOptions,
    build_tiny,
    checkpoint_info,
    choose_device,
    load_clip,
    save_clip,
)
from clipsearch.clip.tokens import train_tokenizer
from clipsearch.errors import CheckpointError

CAPTIONS = ["many planes are parked near a terminal", "a river with a bridge", "storage tanks near a river"]
SMALL = TinyOptions(dim=32, image_size=32, channels=(8, 16), strides=(2, 2), text_width=32, text_layers=1, text_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, tokenizer = build_tiny(CAPTIONS, SMALL)
    return save_clip(tmp_path_factory.mktemp("models") / "my tiny", model, tokenizer, PixelSettings(32).to_processor())


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(folder, "cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def images(count: int = 5) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (40 + 3 * n, 50, 3), dtype=np.uint8) for n in range(count)]


def clip_folder(target: Path) -> Path:
    """A ``CLIPModel`` of a toy size with random weights."""
    tokenizer = train_tokenizer(CAPTIONS)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 16}, projection_dim=24
    )
    return save_clip(target, CLIPModel(config).eval(), tokenizer, PixelSettings(32).to_processor())


def test_embeddings_are_unit_float32_rows(clip: Clip) -> None:
    for vectors in (clip.embed_images(images()), clip.embed_texts(["a river", "a bridge", "tanks"])):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == clip.dim == 32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-6)


def test_an_item_alone_embeds_as_in_a_batch(clip: Clip) -> None:
    pictures, texts = images(), ["a river", "many planes are parked near a terminal and a river with a bridge", "x"]
    alone = np.concatenate([clip.embed_images([picture]) for picture in pictures])
    assert clip.embed_images(pictures) == pytest.approx(alone, abs=1e-6)
    alone = np.concatenate([clip.embed_texts([text]) for text in texts])
    assert clip.embed_texts(texts) == pytest.approx(alone, abs=1e-6)


def test_texts_come_back_in_the_order_given_and_equal_ones_are_equal(clip: Clip) -> None:
    texts = ["storage tanks near a river", "x", "a river", "x"]
    vectors = clip.embed_texts(texts, batch_size=2)
    assert (vectors[1] == vectors[3]).all()
    assert vectors == pytest.approx(np.concatenate([clip.embed_texts([text]) for text in texts]), abs=1e-6)


def test_nothing_embeds_to_an_empty_array(clip: Clip) -> None:
    assert clip.embed_texts([]).shape == (0, 32)
    assert clip.embed_images([]).shape == (0, 32)
    assert clip.embed_pixels(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 32)


def test_pixels_of_a_wrong_shape_are_refused(clip: Clip) -> None:
    with pytest.raises(ValueError, match="uint8"):
        clip.embed_pixels(np.zeros((2, 3, 32), np.uint8))


def test_preprocessing_is_what_the_saved_processor_does(clip: Clip, folder: Path) -> None:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for picture in images():
        theirs = processor(picture, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]
        ours = clip.normalise(torch.from_numpy(clip.preprocess(picture)).permute(2, 0, 1)[None])[0]
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_model_id_names_folder_and_weights(clip: Clip, folder: Path, copy: Path) -> None:
    name, dim = checkpoint_info(folder)
    assert (name, dim) == (clip.model_id, 32)
    assert name.startswith("my-tiny-")
    assert checkpoint_info(copy)[0].rsplit("-", 1)[1] == name.rsplit("-", 1)[1]
    other, tokenizer = build_tiny(CAPTIONS, SMALL, seed=5)
    save_clip(copy, other, tokenizer, PixelSettings(32).to_processor(), overwrite=True)
    assert checkpoint_info(copy)[0].rsplit("-", 1)[1] != name.rsplit("-", 1)[1]


def test_a_clip_model_folder_loads_and_agrees_with_transformers(tmp_path: Path) -> None:
    clip = load_clip(clip_folder(tmp_path / "clip"), "cpu")
    texts = ["a river", "many planes are parked near a terminal"]
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = clip.model(**tokens, pixel_values=torch.zeros(1, 3, 32, 32)).text_embeds.numpy()
    assert clip.dim == 24
    assert clip.embed_texts(texts) == pytest.approx(theirs, abs=1e-6)
    assert clip.embed_texts(["a river " * 333]).shape == (1, 24)


def test_saving_never_replaces_a_folder_unasked(folder: Path, clip: Clip) -> None:
    with pytest.raises(CheckpointError, match="exists"):
        save_clip(folder, clip.model, clip.tokenizer, clip.settings.to_processor())


def test_a_save_that_fails_leaves_the_old_folder_and_no_litter(copy: Path, clip: Clip) -> None:
    before = checkpoint_info(copy)

    class FullDisk:
        config = clip.model.config

        def save_pretrained(self, path: Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        save_clip(copy, FullDisk(), clip.tokenizer, clip.settings.to_processor(), overwrite=True)
    assert checkpoint_info(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_missing_folder_and_a_strange_name_are_named() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder /no/such/place"):
        load_clip("/no/such/place")


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"hub cannot be reached: download it .*--preset tiny"):
        load_clip("openai/clip-vit-base-patch32")


def test_a_hub_name_loads_and_old_models_through_the_hubs_own_conversion(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def snapshot_download(repository: str, revision: str | None, **_: object) -> str:
        asked.append((repository, revision))
        return str(folder if revision == "refs/pr/7" else tmp_path)

    request = huggingface_hub.Discussion(
        "Adding safetensors", "open", 7, "o/old", "model", "SFconvertbot", True, None, ""
    )
    monkeypatch.setattr(type(request), "git_reference", "refs/pr/7")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "get_repo_discussions", lambda *_, **__: iter([request]))
    assert load_clip("owner/old-model", "cpu").model_id.startswith("old-model-")
    assert asked == [("owner/old-model", None), ("owner/old-model", "refs/pr/7")]
    assert load_clip("owner/old-model@refs/pr/7", "cpu").model_id.startswith("old-model-")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "damaged"),
        ("config.json", '{"model_type": "bert"}', "holds a bert model"),
        ("model.safetensors", None, "no safetensors weights"),
        ("model.safetensors", "rubbish", "cannot be loaded as a CLIP model"),
        ("tokenizer.json", None, "no tokenizer"),
        ("processor_config.json", '{"image_mean": 3}', "not a CLIP image processor"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(copy: Path, name: str, content: str | None, message: str) -> None:
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_clip(copy)


def test_pickled_weights_are_never_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="could run code"):
        load_clip(copy)


def test_weights_of_another_size_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["projection_dim"] = 16
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"cannot be loaded|lacks"):
        load_clip(copy)


def test_an_absent_device_is_named() -> None:
    with pytest.raises(CheckpointError, match="'cuda:77' cannot be used"):
        choose_device("cuda:77")
    assert choose_device("cpu").type == "cpu"


def test_a_model_says_what_it_multiplies_cosines_by(clip: Clip) -> None:
    assert clip.logit_scale == pytest.approx(float(np.exp(SMALL.logit_scale)), rel=1e-5)
