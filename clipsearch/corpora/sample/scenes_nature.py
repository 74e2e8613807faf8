"""Scenes of land and water: farmland, forest, desert, beach, mountain, pond, river."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from clipsearch.corpora.sample.grammar import Facts, Thing
from clipsearch.corpora.sample.pen import Pen
from clipsearch.corpora.sample.shapes import Points, arc, band, blob, curve, inside, rectangle
from clipsearch.corpora.sample.surroundings import (
    around,
    field_material,
    house,
    named_colour,
    river,
    roof,
    trees_around,
    water,
    wood,
)  # fmt: skip
from clipsearch.corpora.sample.texture import Field, Material, jitter, shade, value_noise


def farmland(pen: Pen) -> Facts:
    """Fields of different crops, in a grid or round under centre pivots, with tracks and sometimes a
    farmhouse."""
    rng = pen.rng
    things: list[Thing]
    if rng.random() < 0.3:
        count = _pivots(pen)
        things = [Thing("round field", count, "", "lying", "side by side"), Thing("dirt track")]
    else:
        count = _field_grid(pen)
        things = [Thing("field", count, "rectangular", "separated", "by narrow tracks")]
        things.append(Thing("crop field", count, "striped"))
    if rng.random() < 0.4:
        x, y = (float(v) for v in rng.uniform(-0.5, 0.5, 2))
        house(pen, x, y, 0.13, float(rng.uniform(0, 3)))
        things.append(Thing("farmhouse", 1, "", "standing", "between the fields"))
    return Facts(("farmland", "piece of farmland", "patchwork of fields"), things, ["divided into many pieces"])


def _pivots(pen: Pen) -> int:
    pen.fill(pen.season.soil)
    count = 0
    radius = float(pen.rng.uniform(0.3, 0.42))
    for x in np.arange(-1.26, 1.3, radius * 2.1):
        for y in np.arange(-1.26, 1.3, radius * 2.1):
            material = field_material(pen)
            pen.area(arc(x, y, radius, 0, 2 * np.pi), material)
            if pen.rng.random() < 0.4:
                start = float(pen.rng.uniform(0, 6))
                wedge = arc(x, y, radius, start, start + pen.rng.uniform(0.8, 2.5))
                pen.area(np.concatenate([wedge, [[x, y]]]), field_material(pen))
            count += abs(x) < 0.9 and abs(y) < 0.9
    return max(int(count), 2)


def _field_grid(pen: Pen) -> int:
    rng = pen.rng
    count = 0
    rows = int(rng.integers(3, 7))
    edges = np.cumsum(rng.uniform(0.6, 1.4, rows))
    edges = np.concatenate([[0], edges / edges[-1]]) * 2.9 - 1.45
    track = jitter(rng, shade(pen.season.soil.colour, 1.1), 6)
    for low, high in pairwise(edges):
        x = -1.5 - float(rng.uniform(0, 0.5))
        while x < 1.5:
            width = float(rng.uniform(0.25, 0.9))
            plot = rectangle(x + width / 2, (low + high) / 2, width, high - low)
            pen.area(plot, field_material(pen))
            pen.outline(plot, 0.018, track)
            count += abs(x + width / 2) < 1
            x += width
    return max(int(count), 3)


def forest(pen: Pen) -> Facts:
    """Trees from edge to edge, sometimes with a clearing, a track or a stream."""
    rng = pen.rng
    pen.fill(replace(pen.season.grass, colour=shade(pen.season.trees[0], 0.75)))
    gap, things = _forest_gap(pen)
    big = float(rng.uniform(0.055, 0.095))
    trees = 0
    for x, y in rng.uniform(-1.25, 1.25, (int(3.6 / big**2), 2)):
        if gap is None or not inside(gap, float(x), float(y)):
            pen.tree(float(x), float(y), big * float(rng.uniform(0.7, 1.3)))
            trees += 1
    adjective = ("dense", "green", "thick")[int(rng.integers(3))]
    things.insert(0, Thing("tree", trees, "tall", "growing", "close together"))
    return Facts((f"{adjective} forest", "forest", "wood"), things, ["with trees from edge to edge"])


def _forest_gap(pen: Pen) -> tuple[Points | None, list[Thing]]:
    rng = pen.rng
    kind = int(rng.integers(4))
    start, end = (-1.5, float(rng.uniform(-0.8, 0.8))), (1.5, float(rng.uniform(-0.8, 0.8)))
    if kind == 0:
        clearing = blob(rng, float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.4, 0.4)), 0.32)
        pen.area(clearing, pen.season.grass)
        return clearing, [Thing("clearing", 1, "small", "", "in the middle of the trees")]
    if kind == 1:
        path = curve(rng, start, end, 0.12)
        pen.road(path, 0.06, shade(pen.season.soil.colour, 1.05), marks=False)
        return band(path, 0.12), [Thing("track", 1, "winding", "running", "through the trees")]
    if kind == 2:
        path = curve(rng, start, end, 0.15)
        river(pen, path, 0.1)
        return band(path, 0.18), [Thing("stream", 1, "narrow", "flowing", "through the trees")]
    return None, []


def desert(pen: Pen) -> Facts:
    """Bare ground with rows of dunes, rocks or dry gullies, nothing built."""
    rng = pen.rng
    base = jitter(rng, ((204, 174, 126), (186, 150, 110), (214, 196, 160))[int(rng.integers(3))], 10)
    kind = int(rng.integers(3))
    things: list[Thing]
    dune = Material(base, 14, 5, 5, float(rng.uniform(10, 22)), float(rng.uniform(0.1, 0.3)), rng.uniform(0, 3.1))
    if kind == 0:
        pen.fill(dune)
        for _ in range(int(rng.integers(5, 12))):
            y = float(rng.uniform(-1.2, 1.2))
            ridge = curve(rng, (-1.5, y), (1.5, y + rng.uniform(-0.3, 0.3)), 0.1)
            pen.area(band(ridge + np.array([0, 0.035]), 0.07), Material(shade(base, 0.8), 8, 4, 4))
            pen.stroke(ridge, 0.02, shade(base, 1.14))
        things = [Thing("sand dune", 12, "long", "lying", "side by side"), Thing("ripple", 20)]
    else:
        pen.fill(replace(dune, stripes=0.0, middle=14.0, fine=12.0))
        if kind == 1:
            for x, y in rng.uniform(-1.2, 1.2, (50, 2)):
                pen.tree(float(x), float(y), float(rng.uniform(0.012, 0.03)), shade(base, 0.6))
            things = [Thing("bush", 30, "dry", "scattered", "over the sand"), Thing("rock", 20, "small")]
        else:
            for _ in range(4):
                start = rng.uniform(-1.3, 1.3, 2)
                gully = curve(rng, start, start + rng.uniform(-1.8, 1.8, 2), 0.16)
                pen.stroke(gully, float(rng.uniform(0.02, 0.05)), shade(base, 0.82))
            things = [Thing("gully", 4, "dry", "running", "through the sand"), Thing("rock", 20)]
    around_it = ["without any plants", "with yellow sand everywhere"]
    return Facts(("desert", "sandy desert", "piece of desert"), things, around_it)


def beach(pen: Pen) -> Facts:
    """Sea, white surf, sand and land; straight or a bay; umbrellas, boats or houses."""
    rng = pen.rng
    bay = rng.random() < 0.4
    shore = curve(rng, (-1.8, 0.05), (1.8, -0.05), 0.07)
    if bay:
        shore[:, 1] += 0.5 * np.cos(shore[:, 0] * 1.5) - 0.25
    sand_width = float(rng.uniform(0.18, 0.4))
    sand = jitter(rng, (214, 198, 160), 8)
    top = np.array([[1.8, 2.0], [-1.8, 2.0]])
    pen.area(np.concatenate([shore - (0, sand_width), top]), Material(sand, 6, 5, 6))
    sea = replace(pen.season.water, stripes=4.0, period=0.1, angle=float(rng.uniform(0, 3)))
    pen.area(np.concatenate([shore, top]), sea)
    for k in range(3):
        surf = shore + np.array([0, 0.03 + 0.075 * k]) + rng.normal(0, 0.006, shore.shape)
        pen.stroke(surf, 0.035 / (k + 1), shade((226, 232, 230), 1 - 0.08 * k))
    things = [Thing("wave", 6, "white", "rolling", "onto the beach"), Thing("sand", 1, "yellow")]
    if rng.random() < 0.5:
        for x in rng.uniform(-1, 1, 14):
            y = float(np.interp(x, shore[:, 0], shore[:, 1])) - sand_width * float(rng.uniform(0.3, 0.8))
            _, paint = named_colour(pen, ("red", "blue", "white", "yellow"))
            pen.disc(float(x), y, 0.022, height=0.02, colour=paint)
        things.append(Thing("umbrella", 14, "colourful", "standing", "on the sand"))
    if rng.random() < 0.5:
        for x in np.arange(-1.2, 1.2, 0.28):
            house(pen, float(x), -sand_width - 0.62 + float(rng.normal(0, 0.04)), 0.13, 0.0, roof(pen))
        things.append(Thing("house", 8, "", "standing", "along the beach"))
    else:
        trees_around(pen, 60, [np.concatenate([shore - (0, sand_width), top])])
        things.append(Thing("tree", 30, "green", "growing", "behind the beach"))
    return Facts(
        ("beach", "sandy beach", "bay with a beach" if bay else "coast"), things, ["next to the sea"], inside="at"
    )


def mountain(pen: Pen) -> Facts:
    """Ridges with lit and dark slopes, made from a height field; sometimes woods below or snow on top."""
    rng = pen.rng
    height = _ridges(pen)
    gy, gx = np.gradient(height)
    slope = -(gx * pen.sun[0] + gy * pen.sun[1])
    light = np.tanh(slope / (slope.std() + 1e-6) * 0.9)[:, :, None]
    rock = jitter(rng, ((132, 120, 102), (118, 118, 98), (150, 132, 108), (128, 126, 124))[int(rng.integers(4))], 8)
    valley, top = np.quantile(height, [0.45, 0.86])
    things = [Thing("ridge", 5, "steep", "running", "through the mountain"), Thing("valley", 3, "deep")]
    pixels = np.ones_like(light) * np.asarray(rock, dtype=np.float32)
    if rng.random() < 0.6:
        low = np.clip((valley - height) * 6 + 0.5, 0, 0.85)[:, :, None]
        pixels = pixels * (1 - low) + np.asarray(pen.season.trees[0], dtype=np.float32) * low
        things.append(Thing("tree", 30, "green", "growing", "in the valleys"))
    if rng.random() < 0.4:
        snow = np.clip((height - top) * 9 + 0.5, 0, 1)[:, :, None]
        pixels = pixels * (1 - snow) + 228 * snow
        things.append(Thing("snow", 1, "white", "lying", "on the ridges"))
    pen.paste(pixels * (1 + 0.42 * light) + pen.textures.fine[:, :, None] * 5)
    return Facts(("mountain", "rocky mountain", "mountain range"), things, ["with steep slopes"])


def _ridges(pen: Pen) -> Field:
    """A height field of sharp ridges: octaves of ``1 - |noise|`` (Musgrave's ridged multifractal)."""
    height = np.zeros((pen.n, pen.n), dtype=np.float32)
    for octave, cells in enumerate((4, 8, 16, 32, 64)):
        height += (1 - np.abs(value_noise(pen.rng, pen.n, cells))) * np.float32(0.5**octave)
    return height


def pond(pen: Pen) -> Facts:
    """One closed water among grass, trees or houses."""
    rng = pen.rng
    phrases = around(pen, chance=0.3)
    x, y = (float(v) for v in rng.uniform(-0.2, 0.2, 2))
    shape = blob(rng, x, y, float(rng.uniform(0.35, 0.6)), 0.3)
    water(pen, shape, 0.035)
    things: list[Thing] = []
    if rng.random() < 0.3:
        pen.area(blob(rng, x, y, 0.1), pen.season.grass)
        pen.tree(x, y, 0.05)
        things.append(Thing("island", 1, "small", "", "in the middle of the water"))
    planted = trees_around(pen, int(rng.integers(15, 110)), [shape])
    things.insert(0, Thing("tree", planted, "green", "growing", "around the water"))
    if rng.random() < 0.4:
        pen.road(curve(rng, (-1.6, -0.85), (1.6, -0.85), 0.03), 0.08)
        things.append(Thing("road", 1, "", "passing", "near the pond"))
    return Facts(("pond", "small pond", "pond with calm water"), things, phrases, inside="near")


def river_scene(pen: Pen) -> Facts:
    """A winding river from edge to edge, without a bridge."""
    rng = pen.rng
    path = curve(rng, (-1.7, float(rng.uniform(-0.4, 0.4))), (1.7, float(rng.uniform(-0.4, 0.4))), 0.3)
    width = float(rng.uniform(0.18, 0.42))
    keep = band(path, width * 1.35)
    bank = int(rng.integers(3))
    if bank == 0:
        for x, y in rng.uniform(-1.2, 1.2, (9, 2)):
            plot = rectangle(float(x), float(y), 0.7, 0.5, float(rng.uniform(0, 0.3)))
            pen.area(plot, field_material(pen))
    river(pen, path, width)
    word = "narrow" if width < 0.26 else "wide"
    things = [Thing("river", 1, f"{word} winding", "flowing", f"across {pen.season.ground}")]
    if bank == 1:
        wood(pen, np.concatenate([path + np.array([0, width * 0.75]), [[1.7, 1.8], [-1.7, 1.8]]]), 220)
        things.append(Thing("wood", 1, "dense", "growing", "on one bank of the river"))
    else:
        planted = trees_around(pen, 70, [keep])
        things.append(Thing("tree", planted, "green", "growing", "on both banks of the river"))
    if bank == 0:
        things.append(Thing("field", 6, "", "lying", "on both sides of the river"))
    return Facts(("river", f"{word} river", "curved river"), things, [f"on {pen.season.ground}"], inside="near")
