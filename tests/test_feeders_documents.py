"""Rows of a shard become documents that Vespa takes: text it allows, tensors as hex bfloat16."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from fake_vespa import jpeg, unit
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipsearch.captions import vespa_text
from clipsearch.errors import InputError
from clipsearch.records import Embedded, Record
from feeders.documents import bfloat16_hex, document_fields


def row(**changes: Any) -> Embedded:
    record = Record("demo", "a.jpg", "images/a.jpg", ("a river", "a\x00bridge"), "test", changes.pop("label", "river"))
    values = {
        "embedding": unit(1), "thumbnail": jpeg(), "width": 64, "height": 48, "content_hash": "ab", "model_id": "m",
    }  # fmt: skip
    return Embedded(record=record, **{**values, **changes})


def test_a_row_becomes_the_fields_of_the_schema() -> None:
    fields = document_fields(row())
    assert set(fields) == {
        "captions", "label", "split", "corpus", "image_uri", "width", "height", "content_hash", "model_id",
        "thumbnail", "embedding",
    }  # fmt: skip
    assert fields["captions"] == ["a river", "a bridge"]
    assert base64.b64decode(fields["thumbnail"]) == jpeg()
    assert (fields["corpus"], fields["width"]) == ("demo", 64)


def test_an_unknown_label_is_left_out() -> None:
    assert "label" not in document_fields(row(label=""))


@given(arrays(np.float32, 7, elements=st.floats(-1, 1, width=32)))
def test_hex_is_the_upper_half_of_each_float(vector: np.ndarray) -> None:
    digits = bfloat16_hex(vector)
    assert len(digits) == 4 * 7
    back = (np.frombuffer(bytes.fromhex(digits), ">u2").astype(np.uint32) << 16).view(np.float32)
    assert np.all(np.abs(back) <= np.abs(vector))  # toward zero
    assert np.all(np.abs(back - vector) <= np.maximum(np.abs(vector) / 128, 2.0**-126))


def test_known_hex() -> None:
    assert bfloat16_hex(np.array([1.0, -0.5, 0.1], dtype=np.float32)) == "3F80BF003DCC"


@given(st.text())
def test_vespa_text_leaves_what_vespa_allows(text: str) -> None:
    cleaned = vespa_text(text)
    assert len(cleaned) == len(text)
    cleaned.encode("utf-8")
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in cleaned)
    assert not any((ord(c) & 0xFFFE) == 0xFFFE for c in cleaned)


def test_vespa_text_keeps_every_script() -> None:
    text = "réservoirs 储罐 خزانات 🛰️ tab\tline\n"
    assert vespa_text(text) == text
    assert vespa_text("a\ud800b\U0001ffffc") == "a b c"


@pytest.mark.parametrize(
    ("embedding", "complaint"),
    [
        (np.full(4, np.nan), "finite"),
        (np.zeros((1, 4)), "one row"),
        (np.ones(4), "length 2.000"),
        (np.zeros(4), "length 0.000"),
    ],
)
def test_an_embedding_that_would_rank_wrongly_is_refused(embedding: np.ndarray, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        document_fields(row(embedding=embedding))
