"""CLIP's vocabulary for checkpoints that come without one: a folder's, open_clip's file, or the hub's cache."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, CLIPTokenizer

from clipsearch.clip.openclip import Architecture
from clipsearch.clip.tokens import byte_level_vocabulary
from clipsearch.errors import CheckpointError

HUB_NAME = "openai/clip-vit-base-patch32"  # its vocabulary is that of all of OpenAI's and most of open_clip's models
OPEN_CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2  # how many of the file's pairs CLIP uses
_PROBE = ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407])


def is_openai_vocabulary(tokenizer: Any) -> bool:
    """Whether a tokenizer has OpenAI's 49,408 tokens, those which open_clip carries itself."""
    text, ids = _PROBE
    return len(tokenizer) == 49408 and list(tokenizer(text)["input_ids"]) == ids


def find_tokenizer(source: Path, given: str, architecture: Architecture) -> Any:
    """The tokenizer of an architecture: from ``given`` (a folder or file), else ``source``, else the hub's cache.

    Raises ``CheckpointError`` when there is none, or when it does not fit the text tower.
    """
    if given and not Path(given).exists():
        raise CheckpointError(f"there is no tokenizer in {given}: the folder does not exist")
    where = Path(given) if given else source
    tokenizer = _read(where, architecture.context_length)
    if tokenizer is None and not given:
        cached = _cached()
        where, tokenizer = (cached, _read(cached, architecture.context_length)) if cached else (where, None)
    if tokenizer is None:
        raise CheckpointError(
            f"{where} has no vocabulary (tokenizer.json, vocab.json with merges.txt, or open_clip's {OPEN_CLIP_FILE}): "
            f"give a folder that has one with --tokenizer, such as that of {HUB_NAME}"
        )
    _check(tokenizer, architecture, where)
    return tokenizer


def _read(where: Path, length: int) -> Any:
    """The tokenizer of a folder or of open_clip's file, or None where there is no vocabulary."""
    folder = where if where.is_dir() else where.parent
    packed = folder / OPEN_CLIP_FILE
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        if (folder / "tokenizer.json").is_file():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=length)
        if vocab.is_file() and merges.is_file():
            return CLIPTokenizer(vocab=str(vocab), merges=str(merges), model_max_length=length)
        if packed.is_file():
            lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
            pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
            return CLIPTokenizer(vocab=byte_level_vocabulary(pairs), merges=pairs, model_max_length=length)
    except Exception as error:  # the tokenizers library raises plain Exception for damaged files
        raise CheckpointError(f"the tokenizer in {where} cannot be loaded: {error}") from error
    return None


def _cached() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(HUB_NAME, "vocab.json") or try_to_load_from_cache(HUB_NAME, "tokenizer.json")
    return Path(found).parent if isinstance(found, str) else None


def _check(tokenizer: Any, architecture: Architecture, where: Path) -> None:
    end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
    if len(tokenizer) != architecture.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {where} has {len(tokenizer):,} tokens and the text tower {architecture.vocab_size:,}: "
            "give the right one with --tokenizer"
        )
    largest = architecture.vocab_size - 1 if architecture.eos_id is None else architecture.eos_id
    if end != largest or start is None:
        raise CheckpointError(
            f"the tokenizer in {where} ends texts with token {end}, and the text tower pools at token {largest}: "
            "give the right one with --tokenizer"
        )
