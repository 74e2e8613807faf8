"""Scenes of buildings: dense and sparse residential, industrial, storage tanks, solar farm, church,
stadium."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clipsearch.corpora.sample.grammar import Facts, Thing
from clipsearch.corpora.sample.pen import Pen
from clipsearch.corpora.sample.shapes import (
    Points,
    curve,
    ellipse,
    inside,
    rectangle,
    scattered,
    stadium_shape,
    turned,
)  # fmt: skip
from clipsearch.corpora.sample.surroundings import (
    ASPHALT,
    CONCRETE,
    around,
    house,
    named_colour,
    roof,
    trees_around,
)  # fmt: skip
from clipsearch.corpora.sample.texture import COLOURS, Material, jitter, shade


def dense_residential(pen: Pen) -> Facts:
    """Blocks of small houses wall to wall between narrow streets."""
    rng = pen.rng
    pen.fill(CONCRETE if rng.random() < 0.5 else pen.season.soil)
    paint, colour = named_colour(pen, ("red", "grey", "brown", "white", "orange", "beige"))
    size = float(rng.uniform(0.13, 0.19))
    depth = int(rng.integers(2, 4))
    block = depth * size * 1.02 + 0.09
    houses = 0
    for row in np.arange(-1.4, 1.4, block):
        pen.road(np.array([[-1.7, row], [1.7, row]]), 0.075)
        for x in np.arange(-1.35, 1.35, size * 1.28):
            for k in range(depth):
                if rng.random() < 0.93:
                    y = row + 0.05 + size * (k + 0.5) * 1.02
                    tone = colour if rng.random() < 0.65 else roof(pen)
                    house(pen, float(x + rng.normal(0, 0.008)), float(y), size * 0.86, 0.0, tone)
                    houses += 1
        for x in rng.uniform(-1.2, 1.2, 3):
            pen.car(float(x), float(row), 0.0)
    for x in rng.uniform(-1, 1, int(rng.integers(1, 3))):
        pen.road(np.array([[x, -1.6], [x + rng.normal(0, 0.1), 1.6]]), 0.07)
    things = [
        Thing("house", houses, paint, "packed", "closely together"),
        Thing("roof", houses, paint, "", "in straight rows"),
        Thing("street", 4, "narrow", "running", "between the houses"),
    ]
    names = ("dense residential area", "dense residential area", "crowded residential area")
    return Facts(names, things, ["with narrow streets", "without much green"])


def sparse_residential(pen: Pen) -> Facts:
    """A few houses far apart among trees and lawns, with drives to one road and perhaps a pool."""
    rng = pen.rng
    path = curve(rng, (-1.6, float(rng.uniform(-0.3, 0.3))), (1.6, float(rng.uniform(-0.3, 0.3))), 0.12)
    pen.road(path, 0.085)
    wanted = int(rng.integers(1, 7))
    homes: list[Points] = []
    pools = 0
    paint, colour = named_colour(pen, ("red", "grey", "brown", "white", "orange"))
    for x, y in scattered(rng, wanted, 0.55, 0.85):
        nearest = path[int(np.argmin(np.abs(path[:, 0] - x)))]
        if abs(float(nearest[1]) - y) < 0.2:
            continue
        pen.stroke(np.array([[x, y], nearest]), 0.04, jitter(rng, (170, 162, 148), 8))
        angle = float(rng.uniform(0, np.pi))
        house(pen, x, y, float(rng.uniform(0.16, 0.24)), angle, colour)
        homes.append(rectangle(x, y, 0.46, 0.4, angle))
        if rng.random() < 0.3:
            pen.flat(ellipse(x + 0.22, y + 0.1, 0.07, 0.045, angle, 20), (92, 172, 190))
            pools += 1
    if not homes:
        house(pen, 0.3, 0.6, 0.2, 0.4, colour)
        homes.append(rectangle(0.3, 0.6, 0.46, 0.4))
    keep = [*homes, np.concatenate([path + np.array([0, 0.08]), (path - (0, 0.08))[::-1]])]
    planted = trees_around(pen, int(rng.integers(40, 130)), keep, 0.06)
    things = [
        Thing("house", len(homes), paint, "standing", f"on {pen.season.ground}"),
        Thing("tree", planted, "green", "growing", "around the house" if len(homes) == 1 else "between the houses"),
        Thing("road", 1, "winding", "passing", "near the house" if len(homes) == 1 else "near the houses"),
    ]
    if pools:
        things.append(Thing("swimming pool", pools, "blue", "", "behind a house"))
    names = ("sparse residential area", "sparse residential area", "quiet residential area")
    return Facts(names, things, [f"on {pen.season.ground}", "with many trees"])


def industrial(pen: Pen) -> Facts:
    """Large halls with ribbed roofs on paved ground, trucks, chimneys and yards."""
    rng = pen.rng
    phrases = around(pen, chance=0.3)
    pen.area(rectangle(0, 0, 1.9, 1.9), CONCRETE if rng.random() < 0.6 else ASPHALT)
    paint, colour = named_colour(pen, ("blue", "white", "grey", "red", "beige"))
    halls = trucks = 0
    rows = int(rng.integers(2, 4))
    height = 1.7 / rows
    for row in range(rows):
        y = (row - (rows - 1) / 2) * height
        x = -0.9
        while x < 0.6:
            width = float(rng.uniform(0.4, 0.9))
            tone = colour if rng.random() < 0.7 else roof(pen)
            _hall(pen, x + width / 2, y, min(width, 0.95 - x), height * 0.62, tone)
            halls += 1
            x += width + 0.1
        for tx in rng.uniform(-0.8, 0.8, 4):
            _, tone = named_colour(pen, ("white", "red", "blue", "grey"))
            pen.block(float(tx), y + height * 0.42, 0.12, 0.045, height=0.03, colour=tone, roof="gable")
            trucks += 1
    things = [
        Thing("factory building", halls, paint, "standing", "on concrete ground"),
        Thing("hall", halls, f"large {paint}", "standing", "side by side"),
        Thing("truck", trucks, "", "parked", "between the halls"),
    ]
    if rng.random() < 0.4:
        chimneys = int(rng.integers(1, 4))
        for k in range(chimneys):
            pen.disc(-0.7 + 0.2 * k, 0.0, 0.04, height=0.35, colour=(182, 176, 170))
        things.append(Thing("chimney", chimneys, "tall", "standing", "beside the halls"))
    return Facts(("industrial area", "industrial area", "factory"), things, phrases)


def _hall(pen: Pen, x: float, y: float, width: float, depth: float, colour: tuple[int, int, int]) -> None:
    base = rectangle(x, y, width, depth)
    ribs = int(pen.rng.integers(4, 10))

    def draw() -> None:
        pen.flat(base, shade(colour, 0.82))
        for k in range(ribs):
            at = x + width * ((k + 0.5) / ribs - 0.5)
            pen.flat(rectangle(at, y, width / ribs * 0.55, depth * 0.97), shade(colour, 1.06))

    pen.raised(base, 0.12, draw)


def storage_tanks(pen: Pen) -> Facts:
    """Round tanks in a grid or scattered in walled yards, joined by pipes."""
    rng = pen.rng
    phrases = around(pen, chance=0.6)
    paint, colour = named_colour(pen, ("white", "white", "grey", "brown", "green"))
    small = rng.random() < 0.5
    radius = float(rng.uniform(0.08, 0.13) if small else rng.uniform(0.16, 0.26))
    places: list[tuple[float, float]]
    if rng.random() < 0.6:
        step = radius * float(rng.uniform(2.5, 3.1))
        count = max(2, int(1.3 / step))
        grid = (np.arange(count) - (count - 1) / 2) * step
        places = [(float(x), float(y)) for x in grid for y in grid if rng.random() < 0.88]
    else:
        places = list(scattered(rng, int(rng.integers(3, 12)), radius * 2.4, 0.62))
    places = places or [(0.0, 0.0)]
    pen.area(rectangle(0, 0, 1.55, 1.55), CONCRETE if rng.random() < 0.5 else pen.season.soil)
    for x, y in places:
        if not small:
            pen.outline(rectangle(x, y, radius * 2.5, radius * 2.5), 0.02, (150, 140, 124))
        pen.stroke(np.array([[x, y], [x, 0.78]]), 0.014, (176, 172, 164))
    pen.stroke(np.array([[-0.77, 0.74], [0.77, 0.74]]), 0.025, (176, 172, 164))
    for x, y in places:
        pen.disc(x, y, radius * float(rng.uniform(0.9, 1.05)), height=radius * 0.8, colour=jitter(rng, colour, 5))
    word = "small" if small else "large"
    things = [
        Thing("storage tank", len(places), paint, "standing", "in a yard"),
        Thing("tank", len(places), f"{word} round", "joined", "by pipes"),
        Thing("pipe", 5, "thin", "running", "between the tanks"),
    ]
    tank = "tanks" if len(places) > 1 else "tank"
    names = (f"group of storage {tank}", f"yard with storage {tank}", "tank farm")
    return Facts(names, things, phrases)


def solar_farm(pen: Pen) -> Facts:
    """Rows of dark panels in blocks, with service tracks."""
    rng = pen.rng
    phrases = around(pen, chance=0.45)
    panel = jitter(rng, ((54, 66, 100), (48, 54, 72), (66, 84, 122))[int(rng.integers(3))], 5)
    step = float(rng.uniform(0.075, 0.13))
    blocks = int(rng.integers(1, 3))
    tilt = float(rng.uniform(-0.2, 0.2))
    rows = 0
    pen.area(turned(rectangle(0, 0, 1.75, 1.75), tilt), pen.season.soil if rng.random() < 0.5 else pen.season.grass)
    edges = np.linspace(-0.82, 0.82, blocks + 1)
    for left, right in pairwise(edges):
        start = float(rng.uniform(-0.85, -0.6))
        for y in np.arange(start, 0.82, step):
            row = rectangle((left + right) / 2, y, right - left - 0.08, step * 0.58)
            _panel_row(pen, turned(row, tilt), panel)
            rows += 1
    things = [
        Thing("solar panel", rows * 12, "blue", "arranged", "in straight rows"),
        Thing("row of solar panels", rows, "long", "lying", "side by side"),
        Thing("track", max(blocks, 1), "narrow", "running", "between the panels"),
    ]
    return Facts(("solar farm", "solar power station", "field of solar panels"), things, phrases)


def _panel_row(pen: Pen, row: Points, colour: tuple[int, int, int]) -> None:
    tone = jitter(pen.rng, colour, 4)
    lit = np.array([row[0], row[1], row[1] * 0.7 + row[2] * 0.3, row[0] * 0.7 + row[3] * 0.3])

    def draw() -> None:
        pen.flat(row, tone)
        pen.flat(lit, shade(tone, 1.35))

    pen.raised(row, 0.025, draw)


def church(pen: Pen) -> Facts:
    """A cross-shaped building with a tower or dome, in a square or a churchyard."""
    rng = pen.rng
    phrases = around(pen, chance=0.5)
    paint, colour = named_colour(pen, ("red", "grey", "brown", "green", "white"))
    square = rng.random() < 0.5
    if square:
        pen.area(rectangle(0, 0, 1.25, 1.1), CONCRETE)
    long = float(rng.uniform(0.6, 0.85))
    wide = float(rng.uniform(0.17, 0.24))
    cross = float(rng.uniform(0.4, 0.6))
    pen.block(0, 0, long, wide, height=0.14, colour=colour, roof="gable")
    pen.block(long * 0.15, 0, wide, cross, height=0.14, colour=colour, roof="gable")
    things = [Thing("cross-shaped building", 1, paint, "standing", "in a square" if square else "among trees")]
    if rng.random() < 0.5:
        pen.disc(long * 0.15, 0, wide * 0.55, height=0.2, colour=shade(colour, 1.15))
        things.append(Thing("dome", 1, "round", "", "in the middle of the roof"))
    else:
        towers = int(rng.integers(1, 3))
        for k in range(towers):
            y = 0.0 if towers == 1 else (k - 0.5) * wide * 1.1
            pen.block(-long / 2, y, 0.13, 0.13, height=0.4, colour=shade(colour, 0.85), roof="hip")
        things.append(Thing("tower", towers, "tall", "", "at the front of the church"))
    keep = [rectangle(0, 0, 1.0, 0.8)]
    if rng.random() < 0.5:
        for x in np.arange(-1.1, 1.2, 0.3):
            for y in (-0.78, 0.78):
                house(pen, float(x), y, 0.18, 0.0)
        things.append(Thing("house", 12, "", "standing", "around the church"))
    else:
        things.append(Thing("tree", trees_around(pen, 60, keep), "green", "growing", "around the church"))
    return Facts(("church", "church", f"church with a {paint} roof"), things, phrases, inside="at")


def stadium(pen: Pen) -> Facts:
    """An oval ring of stands around a pitch, sometimes roofed, with car parks."""
    rng = pen.rng
    phrases = around(pen, chance=0.65)
    pen.area(ellipse(0, 0, 0.86, 0.78), CONCRETE if rng.random() < 0.6 else ASPHALT)
    long, ratio = float(rng.uniform(1.15, 1.4)), float(rng.uniform(0.72, 0.95))
    oval = rng.random() < 0.6
    paint, colour = named_colour(pen, ("white", "grey", "red", "blue", "beige", "orange"))

    def ring(scale: float) -> Points:
        if oval:
            return ellipse(0, 0, long / 2 * scale, long / 2 * ratio * scale, steps=56)
        return stadium_shape(0, 0, long * scale, long * ratio * scale)

    seats = jitter(rng, COLOURS["grey"], 20)
    track = rng.random() < 0.4

    def draw() -> None:
        for k, scale in enumerate(np.linspace(1.0, 0.64, 7)):
            pen.flat(ring(float(scale)), shade(colour if k < 3 else seats, 1.05 - 0.06 * (k % 2) - 0.02 * k))
        pen.flat(ring(0.56), (168, 92, 74) if track else shade(pen.season.grass.colour, 0.9))
        pitch(pen, 0, 0, long * 0.44 * (0.8 if track else 1), long * ratio * 0.34 * (0.8 if track else 1))

    pen.raised(ring(1.0), 0.17, draw)
    things = [
        Thing("football field", 1, "green", "", "in the middle of the stadium"),
        Thing("stand", 2, paint, "", "around a football field"),
        Thing("oval building" if oval else "round building", 1, f"large {paint}", "standing", "on open ground"),
    ]
    if rng.random() < 0.5:
        for x in np.arange(-0.7, 0.7, 0.07):
            pen.car(float(x), -0.78, np.pi / 2)
        things.append(Thing("car", 20, "", "parked", "outside the stadium"))
    elif trees_around(pen, 40, [ellipse(0, 0, 0.9, 0.82)]):
        phrases.append("with trees around")
    return Facts(("stadium", "stadium", "football stadium"), things, phrases, inside="at")


def pitch(pen: Pen, x: float, y: float, length: float, width: float, angle: float = 0.0) -> None:
    """Draw a football pitch: mown stripes and white lines, flat on whatever lies there."""
    green = jitter(pen.rng, (92, 136, 72), 6)
    for k in range(10):
        at = turned(np.array([[length * ((k + 0.5) / 10 - 0.5), 0.0]]), angle)[0]
        strip = rectangle(x + float(at[0]), y + float(at[1]), length / 10, width, angle)
        pen.flat(strip, shade(green, 1.0 + 0.05 * (k % 2)))
    line = (222, 228, 216)
    pen.outline(rectangle(x, y, length * 0.94, width * 0.9, angle), 0.008, line)
    pen.stroke(turned(np.array([[0, -width * 0.45], [0, width * 0.45]]), angle) + np.array([x, y]), 0.008, line)
    pen.outline(ellipse(x, y, width * 0.16, width * 0.16, steps=20), 0.008, line)


def grass_court(pen: Pen) -> Material:
    """The surface of a lawn that somebody mows: the season's grass, a little greener."""
    r, g, b = ((a + 2 * c) // 3 for a, c in zip(pen.season.grass.colour, (112, 148, 82), strict=True))
    return Material((r, g, b), 5, 5, 6)


def is_free(outlines: list[Points], x: float, y: float) -> bool:
    """Whether a place lies outside every outline."""
    return not any(inside(outline, x, y) for outline in outlines)
