"""A tiny embedder for tests: an ONNX model that looks tokens up in a table, and a word tokenizer."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ("[UNK]", "[CLS]", "[SEP]", "a", "red", "boat", "on", "the", "sea", "house")
DIMENSIONS = 16
MODEL, TOKENIZER = "models/tiny.onnx", "models/tokenizer.json"


def table(dimensions: int = DIMENSIONS) -> NDArray[np.float32]:
    """The vector of each word."""
    return np.random.default_rng(7).standard_normal((len(WORDS), dimensions)).astype(np.float32)


def onnx_model(
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"), output: str = "last_hidden_state", pooled: bool = False
) -> bytes:
    """Token ids to their vectors: (1, tokens, 16), or their sum (1, 16) when ``pooled``."""
    nodes = [helper.make_node("Gather", ["table", inputs[0]], ["gathered"])]
    if pooled:
        nodes.append(helper.make_node("ReduceSum", ["gathered", "axes"], [output], keepdims=0))
    else:
        nodes.append(helper.make_node("Identity", ["gathered"], [output]))
    shape = ["b", DIMENSIONS] if pooled else ["b", "s", DIMENSIONS]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(table(), "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tokenizer_json() -> bytes:
    """Lower-cased words between [CLS] and [SEP], with padding that an embedder must not use."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=12)
    text: str = tokenizer.to_str()
    return text.encode()


def vectors(*words: str) -> NDArray[np.float32]:
    """The vectors of ``words``, in the markers that the tokenizer puts around a text."""
    return table()[[WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]]


def component(name: str = "tiny", settings: str = "") -> str:
    """The embedder's element of services.xml."""
    return (
        f'<component id="{name}" type="hugging-face-embedder"><transformer-model path="{MODEL}"/>'
        f'<tokenizer-model path="{TOKENIZER}"/>{settings}</component>'
    )
