"""Checkpoints between open_clip's form and Hugging Face's CLIP folders, both ways, each one verified.

The tensors are the same ones under other names: open_clip packs query, key and value into one matrix and multiplies
its projections from the right. What is converted is run through ``CLIPModel`` and through ``clipsearch.clip.reference``
before anything is written; the largest relative difference goes into ``conversion.json`` beside the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel

from clipsearch.clip import openclip, reference
from clipsearch.clip.checkpoint import fresh_folder, quiet, read_config, resolve, save_clip, weight_files
from clipsearch.clip.model import load_clip
from clipsearch.clip.openclip import LEGACY_EOS, Architecture
from clipsearch.clip.pixels import OPENAI_MEAN, OPENAI_STD, PixelSettings
from clipsearch.clip.renaming import Weights, hf_architecture, hf_config, hf_weights, open_clip_weights
from clipsearch.clip.vocabulary import find_tokenizer, is_openai_vocabulary
from clipsearch.errors import CheckpointError

CONFIG, WEIGHTS, REPORT = "open_clip_config.json", "open_clip_model.safetensors", "conversion.json"
FORMS = ("hf", "open_clip")
TOLERANCE = 1e-4  # of float32 towers; a right conversion differs by about 1e-6, a wrong one by about 1
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask", "logit_bias"}
_RESAMPLE = {"bicubic": 3, "bilinear": 2}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted. ``image`` and ``text``: largest relative difference of an embedding, in Euclidean length."""

    source: str
    to: str
    architecture: str
    parameters: int
    image: float
    text: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _OpenClip:
    """An open_clip checkpoint as it was read: weights without prefixes, and the folder that it lies in."""

    weights: Weights
    architecture: Architecture
    settings: PixelSettings
    folder: Path
    notes: tuple[str, ...]


def convert(source: str | Path, out: Path, to: str = "", architecture: str = "", tokenizer: str = "") -> Conversion:
    """Write the checkpoint ``source`` into the folder ``out`` in the other form.

    ``source``: a folder or hub name with ``open_clip_config.json`` or with a CLIP's ``config.json``, or a bare
    ``.safetensors`` file of open_clip's with ``architecture`` (a name such as ``ViT-B-32``, or the path of a
    configuration). ``to``: ``hf`` or ``open_clip``; by default the form that ``source`` is not. ``tokenizer``: a
    folder with CLIP's vocabulary where the source has none. Raises ``CheckpointError``; nothing is left behind then.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: choose another folder, or remove it first")
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{source} is pickled and could run code when it is read; only safetensors are. Where you trust it: "
            "torch.load(FILE, weights_only=True), then safetensors.torch.save_file of its state_dict"
        )
    if path.is_file():
        if path.suffix != ".safetensors" or to == "open_clip":
            raise CheckpointError(
                f"{path} is no checkpoint folder, and only open_clip's .safetensors go as single files"
            )
        return _to_hf(_read(path, path.parent, architecture), str(source), out, tokenizer)
    folder = resolve(source)[0]
    if _direction(folder, to) == "hf":
        return _to_hf(_read(_weights_of(folder), folder, architecture), str(source), out, tokenizer)
    return _to_open_clip(folder, str(source), out)


def _direction(folder: Path, to: str) -> str:
    """The form to write, from what lies in the source folder."""
    has_open_clip, has_hf = (folder / CONFIG).is_file(), _is_clip(folder)
    if not has_open_clip and not has_hf:
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} has no config.json and no {CONFIG}: where its weights are open_clip's, give the path of the "
                ".safetensors file, and --architecture"
            )
        read_config(folder)  # says what is wrong with it
        raise CheckpointError(
            f"{folder} is a VisionTextDualEncoderModel, such as the tiny preset, which open_clip cannot hold: only "
            "CLIPModel folders can be converted; `clipsearch export` writes either as ONNX"
        )
    if has_open_clip and has_hf and not to:
        raise CheckpointError(f"{folder} holds both forms: say which one to write, --to hf or --to open_clip")
    if (to == "hf" and not has_open_clip) or (to == "open_clip" and not has_hf):
        raise CheckpointError(f"{folder} is already in the form {to}: nothing to convert")
    return to or ("hf" if has_open_clip else "open_clip")


def _is_clip(folder: Path) -> bool:
    try:
        return bool(read_config(folder)["model_type"] == "clip")
    except CheckpointError:
        return False


def _weights_of(folder: Path) -> Path:
    """open_clip's weights in a folder that has its configuration."""
    files = weight_files(folder)
    chosen = [path for path in files if path.name.startswith("open_clip")] or files
    if len(chosen) > 1:
        raise CheckpointError(
            f"{folder} has several weight files ({', '.join(path.name for path in chosen)}): give the path of one"
        )
    return chosen[0]


# ---- reading open_clip


def _read(path: Path, folder: Path, name: str) -> _OpenClip:
    where, config, preprocess = _configuration(path, folder, name)
    raw = load_weights(path)
    if any(key.startswith("visual.layer1.") for key in raw):
        raise CheckpointError(f"{path} has a ResNet image tower, which CLIPModel cannot hold. {openclip.ADVICE}")
    architecture = openclip.read_architecture(config, where)
    notes = ["logit_bias was left out: it moves all scores alike"] if "logit_bias" in raw else []
    weights = {key: value.float() for key, value in raw.items() if key not in _NO_WEIGHTS}
    return _OpenClip(weights, architecture, _settings(preprocess, architecture, where), folder, tuple(notes))


