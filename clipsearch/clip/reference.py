"""open_clip's plain ViT, written down a second time from its weights by name: what conversions are checked against.

Nothing of transformers is used: attention is multiplied out, masks and pooling are open_clip's (``transformer.py`` of
mlfoundations/open_clip), so that a wrong name, order, transposition, activation or pooling shows as another embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsearch.clip.openclip import Architecture, Tower

Weights = Mapping[str, Tensor]


@torch.inference_mode()
def encode_image(weights: Weights, architecture: Architecture, pixels: Tensor) -> Tensor:
    """(N, 3, S, S) normalised -> (N, dim) embeddings, not of unit length."""
    tower = architecture.image
    patches = F.conv2d(pixels, weights["visual.conv1.weight"], stride=architecture.patch_size)
    x = patches.flatten(2).transpose(1, 2)  # (N, patches, width)
    x = torch.cat([weights["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = _norm(weights, "visual.ln_pre", x + weights["visual.positional_embedding"], tower.eps)
    x = _norm(weights, "visual.ln_post", _blocks(weights, "visual.transformer", x, tower, None), tower.eps)
    return x[:, 0] @ weights["visual.proj"]


@torch.inference_mode()
def encode_text(weights: Weights, architecture: Architecture, ids: Tensor) -> Tensor:
    """(N, context_length) token ids, padded with zeros -> (N, dim) embeddings, not of unit length."""
    tower = architecture.text
    length = ids.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"][:length]
    x = _norm(weights, "ln_final", _blocks(weights, "transformer", x, tower, mask), tower.eps)
    ends = ids if architecture.eos_id is None else (ids == architecture.eos_id).long()
    return x[torch.arange(len(x)), ends.argmax(dim=1)] @ weights["text_projection"]


def _blocks(weights: Weights, prefix: str, x: Tensor, tower: Tower, mask: Tensor | None) -> Tensor:
    for number in range(tower.layers):
        block = f"{prefix}.resblocks.{number}"
        x = x + _attention(weights, f"{block}.attn", _norm(weights, f"{block}.ln_1", x, tower.eps), tower, mask)
        hidden = _linear(weights, f"{block}.mlp.c_fc", _norm(weights, f"{block}.ln_2", x, tower.eps))
        x = x + _linear(weights, f"{block}.mlp.c_proj", _activate(hidden, tower.activation))
    return x


def _attention(weights: Weights, name: str, x: Tensor, tower: Tower, mask: Tensor | None) -> Tensor:
    packed = F.linear(x, weights[f"{name}.in_proj_weight"], weights[f"{name}.in_proj_bias"])  # (N, L, 3 * width)
    split = packed.reshape(*packed.shape[:2], 3, tower.heads, -1)
    heads = split.permute(2, 0, 3, 1, 4)  # (3, N, heads, L, width / heads)
    query, key, value = heads[0], heads[1], heads[2]
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    mixed = (scores if mask is None else scores + mask).softmax(dim=-1) @ value  # (N, heads, L, width / heads)
    return _linear(weights, f"{name}.out_proj", mixed.transpose(1, 2).flatten(2))


def _activate(x: Tensor, name: str) -> Tensor:
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if name == "gelu_pytorch_tanh" else "none")


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)
