"""The audit finds what was planted in a corpus, and says it in words, JSON, lists and a page."""

from __future__ import annotations

import io
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from test_audit_hashing import scene

from clipsearch.audit import Audit, AuditOptions, audit, summary_lines, to_json, write_report
from clipsearch.audit.leakage import find_leaks
from clipsearch.audit.pictures import Picture, inspect
from clipsearch.audit.report import bars
from clipsearch.audit.summary import duplicate_counts, leak_counts, odd_images
from clipsearch.audit.twins import Twin, embedding_twins, families
from clipsearch.audit.words import _identifier, estimate_tokens, find_languages, study_captions
from clipsearch.cli import cli
from clipsearch.corpora import open_corpus
from clipsearch.errors import InputError
from clipsearch.records import Record


def coded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def sixteen_bit_rgb() -> bytes:
    """A PNG of 16 bits a sample, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(range(240)) for _ in range(40))
    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


ROWS: list[tuple[str, bytes, str, str, list[str]]] = [
    ("a.png", coded(scene(1)), "train", "sea", ["A blue sea.", "many planes are parked", "a wide sea"]),
    ("a_copy.png", coded(scene(1)), "test", "sea", ["many planes are parked .", "the sea again"]),
    ("b.png", coded(scene(2)), "train", "sea", ["waves and a beach seen from far above"]),
    ("b_pixels.bmp", coded(scene(2), "BMP"), "train", "city", ["roofs of a city"]),
    ("c.png", coded(scene(3)), "validation", "city", ["streets of a city"]),
    ("c_small.jpg", coded(scene(3).resize((90, 68)), "JPEG", quality=60), "test", "city", ["streets and cars"]),
    ("d.png", coded(scene(4)), "train", "city", ["une grande plage de sable blanc devant la mer bleue et calme"]),
    ("d_turned.png", coded(scene(4).transpose(Image.Transpose.ROTATE_90)), "test", "lake", ["a lake " * 60]),
    ("e.png", coded(scene(5)), "train", "city", []),
    ("grey.png", coded(Image.new("RGB", (64, 64), (80, 80, 80))), "train", "city", ["grey"]),
    ("grey2.png", coded(Image.new("RGB", (65, 65), (80, 80, 80))), "test", "city", ["grey too"]),
    ("broken.jpg", coded(scene(6), "JPEG")[:400], "train", "city", ["half a picture"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted")
    lines = []
    for name, data, split, label, captions in ROWS:
        (path / name).write_bytes(data)
        lines.append({"file": name, "captions": captions, "split": split, "label": label})
    lines.append({"file": "gone.png", "captions": ["nothing"], "split": "train", "label": "sea"})
    (path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> Iterator[Audit]:
    with open_corpus(folder) as corpus:
        yield audit(corpus, AuditOptions(flips=True), quiet=True)


def names(found: Audit, *positions: int) -> tuple[str, ...]:
    return tuple(found.records[position].key for position in positions)


def test_each_kind_of_twin_is_found_once_and_nothing_else(found: Audit) -> None:
    pairs = {names(found, twin.left, twin.right): twin.kind for twin in found.twins}
    assert pairs == {
        ("a.png", "a_copy.png"): "file",
        ("b.png", "b_pixels.bmp"): "pixels",
        ("c.png", "c_small.jpg"): "near",
        ("d.png", "d_turned.png"): "turned",
    }
    assert duplicate_counts(found) == {"file": 1, "pixels": 1, "near": 1, "turned": 1, "embedding": 0, "groups": 4,
                                       "images": 8}  # fmt: skip


def test_turned_copies_are_only_looked_for_when_asked(folder: Path) -> None:
    with open_corpus(folder) as corpus:
        assert {twin.kind for twin in audit(corpus, quiet=True).twins} == {"file", "pixels", "near"}


def test_leaks_name_the_held_out_image_and_its_twin(found: Audit) -> None:
    assert [names(found, leak.held, leak.source) for leak in found.leaks] == [
        ("a_copy.png", "a.png"), ("c_small.jpg", "c.png"), ("d_turned.png", "d.png")
    ]  # fmt: skip
    assert leak_counts(found) == {"test in train": {"file": 1, "turned": 1}, "test in validation": {"near": 1}}


def test_pictures_of_one_colour_are_odd_and_nobodys_near_duplicates(found: Audit) -> None:
    odd = {name: names(found, *positions) for name, positions in odd_images(found).items()}
    assert odd == {"one colour": ("grey.png", "grey2.png")}


def test_warnings_say_what_matters_first(found: Audit) -> None:
    text = "\n".join(found.warnings)
    assert "3 of 4 test images (75.0%) are also training or validation images" in text
    assert "1 images cannot be read" in text
    assert "1 classes have one image: lake" in text
    assert "1 classes have test images and no training image: lake" in text
    assert "2 pairs of equal pictures have two labels, such as b.png and b_pixels.bmp" in text
    assert "the image is missing" in text


def test_broken_images_are_listed_with_their_reason(found: Audit) -> None:
    assert [row["reason"] for row in to_json(found)["broken"]] == [
        "the file is truncated: it ends before the picture does"
    ]


def test_captions_are_counted_compared_and_measured(found: Audit) -> None:
    words = found.captions
    assert (words.total, words.distinct, words.distinct_normalised, words.uncaptioned) == (14, 13, 13, 1)
    assert words.sharing == {"train": 1, "test": 1}
    assert words.commonest == [(2, "many planes are parked")]
    assert words.across["test in train"][1] == 1
    assert words.lengths.cut == 1
    assert words.lengths.cut_by_split == {"test": 1}
    assert words.lengths.longest == 2 + 120
    assert words.languages.by_language == {"fr": 1}


def test_exclude_names_the_earlier_twins_and_broken_images_never_test_images(found: Audit) -> None:
    keys = {name.rpartition("::")[2] for name in found.exclude()}
    assert keys == {"a.png", "c.png", "d.png", "broken.jpg"}


def test_the_report_folder_has_everything_and_the_page_needs_nothing_else(found: Audit, tmp_path: Path) -> None:
    page = write_report(found, tmp_path / "report").read_text()
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/jpeg|#)""", page)
    assert page.count("data:image/jpeg") >= 8
    assert "the file is truncated" in page
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "audit.json", "duplicates.jsonl", "leakage.jsonl", "exclude.txt"
    }  # fmt: skip
    leaks = [json.loads(line) for line in (tmp_path / "report" / "leakage.jsonl").read_text().splitlines()]
    assert leaks[0]["held_out"]["captions"] == ["many planes are parked", "the sea again"]
    assert leaks[0]["twin"]["split"] == "train"
    assert json.loads((tmp_path / "report" / "audit.json").read_text())["images"] == len(ROWS)


