"""Whatever a file holds, the only error is ImageError; and a corpus with bad files costs only those."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from test_encoding import FakeModel
from test_images import encoded, gradient, png_header

from clipsearch.commands.encode import command
from clipsearch.errors import ImageError, InputError
from clipsearch.images import load_image, parse_bands
from clipsearch.shards import open_shards

MOST_BYTES = 3000


def originals() -> list[bytes]:
    """One small file of each kind that there is."""
    picture = gradient(30, 20)
    grey = np.asarray(picture.convert("L"))
    files = [encoded(picture, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM")]
    files += [encoded(picture, "JPEG", progressive=True), encoded(picture.convert("CMYK"), "JPEG")]
    files += [encoded(Image.fromarray(grey.astype(np.uint16) * 257), kind) for kind in ("PNG", "TIFF")]
    files += [encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"), encoded(picture.convert("P"), "PNG")]
    files += [encoded(picture, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate")]
    files += [encoded(picture, "GIF", save_all=True, append_images=[gradient(30, 20).rotate(90)])]
    files += [encoded(picture, "MPO", save_all=True, append_images=[picture])]
    if "AVIF" in Image.SAVE:
        files.append(encoded(picture, "AVIF"))
    return files + [make() for make in (dicom, bands_tiff) if make()]


def dicom(samples: NDArray[np.uint16] | None = None, kind: str = "MONOCHROME2") -> bytes:
    """A DICOM file, or nothing where the library is missing."""
    try:
        import pydicom
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
    except ImportError:
        return b""
    samples = np.asarray(gradient(30, 20).convert("L")).astype(np.uint16) * 16 if samples is None else samples
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["x"])
    file = pydicom.Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = samples.shape
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, kind
    file.PixelData = samples.tobytes()
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def bands_tiff(samples: NDArray[np.uint16] | None = None) -> bytes:
    """A TIFF of six 16-bit bands, or nothing where the library is missing."""
    try:
        import tifffile
    except ImportError:
        return b""
    if samples is None:
        samples = np.stack([np.asarray(gradient(30, 20).convert("L")).astype(np.uint16) * (n + 5) for n in range(6)], 2)
    out = io.BytesIO()
    tifffile.imwrite(out, samples, photometric="minisblack", planarconfig="contig")
    return out.getvalue()


@pytest.mark.soak
def test_mutated_files_raise_nothing_but_image_errors(rounds: Callable[[int, int], int]) -> None:
    random, files, count = np.random.default_rng(7), originals(), rounds(500, 50_000)
    loaded, reasons = 0, []
    for number in range(count):
        data = bytearray(files[number % len(files)])
        for position in random.integers(0, min(len(data), MOST_BYTES), random.integers(1, 12)):
            data[position] = random.integers(256)
        if random.random() < 0.3:
            del data[int(random.integers(1, len(data))) :]
        try:
            loaded += load_image(bytes(data), (1,) if random.random() < 0.1 else ()).shape[2] == 3
        except ImageError as error:
            reasons.append(str(error))
    print(f"{count} mutated files of {len(files)} kinds: {loaded} loaded, {len(reasons)} refused with an ImageError")
    assert loaded + len(reasons) == count
    assert len(reasons) > count // 7
    assert all(reason and "\n" not in reason for reason in reasons)


def break_twenty_ways(folder: Path, names: list[str]) -> dict[str, str]:
    """Spoil the files of ``names`` in twenty ways; returns what the ledger must say of each that is lost."""
    good = encoded(gradient(80, 60), "JPEG")
    png = encoded(gradient(200, 150))
    spoiled: list[tuple[bytes | None, str]] = [
        (b"", "empty"), (good[:500], "truncated"), (png[:400], "truncated"), (good[:10], "truncated|damaged"),
        (bytes(4000), "only zero bytes"), (png_header(60_000, 60_000), "too large"), (b"<html>404</html>", "web page"),
        (b"<svg xmlns=''/>", "SVG"), (b"%PDF-1.7", "PDF"), (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\x1f\x8b" + bytes(30), "archive"), (b"plain words", "not a known"),
        (png[:45] + bytes(40) + png[85:], "damaged|truncated"), (None, "missing"), (b"\0\0\0\x18ftypheic", "HEIC"),
        (encoded(gradient(), "GIF", save_all=True, append_images=[gradient().rotate(90)]), ""),
        (encoded(gradient().convert("CMYK"), "JPEG"), ""),
        (encoded(Image.fromarray(np.asarray(gradient().convert("L")).astype(np.uint16) * 257)), ""),
        (encoded(gradient(), "JPEG"), ""),  # a PNG's name, a JPEG's content
        (encoded(gradient(1, 900)), ""),
    ]  # fmt: skip
    reasons = {}
    for name, (data, reason) in zip(names, spoiled, strict=True):
        path = folder / f"{name}.png"
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        if reason:
            reasons[name] = reason
    return reasons


@pytest.mark.soak
def test_of_a_corpus_with_two_percent_broken_files_the_rest_arrives_and_each_has_its_reason(
    tmp_path: Path, rounds: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.encoding.corpus.load_model", lambda *_: FakeModel())
    root, count = tmp_path / "corpus", rounds(200, 1000)
    (root / "images").mkdir(parents=True)
    picture = encoded(gradient())
    for number in range(count):
        (root / "images" / f"{number:04d}.png").write_bytes(picture)
    captions = [f"{number:04d}\tpicture {number}\n".encode() for number in range(count)]
    captions[3] = b"0003\ta picture in Latin-1: caf\xe9\n"
    (root / "captions-train.tsv").write_bytes(b"".join(captions))
    reasons = break_twenty_ways(root / "images", [f"{number:04d}" for number in range(7, count, count // 20)])
    if os.geteuid():
        (root / "images" / "0001.png").chmod(0)
        reasons["0001"] = "cannot be read"
    arguments = [str(root), "--model", "m", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 1, done.exception  # something failed
    summary = json.loads(done.stdout)
    lines = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    ledger = {Path(line["item"]).stem: line["reason"] for line in lines}
    assert ledger.keys() - {"0003", "captions-train"} == reasons.keys()
    assert any("UTF-8" in reason for reason in ledger.values())
    for name, reason in reasons.items():
        assert any(words in ledger[name] for words in reason.split("|")), (name, ledger[name])
    keys = {Path(row.record.uri).stem for row in open_shards(tmp_path / "out")}
    assert keys >= {f"{number:04d}" for number in range(count)} - set(reasons) - {"0003"}
    assert summary["encoded"] == len(keys)
    again = json.loads(CliRunner().invoke(command, arguments).stdout)
    assert (again["encoded"], again["reused"], again["failed"]) == (0, len(keys), summary["failed"])
    print(f"{count} images: {len(keys)} encoded, {summary['failed']} in the ledger, among them")
    print("\n".join(f"  {name}: {ledger[name][:100]}" for name in sorted(reasons)))


def test_a_dicom_file_is_read_with_its_window_and_its_sense_of_black() -> None:
    pytest.importorskip("pydicom")
    samples = np.linspace(0, 4000, 600).reshape(20, 30).astype(np.uint16)
    grey = load_image(dicom(samples))
    assert grey.shape == (20, 30, 3)
    assert (grey[0, 0, 0], grey[-1, -1, 0]) == (0, 255)
    inverted = load_image(dicom(samples, "MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - grey)


def test_bands_of_a_satellite_image_are_chosen_and_stretched() -> None:
    pytest.importorskip("tifffile")
    samples = np.stack([np.linspace(100, 100 + 50 * (band + 1), 600).reshape(20, 30) for band in range(6)], 2)
    samples[:, :, 4] = samples[::-1, :, 4]
    data = bands_tiff(samples.astype(np.uint16))
    assert load_image(data).shape == (20, 30, 3)
    picture = load_image(data, parse_bands("5,2,1"))
    assert picture[0, 0, 0] > 200
    assert picture[0, 0, 1] < 50
    assert picture[-1, -1, 1] > 200
    with pytest.raises(ImageError, match="has 6 bands, and band 9 was asked for"):
        load_image(data, (9, 2, 1))


@pytest.mark.parametrize("text", ["", "1,2", "a,b,c", "0,1,2", "1,2,3,4"])
def test_bands_that_are_none_say_what_to_give(text: str) -> None:
    with pytest.raises(InputError, match="such as 3,2,1"):
        parse_bands(text)


def test_bands_of_an_ordinary_picture_are_its_channels() -> None:
    picture = np.asarray(gradient())
    np.testing.assert_array_equal(load_image(encoded(gradient()), (3, 2, 1)), picture[:, :, ::-1])


@pytest.mark.parametrize("name", ["pydicom", "tifffile"])
def test_without_its_library_a_scientific_file_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    data = bytes(128) + b"DICM" + bytes(40) if name == "pydicom" else b"II*\0" + bytes(60)
    with pytest.raises(ImageError, match=r"pip install 'clipsearch\[science\]'"):
        load_image(data, () if name == "pydicom" else (3, 2, 1))
