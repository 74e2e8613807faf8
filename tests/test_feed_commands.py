"""``clipsearch feed``: what each command leaves in the index, and what it sent for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from feed_support import DIM, PixelModel, at, fed, feed, index, picture, pixels, rewrite, url, write_corpus

from clipsearch.corpora import Corpus
from clipsearch.corpora.sample import write_sample
from clipsearch.encoding import Encoder, encode
from clipsearch.errors import InputError, ServiceError, ShardError
from clipsearch.shards import shard_files
from feeders.feeding import FeedSummary
from feeders.images import Delivery, Source, feed_images
from feeders.options import report

__all__ = ["at", "pixels", "url"]  # fixtures


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# ---- images


def test_images_are_encoded_and_fed_in_one_pass(pixels: type[PixelModel], at: list[Any], tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "sample", images=24, size=32, processes=1, progress=False)
    summary = fed("images", sample.folder, *at)
    assert (summary["fed"], summary["failed"], summary["failed_images"]) == (24, 0, 0)
    stored = index(at[1], "sample")
    assert len(stored) == 24
    assert {fields["model_id"] for fields in stored.values()} == {"pixels-1"}
    assert len({fields["label"] for fields in stored.values()}) == sample.classes
    assert fed("verify", tmp_path / "work" / "sample" / "pixels-1", "--url", at[1])["clean"]
    assert fed("sync", sample.folder, *at)["plans"][0]["unchanged"] == 24


def test_a_second_run_encodes_only_what_is_new(pixels: type[PixelModel], at: list[Any], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "two")
    fed("images", corpus, *at)
    assert pixels.embedded == 12
    picture(corpus / "images" / "new.png", 99)
    rewrite(corpus, {f"images/{name}.png": {} for name in [*range(12), "new"]})
    summary = fed("images", corpus, *at)
    assert pixels.embedded == 13
    assert [(one["encoded"], one["reused"]) for one in summary["corpora"]] == [(1, 12)]
    assert len(index(at[1], "two")) == 13


def test_a_bad_image_goes_to_the_ledger_and_the_rest_arrives(
    pixels: type[PixelModel], at: list[Any], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "bad")
    (corpus / "images" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    summary = fed("images", corpus, *at, code=1)
    assert (summary["fed"], summary["failed_images"]) == (11, 1)
    assert [line["item"] for line in lines(summary["corpora"][0]["ledger"])] == ["images/5.png"]
    assert len(index(at[1], "bad")) == 11


def test_the_model_is_run_as_encode_runs_it(at: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Encoder]] = []

    def load(corpus: Corpus, checkpoint: str, encoder: Encoder) -> PixelModel:
        asked.append((checkpoint, encoder))
        return PixelModel(checkpoint)

    monkeypatch.setattr("feeders.images.load_model", load)
    corpus = write_corpus(tmp_path / "run", 3)
    assert fed("images", corpus, *at, "--device", "cpu", "--precision", "bf16")["fed"] == 3
    assert fed("images", corpus, *at, "--backend", "onnx-int8")["fed"] == 3
    fed("sync", corpus, *at, "--backend", "onnx-int8")
    assert [name for name, _ in asked[:2]] == ["pixels-1", "pixels-1"]
    assert [encoder for _, encoder in asked[:2]] == [Encoder("cpu", "torch", "bf16"), Encoder("auto", "onnx-int8")]
    folders = sorted(path.name for path in (tmp_path / "work" / "run").iterdir())
    assert folders == ["pixels-1-bf16", "pixels-1-int8"]  # what other numbers made is not taken for this one's


def test_several_corpora_go_in_one_command(pixels: type[PixelModel], at: list[Any], tmp_path: Path) -> None:
    corpora = [write_corpus(tmp_path / name, 3) for name in ("left", "right")]
    assert fed("images", *corpora, *at)["fed"] == 6
    assert len(index(at[1], "left")) == len(index(at[1], "right")) == 3


def test_an_interrupted_run_goes_on_and_encodes_nothing_twice(
    pixels: type[PixelModel], at: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "cut", 40)
    embed = PixelModel.embed_pixels

    def dying(model: PixelModel, batch: Any) -> Any:
        if pixels.embedded >= 16:
            raise MemoryError("the machine is full")
        return embed(model, batch)

    monkeypatch.setattr(PixelModel, "embed_pixels", dying)
    done = feed("images", corpus, *at, "--batch", 8)
    assert isinstance(done.exception, MemoryError)
    monkeypatch.setattr(PixelModel, "embed_pixels", embed)
    before = pixels.embedded
    summary = fed("images", corpus, *at, "--batch", 8)
    assert pixels.embedded - before == 40 - 16
    assert summary["fed"] + summary["skipped"] == 40
    assert len(index(at[1], "cut")) == 40


def test_an_empty_folder_is_one_sentence(pixels: type[PixelModel], at: list[Any], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = feed("images", tmp_path / "nothing", *at)
    assert isinstance(done.exception, InputError)
    assert "empty corpus" in str(done.exception)


def test_ids_with_odd_characters_arrive_and_are_verified(
    pixels: type[PixelModel], at: list[Any], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "odd", 1)
    names = ["a b.png", "ü?&=#%.png", "a..b.png", "per%2Fcent.png", "x" * 200 + ".png", "'; drop.png"]
    for number, name in enumerate(names):
        picture(corpus / "images" / name, 100 + number)
    rewrite(corpus, {f"images/{name}": {} for name in ["0.png", *names]})
    assert fed("images", corpus, *at)["fed"] == 7
    assert fed("verify", tmp_path / "work" / "odd" / "pixels-1", "--url", at[1])["equal"] == 7
    ids = "\n".join(f"id:odd:image::{key}" for key in index(at[1], "odd"))
    assert fed("remove", "-", "--url", at[1], "--dead-letters", tmp_path / "d", stdin=ids)["fed"] == 7
    assert index(at[1], "odd") == {}


# ---- sync


def test_sync_sends_only_what_differs(pixels: type[PixelModel], at: list[Any], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "sync")
    first = fed("sync", corpus, *at)
    assert first["plans"][0]["added"] == first["fed"] == 12
    assert fed("sync", corpus, *at)["fed"] == 0

    picture(corpus / "images" / "2.png", 77)  # a replaced file
    (corpus / "images" / "4.png").unlink()  # a removed image
    picture(corpus / "images" / "new.png", 78)
    rows: dict[str, dict[str, Any]] = {f"images/{name}.png": {} for name in [*range(12), "new"] if name != 4}
    rows["images/1.png"] = {"captions": ["a changed caption"]}
    rows["images/3.png"] = {"label": "", "split": "train"}
    rewrite(corpus, rows)
    expected = {"added": 1, "replaced": 1, "updated": 2, "removed": 1, "unchanged": 8}
    dry = fed("sync", corpus, *at, "--dry-run")
    assert dry["dry_run"]
    assert {name: dry["plans"][0][name] for name in expected} == expected
    before = index(at[1], "sync")
    assert len(before) == 12  # a dry run sends nothing

    pixels.embedded = 0
    summary = fed("sync", corpus, *at)
    assert {name: summary["plans"][0][name] for name in expected} == expected
    assert summary["fed"] == 5
    assert pixels.embedded == 2
    after = index(at[1], "sync")
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert sorted(changed) == ["1.png", "2.png", "3.png", "4.png", "new.png"]
    assert after["1.png"]["captions"] == ["a changed caption"]
    assert "label" not in after["3.png"]
    assert fed("sync", corpus, *at)["fed"] == 0


def test_sync_after_a_new_checkpoint_updates_embeddings_only(
    pixels: type[PixelModel], at: list[Any], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "tuned", 5)
    fed("sync", corpus, *at)
    summary = fed("sync", corpus, *at[:-1], "pixels-2")
    assert (summary["plans"][0]["updated"], summary["plans"][0]["replaced"]) == (5, 0)
    assert {fields["model_id"] for fields in index(at[1], "tuned").values()} == {"pixels-2"}
    assert fed("verify", tmp_path / "work" / "tuned" / "pixels-2", "--url", at[1])["clean"]


def test_sync_keeps_what_cannot_be_read_and_asks_before_it_empties_an_index(
    pixels: type[PixelModel], at: list[Any], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "keep")
    fed("sync", corpus, *at)
    (corpus / "images" / "0.png").write_bytes(b"half a fi")
    summary = fed("sync", corpus, *at, code=1)
    assert (summary["plans"][0]["unreadable"], summary["plans"][0]["removed"]) == (1, 0)
    rewrite(corpus, {"images/1.png": {}})
    for number in range(2, 12):
        (corpus / "images" / f"{number}.png").unlink()
    done = feed("sync", corpus, *at)
    assert isinstance(done.exception, InputError)
    assert "11 of the 12 documents" in str(done.exception)
    assert fed("sync", corpus, *at, "--yes")["plans"][0]["removed"] == 11
    assert list(index(at[1], "keep")) == ["1.png"]


# ---- verify


def test_verify_notices_a_missing_an_extra_and_a_changed_document(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "check")
    fed("images", corpus, *at)
    shards = tmp_path / "work" / "check" / "pixels-1"
    (tmp_path / "gone").write_text("0.png" + "\n")
    fed("remove", tmp_path / "gone", "--corpus", "check", "--url", url)
    changes = [
        {"update": "id:check:image::1.png", "fields": {"captions": {"assign": ["another"]}}},
        {
            "update": "id:check:image::2.png",
            "fields": {"embedding": {"modify": {"operation": "replace", "cells": {"7": 0.001}}}},
        },
        {"put": "id:check:image::extra.png", "fields": {"corpus": "check"}},
    ]
    (tmp_path / "changes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in changes))
    assert fed("jsonl", tmp_path / "changes.jsonl", "--url", url)["fed"] == 3
    summary = fed("verify", shards, "--url", url, code=1)
    found = {name: summary[name] for name in ("equal", "missing", "extra", "different")}
    assert found == {"equal": 9, "missing": 1, "extra": 1, "different": 2}
    by_key = {one.pop("id").split("::")[1]: one for one in lines(summary["findings"])}
    assert by_key == {
        "0.png": {"problem": "missing"},
        "1.png": {"problem": "different", "fields": ["captions"]},
        "2.png": {"problem": "different", "fields": ["embedding"]},
        "extra.png": {"problem": "extra"},
    }
    assert "Not clean: 9 of 12" in feed("verify", shards, "--url", url, "--slices", 3).output
    fed("sync", corpus, *at)
    assert fed("verify", shards, "--url", url, code=1)["different"] == 1  # sync does not compare embeddings
    fed("shards", shards, "--url", url)
    assert fed("verify", shards, "--url", url)["clean"]
    assert not (shards / "verify.jsonl").exists()


# ---- update


def test_update_assigns_new_embeddings_and_lists_what_is_missing(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "update", 6)
    fed("images", corpus, *at)
    (corpus / "images" / "5.png").write_bytes((corpus / "images" / "4.png").read_bytes())
    picture(corpus / "images" / "late.png", 7)
    rewrite(corpus, {f"images/{name}.png": {"captions": ["new"]} for name in [*range(6), "late"]})
    assert feed("export", corpus, "--model", "pixels-2", "--work", tmp_path / "work").exit_code == 0
    shards = tmp_path / "work" / "update" / "pixels-2"
    summary = fed("update", shards, "--url", url, code=1)
    assert (summary["fed"], summary["failed"], summary["missing"]) == (6, 0, 1)
    assert lines(summary["missing_list"]) == [{"id": "id:update:image::late.png"}]
    stored = index(url, "update")
    assert {fields["model_id"] for fields in stored.values()} == {"pixels-2"}
    assert stored["4.png"]["embedding"] == stored["5.png"]["embedding"]
    assert stored["4.png"]["captions"] != ["new"]
    fed("update", shards, "--fields", "captions", "--fields", "label", "--url", url, code=1)
    assert index(url, "update")["4.png"]["captions"] == ["new"]


def test_update_from_a_file_takes_captions_labels_and_embeddings(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    fed("images", write_corpus(tmp_path / "lines", 3), *at)
    path = tmp_path / "changes.jsonl"
    rows: list[Any] = [
        {"key": "0.png", "captions": "a  new   caption .", "label": "bridge"},
        {"id": "id:lines:image::1.png", "embedding": [1.0] + [0.0] * (DIM - 1), "model_id": "other"},
        {"key": "nobody.png", "label": "x"},
        {"key": "2.png", "embedding": [1.0, 2.0]},
        {"update": "id:lines:image::2.png", "fields": {"width": {"increment": 1}}, "create": True},
        {"label": "nameless"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\nnot JSON\n")
    summary = fed("update", path, "--corpus", "lines", "--url", url, code=1)
    assert (summary["fed"], summary["failed"], summary["missing"]) == (3, 3, 1)
    reasons = {one["id"].split(" of ")[0]: one["reason"] for one in lines(summary["dead_letters"])}
    assert "length 1" in reasons["line 4"]
    assert "names no document" in reasons["line 6"]
    assert "not JSON" in reasons["line 7"]
    stored = index(url, "lines")
    assert (stored["0.png"]["captions"], stored["0.png"]["label"]) == (["a new caption"], "bridge")
    assert stored["1.png"]["embedding"]["values"] == "3F80" + "0000" * (DIM - 1)
    assert stored["2.png"]["width"] == 21
    assert "nobody.png" not in stored


# ---- remove


def test_remove_needs_yes_for_a_corpus_and_takes_selections(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "drop", 8)
    rewrite(corpus, {f"images/{number}.png": {"label": "sea" if number < 3 else "land"} for number in range(8)})
    fed("images", corpus, *at)
    letters = ["--dead-letters", tmp_path / "letters"]
    refused = feed("remove", "--corpus", "drop", "--url", url)
    assert refused.exit_code == 2
    assert "8 documents" in refused.output
    selection = ["--selection", 'image.label == "sea"', "--yes"]
    assert fed("remove", "--corpus", "drop", *selection, "--url", url, *letters)["fed"] == 3
    assert len(index(url, "drop")) == 5
    assert fed("remove", "--corpus", "drop", "--yes", "--url", url, *letters)["fed"] == 5
    assert index(url, "drop") == {}
    assert feed("remove", "--url", url).exit_code == 2
    assert shard_files(tmp_path / "work" / "drop" / "pixels-1")  # only the index is emptied


# ---- odd input


def test_a_folder_that_holds_no_shards_is_named(url: str, tmp_path: Path) -> None:
    for command in ("shards", "verify", "update", "export"):
        done = feed(command, tmp_path, *([] if command == "export" else ["--url", url]))
        assert isinstance(done.exception, ShardError), command
        assert str(tmp_path) in str(done.exception)


def test_a_folder_alone_means_its_shards(pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path) -> None:
    fed("images", write_corpus(tmp_path / "plain", 3), *at)
    assert fed(tmp_path / "work" / "plain" / "pixels-1", "--url", url)["fed"] == 3
    assert feed("nonsense").exit_code == 2


# ---- kill -9

CHILD = """
import sys, time
from pathlib import Path
from feed_support import PixelModel, fed
from feeders.images import Source
corpus, log, *options = sys.argv[1:]
embed = PixelModel.embed_pixels
def slowly(model, batch):
    with open(log, "ab") as file:
        file.write(b"." * len(batch))
    time.sleep(0.02)
    return embed(model, batch)
