"""A CLIP model at random weights that is small enough to train in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import PixelSettings, save_clip
from clipsearch.clip.tokens import train_tokenizer
from clipsearch.corpora import open_corpus


def write_clip(folder: Path, corpus: Path, size: int = 16, width: int = 16, dropout: float = 0.0) -> Path:
    """A checkpoint folder whose tokenizer knows the captions of ``corpus``; images of ``size`` px."""
    with open_corpus(corpus) as opened:
        captions = [caption for record in opened.records for caption in record.captions]
    tokenizer = train_tokenizer(captions, max_length=40)
    shape: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "attention_dropout": dropout, "projection_dim": 16}
    text = {**shape, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = {**shape, "image_size": size, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    return save_clip(folder, model, tokenizer, PixelSettings(size).to_processor())
