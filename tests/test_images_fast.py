"""The fast decoder and the fast resize give Pillow's pixels, every one of them, or leave the work to Pillow."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clipsearch.errors import ImageError
from clipsearch.images import accelerate, load_image, resize, resizing
from clipsearch.images import jpeg as fast_jpeg
from clipsearch.images.loading import small_jpeg

RGB = NDArray[np.uint8]


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    noise = random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def pillows(data: bytes) -> RGB:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 46}, {"quality": 95, "subsampling": 0}, {"subsampling": 1}, {"progressive": True},
        {"optimize": True, "restart_marker_rows": 1}, {"quality": 5}, {"keep_rgb": True}, {"dpi": (72, 72)},
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_jpeg_has_pillows_pixels(mode: str, options: dict[str, object]) -> None:
    for width, height in ((61, 35), (8, 8), (1, 17)):
        data = jpeg(scene(width, height).convert(mode), **({} if mode != "RGB" and "keep_rgb" in options else options))
        np.testing.assert_array_equal(load_image(data), pillows(data))


def test_ordinary_jpegs_take_the_fast_road(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    data = jpeg(scene(40, 30))
    monkeypatch.setattr(Image.Image, "convert", None)
    monkeypatch.setattr(Image.Image, "load", None)
    assert load_image(data).shape == (30, 40, 3)


def test_without_the_fast_decoder_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(scene(123, 77))
    fast = load_image(data)
    monkeypatch.setattr(fast_jpeg, "_decoder", None)
    np.testing.assert_array_equal(load_image(data), fast)


def test_the_eight_orientations_of_a_jpeg_are_turned_as_pillow_turns_them() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(scene(50, 31), exif=exif)
        np.testing.assert_array_equal(load_image(data), pillows(data), err_msg=str(orientation))


def test_a_damaged_jpeg_fares_as_pillow_says() -> None:
    data, random = jpeg(scene(64, 48), quality=80), np.random.default_rng(4)
    same = 0
    for _ in range(150):
        broken = bytearray(data)
        for position in random.integers(150, len(data), 3):
            broken[position] = random.integers(256)
        try:
            expected = pillows(bytes(broken))
        except Exception:
            expected = None
        try:
            found = load_image(bytes(broken))
        except ImageError:
            found = None
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            np.testing.assert_array_equal(found, expected)
            same += 1
    assert same > 20


@pytest.mark.soak
@pytest.mark.parametrize("resample", [2, 3])
def test_resizing_gives_pillows_pixels_whatever_the_shapes(rounds: Callable[[int, int], int], resample: int) -> None:
    accelerate()
    random = np.random.default_rng(resample)
    for number in range(rounds(60, 3000)):
        height, width = (int(side) for side in random.integers(1, 260 if number % 4 else 900, 2))
        side = int(random.integers(1, 230))
        scale = side / min(height, width)
        size = (max(side, int(width * scale)), max(side, int(height * scale)))
        if number % 3 == 0:
            size = (int(random.integers(1, 230)), int(random.integers(1, 230)))
        if max(size) > 4000:
            continue
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling(resample)))
        np.testing.assert_array_equal(resize(image, size, resample), expected, err_msg=f"{width} x {height} -> {size}")
        left, top = size[0] // 3, size[1] // 4
        part = (left, top, max(1, size[0] // 2), max(1, size[1] // 2))
        found = resize(image, size, resample, part)
        np.testing.assert_array_equal(found, expected[top : top + part[3], left : left + part[2]])
        assert found.flags.writeable


def test_the_compiled_kernel_serves_ordinary_pictures() -> None:
    pytest.importorskip("numba")
    assert accelerate()
    assert resizing._same_proportions(np.zeros((600, 600, 3), np.uint8), (224, 224))
    assert resizing._same_proportions(np.zeros((333, 500, 3), np.uint8), (336, 224))


def test_a_pillow_that_computes_otherwise_is_noticed_and_left_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(resizing, "_BITS", 21)  # weights that are not Pillow's
    resizing._weights.cache_clear()
    try:
        assert resizing._trusted() is None
    finally:
        resizing._weights.cache_clear()


def test_the_kernel_is_loaded_only_when_many_images_come(monkeypatch: pytest.MonkeyPatch) -> None:
    loader, loaded = resizing._Loader(), []
    monkeypatch.setattr(resizing, "_LOADER", loader)
    monkeypatch.setattr(resizing, "_trusted", lambda: loaded.append(1))
    for _ in range(resizing._WARM):
        resize(np.zeros((20, 20, 3), np.uint8), (10, 10))
    assert not loaded
    resize(np.zeros((20, 20, 3), np.uint8), (10, 10))
    resize(np.zeros((20, 20, 3), np.uint8), (10, 10))
    assert loaded == [1]


def test_threads_resize_at_once_without_mixing_pictures() -> None:
    accelerate()
    images = [np.full((90, 120, 3), value, np.uint8) for value in range(0, 240, 40)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not (resize(images[number], (40, 30)) == images[number][0, 0, 0]).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_small_plain_jpeg_is_its_own_thumbnail_and_others_are_not() -> None:
    plain = jpeg(scene(192, 192), quality=46)
    assert small_jpeg(plain, load_image(plain)) == plain
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        jpeg(scene(300, 100)), jpeg(scene(192, 192), exif=exif), jpeg(scene(64, 64).convert("CMYK")),
        jpeg(scene(256, 256), quality=100, subsampling=0),
    ):  # fmt: skip
        assert small_jpeg(data, load_image(data)) == b""
