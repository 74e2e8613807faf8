"""Tensor types, values, and the texts and bytes that they travel in."""

from __future__ import annotations

from clipsearch.engine.tensors.decode import decode_json, feed_reader, parse_feed, parse_literal, parse_query_input
from clipsearch.engine.tensors.encode import FORMS, from_bytes, render, to_bytes, to_hex
from clipsearch.engine.tensors.literal import format_literal
from clipsearch.engine.tensors.types import SCALAR, Dimension, TensorType, parse_type
from clipsearch.engine.tensors.value import Tensor, cast, scalar, truncate_bfloat16

__all__ = [
    "FORMS",
    "SCALAR",
    "Dimension",
    "Tensor",
    "TensorType",
    "cast",
    "decode_json",
    "feed_reader",
    "format_literal",
    "from_bytes",
    "parse_feed",
    "parse_literal",
    "parse_query_input",
    "parse_type",
    "render",
    "scalar",
    "to_bytes",
    "to_hex",
    "truncate_bfloat16",
]
