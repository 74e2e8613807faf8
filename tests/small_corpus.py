"""A corpus that a tiny model learns in seconds: one coloured shape on grey, said in three captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 220, 50)}
PLACES = ("left", "right", "top", "bottom")


def draw(colour: str, place: str, noise: int, size: int = 40) -> Image.Image:
    """A block of ``colour`` at one edge of a noisy grey square."""
    generator = np.random.default_rng(noise)
    pixels = generator.integers(90, 140, (size, size, 3))
    half = size // 2
    edges = {"left": np.s_[:, :half], "right": np.s_[:, half:], "top": np.s_[:half], "bottom": np.s_[half:]}
    pixels[edges[place]] = np.array(COLOURS[colour]) + generator.integers(-15, 15, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_corpus(folder: Path, per_class: int = 24, corrupt: int = 0) -> Path:
    """``captions.jsonl`` with images; class = colour. ``corrupt``: further training images that are no images."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for colour in COLOURS:
        for number in range(per_class):
            place = PLACES[number // 4 % 4]
            name = f"images/{colour}_{number}.png"
            draw(colour, place, number).save(folder / name)
            split = {0: "test", 1: "validation"}.get(number * 7 % 4 if number < 12 else 3, "train")
            captions = [
                f"a {colour} block at the {place} of picture {number}",
                f"the {place} is {colour}",
                f"{colour} block.",
            ]
            rows.append({"file": name, "captions": captions, "split": split, "label": colour})
    for number in range(corrupt):
        name = f"images/broken_{number}.png"
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n not really")
        rows.append({"file": name, "captions": [f"broken {number}"], "split": "train", "label": "red"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
