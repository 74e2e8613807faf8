"""Application packages as folders and archives: what is read, and what is refused before it is parsed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from clipsearch.engine.package import archive, read_folder, read_tar_gz, read_zip, write_zip
from clipsearch.errors import PackageError

FILES = {"services.xml": b"<services/>", "schemas/a.sd": b"schema a {}"}


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as each:
        for name, content in entries.items():
            each.writestr(name, content)
    return buffer.getvalue()


def tarred(entries: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as each:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            each.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_zip_a_tar_and_a_folder_give_the_same_files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    assert read_folder(tmp_path) == read_zip(zipped(FILES)) == read_tar_gz(tarred(FILES)) == FILES


def test_what_write_zip_writes_is_read_back_and_is_the_same_every_time() -> None:
    assert read_zip(write_zip(FILES)) == FILES
    assert write_zip(FILES) == write_zip(dict(reversed(FILES.items())))


@pytest.mark.parametrize("prefix", ["application/", "my-app/", "./"])
def test_a_package_inside_one_folder_is_found(prefix: str) -> None:
    assert read_tar_gz(tarred({prefix + name: content for name, content in FILES.items()})) == FILES


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:/x"])
def test_a_name_that_leaves_the_package_is_refused(name: str) -> None:
    for read, content in ((read_zip, zipped({name: b"1"})), (read_tar_gz, tarred({name: b"1"}))):
        with pytest.raises(PackageError, match="not a path inside"):
            read(content)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes) -> None:
    with pytest.raises(PackageError, match="plain file"):
        read_tar_gz(tarred({"services.xml": b""}, kind))


def test_a_link_in_a_zip_is_refused() -> None:
    info = zipfile.ZipInfo("services.xml")
    info.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as each:
        each.writestr(info, "/etc/passwd")
    with pytest.raises(PackageError, match="is a link"):
        read_zip(buffer.getvalue())


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    for read, content in ((read_zip, zipped({"a": b"0" * 1001})), (read_tar_gz, tarred({"a": b"0" * 1001}))):
        with pytest.raises(PackageError, match="too large"):
            read(content)


def test_too_many_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(PackageError, match="too large"):
        read_zip(zipped({str(i): b"" for i in range(3)}))


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive", zipped(FILES)[:60], tarred(FILES)[:40]])
def test_a_broken_archive_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(PackageError, match="zip file"):
        read_zip(content)
    with pytest.raises(PackageError, match="tar file"):
        read_tar_gz(content)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="nowhere is not a folder"):
        read_folder(tmp_path / "nowhere")
