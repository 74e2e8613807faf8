"""The demo on a user's own corpus: a bad image does not stop it, and each port that it needs is asked for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpus import write_corpus
from small_index import ROOT, write_shards

from clipsearch.demo import Demo, DemoOptions, _prepare, run_demo
from clipsearch.search import SearchClient
from clipsearch.shards import open_shards


def pretend_training(folder: Path) -> None:
    """An untrained checkpoint with the summary that training would leave."""
    from clipsearch.clip import PixelSettings, TinyOptions, build_tiny, checkpoint_info, save_clip

    options = TinyOptions(image_size=32, channels=(8, 16), strides=(2, 2), text_width=32, text_layers=1, text_heads=2)
    network, tokenizer = build_tiny(["a red block at the left", "a green block"], options)
    save_clip(folder, network, tokenizer, PixelSettings(32).to_processor())
    scores = {"hits@1": 0.25}
    summary = {"model_id": checkpoint_info(folder)[0], "epochs": 1, "seconds": 1.0, "measured_on": "test"}
    (folder / "metrics.json").write_text(json.dumps({**summary, "before": scores, "after": scores}))


def test_bad_images_are_left_out_shards_of_an_older_model_replaced_and_the_demo_goes_on(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "damaged", per_class=2, corrupt=1)
    counts: list[int] = []
    stop = Demo.stop

    def count_and_stop(demo: Demo) -> None:
        with SearchClient(demo.url) as client:
            counts.append(client.document_count())
        stop(demo)

    monkeypatch.setattr(Demo, "stop", count_and_stop)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # the page's port: in use, and not needed
        ports = free_port(), free_port(), other.getsockname()[1]
        options = DemoOptions(str(corpus), tmp_path, ROOT / "vespa_app", *ports, serve=False)
        folder = Demo(options).folder
        pretend_training(folder / "model")
        write_shards(folder / "shards")
        run_demo(options)
    said = capfd.readouterr()
    assert "Left out: images/broken_0.png" in said.err
    assert "goes on with the 8 images" in said.out
    assert said.out.count(", hybrid: ") == 3
    assert counts == [8]
    assert open_shards(folder / "shards").manifest.corpus == "damaged"


def test_the_sample_corpus_is_encoded_with_its_parts_and_again_where_it_was_encoded_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[object, ...]] = []
    monkeypatch.setattr(Demo, "attempt", lambda demo, *arguments: sent.append(arguments) or 0)
    monkeypatch.setattr("clipsearch.demo._print_training", lambda model: None)
    demo = Demo(DemoOptions(home=tmp_path))
    (demo.folder / "model").mkdir(parents=True)
    (demo.folder / "model" / "metrics.json").write_text('{"model_id": "tiny-1"}')
    (demo.folder / "corpus").mkdir()
    shards = demo.folder / "shards"
    for before in (None, {"model_id": "tiny-1"}, {"model_id": "tiny-1", "patches": "2x2"}):
        if before is not None:
            shards.mkdir(exist_ok=True)
            (shards / "manifest.json").write_text(json.dumps(before))
        (demo.folder / "encoded.json").unlink(missing_ok=True)
        _prepare(demo)
    encodes = [arguments[6:] for arguments in sent if arguments[0] == "encode"]
    assert encodes == [("--patches", "2x2"), ("--patches", "2x2", "--overwrite"), ("--patches", "2x2")]
