"""Encoding with real towers: the same embedding alone or in a batch, however it is run, however the file is stored."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import Clip, PixelSettings, load_clip, save_clip
from clipsearch.clip.encoders import Encoder, OnnxEncoder, TorchEncoder, load_encoder
from clipsearch.clip.onnxfiles import quantise
from clipsearch.clip.tokens import train_tokenizer
from clipsearch.corpora import open_corpus
from clipsearch.encoding import Encoder as Options
from clipsearch.encoding import encode, encode_corpus
from clipsearch.errors import InputError
from clipsearch.images import load_image
from clipsearch.shards import open_shards

CAPTIONS = ["many planes are parked near a terminal", "a river with a bridge", "storage tanks near a river"]
SIDE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CAPTIONS)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**shape, "image_size": SIDE, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).eval()
    folder = tmp_path_factory.mktemp("models") / "toy"
    return save_clip(folder, model, tokenizer, PixelSettings(SIDE).to_processor())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def scene(width: int = 60, height: int = 44, seed: int = 0) -> Image.Image:
    """A smooth picture without any symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def load(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Encoder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if kind in {"onnx", "onnx-int8"}:
        return load_encoder(checkpoint, "cpu", backend=kind)
    return load_encoder(checkpoint, "cpu", precision=kind)


def cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (first * second).sum(axis=1)
    return found


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["fp32", "bf16", "onnx", "onnx-int8"])
def test_an_image_embeds_the_same_alone_and_in_a_batch_of_64(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, rounds: Callable[[int, int], int], kind: str
) -> None:
    if kind.startswith("onnx") and rounds(1, 2) == 1:
        pytest.skip("exporting takes ten seconds: `make soak` does it, and test_clip_export.py exports too")
    encoder = load(checkpoint, cache, monkeypatch, kind)
    pixels = np.stack([encoder.preprocess(np.asarray(scene(seed=number))) for number in range(64)])
    together = encoder.embed_pixels(pixels)
    alone = np.concatenate([encoder.embed_pixels(pixels[number : number + 1]) for number in range(0, 64, 7)])
    assert cosines(together[::7], alone).min() >= 0.9999
    exact = load_clip(checkpoint, "cpu").embed_pixels(pixels)
    assert cosines(together, exact).min() >= (0.999 if kind != "fp32" else 0.999999)
    assert encoder.cosine >= 0.999
    assert encoder.quantised == (kind == "onnx-int8")
    assert encoder.model_id == load_clip(checkpoint, "cpu").model_id


def flat_tower(clip: Clip, folder: Path) -> tuple[Path, NDArray[np.float32]]:
    """An image tower of one matrix product, as ONNX in ``folder``, and its weights; made in no time."""
    weights = np.random.default_rng(0).standard_normal((3 * SIDE * SIDE, clip.dim)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["features"]),
        helper.make_node("LpNormalization", ["features"], ["image_embeds"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes, "tower",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["images", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["images", clip.dim])],
        [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "a.onnx")
    return folder / "a.onnx", weights


def test_the_onnx_encoder_gives_each_image_alone_to_an_int8_file(checkpoint: Path, tmp_path: Path) -> None:
    clip = load_clip(checkpoint, "cpu")
    file, weights = flat_tower(clip, tmp_path)
    pixels = np.stack([clip.preprocess(np.asarray(scene(seed=number))) for number in range(11)])
    values = clip.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2)).flatten(1).numpy() @ weights
    expected = values / np.linalg.norm(values, axis=1, keepdims=True)
    for quantised in (False, True):
        encoder = OnnxEncoder(clip, file, quantised, threads=3)
        assert cosines(encoder.embed_pixels(pixels), expected).min() >= 0.99999
        assert encoder.embed_pixels(pixels[:0]).shape == (0, clip.dim)


