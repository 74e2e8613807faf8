"""Scenes of sport: tennis courts, golf course, playground with a running track."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipsearch.corpora.sample.grammar import Facts, Thing
from clipsearch.corpora.sample.pen import Pen
from clipsearch.corpora.sample.scenes_built import grass_court, is_free, pitch
from clipsearch.corpora.sample.shapes import Points, blob, curve, rectangle, scattered, stadium_shape
from clipsearch.corpora.sample.surroundings import ASPHALT, around, named_colour, trees_around, water
from clipsearch.corpora.sample.texture import COLOURS, jitter, shade


def tennis_courts(pen: Pen) -> Facts:
    """One to eight courts with white lines, in one or two rows, fenced."""
    rng = pen.rng
    phrases = around(pen, chance=0.5)
    columns, rows = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    name, colour = named_colour(pen, ("blue", "green", "red", "orange", "brown"))
    surround = jitter(rng, COLOURS[("green", "red", "grey", "brown")[int(rng.integers(4))]], 8)
    width = min(0.36, 1.3 / columns)
    length = width * 2.05
    pen.flat(rectangle(0, 0, columns * width * 1.08 + 0.06, rows * length * 1.06 + 0.06), shade(surround, 0.7))
    pen.flat(rectangle(0, 0, columns * width * 1.08 + 0.02, rows * length * 1.06 + 0.02), surround)
    for i in range(columns):
        for j in range(rows):
            x, y = (i - (columns - 1) / 2) * width * 1.08, (j - (rows - 1) / 2) * length * 1.06
            _court(pen, x, y, width, length, colour)
    count = columns * rows
    place = ("arranged", "side by side") if count > 1 else ("", "behind a fence")
    things = [Thing("tennis court", count, name, *place), Thing("court", count, name, "marked", "with white lines")]
    area = rectangle(0, 0, columns * width * 1.2 + 0.1, rows * length * 1.15 + 0.1)
    if rng.random() < 0.4:
        side = columns * width * 0.54 + 0.25
        pen.block(side, 0, 0.25, 0.4, height=0.08, colour=named_colour(pen, ("white", "grey", "red"))[1])
        area = np.concatenate([area, rectangle(side, 0, 0.4, 0.5)[1:3]])
        things.append(Thing("building", 1, "small", "standing", "beside the courts"))
    planted = trees_around(pen, int(rng.integers(15, 80)), [area])
    things.append(Thing("tree", planted, "green", "growing", "around the courts"))
    what = "tennis court" if count == 1 else "group of tennis courts"
    return Facts(
        (what, what, f"sports ground with {'a ' if count == 1 else ''}{what.rsplit('of ', maxsplit=1)[-1]}"),
        things,
        phrases,
    )


def _court(pen: Pen, x: float, y: float, width: float, length: float, colour: tuple[int, int, int]) -> None:
    line = (228, 230, 226)
    pen.flat(rectangle(x, y, width * 0.72, length * 0.8), colour)
    pen.outline(rectangle(x, y, width * 0.7, length * 0.78), 0.011, line)
    pen.outline(rectangle(x, y, width * 0.52, length * 0.78), 0.009, line)
    pen.outline(rectangle(x, y, width * 0.52, length * 0.4), 0.009, line)
    pen.stroke(np.array([[x, y - length * 0.2], [x, y + length * 0.2]]), 0.009, line)
    pen.stroke(np.array([[x - width * 0.42, y], [x + width * 0.42, y]]), 0.014, (52, 56, 58))


def golf_course(pen: Pen) -> Facts:
    """Winding fairways, round greens, sand bunkers, trees, and sometimes a pond."""
    rng = pen.rng
    rough = replace(pen.season.grass, colour=shade(pen.season.grass.colour, 0.86))
    pen.fill(rough)
    lawn = grass_court(pen)
    keep: list[Points] = []
    bunkers = holes = 0
    for _ in range(int(rng.integers(2, 4))):
        start, end = rng.uniform(-1.1, 1.1, 2), rng.uniform(-1.1, 1.1, 2)
        path = curve(rng, start, end, 0.15)
        for at in path[::5]:
            outline = blob(rng, float(at[0]), float(at[1]), 0.15, 0.08, 24)
            pen.area(outline, lawn)
            keep.append(outline)
        green = blob(rng, float(end[0]), float(end[1]), 0.15, 0.12)
        pen.area(green, replace(lawn, colour=shade(lawn.colour, 1.18), middle=2.0, fine=3.0))
        holes += 1
        for _ in range(int(rng.integers(1, 5))):
            x, y = end + rng.normal(0, 0.22, 2)
            bunker = blob(rng, float(x), float(y), float(rng.uniform(0.05, 0.1)), 0.3, 30)
            pen.flat(bunker, jitter(rng, (226, 212, 178), 6))
            keep.append(bunker)
            bunkers += 1
    things = [
        Thing("bunker", bunkers, "white", "lying", "beside the green"),
        Thing("green", holes, "smooth", "surrounded", "by sand bunkers"),
        Thing("fairway", holes, "winding", "running", "between the trees"),
    ]
    if rng.random() < 0.4:
        lake = blob(rng, float(rng.uniform(-0.6, 0.6)), float(rng.uniform(-0.6, 0.6)), 0.22)
        water(pen, lake, 0.015)
        keep.append(lake)
        things.append(Thing("pond", 1, "small", "lying", "on the golf course"))
    for x, y in scattered(rng, int(rng.integers(50, 110)), 0.07):
        if is_free(keep, x, y):
            pen.tree(x, y, float(rng.uniform(0.035, 0.06)))
    return Facts(("golf course", "golf course", "golf course with bunkers"), things, [f"on {pen.season.ground}"])


def playground(pen: Pen) -> Facts:
    """A running track around a football pitch, with smaller courts and school buildings beside it."""
    rng = pen.rng
    phrases = around(pen, chance=0.5)
    name, colour = named_colour(pen, ("red", "red", "orange", "blue", "brown"))
    length, width = float(rng.uniform(1.15, 1.4)), float(rng.uniform(0.62, 0.78))
    pen.area(rectangle(0, 0, length + 0.12, width + 0.1), grass_court(pen))
    pen.flat(stadium_shape(0, 0, length, width), colour)
    for k in range(1, 4):
        inner = stadium_shape(0, 0, length - 0.05 * k, width - 0.05 * k)
        pen.outline(inner, 0.006, shade(colour, 1.35))
    pen.area(stadium_shape(0, 0, length - 0.2, width - 0.2), grass_court(pen))
    pitch(pen, 0, 0, length - width * 0.85, width - 0.24)
    things = [
        Thing("running track", 1, name, "", "around a football field"),
        Thing("football field", 1, "green", "", f"inside a {name} running track"),
    ]
    keep = [rectangle(0, 0, length + 0.15, width + 0.12)]
    if rng.random() < 0.5:
        courts = int(rng.integers(2, 5))
        _, tone = named_colour(pen, ("green", "blue", "red", "grey"))
        for k in range(courts):
            x = (k - (courts - 1) / 2) * 0.3
            pen.area(rectangle(x, width / 2 + 0.22, 0.27, 0.2), ASPHALT)
            pen.flat(rectangle(x, width / 2 + 0.22, 0.22, 0.15), tone)
            pen.outline(rectangle(x, width / 2 + 0.22, 0.21, 0.14), 0.008, (226, 226, 222))
        keep.append(rectangle(0, width / 2 + 0.22, courts * 0.32, 0.26))
        things.append(Thing("basketball court", courts, "small", "", "beside the running track"))
    if rng.random() < 0.5:
        paint, tone = named_colour(pen, ("red", "white", "grey", "beige"))
        pen.block(0, -width / 2 - 0.25, length * 0.8, 0.16, height=0.14, colour=tone, roof="gable")
        keep.append(rectangle(0, -width / 2 - 0.25, length * 0.85, 0.22))
        things.append(Thing("building", 1, f"long {paint}", "standing", "beside the running track"))
    trees_around(pen, 60, keep)
    return Facts(("playground", "sports ground", "playground"), things, phrases)