def _configuration(path: Path, folder: Path, name: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """(where it is from, model_cfg, preprocess_cfg)."""
    file = Path(name) if name.endswith(".json") else folder / CONFIG
    if name and not name.endswith(".json"):
        return f"the architecture {name}", openclip.by_name(name), {}
    if not file.is_file():
        known = ", ".join(openclip.names())
        raise CheckpointError(
            f"there is no {file}, and weights alone do not say which activation and heads they need: give "
            f"--architecture, one of {known} (with -quickgelu for OpenAI's and other early weights), or a configuration"
        )
    try:
        content = json.loads(file.read_text())
        return str(file), content.get("model_cfg", content), content.get("preprocess_cfg") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error


def load_weights(path: Path) -> Weights:
    """The tensors of an open_clip safetensors file, without the prefixes ``module.`` and ``text.``."""
    try:
        raw = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    if raw and all(key.startswith("module.") for key in raw):
        raw = {key.removeprefix("module."): value for key, value in raw.items()}
    return {key.removeprefix("text."): value for key, value in raw.items()}


def _settings(preprocess: Mapping[str, Any], architecture: Architecture, where: str) -> PixelSettings:
    mode = preprocess.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise CheckpointError(f"{where}: the resize mode {mode!r} has no twin in a CLIP image processor")
    try:
        red, green, blue = (float(value) for value in preprocess.get("mean") or OPENAI_MEAN)
        spread = tuple(float(value) for value in preprocess.get("std") or OPENAI_STD)
        return PixelSettings(
            size=architecture.image_size,
            mean=(red, green, blue),
            std=(spread[0], spread[1], spread[2]),
            resample=_RESAMPLE.get(preprocess.get("interpolation") or "bicubic", 3),
            resize=0 if mode == "squash" else -1,
        )
    except (TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{where}: preprocess_cfg is damaged: {error}") from error


# ---- converting


def _to_hf(source: _OpenClip, name: str, out: Path, vocabulary: str) -> Conversion:
    architecture = source.architecture
    weights = hf_weights(source.weights, architecture, name)
    tokenizer = find_tokenizer(source.folder, vocabulary, architecture)
    with quiet():
        model = CLIPModel.from_pretrained(None, config=hf_config(architecture, tokenizer), state_dict=weights).eval()
    result = _verified(model, source.weights, architecture, name, "hf", source.notes)
    save_clip(out, model, tokenizer, source.settings.to_processor(), {REPORT: _report(result)})
    return result


def _to_open_clip(folder: Path, name: str, out: Path) -> Conversion:
    clip = load_clip(folder, "cpu")
    architecture = hf_architecture(clip.model.config)
    own = not is_openai_vocabulary(clip.tokenizer)
    settings = clip.settings
    if settings.resize not in (-1, 0, settings.size):
        raise CheckpointError(f"{name} resizes to {settings.resize} px before it crops, which open_clip cannot do")
    resample = {number: word for word, number in _RESAMPLE.items()}.get(settings.resample)
    if resample is None:
        raise CheckpointError(f"{name} resizes with Pillow's filter {settings.resample}, which open_clip cannot do")
    preprocess = {
        "mean": list(settings.mean), "std": list(settings.std), "interpolation": resample,
        "resize_mode": "shortest" if settings.resize else "squash",
    }  # fmt: skip
    config = {"model_cfg": openclip.write_architecture(architecture, own), "preprocess_cfg": preprocess}
    weights = open_clip_weights(clip.model.state_dict(), architecture)
    result = _verified(clip.model, weights, architecture, name, "open_clip", ())
    with fresh_folder(out) as fresh:
        save_file(weights, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (fresh / REPORT).write_text(_report(result))
        clip.tokenizer.save_pretrained(fresh)
    return result


def _verified(
    model: Any, weights: Mapping[str, Tensor], architecture: Architecture, source: str, to: str, notes: tuple[str, ...]
) -> Conversion:
    """The report, after both forms have embedded the same made-up images and texts."""
    generator = torch.Generator().manual_seed(0)
    side, length = architecture.image_size, architecture.context_length
    pixels = torch.randn((4, 3, side, side), generator=generator)
    end = model.config.text_config.eos_token_id
    end = architecture.vocab_size - 1 if end == LEGACY_EOS else end
    ids = torch.randint(0, end, (6, length), generator=generator)
    after = torch.zeros_like(ids)  # each text ends elsewhere, the last one at the full length
    for row, place in enumerate(torch.linspace(min(2, length - 1), length - 1, len(ids)).long().tolist()):
        ids[row, place], after[row, place + 1 :] = end, 1
    with torch.inference_mode():
        image = _difference(
            model.get_image_features(pixel_values=pixels).pooler_output,
            reference.encode_image(weights, architecture, pixels),
        )
        text = _difference(
            model.get_text_features(input_ids=ids.masked_fill(after == 1, end)).pooler_output,
            reference.encode_text(weights, architecture, ids.masked_fill(after == 1, 0)),
        )
    if not max(image, text) < TOLERANCE:  # also when they are not numbers
        raise CheckpointError(
            f"{source} was not converted: embeddings differ by {image:.1e} (image) and {text:.1e} (text) of their "
            f"length, more than {TOLERANCE:g}"
        )
    count = sum(tensor.numel() for tensor in weights.values())
    shape = f"ViT {architecture.image.width}x{architecture.image.layers}, patches of {architecture.patch_size} px"
    return Conversion(source, to, f"{shape}, {architecture.dim} dimensions", count, image, text, notes)


def _difference(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def _report(result: Conversion) -> str:
    content = {**asdict(result), "tolerance": TOLERANCE, "measure": "largest relative difference of an embedding"}
    return json.dumps(content, indent=2) + "\n"
