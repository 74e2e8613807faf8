"""ROCO (ImageCLEF's layout) and RSICD through ``feed images`` and ``feed sync``, and what sync then notices.

The short form takes the first images of each; under ``make soak`` all of them go through.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feed_support import engine_of, fed, index
from PIL import Image
from small_clip import write_clip

ROCO = {"train": 30, "valid": 5, "test": 5}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    with engine_of(tmp_path_factory.mktemp("engine"), free_port, dim=16) as running:
        yield running.url


def copy_roco(source: Path, target: Path, count: int) -> Path:
    """``count`` images or fewer of ROCO, in its layout."""
    (target / "images").mkdir(parents=True)
    for split, few in ROCO.items():
        name = f"captions-{split}.tsv"
        rows = (source / name).read_text().splitlines()[: few if count == sum(ROCO.values()) else None]
        (target / name).write_text("\n".join(rows) + "\n")
        for row in rows:
            image = next((source / "images").glob(row.split("\t")[0] + ".*"))
            (target / "images" / image.name).write_bytes(image.read_bytes())
    return target


def copy_rsicd(source: Path, target: Path, count: int) -> Path:
    """The first ``count`` images of RSICD, its archive unpacked."""
    target.mkdir(parents=True)
    about = json.loads((source / "dataset_rsicd.json").read_text())
    about["images"] = about["images"][:count]
    (target / "dataset_rsicd.json").write_text(json.dumps(about))
    with zipfile.ZipFile(source / "images.zip") as archive:
        for image in about["images"]:
            archive.extract(f"rsicd/{image['filename']}", target)
    return target


def change_roco(corpus: Path) -> tuple[str, str, str]:
    """Change a caption, remove an image, replace a file; the keys of the three."""
    path = corpus / "captions-train.tsv"
    rows = path.read_text().splitlines()
    first, second, third = (row.split("\t")[0] for row in rows[:3])
    path.write_text("\n".join([f"{first}\tA changed caption.", *rows[2:]]) + "\n")
    gone, replaced = (next((corpus / "images").glob(f"{name}.*")) for name in (second, third))
    gone.unlink()
    Image.new("L", (90, 60), 99).save(replaced)
    return first, second, third


def change_rsicd(corpus: Path) -> tuple[str, str, str]:
    """The same of RSICD."""
    path = corpus / "dataset_rsicd.json"
    about = json.loads(path.read_text())
    first, second, third = (image["filename"] for image in about["images"][:3])
    about["images"][0]["sentences"][0]["raw"] = "a changed caption ."
    del about["images"][1]
    path.write_text(json.dumps(about))
    (corpus / "rsicd" / second).unlink()
    Image.new("RGB", (90, 60), (9, 99, 9)).save(corpus / "rsicd" / third)
    return first, second, third


@pytest.mark.parametrize(
    ("name", "copy", "change"), [("roco", copy_roco, change_roco), ("rsicd", copy_rsicd, change_rsicd)]
)
def test_a_real_corpus_is_fed_changed_and_synchronised(
    name: str,
    copy: Callable[[Path, Path, int], Path],
    change: Callable[[Path], tuple[str, str, str]],
    shared: Path,
    url: str,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
) -> None:
    corpus = copy(shared / "data" / name, tmp_path / name, rounds(40, 100_000))
    model = write_clip(tmp_path / "model", corpus)
    options = ["--model", model, "--work", tmp_path / "work", "--url", url]
    first = fed("images", corpus, *options)
    assert (first["failed"], first["failed_images"]) == (0, 0)
    count = first["fed"]
    assert count >= 40
    print(f"{name}: {count} images, {first['docs_per_second']} docs/s")
    assert fed("sync", corpus, *options)["fed"] == 0

    before = index(url, name)
    captioned, gone, replaced = change(corpus)
    planned = fed("sync", corpus, *options, "--dry-run")
    summary = fed("sync", corpus, *options)
    counts = {"added": 0, "replaced": 1, "updated": 1, "removed": 1, "unchanged": count - 3}
    for one in (planned, summary):
        assert {kind: one["plans"][0][kind] for kind in counts} == counts
    assert summary["fed"] == 3
    assert summary["encodings"][0]["encoded"] == 1
    after = index(url, name)
    assert sorted(key for key in before if before[key] != after.get(key)) == sorted({captioned, gone, replaced})
    assert gone not in after
    assert "changed caption" in after[captioned]["captions"][0]
    assert (after[replaced]["width"], after[replaced]["height"]) == (90, 60)
    shards = next((tmp_path / "work" / name).iterdir())
    assert fed("verify", shards, "--url", url)["equal"] == count - 1
