"""Every kind of image file becomes upright RGB pixels, or an error that says why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch.errors import ImageError
from clipsearch.images import content_hash, load_image, thumbnail


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    """A picture without any symmetry: red grows to the right, green downwards, blue marks a corner."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width)[None, :]
    pixels[:, :, 1] = np.linspace(0, 255, height)[:, None]
    pixels[: height // 3, : width // 3, 2] = 255
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG", "JPEG2000"])
def test_common_formats_load_as_rgb(kind: str) -> None:
    pixels = load_image(encoded(gradient(), kind))
    assert pixels.shape == (24, 40, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(gradient()).astype(int)).mean() < 12


def test_lossless_formats_keep_every_pixel() -> None:
    np.testing.assert_array_equal(load_image(encoded(gradient())), np.asarray(gradient()))


def test_jpeg_pixels_equal_pillows() -> None:
    data = encoded(gradient(), "JPEG", quality=80)
    np.testing.assert_array_equal(load_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_all_eight_exif_orientations_give_the_upright_picture() -> None:
    upright = gradient()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
        pixels = load_image(encoded(stored, "PNG", exif=exif))
        np.testing.assert_array_equal(pixels, np.asarray(upright), err_msg=f"orientation {orientation}")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # pytest's own filters come before ours
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert load_image(data).shape == (24, 40, 3)


def test_transparent_pixels_lie_over_white() -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.putpixel((1, 1), (10, 20, 30, 255))
    image.putpixel((2, 2), (0, 0, 0, 128))
    pixels = load_image(encoded(image))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [10, 20, 30]
    assert pixels[2, 2].tolist() == [127, 127, 127]


def test_palettes_with_a_transparent_colour_load() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((1, 1), 1)
    pixels = load_image(encoded(image, "PNG", transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")
    pixels = load_image(encoded(gradient().convert(mode), kind))
    assert pixels.shape == (24, 40, 3)
    assert pixels.std() > 20


def test_cmyk_jpegs_keep_their_colours() -> None:
    pixels = load_image(encoded(gradient().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - np.asarray(gradient()).astype(int)).mean() < 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_eight_and_sixteen_bit_versions_of_a_picture_agree(kind: str) -> None:
    grey = np.asarray(gradient().convert("L"))
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(load_image(encoded(sixteen, kind))[:, :, 0], grey)


def test_twelve_bit_samples_in_a_sixteen_bit_file_use_the_whole_range() -> None:
    samples = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    pixels = load_image(encoded(Image.fromarray(samples), "TIFF"))
    assert pixels.min() == 0
    assert pixels.max() == 255


@pytest.mark.parametrize("top", [1.0, 255.0, 5000.0])
def test_float_samples_are_rescaled_whatever_their_range(top: float) -> None:
    samples = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    samples[0, 0] = np.nan
    pixels = load_image(encoded(Image.fromarray(samples), "TIFF"))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert abs(int(pixels[4, 0, 0]) - 255 * 32 / 63) <= 1


def test_negative_samples_are_stretched_and_constant_ones_do_not_divide_by_zero() -> None:
    samples = np.linspace(-10, 10, 64, dtype=np.float32).reshape(8, 8)
    assert load_image(encoded(Image.fromarray(samples), "TIFF")).max() == 255
    assert load_image(encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF")).max() == 0


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    pixels = load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels[4, 4].tolist() == [255, 0, 0]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    with pytest.raises(ImageError, match="too large"):
        load_image(png_header(side, side))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 5000, "only zero bytes"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"<svg xmlns=''>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\0" * 128 + b"DICM" + b"\1" * 40, "DICOM"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"hello", "not a known image format"),
        (encoded(gradient(400, 300), "JPEG")[:2000], "truncated"),
        (encoded(gradient(400, 300))[:600], "truncated"),
        (encoded(gradient())[:20], "not a known|damaged|truncated"),
    ],
)
def test_a_bad_file_is_met_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(data)


def test_paths_load_and_missing_ones_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(gradient(), "JPEG"))
    assert load_image(path).shape == (24, 40, 3)
    with pytest.raises(ImageError, match="no file"):
        load_image(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path)
    path.write_bytes(b"words")
    with pytest.raises(ImageError, match=rf"{path} cannot be used: not a known image format"):
        load_image(path)


def test_a_thumbnail_is_a_small_jpeg_of_the_same_shape() -> None:
    small = Image.open(io.BytesIO(thumbnail(np.asarray(gradient(1000, 400)))))
    assert small.format == "JPEG"
    assert small.size == (256, 102)


def test_a_thumbnail_never_enlarges_and_survives_extreme_shapes() -> None:
    assert Image.open(io.BytesIO(thumbnail(np.asarray(gradient())))).size == (40, 24)
    assert Image.open(io.BytesIO(thumbnail(np.zeros((1, 5000, 3), dtype=np.uint8)))).size == (256, 1)


def test_the_content_hash_is_sha256() -> None:
    assert content_hash(b"abc").startswith("ba7816bf8f01cfea")
