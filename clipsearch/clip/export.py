"""A CLIP as ONNX: both towers with unit-length outputs, optionally in int8, measured against the model they came from.

The folder is complete in itself: ``image.onnx`` takes normalised pixels, ``text.onnx`` token ids as Vespa's
``hugging-face-embedder`` gives them, ``tokenizer.json`` makes those, ``embedder.xml`` is the component for
``services.xml``, and ``export.json`` says how to prepare images and how close each file comes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clipsearch.clip.checkpoint import fresh_folder
from clipsearch.clip.model import Clip
from clipsearch.clip.onnxfiles import Agreement, Feed, compare, quantise, silent
from clipsearch.clip.tokens import pad, token_ids
from clipsearch.errors import CheckpointError

IMAGE, TEXT, REPORT = "image_embeds", "text_embeds", "export.json"
LEAST_COSINE = 0.9999  # of a float32 export to the model; quantised files are only reported
WARN_COSINE = 0.99
TOWERS = ("image", "text")
LARGEST_FILE = 2_000_000_000  # bytes: a protobuf message holds 2 GiB
TEXTS = (
    "a photo", "an aerial photograph of a harbour with many boats", "storage tanks near a river", "x",
    "a chest radiograph, frontal view, without consolidation", "two planes are parked beside a terminal building",
    "many green trees and some white buildings are on both sides of a curved river", "12 cars: red, white & blue!",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Samples:
    """What an export is measured on. ``pixels``: (N, S, S, 3) uint8 from ``Clip.preprocess``; ``texts``: any number."""

    pixels: NDArray[np.uint8]
    texts: tuple[str, ...] = TEXTS
    origin: str = "made-up images and sentences"


@dataclass(slots=True)
class Export:
    """What was written: ``model_id``, the files' agreement with the model, and how to prepare an image."""

    model_id: str
    dim: int
    samples: str
    image_input: Mapping[str, Any]
    text_input: Mapping[str, Any]
    files: list[Agreement] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each file that is far from the model, or of no use."""
        size = {file.name: file.megabytes for file in self.files}
        far = [
            f"{file.name} is far from the model: cosine {file.cosine_min:.4f} at the least"
            for file in self.files
            if file.cosine_min < WARN_COSINE
        ]
        useless = [
            f"{name} is as large as its float32 twin: the tower has few matrix products, and only those are quantised"
            for name, megabytes in size.items()
            if name.endswith(".int8.onnx") and megabytes > 0.95 * size[name.replace(".int8", "")]
        ]
        return far + useless


# a tower, what it is measured on, the name of its output, its free axes
Part = tuple[nn.Module, list[Feed], str, Mapping[str, Any]]


class ImageTower(nn.Module):
    """(N, 3, S, S) float32 normalised pixels -> (N, dim) of unit length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The embeddings (N, dim) of ``pixel_values`` (N, 3, S, S)."""
        return F.normalize(self.model.get_image_features(pixel_values=pixel_values).pooler_output, dim=1)


class TextTower(nn.Module):
    """(N, L) int64 token ids and mask -> (N, dim) of unit length; towers that pool at EOS do not read the mask."""

    def __init__(self, model: Any, needs_mask: bool) -> None:
        super().__init__()
        self.model, self.needs_mask = model, needs_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embeddings (N, dim) of ``input_ids`` (N, L); ``attention_mask`` (N, L) is 1 for tokens."""
        mask = attention_mask if self.needs_mask else None
        return F.normalize(self.model.get_text_features(input_ids=input_ids, attention_mask=mask).pooler_output, dim=1)


