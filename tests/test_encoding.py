"""Encoding loses no image, does nothing twice, survives bad files and being killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from clipsearch import encoding
from clipsearch.commands.encode import command
from clipsearch.corpora import open_corpus
from clipsearch.encoding import EncodeSummary, encode, parse_patches
from clipsearch.errors import CheckpointError, InputError, ShardError
from clipsearch.shards import FolderLock, open_shards, read_manifest, shard_files
from clipsearch.shards.journal import Journal

SIDE = 4


class FakeModel:
    """Embeds a picture as its own pixels at 4 x 4, so that every embedding can be told from every other."""

    dim = SIDE * SIDE * 3

    def __init__(self, model_id: str = "fake-1") -> None:
        self.model_id = model_id
        self.batches: list[int] = []

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(image).resize((SIDE, SIDE)))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(pixels))
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) + 1
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        seeds = [sum(text.encode()) for text in texts]
        flat = np.stack([np.random.default_rng(seed).random(self.dim, np.float32) for seed in seeds])
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    @property
    def embedded(self) -> int:
        return sum(self.batches)


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_corpus(root: Path, count: int = 20) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw(root / "images" / f"{number:03d}.png", number)
    caption(root, [f"{number:03d}" for number in range(count)])
    return root


def caption(root: Path, ids: list[str], words: str = "picture") -> None:
    (root / "captions-train.tsv").write_text("".join(f"{name}\t{words} {name}\n" for name in ids))


def run(root: Path, out: Path, model: FakeModel | None = None, **options: Any) -> EncodeSummary:
    with open_corpus(root, "c") as corpus:
        return encode(corpus, model or FakeModel(), out, **{"batch": 4, "rows": 8, "progress": False, **options})


def contents(out: Path) -> dict[str, tuple[Any, ...]]:
    rows = list(open_shards(out))
    found = {row.record.key: (row.record, row.embedding.tobytes(), row.content_hash, row.thumbnail) for row in rows}
    assert len(found) == len(rows), "a key is in the shards twice"
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus")


def ledger(out: Path) -> dict[str, str]:
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    return {entry["item"]: entry["reason"] for entry in entries}


def test_every_image_arrives_with_its_metadata(root: Path, tmp_path: Path) -> None:
    model = FakeModel()
    summary = run(root, tmp_path / "out", model)
    assert (summary.encoded, summary.reused, summary.removed, summary.failed) == (20, 0, 0, 0)
    shards = open_shards(tmp_path / "out")
    assert (shards.manifest.count, shards.manifest.complete, shards.manifest.model_id) == (20, True, "fake-1")
    assert shards.manifest.root == str(root.resolve())
    for number, row in enumerate(shards):
        assert row.record.captions == (f"picture {number:03d}",)
        assert (row.width, row.height, row.model_id) == (20, 16, "fake-1")
        assert abs(float(np.linalg.norm(row.embedding)) - 1) < 1e-5
        image = np.asarray(Image.open(root / row.record.uri))
        np.testing.assert_array_equal(row.embedding, FakeModel().embed_pixels(model.preprocess(image)[None])[0])
    assert model.batches == [4] * 5


def test_a_second_run_encodes_nothing_and_changes_no_shard(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in shard_files(tmp_path / "out")}
    model = FakeModel()
    summary = run(root, tmp_path / "out", model)
    assert (summary.encoded, summary.reused, model.embedded) == (0, 20, 0)
    assert before == {path: path.stat().st_mtime_ns for path in shard_files(tmp_path / "out")}


def test_only_new_and_changed_images_are_encoded(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    draw(root / "images" / "003.png", 999)
    draw(root / "images" / "new.png", 1000)
    (root / "images" / "007.png").unlink()
    caption(root, [f"{number:03d}" for number in range(20) if number != 7] + ["new"])
    model = FakeModel()
    summary = run(root, tmp_path / "out", model)
    assert (summary.encoded, summary.reused, summary.removed, summary.failed) == (2, 18, 1, 0)
    assert model.embedded == 2
    run(root, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert open_shards(tmp_path / "out").manifest.count == 20


def test_changed_captions_are_renewed_without_encoding(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    caption(root, [f"{number:03d}" for number in range(20)], "other words")
    model = FakeModel()
    summary = run(root, tmp_path / "out", model)
    assert (summary.reused, model.embedded) == (20, 0)
    assert {row.record.captions[0] for row in open_shards(tmp_path / "out")} == {
        f"other words {number:03d}" for number in range(20)
    }


def test_bad_images_go_to_the_ledger_and_the_others_arrive(root: Path, tmp_path: Path) -> None:
    (root / "images" / "002.png").write_bytes(b"")
    (root / "images" / "005.png").write_bytes((root / "images" / "005.png").read_bytes()[:100])
    (root / "images" / "008.png").write_bytes(b"<html>404</html>")
    (root / "images" / "009.png").unlink()
    summary = run(root, tmp_path / "out")
    assert (summary.encoded, summary.failed) == (16, 4)
    reasons = ledger(tmp_path / "out")
    assert "empty" in reasons["images/002.png"]
    assert "truncated" in reasons["images/005.png"]
    assert "web page" in reasons["images/008.png"]
    assert "missing" in reasons["009"]
    assert len(open_shards(tmp_path / "out")) == 16


def test_a_repaired_image_is_encoded_by_the_next_run(root: Path, tmp_path: Path) -> None:
    (root / "images" / "002.png").write_bytes(b"")
    run(root, tmp_path / "out")
    draw(root / "images" / "002.png", 2)
    summary = run(root, tmp_path / "out")
    assert (summary.encoded, summary.reused, summary.failed) == (1, 19, 0)
    assert not ledger(tmp_path / "out")


def test_an_image_that_broke_since_is_no_longer_in_the_shards(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    (root / "images" / "002.png").write_bytes(b"")
    summary = run(root, tmp_path / "out")
    assert (summary.reused, summary.removed, summary.failed) == (19, 0, 1)
    assert "002" not in contents(tmp_path / "out")


def test_a_picture_that_cannot_be_resized_costs_only_itself(root: Path, tmp_path: Path) -> None:
    class Picky(FakeModel):
        def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            if image[0, 0, 0] == np.asarray(Image.open(root / "images" / "004.png"))[0, 0, 0]:
                raise ValueError("too thin")
            return super().preprocess(image)

    summary = run(root, tmp_path / "out", Picky())
    assert summary.failed >= 1
    assert summary.encoded == 20 - summary.failed
    assert "too thin" in ledger(tmp_path / "out")["images/004.png"]


def test_shards_of_another_model_are_refused_unless_overwritten(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    with pytest.raises(ShardError, match=r"model fake-1 .* this is fake-2 .*--overwrite"):
        run(root, tmp_path / "out", FakeModel("fake-2"))
    assert len(open_shards(tmp_path / "out")) == 20
    summary = run(root, tmp_path / "out", FakeModel("fake-2"), overwrite=True)
    assert summary.encoded == 20
    assert {row.model_id for row in open_shards(tmp_path / "out")} == {"fake-2"}


def test_shards_of_another_corpus_are_refused(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    with open_corpus(root, "other") as corpus, pytest.raises(ShardError, match="corpus c, and this is other"):
        encode(corpus, FakeModel(), tmp_path / "out", progress=False)


def test_a_file_in_place_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ShardError, match="is a file: --out takes a folder"):
        run(root, tmp_path / "out")


@pytest.mark.parametrize("wrong", ["shape", "nan"])
def test_a_model_that_gives_nonsense_stops_the_run_with_a_sentence(root: Path, tmp_path: Path, wrong: str) -> None:
    class Broken(FakeModel):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            vectors = super().embed_pixels(pixels)
            return vectors[:, 1:] if wrong == "shape" else vectors * np.float32(np.nan)

    with pytest.raises(CheckpointError, match="checkpoint is damaged"):
        run(root, tmp_path / "out", Broken())


def test_an_interrupted_run_keeps_what_it_has_and_the_next_does_the_rest(root: Path, tmp_path: Path) -> None:
    class Stopping(FakeModel):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().embed_pixels(pixels)

    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out", Stopping())
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert not manifest.complete
    model = FakeModel()
    summary = run(root, tmp_path / "out", model)
    assert (summary.encoded, summary.reused) == (8, 12)
    run(root, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


_CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_encoding import FakeModel, run

class Slow(FakeModel):
    def embed_pixels(self, pixels):
        time.sleep({pause})
        vectors = super().embed_pixels(pixels)
        with open({log!r}, "a") as log:
            log.write(str(len(pixels)) + chr(10))
        return vectors

print("ready", flush=True)
run(Path({root!r}), Path({out!r}), Slow(), batch=4, rows=12)
"""


