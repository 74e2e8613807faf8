"""A corpus folder and a checkpoint become shards: what the command does, for those who have paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clipsearch.corpora import Corpus, open_corpus
from clipsearch.encoding.encode import BATCH, EncodeSummary, encode
from clipsearch.encoding.models import Pixels
from clipsearch.errors import InputError
from clipsearch.images import load_image, parse_bands

_SAMPLE = 8  # images that a fast encoder is compared with the model on


@dataclass(frozen=True, slots=True)
class Encoder:
    """How a checkpoint is run. ``backend``: torch, onnx or onnx-int8; ``precision``: auto, fp32, bf16 or fp16;
    ``compile``: by torch's compiler."""

    device: str = "auto"
    backend: str = "torch"
    precision: str = "auto"
    compile: bool = False


def encode_corpus(
    corpus: Path, checkpoint: str | Path, out: Path, *,
    name: str = "", encoder: Encoder | None = None, device: str = "auto", batch: int = BATCH, overwrite: bool = False,
    progress: bool = True, patches: str = "", captions: bool = False, bands: str = "",
) -> EncodeSummary:  # fmt: skip
    """Encode the corpus folder with the checkpoint into ``out``: what ``clipsearch encode`` does."""
    encoder = encoder or Encoder(device)
    numbers = parse_bands(bands) if bands else ()
    with open_corpus(corpus, name) as opened:
        model = load_model(opened, checkpoint, encoder, numbers)
        if progress and model.encoder != "torch fp32":
            tqdm.write(f"{model.encoder}: cosine to the float32 model {model.cosine:.5f} at the least")
        return encode(
            opened, model, out, batch=batch, overwrite=overwrite, progress=progress,
            patches=patches, captions=captions, bands=numbers,
        )  # fmt: skip


def load_model(corpus: Corpus, checkpoint: str | Path, encoder: Encoder, bands: tuple[int, ...] = ()) -> Any:
    """The checkpoint, run as ``encoder`` says; a fast way of running it is measured on some images of the corpus."""
    from clipsearch.clip.encoders import load_encoder

    return load_encoder(
        checkpoint, encoder.device, backend=encoder.backend, precision=encoder.precision, compiled=encoder.compile,
        sample=lambda preprocess: _sample(corpus, preprocess, bands),
    )  # fmt: skip


def _sample(corpus: Corpus, preprocess: Any, bands: tuple[int, ...]) -> Pixels | None:
    """Some good images from all over the corpus, ready for the model; None when there is none."""
    found: list[Pixels] = []
    step = max(1, len(corpus.records) // (2 * _SAMPLE))
    for record in corpus.records[::step][: 2 * _SAMPLE]:
        try:
            found.append(preprocess(load_image(corpus.read(record), bands)))
        except InputError:
            continue
        if len(found) == _SAMPLE:
            break
    return np.stack(found) if found else None
