"""The ways from image files to embeddings that ``bench_encode.py`` compares, all on one checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, CLIPConfig, CLIPModel

from clipsearch.clip import PixelSettings, build_tiny, load_clip, save_clip
from clipsearch.clip.encoders import load_encoder
from clipsearch.clip.tokens import train_tokenizer
from clipsearch.corpora import open_corpus
from clipsearch.encoding import encode
from clipsearch.shards import open_shards

Vectors = NDArray[np.float32]
PLAIN = "transformers, batches of 32"
CAPTIONS = ["many planes are parked near a terminal", "a river with a bridge", "storage tanks near a river"]


def write_corpus(folder: Path, files: Sequence[bytes]) -> Path:
    """Image files with one caption each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(files):
        (folder / "images" / f"{number:05d}.jpg").write_bytes(data)
    lines = [f"{number:05d}\t{CAPTIONS[number % 3]}\n" for number in range(len(files))]
    (folder / "captions-train.tsv").write_text("".join(lines))
    return folder


def write_checkpoint(folder: Path, architecture: str) -> Path:
    """A checkpoint with random weights: ``tiny``, or ``ViT-B/32`` as OpenAI published it."""
    torch.manual_seed(0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if architecture == "tiny":
        model, tokenizer = build_tiny(CAPTIONS)
        size = int(model.config.vision_config.image_size)
    else:
        tokenizer = train_tokenizer(CAPTIONS)
        end = tokenizer.eos_token_id
        text = {"vocab_size": len(tokenizer), "eos_token_id": end, "bos_token_id": end, "pad_token_id": end}
        config = CLIPConfig(text_config=text, vision_config={"image_size": 224, "patch_size": 32}, projection_dim=512)
        model, size = CLIPModel(config).eval(), 224
    return save_clip(folder, model, tokenizer, PixelSettings(size).to_processor())


def prepare(corpus: Path, checkpoint: Path, work: Path, device: str) -> dict[str, Callable[[], Vectors]]:
    """Every route, its model loaded; each call embeds the whole corpus from its files."""
    paths = sorted((corpus / "images").iterdir())
    clip = load_clip(checkpoint, device)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    plain = {f"transformers, batches of {size}": _Plain(paths, clip.model, processor, size, device) for size in (1, 32)}
    found: dict[str, Callable[[], Vectors]] = {**plain}
    foreign = _sentence_transformers(paths, checkpoint, device)
    if foreign:
        found["sentence-transformers, batches of 32"] = foreign
    kinds: list[dict[str, Any]] = [{"precision": "fp32"}, {"precision": "bf16"}]
    kinds += [{"precision": "bf16", "compiled": True}] if device != "cpu" else [{"backend": "onnx-int8"}]
    for options in kinds:
        encoder = load_encoder(checkpoint, device, **options)
        found[f"ours, {encoder.encoder}"] = _Ours(corpus, encoder, work / encoder.encoder.replace(" ", "-"), device)
    return found


class _Plain:
    """What model cards show: open, ``processor(images=...)``, ``get_image_features``, normalise."""

    def __init__(self, paths: Sequence[Path], model: Any, processor: Any, size: int, device: str) -> None:
        self.paths, self.model, self.processor, self.size, self.device = paths, model, processor, size, device

    @torch.inference_mode()
    def __call__(self) -> Vectors:
        parts = []
        for start in range(0, len(self.paths), self.size):
            images = [Image.open(path).convert("RGB") for path in self.paths[start : start + self.size]]
            inputs = self.processor(images=images, return_tensors="pt").to(self.device)
            output = self.model.get_image_features(pixel_values=inputs["pixel_values"])
            features = getattr(output, "pooler_output", output)
            parts.append(torch.nn.functional.normalize(features, dim=1).cpu().numpy())
        return np.concatenate(parts)


class _Ours:
    """``clipsearch encode`` into a fresh folder: captions, hashes, thumbnails and shards included."""

    def __init__(self, corpus: Path, encoder: Any, out: Path, device: str) -> None:
        self.corpus, self.encoder, self.out = corpus, encoder, out
        self.batch = 64 if device == "cpu" else 512

    def __call__(self) -> Vectors:
        with open_corpus(self.corpus) as corpus:
            encode(corpus, self.encoder, self.out, overwrite=True, progress=False, batch=self.batch)
        rows = sorted(open_shards(self.out), key=lambda row: row.record.uri)
        return np.stack([row.embedding for row in rows])


def _sentence_transformers(paths: Sequence[Path], checkpoint: Path, device: str) -> Callable[[], Vectors] | None:
    """``SentenceTransformer("clip-ViT-B-32").encode(images)`` on our checkpoint; None where it is not installed."""
    if json.loads((checkpoint / "config.json").read_text())["model_type"] != "clip":
        return None  # it knows no other towers
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import CLIPModel as Module
    except ImportError:
        return None
    model = SentenceTransformer(modules=[Module(str(checkpoint))], device=device)

    def run() -> Vectors:
        images = [Image.open(path) for path in paths]
        vectors: Vectors = model.encode(images, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return vectors

    return run


def resident(checkpoint: Path, device: str, count: int = 4096, rounds: int = 5) -> float:
    """Images per second of the compiled bf16 tower on pixels that are on the device; 0 on a CPU."""
    if device == "cpu":
        return 0.0
    encoder: Any = load_encoder(checkpoint, device, precision="bf16", compiled=True)
    side = encoder.settings.size
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def once() -> None:
        for part in pixels.split(1024):
            encoder._features(encoder.clip.normalise(part).to(torch.bfloat16))
        torch.cuda.synchronize()

    once()
    started = time.perf_counter()
    for _ in range(rounds):
        once()
    return rounds * count / (time.perf_counter() - started)