def test_a_caption_with_markup_is_text_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(coded(scene(1)))
    (tmp_path / "b.png").write_bytes(coded(scene(1)))
    rows = [{"file": f"{n}.png", "caption": "<img src=x onerror=alert(1)>", "split": "train"} for n in "ab"]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with open_corpus(tmp_path) as corpus:
        page = write_report(audit(corpus, quiet=True), tmp_path / "out").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_the_terminal_reads_leaks_and_warnings(found: Audit) -> None:
    text = "\n".join(summary_lines(found))
    assert "a_copy.png of test is the same file as a.png of train" in text
    assert "Warning: leakage" in text
    assert "languages: 1 of 13 (7.7%) are not English (1 fr)" in text


def test_the_command_fails_on_leakage_only_when_asked(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["audit", str(folder), "--json", "--out", str(tmp_path / "r")])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["leakage"]["test in train"] == {"file": 1}
    assert (tmp_path / "r" / "report.html").exists()
    failed = CliRunner().invoke(cli, ["audit", str(folder), "--fail-on-leakage"])
    assert failed.exit_code == 1
    assert "--fail-on-leakage" in failed.stderr


def test_two_corpora_leak_into_each_other(tmp_path: Path) -> None:
    for name, split in (("one", "train"), ("two", "test")):
        (tmp_path / name / split / "sea").mkdir(parents=True)
        (tmp_path / name / split / "sea" / "a.png").write_bytes(coded(scene(1)))
    done = CliRunner().invoke(cli, ["audit", str(tmp_path / "one"), str(tmp_path / "two"), "--json"])
    assert json.loads(done.stdout)["corpora"] == ["one", "two"]
    assert json.loads(done.stdout)["leakage"] == {"test in train": {"file": 1}}


