"""CLIP tokenizers: one trained on a corpus' captions, and texts as padded token ids that always end in EOS."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def train_tokenizer(captions: Iterable[str], vocab_size: int = 4096, max_length: int = 48) -> Any:
    """A ``CLIPTokenizer`` whose byte-level BPE is learned from ``captions`` (Sennrich et al. 2016).

    Deterministic: the distinct captions, sorted. ``vocab_size`` is an upper bound (at least 1,024 is sensible: 512
    entries are the single bytes, so that no text is unknown); small corpora give fewer. ``max_length`` in tokens.
    """
    blank = CLIPTokenizer()  # for its normaliser and pre-tokeniser: exactly those that will be used later
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=2,
        end_of_word_suffix=WORD_END,
        # as "special" tokens the bytes get fixed numbers; otherwise these, and with them the order of equally
        # frequent merges, would follow a hash map and differ from run to run
        special_tokens=_bytes(),
        show_progress=False,
    )
    learner.train_from_iterator(sorted(set(captions)), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=byte_level_vocabulary(merges), merges=merges, model_max_length=max_length)


def byte_level_vocabulary(merges: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Token -> id in CLIP's order: bytes, bytes that end a word, merges, start, end; the end token is the largest."""
    tokens = dict.fromkeys([*_bytes(), *("".join(pair) for pair in merges), START, END])
    return {token: number for number, token in enumerate(tokens)}


def _bytes() -> list[str]:
    """The 256 bytes as byte-level BPE writes them, and the same at the end of a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*letters, *(letter + WORD_END for letter in letters)]


def token_ids(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """The token ids of each text with its start and end tokens, not padded.

    Longer texts are cut to ``max_length`` tokens with their end token kept: CLIP pools there, and a text without it
    would silently be pooled at its first position.
    """
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None:
        ids = [[*text[:-1], end] if len(text) >= max_length and text[-1] != end else text for text in ids]
    return ids


def pad(tokenizer: Any, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, both (N, longest) int64, padded to the longest text of this batch."""
    longest = max(len(text) for text in ids)
    filler = tokenizer.pad_token_id
    return {
        "input_ids": torch.tensor([[*text, *[filler] * (longest - len(text))] for text in ids]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in ids]),
    }


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> dict[str, Tensor]:
    """``pad`` of ``token_ids``: what a text tower takes."""
    return pad(tokenizer, token_ids(tokenizer, texts, max_length))
