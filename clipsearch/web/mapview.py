"""``/map``: where the images of a query and its filters were taken; ``/map.json`` is the page's twin.

An equirectangular map drawn as SVG, with nothing loaded from anywhere: a graticule, and the hits as points, near ones
as one. Its part of the world is in the URL (``area=south,west,north,east``), so every step of zoom is a link. Degrees
are WGS 84; the antimeridian is a border.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clipsearch.errors import InputError
from clipsearch.records import Hit
from clipsearch.search.query import MAX_HITS, WORLD, Area, located
from clipsearch.web.pictures import corpus_and_key
from clipsearch.web.site import Ui
from clipsearch.web.state import PageState

WIDE = 2.0  # times as wide as high
NEAR = 0.085  # of the map's width: points nearer than that are drawn as one
LEAST = 0.002  # degrees of latitude that the map shows at least, about 200 m
_STEPS = (60, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
_LINES = 3  # parallels at least


@dataclass(frozen=True, slots=True)
class Point:
    """A hit with its place, and where that is on the map in shares of its width and height from the top left."""

    rank: int
    hit: Hit
    latitude: float
    longitude: float
    x: float = 0.0
    y: float = 0.0

    @property
    def caption(self) -> str:
        """Its first caption, else its key."""
        captions = self.hit.fields.get("captions") or [corpus_and_key(self.hit.id)[1]]
        return str(captions[0])

    @property
    def place(self) -> str:
        """Its coordinates for people."""
        return f"{degrees(self.latitude, 'NS')}, {degrees(self.longitude, 'EW')}"

    @property
    def path(self) -> str:
        """Corpus and key, as in URLs of pictures."""
        return "/".join(corpus_and_key(self.hit.id))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Points that lie too near to be drawn one by one, best first; ``href``: what shows them."""

    points: tuple[Point, ...]
    href: str

    @property
    def first(self) -> Point:
        """Where it is drawn."""
        return self.points[0]

    @property
    def radius(self) -> float:
        """In px."""
        return round(9 + 2.5 * math.log2(len(self.points)), 1)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the graticule at share ``at`` of the map's width or height, and its name."""

    at: float
    name: str


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the world that is drawn: ``WIDE`` times as wide as high where the world is large enough."""

    area: Area

    def x(self, longitude: float) -> float:
        """The share of the width."""
        return (longitude - self.area.west) / (self.area.east - self.area.west)

    def y(self, latitude: float) -> float:
        """The share of the height, from the top."""
        return (self.area.north - latitude) / (self.area.north - self.area.south)

    def moved(self, zoom: float = 1.0, right: float = 0.0, up: float = 0.0) -> Window:
        """This window times ``zoom``, moved by shares of itself."""
        area = self.area
        high, wide = area.north - area.south, area.east - area.west
        middle = ((area.south + area.north) / 2 + up * high, (area.west + area.east) / 2 + right * wide)
        return _window(middle, high * zoom, wide * zoom)

    def parallels(self) -> list[Line]:
        """The lines of equal latitude."""
        return [Line(round(self.y(at), 5), degrees(at, "NS")) for at in _ticks(self.area.south, self.area.north)]

    def meridians(self) -> list[Line]:
        """The lines of equal longitude."""
        return [Line(round(self.x(at), 5), degrees(at, "EW")) for at in _ticks(self.area.west, self.area.east)]


@dataclass(frozen=True, slots=True)
class MapPage:
    """Everything the page shows; ``total``: hits with a place in this part of the world, of which ``points`` are shown.

    ``anywhere``: whether any image of the index has a place; ``ranked``: whether a vector was searched by, so that the
    points are the nearest of all images with a place here, not those that hold a word.
    """

    state: PageState
    window: Window
    points: tuple[Point, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    total: int = 0
    chosen: bool = False
    anywhere: bool = True
    ranked: bool = False
    links: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The JSON twin."""
        area = self.window.area
        return {
            "area": {side: getattr(area, side) for side in ("south", "west", "north", "east")},
            "total": self.total,
            "points": [
                {
                    "rank": each.rank, "id": each.hit.id, "latitude": each.latitude, "longitude": each.longitude,
                    "caption": each.caption,
                }
                for each in self.points
            ],
            "clusters": [
                {
                    "latitude": each.first.latitude, "longitude": each.first.longitude, "count": len(each.points),
                    "ids": [point.hit.id for point in each.points],
                }
                for each in self.clusters
            ],
        }  # fmt: skip


def parse_area(text: str) -> Area | None:
    """``south,west,north,east`` in degrees; None for "". ``InputError`` for what is no area."""
    if not text.strip():
        return None
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 4:
        raise InputError(f"“{text[:60]}” makes no sense as area, which is south,west,north,east in degrees")
    return Area(*sides)


def fit(points: Sequence[Point]) -> Window:
    """The smallest window with a margin around all points; the world without any."""
    if not points:
        return whole()
    latitudes, longitudes = [each.latitude for each in points], [each.longitude for each in points]
    middle = ((min(latitudes) + max(latitudes)) / 2, (min(longitudes) + max(longitudes)) / 2)
    return _window(middle, 1.2 * (max(latitudes) - min(latitudes)), 1.2 * (max(longitudes) - min(longitudes)))


def whole() -> Window:
    """The world."""
    return Window(WORLD)


def window_of(area: Area) -> Window:
    """The smallest window around ``area``."""
    middle = ((area.south + area.north) / 2, (area.west + area.east) / 2)
    return _window(middle, area.north - area.south, area.east - area.west)


