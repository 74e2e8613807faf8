"""``load_clip`` and ``Clip``: images and texts in, unit vectors out, with numpy at the border.

Loads ``CLIPModel`` folders and hub names, and ``VisionTextDualEncoderModel`` folders (the tiny preset's among them).
Only safetensors are read and no remote code ever runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, VisionTextDualEncoderModel

from clipsearch.clip.checkpoint import quiet, read_config, resolve, weight_files, weights_hash
from clipsearch.clip.pixels import Pixels, PixelSettings, read_settings, resize_and_crop
from clipsearch.clip.tokens import tokenize
from clipsearch.errors import CheckpointError

Embeddings = NDArray[np.float32]


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: the first CUDA device, else Apple's, else the CPU. Raises ``CheckpointError`` for an absent one."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


class Clip:
    """A CLIP model with what belongs to it; all methods are thread-safe once it is built.

    ``model``: ``CLIPModel`` or ``VisionTextDualEncoderModel``; ``model_id``: name and short hash of the weights;
    ``dim``: size of the embeddings; ``image_size``: side in px of the square that the image tower sees.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: PixelSettings, model_id: str, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.settings = settings
        self.model_id = model_id
        self.dim = int(model.config.projection_dim)
        self.image_size = settings.size
        text = model.config.text_config
        longest = getattr(text, "max_position_embeddings", 77)
        self.text_length = min(int(longest), int(tokenizer.model_max_length))
        # a causal tower that is pooled at EOS never looks at padding, and runs twice as fast without a mask
        self.needs_mask = text.model_type != "clip_text_model"
        if not self.needs_mask and self.text_length < 64 and self.device.type == "cpu":
            model.text_model.set_attn_implementation("eager")  # faster than SDPA on short texts
        self._mean = torch.tensor(settings.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(settings.std, device=self.device).view(1, 3, 1, 1)

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by before a softmax: the inverse of its temperature."""
        return float(self.model.logit_scale.detach().exp())

    def preprocess(self, image: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB -> (image_size, image_size, 3) uint8; can run in decode threads."""
        return resize_and_crop(image, self.settings)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 or float in [0, 255] -> float as the image tower wants it."""
        return (pixels.float() / 255 - self._mean) / self._std

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, S, S) normalised -> (N, dim) float32 unit norm, with gradients."""
        return _unit(self.model.get_image_features(pixel_values=pixel_values))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, dim) float32 unit norm, with gradients; longer texts are cut, their end token kept."""
        return self.token_features(tokenize(self.tokenizer, texts, self.text_length))

    def token_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """``input_ids`` and ``attention_mask`` (N, L) -> (N, dim) float32 unit norm, with gradients."""
        mask = tokens["attention_mask"].to(self.device) if self.needs_mask else None
        ids = tokens["input_ids"].to(self.device)
        return _unit(self.model.get_text_features(input_ids=ids, attention_mask=mask))

    @torch.inference_mode()
    def embed_pixels(self, pixels: Pixels, batch_size: int = 128) -> Embeddings:
        """(N, S, S, 3) uint8 from ``preprocess`` -> (N, dim) float32 unit norm."""
        if pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"pixels must be (N, S, S, 3) uint8, not {pixels.shape}")
        parts = []
        for start in range(0, len(pixels), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch_size])).to(self.device)
            parts.append(self.image_features(self.normalise(batch.permute(0, 3, 1, 2))).cpu().numpy())
        return self._stack(parts)

    def embed_images(self, images: Sequence[Pixels]) -> Embeddings:
        """N images of any sizes, (H, W, 3) uint8 RGB -> (N, dim) float32 unit norm."""
        if not images:
            return self._stack([])
        return self.embed_pixels(np.stack([self.preprocess(image) for image in images]))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Embeddings:
        """N texts -> (N, dim) float32 unit norm, in the order given. Equal texts are embedded once."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # like lengths together: little padding
        parts = [
            self.text_features(distinct[start : start + batch_size]).cpu().numpy()
            for start in range(0, len(distinct), batch_size)
        ]
        row = {text: number for number, text in enumerate(distinct)}
        return self._stack(parts)[[row[text] for text in texts]]

    def _stack(self, parts: list[Embeddings]) -> Embeddings:
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)


def _unit(output: Any) -> Tensor:
    """The features of a tower's output as unit vectors: float32, or float64 from a float64 model."""
    features: Tensor = getattr(output, "pooler_output", output)
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)


def load_clip(path_or_name: str | Path, device: str = "auto") -> Clip:
    """A ``Clip`` from a checkpoint folder or a hub name, in evaluation mode.

    Raises ``CheckpointError`` with what to do when the folder is missing, incomplete, damaged or of another kind.
    """
    folder, slug = resolve(path_or_name)
    config = read_config(folder)
    weight_files(folder)
    kind = CLIPModel if config["model_type"] == "clip" else VisionTextDualEncoderModel
    model = _load_model(kind, folder)
    tokenizer = _load_tokenizer(folder)
    settings = read_settings(folder, int(model.config.vision_config.image_size))
    return Clip(model, tokenizer, settings, f"{slug}-{weights_hash(folder)}", choose_device(device))


def _load_model(kind: Any, folder: Path) -> Any:
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder} cannot be loaded as a CLIP model: {reason}") from error
    missing = [name for name in report["missing_keys"] if not name.endswith("position_ids")]
    wrong = [*missing, *(str(entry) for entry in report["mismatched_keys"])]
    if wrong:
        raise CheckpointError(
            f"{folder} lacks {len(wrong)} of the model's weights, such as {wrong[0]}: is it complete?"
        )
    return model


def _load_tokenizer(folder: Path) -> Any:
    names = ("tokenizer.json", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(f"{folder} has no tokenizer (none of {', '.join(names)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
    if len(tokenizer) < 3:
        raise CheckpointError(f"the tokenizer in {folder} is empty: its vocabulary was not found")
    return tokenizer