@pytest.mark.soak
def test_a_kill_at_any_moment_costs_one_batch_and_no_image(tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    images, kills = rounds(60, 1200), rounds(2, 100)
    root, out, log = make_corpus(tmp_path / "corpus", images), tmp_path / "out", tmp_path / "log"
    random = np.random.default_rng(5)
    log.touch()
    code = _CHILD.format(
        tests=str(Path(__file__).parent), root=str(root), out=str(out), log=str(log), pause=rounds(20, 10) / 1000
    )
    killed = 0
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            child.stdout.readline()
            before = log.stat().st_size
            moment = int(random.integers(1, 6))  # batches
            while child.poll() is None and log.stat().st_size < before + 2 * moment:
                time.sleep(0.001)
            time.sleep(float(random.random()) * 0.02)
            killed += child.poll() is None
            child.kill()
    model = FakeModel()
    summary = run(root, out, model)
    assert killed >= kills // 2
    spent = sum(map(int, log.read_text().split())) + model.embedded
    assert spent <= images + 4 * killed, "more than one batch was embedded twice for a kill"
    assert summary.encoded + summary.reused == images
    assert len(contents(out)) == images
    run(root, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")
    assert not [*out.glob(".*.tmp"), *out.glob("journal-*")]


def test_batches_that_a_kill_left_behind_are_taken_over_and_torn_ones_encoded_again(root: Path, tmp_path: Path) -> None:
    whole = run(root, tmp_path / "whole")
    out = tmp_path / "out"
    out.mkdir()
    rows = list(open_shards(tmp_path / "whole"))
    journal = Journal(out, FakeModel.dim)
    for start in (0, 4, 8):
        journal.append(rows[start : start + 4])
    torn = journal.files()[1]
    torn.write_bytes(bytes(torn.stat().st_size))  # what a power cut may leave
    model = FakeModel()
    summary = run(root, out, model)
    assert whole.encoded == 20
    assert (summary.reused, model.embedded) == (8, 12)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_kill_between_a_shard_and_its_journal_leaves_no_row_twice(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out, rows=100)
    Journal(out, FakeModel.dim).append(list(open_shards(out))[:4])
    summary = run(root, out)
    assert (summary.encoded, summary.reused) == (0, 20)
    assert len(shard_files(out)) == 1


def test_two_encoders_never_write_to_one_folder(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    with FolderLock(tmp_path / "out"), pytest.raises(ShardError, match=rf"process {os.getpid()}\) is writing to .*out"):
        run(root, tmp_path / "out")
    assert run(root, tmp_path / "out").reused == 20


def test_patches_and_captions_are_kept_with_their_geometry(root: Path, tmp_path: Path) -> None:
    model = FakeModel()
    run(root, tmp_path / "out", model, patches="2x2", captions=True)
    assert max(model.batches) <= 5  # images and patches of one batch
    for number, row in enumerate(open_shards(tmp_path / "out")):
        image = np.asarray(Image.open(root / row.record.uri))
        assert row.boxes.tolist() == [[0, 0, 10, 8], [10, 0, 20, 8], [0, 8, 10, 16], [10, 8, 20, 16]]
        for (left, top, right, bottom), vector in zip(row.boxes.tolist(), row.patches, strict=True):
            part = model.preprocess(image[top:bottom, left:right])
            np.testing.assert_array_equal(vector, model.embed_pixels(part[None])[0])
        np.testing.assert_array_equal(row.texts, model.embed_texts([f"picture {number:03d}"]))
    caption(root, [f"{number:03d}" for number in range(20)], "other words")
    summary = run(root, tmp_path / "out", patches="2x2", captions=True)
    assert summary.reused == 20
    for number, row in enumerate(open_shards(tmp_path / "out")):
        np.testing.assert_array_equal(row.texts, model.embed_texts([f"other words {number:03d}"]))


def test_a_folder_made_with_other_settings_is_refused_in_words(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out", patches="2x2")
    with pytest.raises(ShardError, match="made with --patches 2x2: say the same again"):
        run(root, tmp_path / "out")
    with pytest.raises(ShardError, match="made with --patches 2x2"):
        run(root, tmp_path / "out", patches="3x3")
    assert run(root, tmp_path / "out", patches="3x3", overwrite=True).encoded == 20


@pytest.mark.parametrize("text", ["0x3", "17x17", "3", "3x3+1.5", "4/2", "224/300", "x"])
def test_a_patch_plan_that_makes_no_sense_says_what_does(text: str) -> None:
    with pytest.raises(InputError, match="give a grid such as 3x3"):
        parse_patches(text)


@pytest.mark.parametrize("text", ["1x1", "3x3", "2x5+0.5", "3x3+.25", "64/32", "8/8"])
@pytest.mark.parametrize("size", [(1, 1), (2, 90), (100, 75), (101, 64)])
def test_patches_cover_the_picture_and_none_is_empty(text: str, size: tuple[int, int]) -> None:
    width, height = size
    plan = parse_patches(text)
    boxes = plan.boxes(width, height)
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes.tolist():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] = True
    assert seen.all()
    assert parse_patches(str(plan)) == plan
    if plan.rows:
        assert len(boxes) == plan.usual


def test_decoding_looks_only_a_bounded_way_ahead(root: Path, tmp_path: Path) -> None:
    started: list[int] = []
    lead: list[int] = []

    class Watching(FakeModel):
        def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            started.append(1)
            return super().preprocess(image)

        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            lead.append(len(started) - self.embedded)
            return super().embed_pixels(pixels)

    run(root, tmp_path / "out", Watching(), batch=2)
    assert max(lead) <= 2 + 2 * 2


def test_the_command_counts_failures_in_its_exit_code(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(corpus: Path, model: str, out: Path, **options: Any) -> EncodeSummary:
        assert (model, options["batch"], options["encoder"].backend) == ("m", 4, "onnx-int8")
        return run(corpus, out)

    monkeypatch.setattr(encoding, "encode_corpus", fake)
    options = [str(root), "--model", "m", "--out", str(tmp_path / "out"), "--batch", "4", "--backend", "onnx-int8"]
    assert CliRunner().invoke(command, options).exit_code == 0
    (root / "images" / "001.png").write_bytes(b"")
    result = CliRunner().invoke(command, [*options, "--json"])
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert (summary["failed"], summary["reused"]) == (1, 19)
    assert Path(summary["ledger"]).read_text().count("\n") == 1


@pytest.mark.parametrize("name", ["roco", "eurosat"])
def test_real_corpora_encode_without_a_failure(shared: Path, tmp_path: Path, name: str) -> None:
    with open_corpus(shared / "data" / name) as corpus:
        corpus.records = corpus.records[:24]
        summary = encode(corpus, FakeModel(), tmp_path / "out", progress=False)
    assert (summary.encoded, summary.failed) == (24, 0)
    assert all(row.thumbnail.startswith(b"\xff\xd8") for row in open_shards(tmp_path / "out"))


def test_rows_of_another_model_are_not_taken_over_when_the_manifest_is_gone(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(root, out, FakeModel("fake-1"))
    (out / "manifest.json").unlink()
    summary = run(root, out, FakeModel("fake-2"))
    assert (summary.encoded, summary.reused) == (20, 0)
    assert {row.model_id for row in open_shards(out)} == {"fake-2"}
    assert len(contents(out)) == 20
