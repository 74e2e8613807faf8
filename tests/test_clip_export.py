"""A checkpoint's towers as ONNX: the model's own embeddings, and a text tower that the engine serves as embedder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from small_clip import write_clip
from torch import Tensor, nn

from clipsearch.cli import cli
from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny, export, load_clip, onnxfiles
from clipsearch.clip.export import TEXTS, embedder_xml, export_onnx, made_up_samples, sample_texts
from clipsearch.clip.tokens import tokenize
from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request
from clipsearch.engine.package import write_zip
from clipsearch.errors import CheckpointError

DEPLOY = "/application/v2/tenant/default/prepareandactivate"
CAPTIONS = ["many planes are parked", "a river and a bridge", "storage tanks"]
SERVICES = """<services version="1.0">
  <container id="default" version="1.0"><search/><document-api/>{component}
    <config name="ai.vespa.opennlp.open-nlp"><snowballStemmingForEnglish>true</snowballStemmingForEnglish></config>
  </container>
  <content id="c" version="1.0"><documents><document type="picture" mode="index"/></documents></content>
</services>"""
SCHEMA = """schema picture {
    document picture { field vector type tensor<float>(x[16]) { indexing: attribute | summary } }
    rank-profile near {
        inputs { query(q) tensor<float>(x[16]) }
        first-phase { expression: sum(query(q) * attribute(vector)) }
        summary-features { query(q) }
    }
}"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"file": f"{n}.png", "captions": [caption]}) for n, caption in enumerate(CAPTIONS)]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    for number in range(len(CAPTIONS)):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"torn")
    return folder


@pytest.fixture(scope="module")
def clip(corpus: Path) -> Clip:
    return load_clip(write_clip(corpus.parent / "model", corpus), "cpu")


