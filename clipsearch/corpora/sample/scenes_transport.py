"""Scenes of traffic: airport, harbour, bridge, parking lot, railway station, roundabout, interchange."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clipsearch.corpora.sample.grammar import Facts, Thing
from clipsearch.corpora.sample.pen import Pen
from clipsearch.corpora.sample.shapes import Points, arc, band, curve, ellipse, rectangle, turned
from clipsearch.corpora.sample.surroundings import (
    ASPHALT,
    CONCRETE,
    around,
    field_material,
    house,
    named_colour,
    river,
    roof,
    trees_around,
)  # fmt: skip
from clipsearch.corpora.sample.texture import Colour, jitter, shade


def airport(pen: Pen) -> Facts:
    """A runway, or an apron with a terminal; planes parked at the terminal or standing on the runway."""
    rng = pen.rng
    phrases = around(pen, chance=0.3)
    things: list[Thing] = []
    runways = int(rng.integers(1, 3)) if rng.random() < 0.75 else 0
    for k in range(runways):
        y = 0.42 + 0.32 * k
        pen.area(rectangle(0, y, 3.4, 0.17), ASPHALT)
        pen.dashes(np.stack([np.linspace(-1.7, 1.7, 40), np.full(40, y)], axis=1), 0.014, (226, 226, 222))
        for x in (-0.8, 0.8):
            pen.stroke(np.array([[x, y], [x + 0.12, y]]), 0.07, (214, 214, 210))
        pen.area(rectangle(float(rng.uniform(-0.6, 0.6)), y - 0.2, 0.1, 0.4, 0.3), ASPHALT)
    paint, colour = named_colour(pen, ("white", "white", "white", "grey", "blue"))
    pen.area(rectangle(0, -0.18, 2.1, 0.62), CONCRETE)
    long = float(rng.uniform(0.8, 1.6))
    terminal, top = named_colour(pen, ("grey", "white", "beige", "brown"))
    pen.block(0, -0.62, long, 0.2, height=0.09, colour=top)
    planes = int(rng.integers(2, 8))
    for x in np.linspace(-0.42, 0.42, planes) * (planes / 7 + 0.7) * 1.6:
        plane(pen, float(x), -0.26 + float(rng.normal(0, 0.03)), 0.26, -np.pi / 2, colour)
    if runways and rng.random() < 0.5:
        plane(pen, float(rng.uniform(-0.5, 0.5)), 0.42, 0.26, 0.0, colour)
        things.append(Thing("plane", 1, paint, "standing", "on the runway"))
    things.insert(0, Thing("plane", planes, paint, "parked", "next to a terminal"))
    things.append(Thing("terminal", 1, terminal, "", "near some planes"))
    if runways:
        things.append(Thing("runway", runways, "long", "", "beside the terminal"))
    return Facts(("airport", "airport", "small airport"), things, phrases)


def plane(pen: Pen, x: float, y: float, size: float, angle: float, colour: Colour) -> None:
    """Add a plane of ``size`` world units whose nose points along ``angle``."""
    half = np.array([
        [0.5, 0.0], [0.42, 0.05], [0.12, 0.06], [-0.12, 0.48], [-0.2, 0.48], [-0.08, 0.06], [-0.36, 0.045],
        [-0.46, 0.17], [-0.52, 0.17], [-0.47, 0.0],
    ])  # fmt: skip
    outline = turned(np.concatenate([half, half[::-1] * (1, -1)]) * size, angle) + np.array([x, y])
    spine = turned(np.array([[0.46, 0.0], [-0.46, 0.0]]) * size, angle) + np.array([x, y])

    def draw() -> None:
        pen.flat(outline, shade(colour, 0.92))
        pen.stroke(spine, size * 0.07, shade(colour, 1.1))

    pen.raised(outline, 0.03, draw)


def ship(pen: Pen, x: float, y: float, size: float, angle: float, colour: Colour) -> None:
    """Add a boat or ship of ``size`` world units whose bow points along ``angle``."""
    hull = np.array([[0.5, 0.0], [0.28, 0.15], [-0.46, 0.14], [-0.5, 0.0], [-0.46, -0.14], [0.28, -0.15]]) * size
    outline = turned(hull, angle) + np.array([x, y])
    cabin = turned(rectangle(-0.2 * size, 0, 0.26 * size, 0.17 * size), angle) + np.array([x, y])

    def draw() -> None:
        pen.flat(outline, shade(colour, 0.9))
        pen.flat(turned(hull * 0.8, angle) + np.array([x, y]), shade(colour, 1.05))
        pen.flat(cabin, shade(colour, 0.7))

    pen.raised(outline, 0.02, draw)


def harbour(pen: Pen) -> Facts:
    """Water, a quay, piers with boats moored on both sides, or ships and containers."""
    rng = pen.rng
    pen.fill(pen.season.water)
    quay = float(rng.uniform(-0.6, -0.3))
    pen.area(rectangle(0, quay - 1, 4, 2), CONCRETE)
    paint, colour = named_colour(pen, ("white", "white", "red", "blue", "grey"))
    things = _marina(pen, quay, paint, colour) if rng.random() < 0.6 else _cargo(pen, quay)
    if rng.random() < 0.5:
        for x in np.arange(-1.2, 1.2, 0.3):
            house(pen, float(x), quay - 0.42, 0.15, 0.0, roof(pen))
        things.append(Thing("building", 8, "", "standing", "along the quay"))
    return Facts(("harbour", "port", "harbour"), things, ["by the sea", "beside a concrete quay"])


def _marina(pen: Pen, quay: float, paint: str, colour: Colour) -> list[Thing]:
    rng = pen.rng
    piers, boats = int(rng.integers(2, 5)), 0
    step = float(rng.uniform(0.1, 0.15))
    for x in np.linspace(-0.75, 0.75, piers):
        long = float(rng.uniform(0.7, 1.15))
        pen.stroke(np.array([[x, quay], [x, quay + long]]), 0.035, (178, 172, 160))
        for y in np.arange(quay + 0.12, quay + long, step):
            for side in (-1, 1):
                if rng.random() < 0.8:
                    tone = colour if rng.random() < 0.75 else jitter(rng, (190, 190, 186), 20)
                    ship(pen, float(x) + side * 0.1, float(y), 0.15, 0.0 if side > 0 else np.pi, tone)
                    boats += 1
    return [
        Thing("boat", boats, paint, "moored", "at the piers"),
        Thing("pier", piers, "long", "", "with boats on both sides"),
    ]


def _cargo(pen: Pen, quay: float) -> list[Thing]:
    rng = pen.rng
    ships = int(rng.integers(1, 4))
    paint, colour = named_colour(pen, ("red", "blue", "black", "green", "grey"))
    for k in range(ships):
        x = (k - (ships - 1) / 2) * 0.85 + float(rng.normal(0, 0.05))
        ship(pen, x, quay + 0.14 + float(rng.uniform(0, 0.04)), 0.7, 0.0 if rng.random() < 0.5 else np.pi, colour)
    containers = 0
    for x in np.arange(-1.2, 1.2, 0.13):
        for y in (quay - 0.1, quay - 0.17, quay - 0.24):
            if rng.random() < 0.7:
                _, tone = named_colour(pen, ("red", "blue", "orange", "green", "white", "brown"))
                pen.block(float(x), y, 0.11, 0.05, height=0.04, colour=tone, roof="gable")
                containers += 1
    return [
        Thing("ship", ships, f"large {paint}" if ships == 1 else paint, "moored", "at the quay"),
        Thing("container", containers, "colourful", "stacked", "on the quay"),
    ]


def bridge(pen: Pen) -> Facts:
    """A road or railway bridge across a river, with cars, piers in the water and banks of several kinds."""
    rng = pen.rng
    path = curve(rng, (-1.7, 0.0), (1.7, 0.0), 0.12)
    width = float(rng.uniform(0.4, 0.85))
    if rng.random() < 0.4:
        for x in (-0.9, -0.3, 0.3, 0.9):
            for y in (-0.95, 0.95):
                pen.area(rectangle(x, y, 0.58, 0.7), field_material(pen))
    river(pen, path, width)
    count = 2 if rng.random() < 0.25 else 1
    cars = 0
    slant = float(rng.uniform(-0.35, 0.35))
    for k in range(count):
        x = (k - (count - 1) / 2) * 0.5
        deck = turned(np.stack([np.linspace(-1.7, 1.7, 24), np.zeros(24)], axis=1), np.pi / 2 + slant) + np.array(
            [x, 0]
        )
        cars += _deck(pen, deck, float(rng.uniform(0.09, 0.17)))
    trees_around(pen, 40, [band(path, width * 1.3), rectangle(0, 0, 1.0, 4)])
    place = ("river", "wide river", "calm river")[int(rng.integers(3))]
    things = [Thing("bridge", count, "", "built", f"across a {place}"), Thing("river", 1, "", "", "under a bridge")]
    if cars:
        things.append(Thing("car", cars, "", "driving", "on the bridge"))
    names = ("bridge over a river", "bridge", "bridge") if count == 1 else ("bridge", "pair of bridges")
    around_it = ["between two banks", f"with {pen.season.ground} on both banks"]
    return Facts(names, things, around_it, inside="near")


def _deck(pen: Pen, deck: Points, width: float) -> int:
    tone = jitter(pen.rng, (150, 148, 146), 14)
    ahead = deck[-1] - deck[0]
    angle = float(np.arctan2(ahead[1], ahead[0]))

    def draw() -> None:
        pen.stroke(deck, width * 1.25, shade(tone, 1.22))
        pen.stroke(deck, width, shade(tone, 0.88))
        pen.dashes(deck, width * 0.07, (228, 226, 220))

    pen.raised(band(deck[4:-4], width), 0.11, draw)
    cars = int(pen.rng.integers(0, 9))
    for t in pen.rng.uniform(0.2, 0.8, cars):
        x, y = deck[0] + ahead * t
        off = turned(np.array([[0.0, width * 0.22 * (1 if pen.rng.random() < 0.5 else -1)]]), angle)[0]
        pen.car(float(x + off[0]), float(y + off[1]), angle)
    return cars


def parking_lot(pen: Pen) -> Facts:
    """Rows of parked cars on asphalt with white bays, sometimes beside a large building."""
    rng = pen.rng
    phrases = around(pen, chance=0.35)
    width, depth = float(rng.uniform(1.3, 1.8)), float(rng.uniform(1.1, 1.5))
    pen.area(rectangle(0, 0, width, depth), ASPHALT)
    filled = float(rng.uniform(0.35, 0.95))
    cars = rows = 0
    for y in np.arange(-depth / 2 + 0.12, depth / 2 - 0.08, 0.29):
        rows += 1
        for x in np.arange(-width / 2 + 0.08, width / 2 - 0.06, 0.075):
            for dy in (-0.062, 0.062):
                pen.stroke(np.array([[x - 0.037, y], [x - 0.037, y + dy * 1.9]]), 0.008, (206, 206, 202))
                if rng.random() < filled:
                    pen.car(float(x), float(y + dy), np.pi / 2, 0.095)
                    cars += 1
    word = "full" if filled > 0.75 else "half empty" if filled < 0.55 else "large"
    things = [
        Thing("car", cars, "", "parked", "in rows"),
        Thing("row of parked cars", rows, "neat", "lying", "side by side"),
    ]
    if rng.random() < 0.4:
        name, tone = named_colour(pen, ("white", "grey", "beige", "brown"))
        pen.block(0, depth / 2 + 0.2, width * 0.8, 0.3, height=0.1, colour=tone)
        things.append(Thing("building", 1, f"large {name}", "standing", "beside the parked cars"))
        phrases.append("next to a building")
    else:
        trees_around(pen, 50, [rectangle(0, 0, width + 0.1, depth + 0.1)])
    return Facts(("parking lot", f"{word} parking lot", "car park"), things, phrases)


def railway_station(pen: Pen) -> Facts:
    """Parallel tracks, platforms with roofs, trains, and a station building."""
    rng = pen.rng
    phrases = around(pen, chance=0.3)
    tracks = int(rng.integers(4, 9))
    span = tracks * 0.12
    ballast = jitter(rng, (132, 122, 112), 10)
    pen.area(rectangle(0, 0, 3.6, span + 0.1), CONCRETE)
    trains = 0
    paint, colour = named_colour(pen, ("white", "red", "blue", "green", "grey", "orange"))
    for k in range(tracks):
        y = (k - (tracks - 1) / 2) * 0.12
        pen.stroke(np.array([[-1.8, y], [1.8, y]]), 0.075, ballast)
        for dy in (-0.02, 0.02):
            pen.stroke(np.array([[-1.8, y + dy], [1.8, y + dy]]), 0.009, (84, 78, 76))
        if rng.random() < 0.4 or (k == tracks - 1 and not trains):
            trains += 1
            start = float(rng.uniform(-1.2, 0.1))
            for car in range(int(rng.integers(3, 7))):
                pen.block(start + car * 0.25, y, 0.24, 0.065, height=0.04, colour=colour, roof="gable")
    platforms = 0
    for k in range(1, tracks, 2):
        y = (k - tracks / 2) * 0.12
        pen.block(float(rng.uniform(-0.3, 0.3)), y, 1.1, 0.06, height=0.05, colour=(190, 188, 182), roof="gable")
        platforms += 1
    name, tone = named_colour(pen, ("brown", "grey", "red", "white"))
    pen.block(0, span / 2 + 0.2, float(rng.uniform(0.6, 1.2)), 0.2, height=0.1, colour=tone, roof="hip")
    trees_around(pen, 25, [rectangle(0, 0.1, 4, span + 0.7)])
    things = [
        Thing("railway track", tracks, "", "running", "side by side"),
        Thing("train", trains, paint, "standing", "at the platforms"),
        Thing("platform", platforms, "long", "", "between the tracks"),
        Thing("building", 1, name, "standing", "beside the tracks"),
    ]
    return Facts(("railway station", "train station", "railway station"), things, phrases, inside="at")


def roundabout(pen: Pen) -> Facts:
    """A round junction with a green or paved island, three to five roads, and cars."""
    rng = pen.rng
    radius = float(rng.uniform(0.3, 0.45))
    width = float(rng.uniform(0.13, 0.18))
    tone = jitter(rng, (124, 122, 122), 10)
    roads = int(rng.integers(3, 6))
    turns = np.linspace(0, 2 * np.pi, roads, endpoint=False) + rng.normal(0, 0.12, roads)
    cars = 0
    for turn in turns:
        ray = turned(np.stack([np.linspace(radius, 2, 20), np.zeros(20)], axis=1), float(turn))
        pen.road(ray, width, tone)
        for t in rng.integers(1, 9, 2):
            pen.car(float(ray[t][0]), float(ray[t][1]), float(turn), 0.06)
            cars += 1
    pen.outline(arc(0, 0, radius, 0, 2 * np.pi, 64), width * 1.25, shade(tone, 1.15))
    pen.outline(arc(0, 0, radius, 0, 2 * np.pi, 64), width, tone)
    pen.area(ellipse(0, 0, radius - width / 2, radius - width / 2), pen.season.grass)
    things = [
        Thing("road", roads, "", "meeting", "at a round island"),
        Thing("car", cars, "", "driving", "around an island"),
    ]
    if rng.random() < 0.6:
        for x, y in rng.uniform(-0.5, 0.5, (7, 2)) * radius:
            pen.tree(float(x), float(y), 0.045)
        things.append(Thing("tree", 7, "green", "growing", "on the round island"))
    else:
        pen.disc(0, 0, radius * 0.3, height=0.05, colour=(186, 182, 172))
        things.append(Thing("fountain", 1, "round", "", "in the middle of the roundabout"))
    houses = rng.random() < 0.5
    for turn in turns + np.pi / roads:
        for r in (0.8, 1.1):
            x, y = r * np.cos(turn), r * np.sin(turn)
            if houses:
                house(pen, float(x), float(y), 0.2, float(turn))
            else:
                pen.tree(float(x), float(y), 0.08)
    phrases = ["with houses around"] if houses else ["with trees around"]
    return Facts(
        ("roundabout", "round junction", "roundabout"), things, [*phrases, f"on {pen.season.ground}"], inside="at"
    )


def interchange(pen: Pen) -> Facts:
    """Two highways that cross at different heights, with loops or ramps between them."""
    rng = pen.rng
    tone = jitter(rng, (134, 132, 130), 10)
    width = float(rng.uniform(0.16, 0.22))
    ramps = int(rng.integers(2, 5))
    loop = float(rng.uniform(0.24, 0.34))
    for k in range(ramps):
        turn = k * np.pi / 2
        centre = turned(np.array([[loop + width * 0.4, loop + width * 0.4]]), turn)[0]
        pen.road(arc(float(centre[0]), float(centre[1]), loop, 0, 2 * np.pi, 48), 0.06, tone, marks=False)
        outer = turned(arc(1.35, 1.35, 1.2, np.pi, 1.5 * np.pi), turn)
        pen.road(outer, 0.06, tone, marks=False)
    crossing = float(np.pi / 2 + rng.normal(0, 0.12))
    line = np.stack([np.linspace(-1.8, 1.8, 40), np.zeros(40)], axis=1)
    cars = 0
    for turn in (0.0, crossing):
        path = turned(line, turn)
        if turn:
            pen.raised(band(path[12:28], width), 0.09, _deck_of(pen, path, width, tone))
        else:
            pen.road(path, width, tone)
        for t in rng.uniform(-1, 1, 9):
            lane = turned(np.array([[t, width * (0.25 if rng.random() < 0.5 else -0.25)]]), turn)[0]
            if turn or abs(t) > width:
                pen.car(float(lane[0]), float(lane[1]), turn, 0.06)
                cars += 1
    things = [
        Thing("highway", 2, "wide", "crossing", "at different heights"),
        Thing("ramp", ramps, "curved", "joining", "the highways"),
        Thing("car", cars, "", "driving", "on the highways"),
    ]
    names = ("highway interchange", "interchange", "viaduct with several ramps")
    return Facts(names, things, [f"on {pen.season.ground}", f"with {pen.season.ground} between the roads"], inside="at")


def _deck_of(pen: Pen, path: Points, width: float, tone: Colour) -> Callable[[], None]:
    return lambda: pen.road(path, width, shade(tone, 1.08))
