"""WebDataset shards: samples by key, images read by offset, damage that costs only itself; several corpora at once."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.corpora import Corpora, ImageStore, open_corpora, open_corpus
from clipsearch.errors import CorpusError, ImageError, InputError
from clipsearch.images import load_image


def png(shade: int = 90) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), shade % 256, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def tar(path: Path, members: Mapping[str, bytes | str] | list[tuple[str, bytes | str]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items() if isinstance(members, Mapping) else members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(root: Path, count: int = 3) -> Path:
    for number in range(count):
        samples: dict[str, bytes | str] = {}
        for item in range(4):
            samples |= {
                f"{number}{item}.jpg": png(10 * number + item),
                f"{number}{item}.txt": f"shard {number} item {item} .",
            }
        tar(root / f"{number:03d}.tar", samples)
    return root


# --- samples


def test_shards_give_captions_and_images_by_offset(tmp_path: Path) -> None:
    with open_corpus(shards(tmp_path / "web"), layout=None) as corpus:
        assert (corpus.layout, len(corpus)) == ("webdataset", 12)
        record = corpus.records[6]
        assert (record.uri, record.key, record.captions) == ("001.tar!/12.jpg", "12.jpg", ("shard 1 item 2",))
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(corpus.read, corpus.records * 5))
        assert [int(load_image(data)[0, 0, 0]) for data in read[:12]] == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
        assert read[:12] * 5 == read
    splits = {record.key: record.split for record in corpus.records}
    assert splits == {record.key: record.split for record in open_corpus(tmp_path / "web").records}


def test_a_pattern_opens_the_shards_that_it_names(tmp_path: Path) -> None:
    shards(tmp_path, 4)
    corpus = open_corpus(tmp_path / "{001..002}.tar")
    assert {record.uri[:3] for record in corpus.records} == {"001", "002"}
    corpus = open_corpus(tmp_path / "{003..004}.tar")
    assert [(issue.item, issue.reason) for issue in corpus.issues] == [("004.tar", "the shard is missing")]
    assert len(open_corpus(tmp_path / "000.tar")) == 4
    with pytest.raises(CorpusError, match=r"none of .*010\.tar .* exists"):
        open_corpus(tmp_path / "{010..012}.tar")


def test_json_and_cls_members_give_captions_labels_and_splits(tmp_path: Path) -> None:
    tar(
        tmp_path / "wds" / "val" / "0.tar",
        {
            "a/1.seg.png": png(1), "a/1.png": png(2), "a/1.cls": "pond\n",
            "a/2.jpg": png(3), "a/2.txt": "one",
            "a/2.json": json.dumps({"caption": "one", "label": 3, "split": "test"}),
            "a/3.webp": png(4), "a/3.json": json.dumps({"captions": ["x", None, "y"], "class": "SeaLake"}),
        },
    )  # fmt: skip
    corpus = open_corpus(tmp_path / "wds")
    assert [(record.uri, record.captions, record.split, record.label) for record in corpus.records] == [
        ("val/0.tar!/a/1.png", (), "validation", "pond"),
        ("val/0.tar!/a/2.jpg", ("one",), "test", "3"),
        ("val/0.tar!/a/3.webp", ("x", "y"), "validation", "SeaLake"),
    ]
    assert corpus.classes["SeaLake"] == "sea lake"
    named = open_corpus(tmp_path / "wds", image_column="seg.png")
    assert named.records[0].uri == "val/0.tar!/a/1.seg.png"


def test_bad_samples_cost_only_themselves(tmp_path: Path) -> None:
    tar(
        tmp_path / "train-0.tar",
        [
            ("1.txt", "no image"), ("2.jpg", png()), ("2.json", "{"), ("3.jpg", png()), ("3.txt", b"caf\xe9"),
            ("4.jpg", png(4)), ("4.txt", ""), ("5.jpg", png()), ("5.json", '{"split": "dessert"}'),
            ("6.jpg", png(6)), ("6.txt", "long " * 333), ("4.jpg", png(5)), ("4.txt", "again"),
        ],
    )  # fmt: skip
    with open_corpus(tmp_path) as corpus:
        assert [(record.key, len(record.captions)) for record in corpus.records] == [("4.jpg", 0), ("6.jpg", 1)]
        assert load_image(corpus.read(corpus.records[0]))[0, 0, 0] == 4
        reasons = " | ".join(f"{issue.item}: {issue.reason}" for issue in corpus.issues)
    for words in (
        "two members 4.jpg; the first is used", "sample 1: the sample has no image: it has txt",
        "sample 2: its text is not valid JSON", "sample 3: its text is not UTF-8", "'dessert' is not a split",
    ):  # fmt: skip
        assert words in reasons


def test_a_broken_tar_keeps_its_whole_members_and_the_other_shards(tmp_path: Path) -> None:
    shards(tmp_path)
    path = tmp_path / "001.tar"
    path.write_bytes(path.read_bytes()[: 512 * 10 + 100])  # within the third sample
    (tmp_path / "002.tar").write_bytes(b"not a tar at all" * 100)
    tar(tmp_path / "003.tar.gz", {"1.jpg": png(), "1.txt": "x"}, "w:gz")
    with open_corpus(tmp_path) as corpus:
        assert [record.uri for record in corpus.records if "001" in record.uri] == [
            "001.tar!/10.jpg",
            "001.tar!/11.jpg",
            "001.tar!/12.jpg",
        ]
        assert len(corpus) == 7
        assert all(load_image(corpus.read(record)).shape == (4, 4, 3) for record in corpus.records)
        reasons = {issue.item: issue.reason for issue in corpus.issues}
    assert "damaged at byte 5,120" in reasons["001.tar"]
    assert "not a readable tar archive" in reasons["002.tar"]
    assert "decompress it" in reasons["003.tar.gz"]


@pytest.mark.parametrize(
    ("size", "reason"),
    [(512 * 2, "no end mark"), (512 * 3 + 5, "ends before its member 2.jpg"), (512 + 9, "truncated")],
)
def test_a_tar_that_is_cut_anywhere_is_noticed(tmp_path: Path, size: int, reason: str) -> None:
    path = tar(tmp_path / "x.tar", {"1.jpg": png(), "2.jpg": png()})
    path.write_bytes(path.read_bytes()[:size])
    with ImageStore(tmp_path) as store:
        assert store.uris() == (["x.tar!/1.jpg"] if size > 1000 else [])
        assert reason in " ".join(issue.reason for issue in store.problems)


def test_keys_that_shards_repeat_stay_apart(tmp_path: Path) -> None:
    for number in range(2):
        tar(tmp_path / f"{number}.tar", {"000.jpg": png(number), "000.txt": f"shard {number}"})
    with open_corpus(tmp_path) as corpus:
        assert len({record.key for record in corpus.records}) == 2
        assert [int(load_image(corpus.read(record))[0, 0, 0]) for record in corpus.records] == [0, 1]


def test_a_tar_of_images_alone_is_a_folder_in_a_file(tmp_path: Path) -> None:
    tar(tmp_path / "images.tar", {"./pond/1.jpg": png(1), "lake/2.jpg": png(2)})
    with open_corpus(tmp_path) as corpus:
        assert corpus.layout == "folders"
        assert {record.label for record in corpus.records} == {"pond", "lake"}
        assert sorted(int(load_image(corpus.read(record))[0, 0, 0]) for record in corpus.records) == [1, 2]
    (tmp_path / "captions.jsonl").write_text('{"file": "1.jpg", "caption": "a pond"}\n')
    assert open_corpus(tmp_path).records[0].uri == "images.tar!/pond/1.jpg"


def test_what_cannot_be_read_of_a_tar_is_an_image_error(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"1.jpg": png()})
    with ImageStore(tmp_path) as store:
        for uri, reason in (
            ("x.tar!/2.jpg", "has no member"),
            ("y.tar!/1.jpg", "missing"),
            ("../x.tar!/1.jpg", "not a file below"),
        ):
            with pytest.raises(ImageError, match=reason):
                store.read(uri)
        assert load_image(store.read("x.tar!/1.jpg")).shape == (4, 4, 3)
        path.write_bytes(path.read_bytes()[:520])
        with pytest.raises(ImageError, match="ends before its member"):
            store.read("x.tar!/1.jpg")


# --- several corpora at once


def folder(root: Path, caption: str, prompt: str = "") -> Path:
    root.mkdir(parents=True)
    for split in ("train", "test"):
        (root / f"{split}.png").write_bytes(png(len(caption)))
    rows = [
        {"file": f"{split}.png", "caption": f"{caption} {split}", "split": split, "label": "pond"}
        for split in ("train", "test")
    ]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"file": "gone.png"}]))
    if prompt:
        (root / "classes.json").write_text(json.dumps({"prompt": prompt}))
    return root


def test_several_corpora_are_read_as_one_and_keep_their_splits_and_names(tmp_path: Path) -> None:
    first = folder(tmp_path / "a" / "data", "aerial", "an aerial photo of {}")
    second = folder(tmp_path / "b" / "data", "scan")
    web = shards(tmp_path / "web")
    with open_corpora([first, second, web]) as corpus:
        assert isinstance(corpus, Corpora)
        assert [member.name for member in corpus.members] == ["data", "data-2", "web"]
        assert (corpus.name, corpus.layout, corpus.root) == ("data-data-2-web", "table + webdataset", tmp_path)
        assert len(corpus) == 16
        assert len({record.id for record in corpus.records}) == 16
        assert [record.captions[0] for record in corpus.split("test") if record.corpus != "web"] == [
            "aerial test",
            "scan test",
        ]
        shades = [int(load_image(corpus.read(record))[0, 0, 0]) for record in corpus.records[:6]]
        assert shades == [6, 6, 4, 4, 0, 1]
        assert corpus.prompt == "an aerial photo of {}"
        assert corpus.classes == {"pond": "pond"}
        assert [issue.item for issue in corpus.issues] == ["data: gone.png", "data-2: gone.png"]


def test_one_corpus_is_opened_as_it_is_and_none_or_one_twice_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "x", "a")
    assert not isinstance(open_corpora([path]), Corpora)
    with pytest.raises(InputError, match="no corpus is given"):
        open_corpora([])
    with pytest.raises(InputError, match="given twice"):
        open_corpora([path, path])
    with pytest.raises(CorpusError, match="no such file or folder"):
        open_corpora([path, tmp_path / "nowhere"])