PixelModel.embed_pixels = slowly
Source.load = lambda source, corpus: PixelModel(source.model)
print(fed("images", corpus, *options))
"""


def test_a_killed_run_is_resumed_with_at_most_one_batch_encoded_twice(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    kills, batch, count = rounds(1, 10), 8, rounds(60, 300)
    corpus, log = write_corpus(tmp_path / "killed", count), tmp_path / "log"
    command = [str(word) for word in (sys.executable, "-c", CHILD, corpus, log, *at, "--batch", batch)]
    for kill in range(1, kills + 1):
        child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})
        while not log.exists() or log.stat().st_size <= kill * 3 * batch:
            assert child.poll() is None
            time.sleep(0.005)
        child.kill()
        child.wait(20)
    summary = fed("images", corpus, *at, "--batch", batch)
    assert summary["fed"] + summary["skipped"] == count
    assert count <= log.stat().st_size + pixels.embedded <= count + kills * batch
    assert len(index(url, "killed")) == count
    assert fed("verify", tmp_path / "work" / "killed" / "pixels-1", "--url", url)["equal"] == count


def test_encoding_ends_with_the_feed_when_the_endpoint_goes_away(
    pixels: type[PixelModel], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "away", 160)
    embed = PixelModel.embed_pixels

    def slowly(model: PixelModel, batch: Any) -> Any:
        time.sleep(0.03)
        return embed(model, batch)

    monkeypatch.setattr(PixelModel, "embed_pixels", slowly)

    def failing(operations: Any, *args: Any, **options: Any) -> Any:
        for _ in operations:
            raise ServiceError("it is gone")

    source = Source([str(corpus)], "pixels-1", tmp_path / "work", batch=8)
    monkeypatch.setattr("feeders.images.feed", failing)
    monkeypatch.setattr("feeders.images.encode", partial(encode, rows=4))
    with pytest.raises(ServiceError, match="gone"):
        feed_images(source, Delivery(url, progress=False))
    assert not [thread for thread in threading.enumerate() if thread.name == "encode"]
    assert 64 <= pixels.embedded < 160


def test_a_feed_that_ctrl_c_ended_says_what_is_left_and_interrupts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        report(FeedSummary(fed=3, failed=0, not_sent=9, seconds=1.0, interrupted=True), as_json=False)
    assert "9 not sent, because Ctrl-C came" in capsys.readouterr().out
