"""embed() at query and at feed time, with a tiny model: what Vespa's hugging-face-embedder would give."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
from embedder_support import DIMENSIONS, MODEL, TOKENIZER, onnx_model, table, tokenizer_json, vectors
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from clipsearch.engine import embedding
from clipsearch.engine.embedding import Embedder, EmbedderConfig, check_embedders, embed_input
from clipsearch.engine.tensors import Tensor, parse_type
from clipsearch.errors import ExpressionError, PackageError

FLOATS = parse_type(f"tensor<float>(x[{DIMENSIONS}])")


def embedder(model: bytes | None = None, tokenizer: bytes | None = None, **settings: Any) -> Embedder:
    config = EmbedderConfig("tiny", MODEL, TOKENIZER, **settings)
    return Embedder(config, model or onnx_model(), tokenizer or tokenizer_json())


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


def cells(value: Tensor) -> NDArray[np.float32]:
    return value.cells


# ---- one text


def test_mean_pooling_is_the_mean_of_all_tokens_and_the_markers_around_them() -> None:
    found = embedder().embed("A red BOAT", FLOATS)
    assert found.type == FLOATS
    np.testing.assert_allclose(cells(found), vectors("a", "red", "boat").mean(axis=0), rtol=1e-6)


def test_cls_pooling_is_the_first_token_and_none_takes_what_the_model_pooled() -> None:
    first = embedder(pooling="cls").embed("red boat", FLOATS)
    np.testing.assert_allclose(cells(first), vectors()[0])
    whole = embedder(onnx_model(output="text_embeds", pooled=True), pooling="none", output="text_embeds")
    np.testing.assert_allclose(cells(whole.embed("red", FLOATS)), vectors("red").sum(axis=0), rtol=1e-5)


def test_a_smaller_target_takes_the_first_values_and_normalises_those() -> None:
    target = parse_type("tensor<float>(x[5])")
    mean = vectors("sea").mean(axis=0)
    np.testing.assert_allclose(cells(embedder(normalize=True).embed("sea", target)), unit(mean[:5]), rtol=1e-5)
    np.testing.assert_allclose(cells(embedder().embed("sea", target)), mean[:5], rtol=1e-6)


def test_an_int8_target_packs_the_signs_of_the_first_values_the_first_highest() -> None:
    mean = vectors("sea").mean(axis=0)
    found = embedder(normalize=True).embed("sea", parse_type("tensor<int8>(x[1])"))
    assert found.cells.tolist() == np.packbits(mean[:8] > 0).view(np.int8).tolist()


def test_bfloat16_targets_are_truncated_and_double_targets_are_wide() -> None:
    found = embedder().embed("sea", parse_type(f"tensor<bfloat16>(x[{DIMENSIONS}])"))
    assert not (found.cells.view(np.uint32) & 0xFFFF).any()
    assert embedder().embed("sea", parse_type(f"tensor(x[{DIMENSIONS}])")).cells.dtype == np.float64


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "tensor<float>(x[17])",
            r"'tensor<float>\(x\[17\]\)' by 'tiny': Cannot embed to 17 values: the model gives 16",
        ),
        ("tensor<int8>(x[3])", "Cannot pack 16 values into 3 int8's"),
        ("tensor<float>(x{})", "dimension should be indexed"),
        ("tensor<float>(x[2],y[2])", "should only have one dimension"),
    ],
)
def test_a_target_that_the_model_cannot_fill_is_refused(target: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        embedder().embed("sea", parse_type(target))


def test_blank_text_is_a_zero_tensor() -> None:
    assert not embedder(normalize=True).embed("  ", FLOATS).cells.any()
    assert embedder().embed("", parse_type("tensor<int8>(x[2])")).cells.tolist() == [0, 0]


def test_text_is_cut_at_max_tokens_with_its_end_marker_kept() -> None:
    long = embedder(max_tokens=4).embed("red boat sea house the a", FLOATS)
    np.testing.assert_allclose(cells(long), vectors("red", "boat").mean(axis=0), rtol=1e-6)


def test_texts_are_prepended_apart_for_queries_and_documents() -> None:
    both = embedder(prepend_query="the", prepend_document="a")
    np.testing.assert_allclose(cells(both.embed("sea", FLOATS, query=True)), vectors("the", "sea").mean(0), rtol=1e-6)
    np.testing.assert_allclose(cells(both.embed("sea", FLOATS)), vectors("a", "sea").mean(0), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_models_with_one_to_three_inputs_are_fed(count: int) -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")[:count]
    found = embedder(onnx_model(names)).embed("sea", FLOATS)
    np.testing.assert_allclose(cells(found), vectors("sea").mean(axis=0), rtol=1e-6)


def test_inputs_of_other_names_are_found_by_their_settings() -> None:
    model = onnx_model(("ids", "mask"), "hidden")
    found = embedder(model, input_ids="ids", attention_mask="mask", output="hidden").embed("sea", FLOATS)
    np.testing.assert_allclose(cells(found), vectors("sea").mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": onnx_model(("ids", "mask"))}, "required input: 'input_ids'. Model contains: ids,mask"),
        ({"output": "pooled"}, "required output: 'pooled'. Model contains: last_hidden_state"),
        ({"model": onnx_model(("input_ids", "attention_mask", "token_type_ids", "more"))}, "more than 3 inputs"),
        ({"pooling": "none"}, "Unexpected pooling-strategy 'none' with 3 output dimensions"),
        ({"model": onnx_model(pooled=True)}, "Expected pooling-strategy 'none' with 2 output dimensions"),
        ({"model": b"no model"}, "models/tiny.onnx cannot be loaded as an ONNX model"),
        ({"tokenizer": b"{}"}, "models/tokenizer.json cannot be loaded as a tokenizer"),
        ({"tokenizer": b"\xff"}, "models/tokenizer.json cannot be loaded as a tokenizer"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_at_deploy_with_a_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=r"services\.xml: embedder 'tiny': ") as caught:
        check_embedders({"tiny": embedder(**settings)})
    assert message in str(caught.value)


def test_a_model_reads_no_file_outside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = table()
    (tmp_path / "secret.bin").write_bytes(weights.tobytes())
    monkeypatch.chdir(tmp_path)
    for location in ("secret.bin", str(tmp_path / "secret.bin"), "../" * 20 + str(tmp_path)[1:] + "/secret.bin"):
        model = onnx.load_from_string(onnx_model())
        held = model.graph.initializer[0]
        held.ClearField("raw_data")
        held.data_location = TensorProto.EXTERNAL
        held.external_data.add(key="location", value=location)
        with pytest.raises(ExpressionError, match="cannot be loaded as an ONNX model"):
            embedder(model.SerializeToString()).open()


def test_a_model_that_fails_while_it_runs_is_an_error_with_the_embedders_name() -> None:
    node = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph(
        [node],
        "narrow",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", 4])],
        [onnx.numpy_helper.from_array(np.zeros((3, 4), np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    with pytest.raises(ExpressionError, match="embedder 'tiny': the model fails"):
        embedder(model).embed("house", FLOATS)


# ---- the cache


def test_a_text_is_evaluated_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    plain = embedding._Loaded.evaluate

    def counted(self: embedding._Loaded, text: str) -> embedding.Vector:
        calls.append(text)
        return plain(self, text)

    monkeypatch.setattr(embedding._Loaded, "evaluate", counted)
    monkeypatch.setattr(embedding, "CACHE_BYTES", 3 * (DIMENSIONS * 4 + 4 * 5))
    tiny = embedder()
    for text in ("sea 1", "sea 2", "sea 1", "sea 3", "sea 4", "sea 1", "sea 2"):
        tiny.embed(text, FLOATS)
    assert calls == ["sea 1", "sea 2", "sea 3", "sea 4", "sea 2"]
    assert tiny._cached_bytes <= embedding.CACHE_BYTES


def test_many_threads_embed_at_once_and_load_the_model_once() -> None:
    tiny, found, words = embedder(), {}, ("red", "boat", "sea", "house", "a", "on")

    def work(place: int) -> None:
        for turn in range(30):
            word = words[(place + turn) % len(words)]
            found[place, turn] = np.allclose(cells(tiny.embed(word, FLOATS)), vectors(word).mean(0), rtol=1e-5)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 240
    assert all(found.values())


def test_clips_own_vocabulary_gives_the_tokens_that_clip_was_trained_on(shared: Path) -> None:
    ours = embedding._tokenizer(EmbedderConfig("clip", MODEL, TOKENIZER, max_tokens=77), clip_tokenizer(shared))
    assert ours.encode("A photo  of a CAT").ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    long = ours.encode("two cats " * 60).ids
    assert (len(long), long[0], long[-1]) == (77, 49406, 49407)


def clip_tokenizer(shared: Path) -> bytes:
    """CLIP's tokenizer.json, made of its published vocabulary and merges."""
    folder = shared / "data" / "clip_bpe"
    merges = [
        tuple(line.split()) for line in (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:] if line
    ]
    vocabulary = orjson.loads((folder / "vocab.json").read_bytes())
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    space = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ends = ("<|endoftext|>", 49407), ("<|startoftext|>", 49406)
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    text: str = tokenizer.to_str()
    return text.encode()


