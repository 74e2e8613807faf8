"""Noise, materials and seasons: what the ground of a drawn scene looks like.

Ground colours come from the season, not from the class, so that colour alone does not tell what a scene
shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]
Field = NDArray[np.float32]

COLOURS: dict[str, Colour] = {
    "white": (232, 232, 228), "grey": (150, 152, 154), "red": (168, 74, 58), "blue": (74, 108, 156),
    "green": (86, 128, 88), "brown": (128, 98, 74), "orange": (196, 126, 72), "black": (58, 58, 62),
    "yellow": (206, 186, 98), "beige": (202, 186, 158),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Material:
    """A surface: a mean colour (0 to 255) and the amplitude of its noise at three scales, and of its
    stripes."""

    colour: Colour
    coarse: float = 10.0
    middle: float = 8.0
    fine: float = 8.0
    stripes: float = 0.0
    period: float = 0.08
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class Season:
    """Colours of growing things, soil and water at one time and place; ``ground`` is the word for the
    grass."""

    grass: Material
    soil: Material
    water: Material
    trees: tuple[Colour, ...]
    ground: str


_WATERS = (
    Material((58, 84, 92), 8, 4, 3),
    Material((70, 96, 84), 8, 4, 3),
    Material((44, 70, 102), 10, 5, 3),
    Material((112, 116, 96), 8, 4, 3),
    Material((86, 128, 136), 10, 5, 3),
)

_SEASONS = (
    ("green grass", (96, 122, 70), (150, 128, 98), ((50, 80, 44), (62, 92, 50), (44, 70, 46))),
    ("fresh grass", (124, 146, 84), (160, 138, 106), ((76, 106, 54), (92, 118, 62), (66, 92, 52))),
    ("dry grass", (168, 154, 110), (182, 156, 118), ((92, 100, 62), (78, 88, 56), (104, 106, 70))),
    ("yellow grass", (152, 140, 86), (146, 120, 90), ((138, 98, 50), (150, 116, 58), (98, 90, 50))),
    ("bare ground", (178, 156, 124), (188, 164, 130), ((86, 92, 62), (98, 100, 70), (74, 82, 56))),
    ("brown earth", (138, 116, 92), (142, 112, 84), ((66, 80, 50), (80, 88, 58), (58, 72, 48))),
    ("pale ground", (188, 186, 176), (176, 168, 154), ((104, 106, 94), (92, 98, 84), (116, 112, 98))),
    ("dark grass", (72, 92, 58), (112, 98, 78), ((38, 58, 36), (46, 66, 40), (34, 52, 38))),
)


def pick_season(rng: np.random.Generator) -> Season:
    """Choose a season and slightly change its colours."""
    ground, grass, soil, trees = _SEASONS[rng.integers(len(_SEASONS))]
    water = _WATERS[rng.integers(len(_WATERS))]
    return Season(
        grass=Material(jitter(rng, grass, 8), 12, 10, 10),
        soil=Material(jitter(rng, soil, 8), 12, 8, 8),
        water=replace(water, colour=jitter(rng, water.colour, 6)),
        trees=tuple(jitter(rng, tree, 5) for tree in trees),
        ground=ground,
    )


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """Move a colour: mostly its brightness, a little its hue; ``amount`` is a standard deviation out of
    255."""
    shift = rng.normal(0, amount) + rng.normal(0, amount / 3, 3)
    return shade(colour, 1.0, tuple(float(value) for value in shift))


def shade(colour: Colour, gain: float, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Colour:
    """Multiply a colour by ``gain``, add ``shift``, and clip to 0..255."""
    r, g, b = (min(255, max(0, round(c * gain + s))) for c, s in zip(colour, shift, strict=True))
    return r, g, b


def value_noise(rng: np.random.Generator, n: int, cells: int) -> Field:
    """Return smooth noise, ``(n, n)`` float32 of about unit variance: a random grid enlarged with bicubic
    splines."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((n, n), Image.Resampling.BICUBIC), dtype=np.float32)


class Textures:
    """The noise fields of one image, made once and mixed for each material."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.n = n
        self.coarse = value_noise(rng, n, 5)
        self.middle = 0.7 * value_noise(rng, n, 14) + 0.7 * value_noise(rng, n, 32)
        self.fine = value_noise(rng, n, n // 2)

    def render(self, material: Material, box: tuple[int, int, int, int]) -> Image.Image:
        """Return the material's surface inside ``box`` (left, top, right, bottom in px)."""
        left, top, right, bottom = box
        view = np.s_[top:bottom, left:right]
        value = self.coarse[view] * material.coarse
        value = value + self.middle[view] * material.middle + self.fine[view] * material.fine
        if material.stripes:
            value += material.stripes * self._stripes(material, box)
        pixels = np.asarray(material.colour, dtype=np.float32) + value[:, :, None]
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def _stripes(self, material: Material, box: tuple[int, int, int, int]) -> Field:
        left, top, right, bottom = box
        x = np.arange(left, right, dtype=np.float32)[None, :]
        y = np.arange(top, bottom, dtype=np.float32)[:, None]
        along = x * np.float32(np.cos(material.angle)) + y * np.float32(np.sin(material.angle))
        step = np.float32(2 * np.pi / (material.period * self.n / 2))
        return np.sin(along * step + self.middle[top:bottom, left:right] * np.float32(0.3))
