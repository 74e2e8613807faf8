"""Image files are read below the corpus root only, from folders and archives, by many threads."""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipsearch.corpora import ImageStore
from clipsearch.errors import CorpusError, ImageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(50):
            archive.writestr(f"set/{number}.jpg", bytes([number]) * 5000)
    return folder


def test_files_come_first_and_archives_after(root: Path) -> None:
    uris = ImageStore(root).uris()
    assert uris[:2] == ["images/a.jpg", "images.zip!/set/0.jpg"]
    assert len(uris) == 51


def test_files_and_members_are_read(root: Path) -> None:
    with ImageStore(root) as store:
        assert store.read("images/a.jpg") == b"inside"
        assert store.read("images.zip!/set/7.jpg") == b"\x07" * 5000


@pytest.mark.parametrize(
    "uri",
    ["../secret.jpg", "images/../../secret.jpg", "/etc/passwd", "", "a\0b", "..\\secret.jpg", "../x.zip!/a.jpg"],
)
def test_nothing_outside_the_root_is_read(root: Path, uri: str) -> None:
    with pytest.raises(ImageError, match="not a file below the corpus root"):
        ImageStore(root).read(uri)


def test_links_that_lead_out_of_the_root_are_not_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    with pytest.raises(ImageError, match="leads out of the corpus root"):
        ImageStore(root).read("link.jpg")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("images/b.jpg", "missing"),
        ("images", "not a file"),
        ("images.zip!/set/99.jpg", "no member"),
        ("other.zip!/a.jpg", "missing"),
        ("images/a.jpg!/b.jpg", "cannot be unpacked"),
    ],
)
def test_what_cannot_be_read_says_why(root: Path, uri: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        ImageStore(root).read(uri)


def test_a_damaged_member_costs_only_itself(root: Path) -> None:
    path = root / "images.zip"
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("set/3.jpg").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 45 : offset + 55] = b"\xff" * 10
    path.write_bytes(data)
    store = ImageStore(root)
    with pytest.raises(ImageError, match=r"set/3\.jpg cannot be unpacked"):
        store.read("images.zip!/set/3.jpg")
    assert store.read("images.zip!/set/4.jpg") == b"\x04" * 5000


def test_many_threads_read_one_archive(root: Path) -> None:
    uris = [f"images.zip!/set/{number % 50}.jpg" for number in range(1000)]
    with ImageStore(root) as store, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(store.read, uris))
    expected = [bytes([number % 50]) * 5000 for number in range(1000)]
    assert hashlib.sha256(b"".join(read)).digest() == hashlib.sha256(b"".join(expected)).digest()


def test_a_store_can_be_used_again_after_closing(root: Path) -> None:
    store = ImageStore(root)
    store.read("images.zip!/set/1.jpg")
    store.close()
    assert store.read("images.zip!/set/1.jpg") == b"\x01" * 5000


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there is no folder"):
        ImageStore(tmp_path / "nowhere")
