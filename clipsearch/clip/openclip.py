"""open_clip's configurations: plain ViT models as an ``Architecture``, the rest refused by name.

Keys and defaults are those of ``CLIPVisionCfg`` and ``CLIPTextCfg`` in open_clip 3.3 (mlfoundations/open_clip,
``model.py``), the sizes by name those of its ``model_configs``. Activation, attention heads and layer norm's eps cannot
be told from weights: they come from a configuration or from a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipsearch.errors import CheckpointError

LEGACY_EOS = 2  # transformers: configurations with this end token pool at the largest id instead
ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh"}  # the same function under two names
ADVICE = (
    "clipsearch converts plain ViT models (ViT-B-32, ViT-L-14 ...); for others embed with open_clip itself and give "
    "the embeddings to `clipsearch adapt` or `clipsearch feed`, or start from a ViT checkpoint"
)

# name: joint size, image side, patch side, image width, layers, head width, MLP ratio, text width, text layers
_SIZES: Mapping[str, tuple[int, int, int, int, int, int, float, int, int]] = {
    "ViT-S-32-alt": (256, 224, 32, 384, 12, 64, 4, 256, 10),
    "ViT-S-16-alt": (256, 224, 16, 384, 12, 64, 4, 256, 10),
    "ViT-S-32": (384, 224, 32, 384, 12, 64, 4, 384, 12),
    "ViT-S-16": (384, 224, 16, 384, 12, 64, 4, 384, 12),
    "ViT-M-32-alt": (384, 224, 32, 512, 12, 64, 4, 384, 12),
    "ViT-M-32": (512, 224, 32, 512, 12, 64, 4, 512, 12),
    "ViT-M-16": (512, 224, 16, 512, 12, 64, 4, 512, 12),
    "ViT-B-32": (512, 224, 32, 768, 12, 64, 4, 512, 12),
    "ViT-B-32-256": (512, 256, 32, 768, 12, 64, 4, 512, 12),
    "ViT-B-32-plus-256": (640, 256, 32, 896, 12, 64, 4, 640, 12),
    "ViT-B-16": (512, 224, 16, 768, 12, 64, 4, 512, 12),
    "ViT-B-16-plus": (640, 224, 16, 896, 12, 64, 4, 640, 12),
    "ViT-B-16-plus-240": (640, 240, 16, 896, 12, 64, 4, 640, 12),
    "ViT-L-16": (768, 224, 16, 1024, 24, 64, 4, 768, 12),
    "ViT-L-16-320": (768, 320, 16, 1024, 24, 64, 4, 768, 12),
    "ViT-L-14": (768, 224, 14, 1024, 24, 64, 4, 768, 12),
    "ViT-L-14-280": (768, 280, 14, 1024, 24, 64, 4, 768, 12),
    "ViT-L-14-336": (768, 336, 14, 1024, 24, 64, 4, 768, 12),
    "ViT-H-16": (1024, 224, 16, 1280, 32, 80, 4, 1024, 24),
    "ViT-H-14": (1024, 224, 14, 1280, 32, 80, 4, 1024, 24),
    "ViT-H-14-378": (1024, 378, 14, 1280, 32, 80, 4, 1024, 24),
    "ViT-g-14": (1024, 224, 14, 1408, 40, 88, 4.3637, 1024, 24),
    "ViT-bigG-14": (1280, 224, 14, 1664, 48, 104, 4.9231, 1280, 32),
    "ViT-e-14": (1280, 224, 14, 1792, 56, 112, 8.5715, 1280, 36),
}
_SHARED_DEFAULTS: Mapping[str, Any] = {
    "ls_init_value": None, "final_ln_after_pool": False, "block_type": None, "qk_norm": False,
    "scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False, "scale_attn": False,
    "scale_fc": False,
}  # fmt: skip
_IMAGE_DEFAULTS: Mapping[str, Any] = {
    **_SHARED_DEFAULTS, "attentional_pool": False, "no_ln_pre": False, "pos_embed_type": "learnable",
    "pool_type": "tok", "timm_model_name": None,
}  # fmt: skip
_TEXT_DEFAULTS: Mapping[str, Any] = {
    **_SHARED_DEFAULTS, "embed_cls": False, "no_causal_mask": False, "proj_bias": False, "proj_type": "linear",
    "hf_model_name": None, "tokenizer_mode": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tower:
    """A stack of pre-norm transformer blocks. ``hidden``: width of the MLP; ``activation``: transformers' name."""

    width: int
    layers: int
    heads: int
    hidden: int
    activation: str = "gelu"
    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a plain ViT CLIP is made of. ``image_size`` and ``patch_size`` in px; ``context_length`` in tokens.

    ``eos_id``: the token where texts are pooled; None: at the largest id of each text, as OpenAI's CLIP does.
    """

    dim: int
    image: Tower
    text: Tower
    image_size: int
    patch_size: int
    context_length: int = 77
    vocab_size: int = 49408
    eos_id: int | None = None


def names() -> list[str]:
    """The names that ``by_name`` knows, without their ``-quickgelu`` twins."""
    return list(_SIZES)


def by_name(name: str) -> dict[str, Any]:
    """open_clip's model configuration of a plain ViT by its name there; with ``-quickgelu``: OpenAI's activation.

    Raises ``CheckpointError`` for an unknown name.
    """
    base, _, suffix = name.partition("-quickgelu")
    if base not in _SIZES or suffix:
        raise CheckpointError(
            f"the architecture {name!r} is not known; known are {', '.join(names())}, each also with -quickgelu, or "
            f"give the path of an open_clip_config.json. {ADVICE}"
        )
    dim, image_size, patch, width, layers, head_width, ratio, text_width, text_layers = _SIZES[base]
    vision = {"image_size": image_size, "layers": layers, "width": width, "head_width": head_width}
    return {
        "embed_dim": dim,
        **({"quick_gelu": True} if base != name else {}),
        "vision_cfg": {**vision, "mlp_ratio": ratio, "patch_size": patch},
        "text_cfg": {"width": text_width, "heads": text_width // 64, "layers": text_layers},
    }


def read_architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """An open_clip model configuration (``model_cfg`` of ``open_clip_config.json``) as an ``Architecture``.

    Raises ``CheckpointError``, which names ``where`` and the part, when ``CLIPModel`` cannot express it.
    """
    try:
        vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
        _refuse_other_towers(config, vision, text, where)
        size, head_width = _square(vision.get("image_size", 224)), int(vision.get("head_width", 64))
        width, heads = int(vision.get("width", 768)), int(text.get("heads", 8))
        quick = bool(config.get("quick_gelu", False))
        return Architecture(
            dim=int(config["embed_dim"]),
            image=_tower({**vision, "width": width, "layers": vision.get("layers", 12)}, width // head_width, quick),
            text=_tower({**text, "width": text.get("width", 512), "layers": text.get("layers", 12)}, heads, quick),
            image_size=size,
            patch_size=_square(vision.get("patch_size", 16)),
            context_length=int(text.get("context_length", 77)),
            vocab_size=int(text.get("vocab_size", 49408)),
            eos_id=_pooled_at(text, where),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where} is no open_clip configuration that can be converted: {reason}") from error


def _refuse_other_towers(
    config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], where: str
) -> None:
    found = ""
    if vision.get("timm_model_name"):
        found = f"the image tower {vision['timm_model_name']} of timm"
    elif isinstance(vision.get("layers"), list | tuple):
        found = "a ResNet image tower"
    elif text.get("hf_model_name"):
        found = f"the text tower {text['hf_model_name']} of Hugging Face"
    elif "multimodal_cfg" in config:
        found = "a CoCa model with a text decoder"
    if found:
        raise CheckpointError(f"{where} has {found}, which Hugging Face's CLIPModel cannot hold. {ADVICE}")
    kwargs = text.get("tokenizer_kwargs") or {}
    odd = [f"tokenizer_kwargs {kwargs}"] if kwargs.get("clean", "lower") not in ("lower", "whitespace") else []
    odd += [f"tokenizer_kwargs {kwargs}"] if set(kwargs) - {"clean"} else []
    for name, given, defaults in (("vision_cfg", vision, _IMAGE_DEFAULTS), ("text_cfg", text, _TEXT_DEFAULTS)):
        odd += [f"{name}.{key} {given[key]}" for key, usual in defaults.items() if (given.get(key) or usual) != usual]
    # the class token is pooled alone, so that a layer norm before or after is the same
    odd = [part for part in odd if part != "vision_cfg.final_ln_after_pool True"]
    if odd:
        raise CheckpointError(f"{where} has {', '.join(odd)}, which Hugging Face's CLIPModel cannot hold. {ADVICE}")


def _tower(config: Mapping[str, Any], heads: int, quick_gelu: bool) -> Tower:
    width, act = int(config["width"]), dict(config.get("act_kwargs") or {})
    norm = dict(config.get("norm_kwargs") or {})
    eps = float(norm.pop("eps", 1e-5))
    approximate = act.pop("approximate", "none")
    if norm or act or (quick_gelu and approximate != "none"):
        raise ValueError(f"norm_kwargs {norm} and act_kwargs {act or approximate} are not understood")
    if heads < 1 or width % heads:
        raise ValueError(f"a width of {width} cannot be split over {heads} heads")
    activation = "quick_gelu" if quick_gelu else {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[approximate]
    return Tower(width, int(config["layers"]), heads, int(width * config.get("mlp_ratio", 4.0)), activation, eps)


def _pooled_at(text: Mapping[str, Any], where: str) -> int | None:
    kind, eos = text.get("pool_type", "argmax"), int(text.get("eos_id", LEGACY_EOS))
    if kind not in ("argmax", "eos") or (kind == "eos" and eos == LEGACY_EOS):
        raise CheckpointError(f"{where} pools texts by {kind!r} (eos_id {eos}), which CLIPModel cannot do. {ADVICE}")
    return eos if kind == "eos" else None


def _square(size: Any) -> int:
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise ValueError(f"images and patches must be square, not {size}")
    return int(sides.pop())


def write_architecture(architecture: Architecture, own_tokenizer: bool) -> dict[str, Any]:
    """open_clip's ``model_cfg`` of an architecture; ``own_tokenizer``: it is read from the checkpoint's folder.

    Raises ``CheckpointError`` when open_clip cannot express it.
    """
    image, text = architecture.image, architecture.text
    quick = {tower.activation == "quick_gelu" for tower in (image, text)}
    wrong = {tower.activation for tower in (image, text)} - {"quick_gelu", "gelu", "gelu_pytorch_tanh"}
    if wrong or len(quick) > 1:
        raise CheckpointError(f"open_clip has no CLIP whose towers use {image.activation} and {text.activation}")
    vision_cfg = _tower_config(image) | {"head_width": image.width // image.heads}
    vision_cfg |= {"image_size": architecture.image_size, "patch_size": architecture.patch_size}
    text_cfg = _tower_config(text) | {"heads": text.heads}
    text_cfg |= {"context_length": architecture.context_length, "vocab_size": architecture.vocab_size}
    if architecture.eos_id is not None:
        text_cfg |= {"pool_type": "eos", "eos_id": architecture.eos_id}
    if own_tokenizer:
        text_cfg["hf_tokenizer_name"] = "local"  # open_clip reads this folder's tokenizer when the name is not empty
    config: dict[str, Any] = {"embed_dim": architecture.dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    return config | ({"quick_gelu": True} if quick == {True} else {})


def _tower_config(tower: Tower) -> dict[str, Any]:
    ratio = tower.hidden / tower.width
    if int(tower.width * ratio) != tower.hidden:  # open_clip cuts the product, so that it must not fall below
        ratio = (tower.hidden + 0.5) / tower.width
    config: dict[str, Any] = {"width": tower.width, "layers": tower.layers, "mlp_ratio": ratio}
    config |= {"norm_kwargs": {"eps": tower.eps}} if tower.eps != 1e-5 else {}
    return config | ({"act_kwargs": {"approximate": "tanh"}} if tower.activation == "gelu_pytorch_tanh" else {})