class Dying:
    """A model whose run ends in the middle of the third batch."""

    def __init__(self, model: Encoder) -> None:
        self.model, self.batches = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches += 1
        if self.batches == 3:
            raise KeyboardInterrupt
        return self.model.embed_pixels(pixels)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_an_image_embeds_the_same_alone_in_a_batch_and_in_a_run_that_was_resumed(
    checkpoint: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "int8":
        clip = load_clip(checkpoint, "cpu")
        file = quantise(flat_tower(clip, tmp_path)[0], tmp_path / "a.int8.onnx")
        encoder: Encoder = OnnxEncoder(clip, file, quantised=True, threads=2)
    else:
        encoder = load(checkpoint, cache, monkeypatch, kind)
    root = tmp_path / "corpus"
    (root / "images").mkdir(parents=True)
    for number in range(70):
        picture = scene(seed=number)
        if number % 2:  # faint ones: beside bright ones in a batch, 8 bits shared with them would not be enough
            picture = Image.blend(Image.new("RGB", picture.size, (122, 116, 104)), picture, 0.06)
        picture.save(root / "images" / f"{number:02}.png")
    (root / "captions-train.tsv").write_text("".join(f"{number:02}\tscene {number}\n" for number in range(70)))

    def run(model: Any, out: str, batch: int) -> dict[str, NDArray[np.float32]]:
        with open_corpus(root) as corpus:
            encode(corpus, model, tmp_path / out, batch=batch, progress=False)
        return {row.record.key: row.embedding for row in open_shards(tmp_path / out)}

    whole = run(encoder, "whole", 64)
    with pytest.raises(KeyboardInterrupt):
        run(Dying(encoder), "resumed", 7)
    resumed = run(encoder, "resumed", 64)
    alone = run(encoder, "alone", 1)
    assert whole.keys() == resumed.keys() == alone.keys()
    assert len(whole) == 70
    for other in (resumed, alone):
        assert min(float(whole[key] @ other[key]) for key in whole) >= 0.9999


def test_a_batch_that_memory_does_not_hold_is_halved(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TorchEncoder(load_clip(checkpoint, "cpu"), "fp32", compiled=False)
    pixels = np.stack([encoder.preprocess(np.asarray(scene(seed=number))) for number in range(20)])
    whole, embed = encoder.embed_pixels(pixels), encoder._embed

    def small(part: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(part) > 4:
            raise torch.OutOfMemoryError
        return embed(part)

    monkeypatch.setattr(encoder, "_embed", small)
    assert cosines(encoder.embed_pixels(pixels), whole).min() >= 0.9999


def test_the_eight_exif_orientations_of_a_picture_give_one_embedding(checkpoint: Path) -> None:
    clip = load_clip(checkpoint, "cpu")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    pictures = []
    for orientation in range(1, 9):
        exif, out = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        stored = scene().transpose(undo[orientation]) if orientation > 1 else scene()
        stored.save(out, "JPEG", quality=98, subsampling=0, exif=exif)
        pictures.append(load_image(out.getvalue()))
    vectors = clip.embed_images(pictures)
    assert (vectors @ vectors[0]).min() >= 0.9999


def test_eight_and_sixteen_bit_versions_of_a_picture_give_one_embedding(checkpoint: Path) -> None:
    clip = load_clip(checkpoint, "cpu")
    grey = np.asarray(scene(seed=3).convert("L"))
    versions = []
    for samples in (grey, grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255):
        out = io.BytesIO()
        Image.fromarray(samples).save(out, "TIFF")
        versions.append(load_image(out.getvalue()))
    vectors = clip.embed_images(versions)
    assert (vectors @ vectors[0]).min() >= 0.99


def test_a_corpus_is_encoded_with_patches_and_captions_that_are_the_models_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    root = tmp_path / "corpus"
    (root / "images").mkdir(parents=True)
    for number in range(3):
        scene(seed=number).save(root / "images" / f"{number}.png")
    (root / "captions-train.tsv").write_text("".join(f"{number}\t{CAPTIONS[number]}\n" for number in range(3)))
    summary = encode_corpus(
        root, checkpoint, tmp_path / "out", progress=False, encoder=Options("cpu", precision="fp32"),
        patches="2x2", captions=True,
    )  # fmt: skip
    assert (summary.encoded, summary.encoder) == (3, "torch fp32")
    clip = load_clip(checkpoint, "cpu")
    for number, row in enumerate(open_shards(tmp_path / "out")):
        image = np.asarray(scene(seed=number))
        assert cosines(row.patches[:1], clip.embed_images([image[:22, :30]])).min() >= 0.9999
        assert cosines(row.texts, clip.embed_texts([CAPTIONS[number]])).min() >= 0.9999
        assert row.embedding @ clip.embed_images([image])[0] >= 0.9999


def test_options_that_do_not_go_together_are_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="its own precision"):
        load_encoder(checkpoint, "cpu", backend="onnx", precision="bf16")
    with pytest.raises(InputError, match="runs on the CPU"):
        load_encoder(checkpoint, "cuda", backend="onnx-int8")
    with pytest.raises(InputError, match="no backend 'tpu'"):
        load_encoder(checkpoint, "cpu", backend="tpu")
