"""Tokenizers that know every byte, cut with their end token kept, and are the same each time they are trained."""

from __future__ import annotations

import pytest
from transformers import BertTokenizer

from clipsearch.clip.tokens import END, START, tokenize, train_tokenizer

CAPTIONS = ["many planes are parked", "many planes near a river", "a river, a bridge and 3 boats", "storage tanks"]


def test_frequent_words_become_one_token() -> None:
    tokenizer = train_tokenizer(CAPTIONS * 3 + ["planes planes planes"])
    assert tokenizer.tokenize("planes") == ["planes</w>"]


@pytest.mark.parametrize("text", ["many planes", "zebra: 漢字, ünïcode & 🛩️", "UPPER case", "x"])
def test_every_text_is_made_of_known_tokens_and_comes_back(text: str) -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == tuple(tokenizer.convert_tokens_to_ids([START, END]))
    assert END not in tokenizer.tokenize(text)
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.lower().replace(" ", "")


def test_the_end_token_has_the_largest_id_as_clip_expects() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.eos_token_id != 2  # the number that selects transformers' legacy pooling


def test_training_twice_in_another_order_gives_the_same_vocabulary() -> None:
    first, *others = (
        train_tokenizer(order).get_vocab() for order in (CAPTIONS, CAPTIONS[::-1] * 2, CAPTIONS, CAPTIONS)
    )
    assert all(vocabulary == first for vocabulary in others)


def test_a_vocabulary_is_bounded() -> None:
    assert len(train_tokenizer(CAPTIONS * 5, vocab_size=540)) <= 540 + 2


def test_texts_are_padded_to_the_longest_of_the_batch_only() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    tokens = tokenize(tokenizer, ["river", "many planes near a river"], 48)
    assert tokens["input_ids"].shape[1] == len(tokenizer("many planes near a river").input_ids)
    assert tokens["attention_mask"].sum(dim=1).tolist() == [
        len(tokenizer("river").input_ids),
        tokens["input_ids"].shape[1],
    ]


def test_a_caption_of_333_words_is_cut_and_still_ends_in_eos() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    ids = tokenize(tokenizer, ["many planes " * 333, "a river"], 16)["input_ids"]
    assert ids.shape == (2, 16)
    assert ids[0, -1] == tokenizer.eos_token_id
    assert (ids == tokenizer.eos_token_id).any(dim=1).all()


def test_tokenizers_without_an_end_token_are_left_as_they_are(tmp_path: pytest.TempPathFactory) -> None:
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "river"])}
    ids = tokenize(BertTokenizer(vocab=words), ["a river a river a river"], 5)["input_ids"]
    assert ids.tolist() == [[2, 5, 6, 5, 3]]