def located_points(hits: Iterable[Hit]) -> list[Point]:
    """The hits that have a place, in rank order."""
    found = []
    for rank, hit in enumerate(hits, 1):
        try:
            place = float(hit.fields["latitude"]), float(hit.fields["longitude"])
        except (KeyError, TypeError, ValueError):
            continue
        if abs(place[0]) <= 90 and abs(place[1]) <= 180:
            found.append(Point(rank, hit, *place))
    return found


def clustered(points: Sequence[Point], url: str) -> tuple[Cluster, ...]:
    """Points by the first point that lies ``NEAR``; ``url`` is that of the page, ending so that an area can follow."""
    groups: list[list[Point]] = []
    for point in points:
        near = (g for g in groups if math.hypot(g[0].x - point.x, (g[0].y - point.y) / WIDE) < NEAR)
        group = next(near, None)
        if group is None:
            groups.append([point])
        else:
            group.append(point)
    return tuple(Cluster(tuple(group), _href(group, url)) for group in groups)


def degrees(value: float, signs: str) -> str:
    """``48.1° N``; ``signs``: the letters for positive and negative values."""
    text = f"{abs(value):.4f}".rstrip("0").rstrip(".")
    return f"{text}°" if text == "0" else f"{text}° {signs[value < 0]}"


def area_text(area: Area) -> str:
    """What ``parse_area`` reads, never with an exponent."""
    return ",".join(bound.rstrip("0").rstrip(".") for bound in area.bounds().values())


def _href(group: Sequence[Point], url: str) -> str:
    """To the hit in the list, or nearer to what can still be told apart."""
    area = fit(group).area
    high = max(each.latitude for each in group) - min(each.latitude for each in group)
    wide = max(each.longitude for each in group) - min(each.longitude for each in group)
    if max(high, wide) < LEAST / 100:
        return f"#place-{group[0].rank}"
    return f"{url}area={area_text(area)}"


def _window(middle: tuple[float, float], high: float, wide: float) -> Window:
    """Around ``middle``, at least ``high`` and ``wide`` degrees, in the map's proportions, within the world."""
    stretch = max(0.2, math.cos(math.radians(middle[0])))  # a degree of longitude is shorter away from the equator
    high = min(180.0, max(high, wide * stretch / WIDE, LEAST))
    wide = min(360.0, high * WIDE / stretch)
    south = min(max(middle[0] - high / 2, -90.0), 90.0 - high)
    west = min(max(middle[1] - wide / 2, -180.0), 180.0 - wide)
    return Window(Area(south, west, min(90.0, south + high), min(180.0, west + wide)))


def _ticks(low: float, high: float) -> list[float]:
    step = next((step for step in _STEPS if (high - low) / step >= _LINES), _STEPS[-1])
    return [round(number * step, 6) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


class MapView:
    """The handlers."""

    def __init__(self, ui: Ui) -> None:
        self.ui = ui

    def page(self, request: Request) -> Response:
        """The page."""
        page = self._page(request)
        return self.ui.render("map.html", here="map", page=page, state=page.state, most=MAX_HITS)

    def twin(self, request: Request) -> Response:
        """The page's JSON twin."""
        return JSONResponse(self._page(request).as_json())

    def _page(self, request: Request) -> MapPage:
        """Raises ``ClipsearchError`` of any kind."""
        state = replace(PageState.parse(request.query_params), page=1)
        given = parse_area(request.query_params.get("area", ""))
        shown = None if given is None else window_of(given)
        plain = replace(state, dups=True)  # no embeddings are needed here
        question = self.ui.searcher.promptly(self.ui.searcher.question, plain)
        asked = question.request(filters=state.filters, hits=MAX_HITS, area=shown.area if shown else WORLD)
        every = self.ui.searcher.promptly(self.ui.client.search, asked)
        found = question.without_itself(every)
        total = found.total - (len(every.hits) - len(found.hits))
        points = located_points(found.hits)
        window = shown or fit(points)
        points = [replace(each, x=window.x(each.longitude), y=window.y(each.latitude)) for each in points]
        pairs = state.query_pairs()
        url = "/map?" + (urlencode(pairs) + "&" if pairs else "")
        return MapPage(
            state, window, tuple(points), clustered(points, url), total, shown is not None,
            bool(points) or self._anywhere(), question.embedding is not None, _links(window, url, state),
        )  # fmt: skip

    def _anywhere(self) -> bool:
        return self.ui.searcher.promptly(self.ui.client.search, located(hits=0)).total > 0


def _links(window: Window, url: str, state: PageState) -> dict[str, str]:
    moves = {
        "in": window.moved(zoom=0.5), "out": window.moved(zoom=2), "north": window.moved(up=0.5),
        "south": window.moved(up=-0.5), "west": window.moved(right=-0.5), "east": window.moved(right=0.5),
        "world": whole(),
    }  # fmt: skip
    links = {name: f"{url}area={area_text(moved.area)}" for name, moved in moves.items() if moved != window}
    own = f"{url}area={area_text(window.area)}"
    return {
        **links,
        "all": url.rstrip("?&"),
        "json": own.replace("/map", "/map.json", 1),
        "list": f"/{state.query_string()}",
    }


def routes(ui: Ui) -> list[Route]:
    """The page and its twin."""
    view = MapView(ui)
    ui.places["map"] = ("/map", "Map")
    return [Route("/map", view.page), Route("/map.json", view.twin)]