@pytest.mark.parametrize(("data", "name", "odd"), [
    (coded(Image.new("I;16", (60, 60), 900)), "a.png", "more than 8 bits"),
    (sixteen_bit_rgb(), "a.png", "more than 8 bits"),
    (coded(scene(1).convert("CMYK"), "JPEG"), "a.jpg", "CMYK"),
    (coded(scene(1), "GIF", save_all=True, append_images=[scene(2)]), "a.gif", "several frames"),
    (coded(scene(1).convert("RGBA").resize((50, 50))), "a.png", "transparent"),
    (coded(scene(1), "JPEG"), "a.png", "wrong suffix"),
    (coded(scene(1, (200, 20))), "a.png", "very small"),
    (coded(scene(1, (400, 100))), "a.png", "very long"),
    (coded(scene(1, (300, 300))), "a.png", "huge"),
    (coded(scene(1), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"), "a.jpg",
     "turned by EXIF"),
])  # fmt: skip
def test_odd_images_are_told_by_name(data: bytes, name: str, odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.audit.pictures.HUGE", 80_000)
    picture, pixels = inspect(data, name)
    assert pixels is not None
    assert odd in picture.odd


def test_an_ordinary_picture_is_not_odd() -> None:
    assert inspect(coded(scene(1), "JPEG"), "a.JPG")[0].odd == ()


def test_look_alikes_come_from_embeddings_and_are_never_sure(folder: Path) -> None:
    vectors: dict[str, NDArray[np.float32]] = {}
    with open_corpus(folder) as corpus:
        for number, record in enumerate(corpus.records):
            vectors[record.id] = np.eye(20, dtype=np.float32)[
                0 if record.key in {"e.png", "c_small.jpg"} else number + 1
            ]
        seen = audit(corpus, vectors=vectors, embedded_by="some-model", quiet=True)
    twins = [twin for twin in seen.twins if twin.kind == "embedding"]
    assert [names(seen, twin.left, twin.right) for twin in twins] == [("c_small.jpg", "e.png")]
    assert seen.embedded_by == "some-model"
    assert ("c_small.jpg", "e.png") in {names(seen, leak.held, leak.source) for leak in seen.leaks if not leak.sure}
    assert not any("::e.png" in name for name in seen.exclude())


def test_a_heap_of_equal_embeddings_gives_few_pairs_that_still_join_all() -> None:
    vectors = np.ones((400, 4), np.float32) / 2
    twins = embedding_twins(vectors, range(400))
    assert len(twins) <= 400 * 50
    assert families(twins) == [list(range(400))]


@dataclass
class Colour:
    """A model that sees the mean colour only."""

    model_id: str = "colour"

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image[:8, :8]

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean = pixels.reshape(len(pixels), -1, 3).mean(axis=1) + 1
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)


def test_a_model_embeds_the_images_on_the_way(folder: Path) -> None:
    with open_corpus(folder) as corpus:
        seen = audit(corpus, AuditOptions(cosine=0.9999), model=Colour(), quiet=True)
    pairs = {names(seen, twin.left, twin.right) for twin in seen.twins if twin.kind == "embedding"}
    assert ("grey.png", "grey2.png") in pairs


def test_many_copies_across_splits_cost_one_leak_each() -> None:
    records = [Record("c", str(n), "", (), "train" if n < 3000 else "test") for n in range(6000)]
    pictures = [Picture(b"x", b"y")] * 6000
    leaks = find_leaks(records, pictures, [list(range(6000))], [])
    assert len(leaks) == 3000
    assert {leak.others for leak in leaks} == {2999}
    assert leaks[0].twin == Twin(3000, 0, "file")


def test_options_that_make_no_sense_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="distance must be from 0 to 16, not 40"):
        AuditOptions(distance=40).check()


def test_token_counts_are_estimated_closely_without_a_tokenizer(shared: Path) -> None:
    from transformers import CLIPTokenizer

    folder = shared / "data" / "clip_bpe"
    tokenizer = CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    estimates: list[int] = []
    lengths: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        lengths.extend(len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"])
        estimates.extend(estimate_tokens(texts))
        return lengths

    with open_corpus(shared / "data" / "roco") as corpus:
        exact = study_captions(corpus.records, count, "CLIP")
    assert exact.lengths.cut == 57  # the number that is known of this corpus
    assert exact.languages.by_language == {"fr": 40}
    assert abs(np.mean(estimates) - np.mean(lengths)) < 4
    assert estimate_tokens(["many planes are parked, it's 2 o'clock"]) == [2 + 11]


def test_a_histogram_puts_wide_ranges_into_forty_bars() -> None:
    assert [bar["label"] for bar in bars({1: 5, 3: 10})] == ["1", "2", "3"]
    wide = bars(dict.fromkeys(range(1, 334), 1), limit=77)
    assert len(wide) <= 40
    assert sum(bar["count"] for bar in wide) == 333
    assert wide[0]["label"] == "1-9"
    assert [bar["over"] for bar in wide].count(True) == len(
        [bar for bar in wide if int(bar["label"].split("-")[0]) > 77]
    )
    assert bars({}) == []


def test_without_the_language_library_it_is_said_that_nothing_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    _identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    assert "pip install" in find_languages(["un deux trois"]).note
