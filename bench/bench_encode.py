"""Encoding beside the plain transformers pipeline and sentence-transformers, and decoding beside Pillow, in one run.

Decoding: JPEGs of 600 and 192 px to the square that a model sees; every pixel is compared first. CPU time of one
thread. Encoding: image files to embeddings, by one model with random weights, all routes in alternating rounds, in wall
and in CPU time; ours also reads captions, hashes, makes thumbnails and writes shards. The cosine is the least to the
plain pipeline's embeddings.

    .venv/bin/python bench/bench_encode.py --architectures tiny --images 64 --repeat 1
"""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import encoding_routes as routes
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from report import say, table

from clipsearch.clip.pixels import PixelSettings, resize_and_crop
from clipsearch.images import accelerate, load_image, small_jpeg, thumbnail

RGB = NDArray[np.uint8]
SIDES = {"600 px": 600, "192 px": 192}
QUALITY = {"600 px": 88, "192 px": 46}  # about 90 kB, and RSICD's


def picture(side: int, seed: int) -> Image.Image:
    """Shapes of several sizes and some noise, so that a JPEG of it is as large as a photograph's."""
    random = np.random.default_rng(seed)
    layers = [(4, 110.0), (24, 60.0), (side // 6, 25.0)]
    pixels = np.full((side, side, 3), 20.0)
    for cells, strength in layers:
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) * (strength / 255)
    return Image.fromarray(np.clip(pixels + random.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8))


def jpegs(name: str, count: int) -> list[bytes]:
    """``count`` files of one of the sizes."""
    files = []
    for seed in range(count):
        out = io.BytesIO()
        picture(SIDES[name], seed).save(out, "JPEG", quality=QUALITY[name])
        files.append(out.getvalue())
    return files


def pillow_square(data: bytes, settings: PixelSettings) -> RGB:
    """What everybody does: Pillow's decoder, Pillow's bicubic resize, the centre."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = settings.size / min(image.size)
    size = tuple(max(settings.size, int(side * scale)) for side in image.size)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - settings.size) // 2, (size[1] - settings.size) // 2
    return np.asarray(image.crop((left, top, left + settings.size, top + settings.size)))


def pillow_thumbnail(data: bytes) -> bytes:
    """The usual thumbnail: Lanczos to 256 px."""
    image, out = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
    image.thumbnail((256, 256), Image.Resampling.LANCZOS)
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def our_thumbnail(data: bytes) -> bytes:
    """What encoding keeps: a small JPEG itself, or a new one."""
    image = load_image(data)
    return small_jpeg(data, image) or thumbnail(image)


def cpu_rates(functions: Mapping[str, Callable[[bytes], Any]], files: Sequence[bytes], repeat: int) -> dict[str, float]:
    """Files per second of CPU time, each function in turn on each file: the median over rounds."""
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeat):
        for name, function in functions.items():
            started = time.thread_time()
            for data in files:
                function(data)
            spent[name].append(time.thread_time() - started)
    return {name: len(files) / statistics.median(seconds) for name, seconds in spent.items()}


def decoding(repeat: int) -> dict[str, Any]:
    """Decode, and decode with resize, beside Pillow; raises when a pixel differs."""
    settings, found = PixelSettings(224), {}
    compiled = accelerate()
    for name in SIDES:
        files = jpegs(name, 16)
        for data in files:
            if not np.array_equal(pillow_square(data, settings), resize_and_crop(load_image(data), settings)):
                raise SystemExit(f"a {name} JPEG does not have Pillow's pixels")
        functions: dict[str, Callable[[bytes], Any]] = {
            "decode, Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
            "decode, ours": load_image,
            "decode + resize, Pillow": lambda data: pillow_square(data, settings),
            "decode + resize, ours": lambda data: resize_and_crop(load_image(data), settings),
            "decode + thumbnail, Pillow": pillow_thumbnail,
            "decode + thumbnail, ours": our_thumbnail,
        }
        rates = cpu_rates(functions, files, 5 * repeat)
        pairs = {key.split(",")[0] for key in rates}
        ratios = {key: rates[f"{key}, ours"] / rates[f"{key}, Pillow"] for key in sorted(pairs)}
        found[name] = {"kilobytes": np.mean([len(data) for data in files]) / 1e3, "rates": rates, "ratios": ratios}
    return {"compiled_resize": compiled, "pixel_equal": True, "sizes": found}


def encoding(folder: Path, architecture: str, images: int, repeat: int, device: str) -> dict[str, Any]:
    """Image files to embeddings by every route."""
    corpus = routes.write_corpus(folder / "corpus", jpegs("600 px", images))
    checkpoint = routes.write_checkpoint(folder / architecture, architecture)
    measured: dict[str, dict[str, Any]] = {}
    ready = routes.prepare(corpus, checkpoint, folder, device)
    vectors: dict[str, NDArray[np.float32]] = {}
    for number in range(repeat + 1):  # the first round warms up
        for name, run in ready.items():
            wall, cpu = time.perf_counter(), time.process_time()
            vectors[name] = run()
            one = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            if number:
                measured.setdefault(name, {"wall": [], "cpu": []})
                for key, seconds in one.items():
                    measured[name][key].append(seconds)
            say(f"{architecture}, round {number}, {name}: {images / one['wall']:.1f} images/s")
    exact = vectors[routes.PLAIN]
    figures = {}
    for name, seconds in measured.items():
        figures[name] = {
            "images_per_s": images / statistics.median(seconds["wall"]),
            "images_per_cpu_s": images / statistics.median(seconds["cpu"]),
            "cosine": float((vectors[name] * exact).sum(axis=1).min()),
        }
    return {"images": images, "routes": figures, "resident": routes.resident(checkpoint, device)}


def text(found: Mapping[str, Any]) -> str:
    """All figures as tables."""
    parts = []
    sizes = found["decoding"]["sizes"]
    rows = [
        [key, *(f"{one['rates'][key]:.0f}" for one in sizes.values())] for key in next(iter(sizes.values()))["rates"]
    ]
    rows += [
        [f"ratio, {key}", *(f"{one['ratios'][key]:.2f}" for one in sizes.values())] for key in sizes["600 px"]["ratios"]
    ]
    parts.append(table("JPEGs per second of CPU time, to 224 px, pixel-equal", ["", *sizes], rows))
    for name, one in found["encoding"].items():
        plain = one["routes"][routes.PLAIN]
        rows = [
            [
                route, f"{figures['images_per_s']:.1f}", f"{figures['images_per_s'] / plain['images_per_s']:.2f}",
                f"{figures['images_per_cpu_s']:.1f}", f"{figures['images_per_cpu_s'] / plain['images_per_cpu_s']:.2f}",
                f"{figures['cosine']:.5f}",
            ]
            for route, figures in one["routes"].items()
        ]  # fmt: skip
        head = ["", "images/s", "ratio", "images/CPU s", "ratio", "cosine"]
        parts.append(table(f"{name}: {one['images']} image files of 600 px to embeddings", head, rows))
        if one["resident"]:
            parts.append(f"{name}: pixels that are on the device already: {one['resident']:.0f} images/s")
    return "\n\n".join(parts)


@click.command()
@click.option("--architectures", default="ViT-B/32,tiny", show_default=True, help="Comma-separated.")
@click.option("--images", default=128, show_default=True, type=click.IntRange(8))
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Also write the figures as JSON.")
def main(architectures: str, images: int, repeat: int, device: str, out: Path | None) -> None:
    """Measure and print."""
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "decoding": decoding(repeat),
        "encoding": {},
    }
    for architecture in architectures.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found["encoding"][architecture] = encoding(Path(folder), architecture, images, repeat, device)
    click.echo(f"{found['machine']}\n\n{text(found)}")
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
