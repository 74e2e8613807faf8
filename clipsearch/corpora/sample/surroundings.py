"""What may lie around any scene: a river, a road, woods, fields, water; and parts that several scenes
share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clipsearch.corpora.sample.pen import Pen
from clipsearch.corpora.sample.shapes import (
    Points,
    band,
    blob,
    curve,
    inside,
    rectangle,
    scattered,
    turned,
)  # fmt: skip
from clipsearch.corpora.sample.texture import COLOURS, Colour, Material, jitter, shade

ASPHALT = Material((118, 118, 120), 6, 5, 7)
CONCRETE = Material((168, 166, 160), 6, 6, 6)
PLACES = ("next to", "near", "beside", "close to")


def around(pen: Pen, *, chance: float = 0.6) -> list[str]:
    """Draw at most one neighbour along one side (outside the middle 1.3 x 1.3) and say what lies around."""
    phrases = [f"surrounded by {pen.season.ground}", f"on {pen.season.ground}"]
    if pen.rng.random() > chance:
        return phrases
    kind = ("river", "road", "wood", "field", "lake")[int(pen.rng.integers(5))]
    side = int(pen.rng.integers(4)) * np.pi / 2
    word = _NEIGHBOURS[kind](pen, side)
    place = PLACES[int(pen.rng.integers(len(PLACES)))]
    return [f"{place} {word}", f"{place} {word}", phrases[0]]


def trees_around(pen: Pen, count: int, keep_out: Sequence[Points], radius: float = 0.05) -> int:
    """Scatter trees outside the outlines ``keep_out``; return how many."""
    planted = 0
    for x, y in scattered(pen.rng, count, radius * 1.3):
        if not any(inside(outline, x, y) for outline in keep_out):
            pen.tree(x, y, radius * float(pen.rng.uniform(0.7, 1.3)))
            planted += 1
    return planted


def wood(pen: Pen, outline: Points, count: int = 90) -> None:
    """Fill an outline with trees on dark ground."""
    pen.area(outline, replace(pen.season.grass, colour=shade(pen.season.trees[0], 0.85)))
    low, high = outline.min(axis=0), outline.max(axis=0)
    for x, y in pen.rng.uniform(low, high, (count, 2)):
        if inside(outline, float(x), float(y)):
            pen.tree(float(x), float(y), float(pen.rng.uniform(0.04, 0.07)))


def water(pen: Pen, outline: Points, bank: float = 0.03) -> None:
    """Fill an outline with water, with a bank of soil."""
    pen.outline(outline, bank * 2, shade(pen.season.soil.colour, 0.95))
    pen.area(outline, pen.season.water)


def river(pen: Pen, path: Points, width: float) -> None:
    """Draw a river along ``path`` with its banks."""
    pen.area(band(path, width * 1.25), replace(pen.season.soil, colour=shade(pen.season.soil.colour, 0.9)))
    pen.area(band(path, width), pen.season.water)


def field_material(pen: Pen) -> Material:
    """A field's surface: a crop or bare soil, often with furrows."""
    rng = pen.rng
    options: tuple[Colour, ...] = (
        pen.season.grass.colour, pen.season.soil.colour, shade(pen.season.grass.colour, 1.15),
        shade(pen.season.soil.colour, 0.8), (150, 148, 92), (112, 128, 74),
    )  # fmt: skip
    colour = jitter(rng, options[int(rng.integers(len(options)))], 8)
    stripes = float(rng.uniform(6, 16)) if rng.random() < 0.6 else 0.0
    return Material(colour, 6, 6, 7, stripes, float(rng.uniform(0.04, 0.09)), float(rng.uniform(0, np.pi)))


def named_colour(pen: Pen, names: Sequence[str]) -> tuple[str, Colour]:
    """Choose a colour by name and vary it a little."""
    name = names[int(pen.rng.integers(len(names)))]
    return name, jitter(pen.rng, COLOURS[name], 6)


def roof(pen: Pen) -> Colour:
    """A roof's colour, the same mixture everywhere."""
    _, colour = named_colour(pen, ("red", "grey", "brown", "white", "beige", "orange", "grey"))
    return colour


def house(pen: Pen, x: float, y: float, size: float, angle: float, colour: Colour | None = None) -> None:
    """Add a house with a gabled or hipped roof."""
    rng = pen.rng
    kind = ("gable", "hip", "hip", "flat")[int(rng.integers(4))]
    pen.block(
        x, y, size * rng.uniform(1.0, 1.5), size * rng.uniform(0.75, 1.0),
        angle=angle, height=size * 0.45, colour=colour or roof(pen), roof=kind,
    )  # fmt: skip


def _side_river(pen: Pen, side: float) -> str:
    path = turned(curve(pen.rng, (-1.6, 0.88), (1.6, 0.88), 0.05), side)
    river(pen, path, float(pen.rng.uniform(0.16, 0.26)))
    return "a river"


def _side_road(pen: Pen, side: float) -> str:
    path = turned(curve(pen.rng, (-1.6, 0.8), (1.6, 0.8), 0.03), side)
    pen.road(path, float(pen.rng.uniform(0.07, 0.12)))
    for t in pen.rng.integers(4, 44, 4):
        ahead = path[t + 1] - path[t]
        pen.car(float(path[t][0]), float(path[t][1]), float(np.arctan2(ahead[1], ahead[0])))
    return "a road"


def _side_wood(pen: Pen, side: float) -> str:
    wood(pen, turned(rectangle(0, 1.05, 3.2, 0.62), side), 190)
    return "a wood"


def _side_field(pen: Pen, side: float) -> str:
    for x in (-1.0, 0.0, 1.0):
        pen.area(turned(rectangle(x, 1.08, 0.98, 0.66), side), field_material(pen))
    return "some fields"


def _side_lake(pen: Pen, side: float) -> str:
    x = float(pen.rng.uniform(-0.3, 0.3))
    water(pen, turned(blob(pen.rng, x, 1.15, 0.5, 0.1), side))
    return "a lake"


_NEIGHBOURS = {
    "river": _side_river, "road": _side_road, "wood": _side_wood, "field": _side_field, "lake": _side_lake,
}  # fmt: skip
