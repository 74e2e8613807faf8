"""The ``tiny`` preset: a small CLIP for machines without weights, built from its configuration.

Image tower: ``clipsearch.clip.tower``. Text tower: ``clipsearch.clip.words``, or stock ``CLIPTextModel``.
Joint space of 512 dimensions, so that it fits the committed application package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from clipsearch.clip.tokens import train_tokenizer
from clipsearch.clip.tower import CHANNELS, STRIDES, ConvTowerConfig
from clipsearch.clip.words import WordTowerConfig


@dataclass(frozen=True, slots=True)
class TinyOptions:
    """Sizes of the tiny preset. ``image_size`` in px, ``text_length`` in tokens.

    ``text_layers``: 0 for the tower of words; more for a transformer of so many causal layers, pooled at EOS, with
    ``text_heads`` and ``dropout``.
    """

    dim: int = 512
    image_size: int = 64
    channels: tuple[int, ...] = CHANNELS
    strides: tuple[int, ...] = STRIDES
    text_width: int = 256
    text_layers: int = 0
    text_heads: int = 4
    text_length: int = 48
    vocab_size: int = 4096
    dropout: float = 0.0
    logit_scale: float = 2.6592


def build_tiny(captions: Iterable[str], options: TinyOptions | None = None, seed: int = 0) -> tuple[Any, Any]:
    """An untrained ``VisionTextDualEncoderModel``, and its tokenizer trained on ``captions``; seeded."""
    options = options or TinyOptions()
    times = Counter(captions)
    tokenizer = train_tokenizer(times, options.vocab_size, options.text_length)
    vision = ConvTowerConfig(options.channels, options.strides, options.image_size)
    text = _text_config(tokenizer, options)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=options.dim, logit_scale_init_value=options.logit_scale
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTextDualEncoderModel(config)
        for projection in (model.visual_projection, model.text_projection):
            torch.nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    if not options.text_layers:
        model.text_model.start_weights(_token_counts(tokenizer, times))
    return model.eval(), tokenizer


def _text_config(tokenizer: Any, options: TinyOptions) -> Any:
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": options.text_width,
        "max_position_embeddings": options.text_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if not options.text_layers:
        return WordTowerConfig(**shared)
    return CLIPTextConfig(
        **shared,
        intermediate_size=4 * options.text_width,
        num_hidden_layers=options.text_layers,
        num_attention_heads=options.text_heads,
        attention_dropout=options.dropout,
    )


def _token_counts(tokenizer: Any, times: Counter[str]) -> Tensor:
    """How often each token occurs in captions that occur so many ``times``; (vocab_size,) float64."""
    texts = list(times)
    ids = tokenizer(texts)["input_ids"] if texts else []
    weights = np.repeat([times[text] for text in texts], [len(text) for text in ids])
    flat = np.fromiter(chain.from_iterable(ids), np.int64)
    return torch.from_numpy(np.bincount(flat, weights, minlength=len(tokenizer)))
