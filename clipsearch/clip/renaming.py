"""Tensors and configurations of one CLIP under open_clip's names and under those of ``CLIPModel``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from clipsearch.clip import openclip
from clipsearch.clip.openclip import LEGACY_EOS, Architecture, Tower
from clipsearch.errors import CheckpointError

Weights = dict[str, Tensor]


def pairs(architecture: Architecture) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(open_clip's name, ``CLIPModel``'s names, whether it is transposed) of each tensor; three names: packed."""
    text, vision = "text_model.embeddings", "vision_model.embeddings"
    yield "logit_scale", ("logit_scale",), False
    yield "token_embedding.weight", (f"{text}.token_embedding.weight",), False
    yield "positional_embedding", (f"{text}.position_embedding.weight",), False
    yield "text_projection", ("text_projection.weight",), True
    yield "visual.class_embedding", (f"{vision}.class_embedding",), False
    yield "visual.conv1.weight", (f"{vision}.patch_embedding.weight",), False
    yield "visual.positional_embedding", (f"{vision}.position_embedding.weight",), False
    yield "visual.proj", ("visual_projection.weight",), True
    towers = (
        ("visual.transformer", "vision_model", architecture.image),
        ("transformer", "text_model", architecture.text),
    )
    for kind in ("weight", "bias"):
        yield f"visual.ln_pre.{kind}", (f"vision_model.pre_layrnorm.{kind}",), False
        yield f"visual.ln_post.{kind}", (f"vision_model.post_layernorm.{kind}",), False
        yield f"ln_final.{kind}", (f"text_model.final_layer_norm.{kind}",), False
        for ours, theirs, tower in towers:
            for number in range(tower.layers):
                block, layer = f"{ours}.resblocks.{number}", f"{theirs}.encoder.layers.{number}"
                packed = tuple(f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
                yield f"{block}.attn.in_proj_{kind}", packed, False
                yield f"{block}.attn.out_proj.{kind}", (f"{layer}.self_attn.out_proj.{kind}",), False
                yield f"{block}.ln_1.{kind}", (f"{layer}.layer_norm1.{kind}",), False
                yield f"{block}.ln_2.{kind}", (f"{layer}.layer_norm2.{kind}",), False
                yield f"{block}.mlp.c_fc.{kind}", (f"{layer}.mlp.fc1.{kind}",), False
                yield f"{block}.mlp.c_proj.{kind}", (f"{layer}.mlp.fc2.{kind}",), False


def hf_weights(weights: Mapping[str, Tensor], architecture: Architecture, where: str) -> Weights:
    """open_clip's tensors under ``CLIPModel``'s names. Raises ``CheckpointError`` when they do not fit."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CLIPModel(hf_config(architecture)).state_dict().items()}
    converted: Weights = {}
    seen = set()
    for name, targets, transposed in pairs(architecture):
        shape = tuple(shapes[targets[0]])
        wanted = (shape[0] * len(targets), *shape[1:]) if shape else ()
        wanted = wanted[::-1] if transposed else wanted
        if name not in weights:
            raise CheckpointError(f"{where} lacks {name}, of {wanted}: it is not of this architecture, or incomplete")
        tensor = weights[name].reshape(()) if name == "logit_scale" else weights[name]
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(
                f"{where} does not fit its architecture: {name} is {tuple(tensor.shape)} and should be {wanted}"
            )
        seen.add(name)
        for target, part in zip(targets, tensor.chunk(len(targets)) if len(targets) > 1 else [tensor], strict=True):
            converted[target] = (part.T if transposed else part).contiguous()
    extra = sorted(set(weights) - seen)
    if extra:
        raise CheckpointError(
            f"{where} has {len(extra)} tensors that its architecture does not, such as {extra[0]}. {openclip.ADVICE}"
        )
    return converted


def open_clip_weights(weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
    """``CLIPModel``'s tensors under open_clip's names, in float32."""
    converted = {}
    for name, sources, transposed in pairs(architecture):
        parts = [weights[source].detach().float().cpu() for source in sources]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        converted[name] = (tensor.T if transposed else tensor).contiguous().clone()
    return converted


def hf_config(architecture: Architecture, tokenizer: Any = None) -> CLIPConfig:
    """The ``CLIPConfig`` of an architecture; with a tokenizer also its start, end and padding tokens."""

    def tower(part: Tower) -> dict[str, Any]:
        return {
            "hidden_size": part.width, "intermediate_size": part.hidden, "num_hidden_layers": part.layers,
            "num_attention_heads": part.heads, "hidden_act": part.activation, "layer_norm_eps": part.eps,
            "projection_dim": architecture.dim,
        }  # fmt: skip

    text = {"vocab_size": architecture.vocab_size, "max_position_embeddings": architecture.context_length}
    for kind in ("bos", "eos", "pad"):
        text[f"{kind}_token_id"] = getattr(tokenizer, f"{kind}_token_id", architecture.vocab_size - 1)
    vision = {"image_size": architecture.image_size, "patch_size": architecture.patch_size}
    return CLIPConfig(
        text_config=tower(architecture.text) | text,
        vision_config=tower(architecture.image) | vision,
        projection_dim=architecture.dim,
    )


def hf_architecture(config: Any) -> Architecture:
    """The ``Architecture`` of a ``CLIPConfig``. Raises ``CheckpointError`` for what open_clip cannot express."""

    def tower(part: Any) -> Tower:
        activation = openclip.ACTIVATIONS.get(part.hidden_act, part.hidden_act)
        return Tower(
            part.hidden_size, part.num_hidden_layers, part.num_attention_heads, part.intermediate_size, activation,
            part.layer_norm_eps,
        )  # fmt: skip

    text, vision = config.text_config, config.vision_config
    sizes = (vision.image_size, vision.patch_size, text.eos_token_id)
    if vision.num_channels != 3 or not all(isinstance(size, int) for size in sizes):
        raise CheckpointError(
            f"open_clip has no CLIP with {vision.num_channels} channels, images of {vision.image_size} px, patches of "
            f"{vision.patch_size} px and end tokens {text.eos_token_id}"
        )
    legacy = text.eos_token_id in (LEGACY_EOS, text.vocab_size - 1)  # both mean: at the largest id
    return Architecture(
        dim=config.projection_dim,
        image=tower(vision),
        text=tower(text),
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        context_length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        eos_id=None if legacy else text.eos_token_id,
    )