@pytest.fixture(scope="module")
def exported(clip: Clip, corpus: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that the command wrote, and what it printed."""
    out = corpus.parent / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxfiles, "SECONDS", 0.0)
        words = ["export", str(corpus.parent / "model"), "--out", str(out), "--int8", "--corpus", str(corpus), "--json"]
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out, json.loads(done.output)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_image_tower_takes_any_number_of_images(exported: tuple[Path, Any], clip: Clip) -> None:
    run = session(exported[0] / "image.onnx").run
    for count in (1, 5):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)
        inputs = clip.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        (found,) = run(["image_embeds"], {"pixel_values": inputs})
        np.testing.assert_allclose(found, clip.embed_pixels(pixels), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_text_tower_takes_texts_of_any_length_alone_and_padded(exported: tuple[Path, Any], clip: Clip) -> None:
    run = session(exported[0] / "text.onnx").run
    for texts in (["x"], ["many planes " * 30], ["a river", "storage tanks and planes near a bridge", "many"]):
        tokens = tokenize(clip.tokenizer, texts, clip.text_length)
        (found,) = run(["text_embeds"], {name: value.numpy() for name, value in tokens.items()})
        np.testing.assert_allclose(found, clip.embed_texts(texts), atol=1e-5)


def test_the_engine_embeds_query_texts_with_the_exported_tower_as_the_model_does(
    exported: tuple[Path, Any], clip: Clip, tmp_path: Path
) -> None:
    component = (exported[0] / "embedder.xml").read_text()
    files = {
        "services.xml": SERVICES.format(component=component).encode(),
        "schemas/picture.sd": SCHEMA.encode(),
        "models/text.onnx": (exported[0] / "text.onnx").read_bytes(),
        "models/tokenizer.json": (exported[0] / "tokenizer.json").read_bytes(),
    }
    engine = Engine(tmp_path)
    try:
        deployed = Request("POST", DEPLOY, (), {"content-type": "application/zip"}, write_zip(files))
        assert engine.deploy.handle(deployed).status == 200
        body = orjson.dumps({"fields": {"vector": [0.1] * 16}})
        finished(engine.documents.handle(Request("POST", "/document/v1/t/picture/docid/1", (), {}, body)))
        for text in ["a river and planes", "many planes are parked near storage tanks " * 9]:
            (expected,) = clip.embed_texts([text])
            assert float(embedded(engine, text) @ expected) > 0.9999
    finally:
        engine.close()


def embedded(engine: Engine, text: str) -> NDArray[np.float32]:
    """What the engine's embed() makes of a query text, as the rank profile saw it."""
    query = {"yql": "select * from picture where true", "ranking": "near", "text": text}
    query["input.query(q)"] = "embed(clip, @text)"
    response = finished(engine.container.handle(Request("GET", "/search/", tuple(query.items()))))
    (hit,) = orjson.loads(response.body)["root"]["children"]
    return np.array(hit["fields"]["summaryfeatures"]["query(q)"]["values"], np.float32)


def finished(answer: Any) -> Any:
    """The response, where a handler may answer at once or later."""
    return answer.result() if hasattr(answer, "result") else answer


def test_the_report_says_how_to_prepare_images_and_how_close_each_file_is(exported: tuple[Path, Any]) -> None:
    folder, printed = exported
    report = json.loads((folder / "export.json").read_text())
    assert printed == {"out": str(folder), **report}
    assert report["samples"].startswith("2 images and 3 captions of ")  # the torn one is left out
    assert report["image_input"]["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert report["image_input"]["shape"] == ["images", 3, 16, 16]
    files = {file["name"]: file for file in report["files"]}
    assert set(files) == {"image.onnx", "image.int8.onnx", "text.onnx", "text.int8.onnx"}
    assert files["text.onnx"]["cosine_min"] >= 0.9999
    assert 0.98 < files["text.int8.onnx"]["cosine_min"] <= 1
    for name, file in files.items():
        assert file["megabytes"] == pytest.approx((folder / name).stat().st_size / 1e6, abs=1e-5)
        assert file["per_core_second"] > 0
    assert files["image.int8.onnx"]["megabytes"] < files["image.onnx"]["megabytes"]


def test_the_tiny_preset_exports_too_batch_norm_and_bag_of_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfiles, "SECONDS", 0.0)
    options = TinyOptions(dim=16, image_size=16, channels=(8, 16), strides=(2, 2), text_width=8)
    model, tokenizer = build_tiny(CAPTIONS, options)
    for buffer in model.vision_model.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.1)  # running statistics that are not those of the start
    tiny = Clip(model, tokenizer, PixelSettings(16), "tiny")
    result = export_onnx(tiny, tmp_path / "out")
    assert [(file.name, file.cosine_min > 0.99999) for file in result.files] == [
        ("image.onnx", True),
        ("text.onnx", True),
    ]
    run = session(tmp_path / "out" / "text.onnx").run
    tokens = tokenizer(["a river"], return_tensors="np")
    (found,) = run(None, {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")})
    np.testing.assert_allclose(found, tiny.embed_texts(["a river"]), atol=1e-5)


def test_an_export_that_is_not_the_model_is_refused_and_leaves_no_folder(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(nn.Module):
        def __init__(self, _: Any) -> None:
            super().__init__()

        def forward(self, pixel_values: Tensor) -> Tensor:
            return pixel_values.flatten(1)[:, :16]

    monkeypatch.setattr(onnxfiles, "SECONDS", 0.0)
    monkeypatch.setattr(export, "ImageTower", Wrong)
    monkeypatch.setattr(export, "_weight", lambda *_: 0)
    with pytest.raises(CheckpointError, match=r"image.onnx does not give the model's embeddings: cosine"):
        export_onnx(clip, tmp_path / "out")
    monkeypatch.setattr(export, "_weight", lambda *_: 3_000_000_000)
    with pytest.raises(CheckpointError, match=r"3.0 GB of weights; one ONNX file holds 2 GB"):
        export_onnx(clip, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_says_why_and_one_tower_is_exported_alone(
    clip: Clip, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfiles, "SECONDS", 0.0)
    with pytest.raises(CheckpointError, match="exists: choose another folder"):
        export_onnx(clip, tmp_path)
    slow = Clip(clip.model, SlowTokenizer(clip.tokenizer), clip.settings, "slow")
    with pytest.raises(CheckpointError, match=r"the tokenizer of slow has no tokenizer.json form"):
        export_onnx(slow, tmp_path / "out")
    images_only = export_onnx(slow, tmp_path / "images", towers=("image",))  # which needs no tokenizer
    assert [file.name for file in images_only.files] == ["image.onnx"]
    assert images_only.text_input == {}
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["export.json", "image.onnx"]
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"onnxruntime cannot load torn.onnx"):
        onnxfiles.compare(torn, [], None)
    done = CliRunner().invoke(cli, ["export", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert done.exit_code != 0
    assert not (tmp_path / "out").exists()


class SlowTokenizer:
    """A tokenizer without a fast twin."""

    def __init__(self, own: Any) -> None:
        self.model_max_length = own.model_max_length


def test_samples_are_always_the_same_and_spread_over_the_captions(clip: Clip) -> None:
    first, again = made_up_samples(clip), made_up_samples(clip)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (8, 16, 16, 3)
    assert first.texts == TEXTS
    assert sample_texts([f"caption {n % 10}" for n in range(100)], 5) == tuple(f"caption {n}" for n in (0, 2, 4, 6, 8))
    assert "<max-tokens>77</max-tokens>" in embedder_xml(77)