def made_up_samples(clip: Clip, count: int = 8) -> Samples:
    """Blurred noise, so that neighbouring pixels belong together as in images, and ``TEXTS``; always the same."""
    coarse = torch.rand((count, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    side = clip.image_size
    fine = F.interpolate(coarse, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return Samples((fine * 255).byte().permute(0, 2, 3, 1).contiguous().numpy())


def export_onnx(
    clip: Clip, out: Path, int8: bool = False, samples: Samples | None = None, towers: Sequence[str] = TOWERS
) -> Export:
    """Write the towers of ``clip`` into the folder ``out``, which appears only when all of it stands.

    ``int8``: also files with 8-bit weights (dynamic quantisation). ``towers``: some of ``TOWERS``; tokenizer and
    component go along with the text tower. Raises ``CheckpointError`` when the folder exists, a tower is too large for
    one file, or a float32 file does not give the model's own embeddings.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: choose another folder, or remove it first")
    tokenizer = _tokenizer_json(clip) if "text" in towers else ""
    samples = samples or made_up_samples(clip)
    parts = [_image_part(clip, samples) if name == "image" else _text_part(clip, samples) for name in towers]
    result = _description(clip, samples, towers)
    clip.model.cpu()
    try:
        with fresh_folder(out) as fresh:
            for name, (tower, feeds, output, axes) in zip(towers, parts, strict=True):
                path = fresh / f"{name}.onnx"
                _write(tower.eval(), feeds[0], output, axes, path, name)
                result.files.append(compare(path, feeds, tower))
                _require_agreement(result.files[-1])
                if int8:
                    result.files.append(compare(quantise(path, fresh / f"{name}.int8.onnx"), feeds, None))
            if tokenizer:
                (fresh / "tokenizer.json").write_text(tokenizer)
                (fresh / "embedder.xml").write_text(embedder_xml(clip.text_length))
            (fresh / REPORT).write_text(json.dumps(report(result), indent=2) + "\n")
    finally:
        clip.model.to(clip.device)
    return result


def report(result: Export) -> dict[str, Any]:
    """What ``export.json`` holds."""
    return {
        "model_id": result.model_id, "dim": result.dim, "image_input": dict(result.image_input),
        "text_input": dict(result.text_input), "samples": result.samples,
        "files": [file.as_json() for file in result.files], "warnings": result.warnings,
    }  # fmt: skip


def embedder_xml(max_tokens: int, model: str = "models/text.onnx") -> str:
    """The component of ``services.xml`` that serves the text tower, in Vespa and in the local engine."""
    return (
        "<!-- Copy text.onnx (or text.int8.onnx, under that name) and tokenizer.json into models/ of the application\n"
        "     package, and this into <container>. Then ask with input.query(q): embed(clip, @text) -->\n"
        '<component id="clip" type="hugging-face-embedder">\n'
        f'  <transformer-model path="{model}"/>\n'
        '  <tokenizer-model path="models/tokenizer.json"/>\n'
        f"  <max-tokens>{max_tokens}</max-tokens>\n"
        "  <transformer-token-type-ids></transformer-token-type-ids>\n"
        f"  <transformer-output>{TEXT}</transformer-output>\n"
        "  <pooling-strategy>none</pooling-strategy>\n"
        "  <normalize>true</normalize>\n"
        "</component>\n"
    )


def _description(clip: Clip, samples: Samples, towers: Sequence[str]) -> Export:
    settings = clip.settings
    resize = "the whole image" if settings.resize == 0 else "the shorter side, then cut out the centre"
    image_input = {
        "name": "pixel_values", "shape": ["images", 3, settings.size, settings.size], "type": "float32",
        "colours": "RGB in [0, 1]", "mean": list(settings.mean), "std": list(settings.std),
        "resize": f"{resize}; Pillow's filter {settings.resample}",
        "resize_to": settings.resize if settings.resize > 0 else settings.size, "output": IMAGE,
    }  # fmt: skip
    text_input = {
        "names": ["input_ids", "attention_mask"], "shape": ["texts", "tokens"], "type": "int64",
        "max_tokens": clip.text_length, "reads_mask": clip.needs_mask, "output": TEXT,
    }  # fmt: skip
    return Export(
        clip.model_id, clip.dim, samples.origin,
        image_input if "image" in towers else {}, text_input if "text" in towers else {},
    )  # fmt: skip


def _image_part(clip: Clip, samples: Samples) -> Part:
    pixels = torch.from_numpy(samples.pixels).permute(0, 3, 1, 2).to(clip.device)
    images = Feed({"pixel_values": clip.normalise(pixels).cpu().numpy()}, clip.embed_pixels(samples.pixels), "images")
    return ImageTower(clip.model), [images], IMAGE, {"pixel_values": {0: "images"}}


def _text_part(clip: Clip, samples: Samples) -> Part:
    texts = [_text_feed(clip, text) for text in samples.texts]
    return TextTower(clip.model, clip.needs_mask), texts, TEXT, _text_axes(clip)


def _text_feed(clip: Clip, text: str) -> Feed:
    """One text alone, as it is at query time: its own length, and no padding."""
    tokens = pad(clip.tokenizer, token_ids(clip.tokenizer, [text], clip.text_length))
    return Feed({name: value.numpy() for name, value in tokens.items()}, clip.embed_texts([text]), "texts")


def _text_axes(clip: Clip) -> dict[str, dict[int, Any]]:
    length = torch.export.Dim("tokens", min=2, max=clip.text_length)
    return {name: {0: "texts", 1: length} for name in ("input_ids", "attention_mask")}


def _tokenizer_json(clip: Clip) -> str:
    """The tokenizer as one file, without padding, cutting texts where the model does."""
    backend = getattr(clip.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"the tokenizer of {clip.model_id} has no tokenizer.json form, so that it cannot go along"
        )
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.enable_truncation(max_length=clip.text_length)
    text: str = copy.to_str(pretty=True)
    return text


def _write(tower: nn.Module, feed: Feed, output: str, axes: Mapping[str, Any], path: Path, name: str) -> None:
    size = _weight(tower, name)
    if size > LARGEST_FILE:
        raise CheckpointError(f"the {name} tower has {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB at most")
    # two rows at least: an axis of length one would be taken for a constant
    example = tuple(torch.from_numpy(np.concatenate([value, value])) for value in feed.inputs.values())
    try:
        with silent():
            torch.onnx.export(
                tower,
                example,
                str(path),
                dynamo=True,
                external_data=False,
                input_names=list(feed.inputs),
                output_names=[output],
                dynamic_shapes={key: dict(value) for key, value in axes.items()},
                verbose=False,
            )
    except ImportError as error:
        raise CheckpointError(
            f"{error}: install the exporter's libraries, `pip install 'clipsearch[convert]'`"
        ) from error
    except Exception as error:  # torch's exporter wraps whatever an operator raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the {name} tower cannot be written as ONNX: {reason}") from error


def _weight(tower: nn.Module, name: str) -> int:
    """Bytes of the tower's own weights: its share of the parameters, told by their names."""
    other = ("vision_model.", "visual_projection.") if name == "text" else ("text_model.", "text_projection.")
    named = tower.get_submodule("model").named_parameters()
    return sum(parameter.numel() * 4 for key, parameter in named if not key.startswith(other))


def _require_agreement(file: Agreement) -> None:
    if not file.cosine_min >= LEAST_COSINE:  # also when it is not a number
        raise CheckpointError(
            f"{file.name} does not give the model's embeddings: cosine {file.cosine_min:.6f} at the least; nothing was "
            "written. Please report this with the versions of torch and onnxruntime"
        )


def sample_texts(captions: Sequence[str], count: int = 64) -> tuple[str, ...]:
    """At most ``count`` distinct captions, evenly spread over those given."""
    distinct = list(dict.fromkeys(captions))
    return tuple(distinct[:: max(len(distinct) // count, 1)][:count])
