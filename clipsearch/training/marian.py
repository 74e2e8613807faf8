"""Marian translation models (Junczys-Dowmunt et al. 2018; OPUS-MT, Tiedemann and Thottingal 2020), there and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MarianMTModel, MarianTokenizer

from clipsearch.clip import choose_device
from clipsearch.errors import CheckpointError

THERE = "Helsinki-NLP/opus-mt-en-ROMANCE"
BACK = "Helsinki-NLP/opus-mt-ROMANCE-en"
"""CLIP-rsicd's models: English to the Romance languages, the target named by a first token such as ``>>fr<<``."""

MAX_TOKENS = 128
_FILES = ["*.json", "*.spm", "*.safetensors", "pytorch_model.bin"]


class MarianTranslator:
    """English -> another language -> English with two Marian models, folders or hub names, by beam search.

    Raises ``CheckpointError`` when a model cannot be loaded, and for a language that the first one does not know: its
    tokenizer would take the mark for an unknown word and translate into whatever it likes.
    """

    def __init__(self, there: str = THERE, back: str = BACK, *, beams: int = 4, device: str = "auto") -> None:
        self._device = choose_device(device)
        self._there = _load(there, self._device)
        self._back = _load(back, self._device)
        self._beams = beams
        self.name = f"{Path(there).name} and {Path(back).name}, {beams} beams"

    def there_and_back(self, texts: Sequence[str], language: str) -> list[str]:
        """Each text through ``language`` and back; texts of more than 128 tokens are cut."""
        mark = f">>{language}<<"
        known = self._there[0].supported_language_codes
        if mark not in known:
            raise CheckpointError(f"the translation model does not know {language!r}; it knows {', '.join(known[:40])}")
        return self._translate(self._back, self._translate(self._there, [f"{mark} {text}" for text in texts]))

    @torch.inference_mode()
    def _translate(self, loaded: tuple[Any, Any], texts: Sequence[str]) -> list[str]:
        tokenizer, model = loaded
        inputs = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS)
        # one limit for all: a limit by the batch's lengths would make a text's translation depend on its neighbours
        output = model.generate(
            **inputs.to(self._device),
            num_beams=self._beams,
            do_sample=False,
            max_new_tokens=MAX_TOKENS,
            max_length=None,
        )
        return [str(text) for text in tokenizer.batch_decode(output, skip_special_tokens=True)]


def _load(name: str, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer and model in evaluation mode. Pickled weights, which are all that some of these models have, are read
    without running code (``torch.load(weights_only=True)``, as transformers does)."""
    folder = Path(name).expanduser()
    try:
        path = str(folder) if folder.is_dir() else _download(name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            tokenizer = MarianTokenizer.from_pretrained(path, local_files_only=True)
        model = MarianMTModel.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"the translation model {name} cannot be loaded ({reason}): download it where there is a connection "
            f"(`hf download {name} --local-dir FOLDER`) and give the folder"
        ) from error
    return tokenizer, model.to(device).eval()


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=_FILES))