# ---- query inputs


@pytest.mark.parametrize(
    "value", ["embed(red boat)", "embed('red boat')", 'embed("red boat")', "embed(@q)", "embed(tiny, 'red boat')",
              'embed(tiny,"red boat")', "embed(tiny, @q)"]
)  # fmt: skip
def test_every_form_of_embed_is_read(value: str) -> None:
    found = embed_input(value, FLOATS, {"tiny": embedder()}, {"q": "red boat"})
    np.testing.assert_allclose(cells(found), vectors("red", "boat").mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "embedders", "message"),
    [
        ("embed(other, 'sea')", ("tiny",), "Can't find embedder 'other'. Available embedder ids are 'tiny'."),
        ("embed(sea)", ("one", "two"), "Multiple embedders are provided but no embedder id is given. Usage: embed("),
        ("embed(@none)", ("tiny",), "Could not resolve query parameter reference 'none' used in an embed() argument"),
        ("embed(sea", ("tiny",), "the argument does not end by ')'"),
        ("embed(sea)", (), "No embedders are configured"),
    ],
)
def test_what_embed_cannot_resolve_is_an_error_in_vespas_words(
    value: str, embedders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        embed_input(value, FLOATS, {name: embedder() for name in embedders}, {})
    assert message in str(caught.value)
