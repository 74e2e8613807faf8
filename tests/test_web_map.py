"""The map: where hits are drawn, what is drawn as one, and that zooming is nothing but links."""

from __future__ import annotations

import html
import math
import random
import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from fake_vespa import FakeVespa, serve_fake
from starlette.testclient import TestClient

from clipsearch.errors import InputError
from clipsearch.records import Hit
from clipsearch.search.query import Area
from clipsearch.web import mapview
from clipsearch.web.app import UiConfig, create_app

PLACES = {"munich": (48.14, 11.58), "berlin": (52.52, 13.4), "sydney": (-33.87, 151.2), "reykjavik": (64.15, -21.9)}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        for number, (name, (latitude, longitude)) in enumerate(PLACES.items()):
            server.add(f"{name}.jpg", [f"a river in {name}"], number, latitude=latitude, longitude=longitude)
        for number in range(5):
            server.add(f"same_{number}.jpg", ["<i>bridge</i>"], number, label="same", latitude=0.0, longitude=0.0)
        server.add("nowhere.jpg", ["a river somewhere"], 9, label="lost")
        yield server


@pytest.fixture
def page(fake: FakeVespa) -> TestClient:
    return TestClient(create_app(UiConfig(fake.url)))


def spots(text: str) -> list[tuple[str, float, float]]:
    """Link, x and y in percent of each point."""
    pattern = r'<a class="spot" href="([^"]*)"[^>]*>\s*<circle cx="([\d.]+)%" cy="([\d.]+)%"'
    return [(html.unescape(href), float(x), float(y)) for href, x, y in re.findall(pattern, text)]


def test_hits_with_a_place_are_drawn_where_they_are(page: TestClient) -> None:
    area = "-90,-180,90,180"
    answer = page.get("/map", params={"q": "river", "area": area})
    assert answer.status_code == 200
    assert "nowhere.jpg" not in answer.text
    found = {(round(x, 1), round(y, 1)) for _, x, y in spots(answer.text)}
    assert (round((151.2 + 180) / 3.6, 1), round((90 + 33.87) / 1.8, 1)) in found
    assert (round((-21.9 + 180) / 3.6, 1), round((90 - 64.15) / 1.8, 1)) in found
    assert len(found) == 3, "Munich and Berlin are one point on a map of the world"


def test_the_json_twin_lists_points_and_clusters(page: TestClient) -> None:
    answer = page.get("/map.json", params={"q": "river"}).json()
    assert {point["id"].rpartition("::")[2] for point in answer["points"]} == {f"{name}.jpg" for name in PLACES}
    assert sum(cluster["count"] for cluster in answer["clusters"]) == answer["total"] == 4
    for point in answer["points"]:
        assert answer["area"]["south"] <= point["latitude"] <= answer["area"]["north"]
        assert answer["area"]["west"] <= point["longitude"] <= answer["area"]["east"]


def test_a_cluster_leads_nearer_until_its_points_part(page: TestClient) -> None:
    text = page.get("/map", params={"q": "river"}).text
    href = next(href for href, _, _ in spots(text) if href.startswith("/map?"))
    assert "q=river" in href
    nearer = page.get(href)
    assert len(spots(nearer.text)) == 2
    assert all(href.startswith("#place-") for href, _, _ in spots(nearer.text))
    for href, _, _ in spots(nearer.text):
        assert f'id="{href[1:]}"' in nearer.text, "the link leads to the hit in the list"


def test_points_at_the_very_same_place_lead_to_the_list(page: TestClient) -> None:
    text = page.get("/map", params={"label": "same"}).text
    assert [href for href, _, _ in spots(text)] == ["#place-1"]
    assert ">5</text>" in text
    assert text.count('<li id="place-') == 5
    assert "<i>bridge</i>" not in text
    assert "&lt;i&gt;bridge" in text


def test_every_zoom_and_move_is_a_link_that_works(page: TestClient) -> None:
    text = page.get("/map", params={"q": "river", "area": "40,0,60,20"}).text
    links = dict(re.findall(r'<a href="([^"]+)" aria-label="(Zoom in|Zoom out|To the \w+)"', text))
    assert len(links) == 6
    for href in links:
        assert page.get(html.unescape(href)).status_code == 200
    nearer = next(unquote(html.unescape(href)) for href, label in links.items() if label == "Zoom in")
    south, west, north, east = map(float, nearer.partition("area=")[2].split(","))
    assert (south, north) == (45, 55)
    assert (west + east) / 2 == pytest.approx(10, abs=1e-3)


def test_filters_and_the_part_of_the_world_reach_the_endpoint(page: TestClient, fake: FakeVespa) -> None:
    page.get("/map", params={"q": "river", "label": "same", "area": "40,0,60,20"})
    asked = next(query for query in reversed(fake.queries) if query["hits"])
    assert (asked["label"], asked["text"]) == ("same", "river")
    assert float(asked["south"]) <= 40
    assert float(asked["north"]) >= 60
    assert float(asked["west"]) <= 0
    assert float(asked["east"]) >= 20
    assert "latitude >= @south" in asked["yql"]
    assert asked["presentation.summary"] == "hit"


def test_an_index_without_places_is_told_how_to_get_them() -> None:
    with serve_fake() as empty:
        empty.add("a.jpg", ["a"], 1)
        page = TestClient(create_app(UiConfig(empty.url)))
        assert "No image of this index says where it was taken" in page.get("/map").text
        assert page.get("/map.json").json()["points"] == []


def test_matches_without_places_and_empty_parts_of_the_world_are_told_apart(page: TestClient) -> None:
    assert "None of the images that match says where" in page.get("/map?label=lost").text
    assert "Nothing in this part of the world" in page.get("/map?area=-80,-170,-70,-160").text


@pytest.mark.parametrize("area", ["1,2,3", "a,b,c,d", "10,0,-10,5", "0,0,100,5", "nan,0,1,1", "0,0,inf,1"])
def test_an_area_that_is_none_is_refused_in_a_sentence(page: TestClient, area: str) -> None:
    answer = page.get("/map", params={"area": area})
    assert answer.status_code == 400
    assert "degrees" in answer.text


def test_the_endpoint_away_is_a_page_that_says_so() -> None:
    answer = TestClient(create_app(UiConfig("http://127.0.0.1:9", timeout=0.5))).get("/map")
    assert answer.status_code == 503
    assert "does not answer" in answer.text


def test_any_window_lies_within_the_world_and_holds_its_points() -> None:
    rng = random.Random(1)
    for _ in range(200):
        middle = (rng.uniform(-90, 90), rng.uniform(-180, 180))
        spread = 10 ** rng.uniform(-6, 2)
        points = [
            mapview.Point(
                n, Hit(str(n), 0.0, {}),
                max(-90.0, min(90.0, middle[0] + rng.gauss(0, spread))),
                max(-180.0, min(180.0, middle[1] + rng.gauss(0, spread))),
            )
            for n in range(rng.randint(1, 6))
        ]  # fmt: skip
        for window in (mapview.fit(points), mapview.fit(points).moved(2), mapview.fit(points).moved(2).moved(3)):
            area = window.area
            assert -90 <= area.south < area.north <= 90
            assert -180 <= area.west < area.east <= 180
            assert all(-1e-6 <= window.x(p.longitude) <= 1 + 1e-6 for p in points)
            assert all(-1e-6 <= window.y(p.latitude) <= 1 + 1e-6 for p in points)
            assert len(window.parallels()) <= 12
            assert len(window.meridians()) <= 40
        far = mapview.fit(points).moved(right=0.5, up=-0.5)
        assert mapview.parse_area(mapview.area_text(far.area)) is not None


def test_an_area_close_to_zero_is_written_without_an_exponent() -> None:
    area = Area(-2e-05, 1e-05, 0.0, 100.0)
    assert mapview.area_text(area) == "-0.00002,0.00001,0,100"
    assert mapview.parse_area(mapview.area_text(area)) == area


def test_no_two_points_that_are_drawn_lie_near_each_other() -> None:
    rng = random.Random(2)
    hits = [Hit(f"id:a:image::{n}", 0.0, {"latitude": rng.uniform(-80, 80), "longitude": rng.uniform(-180, 180)})
            for n in range(400)]  # fmt: skip
    window = mapview.whole()
    points = [
        mapview.Point(p.rank, p.hit, p.latitude, p.longitude, window.x(p.longitude), window.y(p.latitude))
        for p in mapview.located_points(hits)
    ]
    clusters = mapview.clustered(points, "/map?")
    assert sum(len(cluster.points) for cluster in clusters) == 400
    drawn = [cluster.first for cluster in clusters]
    for number, one in enumerate(drawn):
        for other in drawn[:number]:
            assert math.hypot(one.x - other.x, (one.y - other.y) / mapview.WIDE) >= mapview.NEAR


def test_places_out_of_the_world_are_left_out() -> None:
    fields = [{"latitude": 91, "longitude": 0}, {"latitude": "x", "longitude": 0}, {"latitude": 1}, {},
              {"latitude": float("nan"), "longitude": 0}, {"latitude": -90, "longitude": 180}]  # fmt: skip
    points = mapview.located_points(Hit(str(n), 0.0, each) for n, each in enumerate(fields))
    assert [(p.rank, p.latitude, p.longitude) for p in points] == [(6, -90.0, 180.0)]


def test_degrees_are_written_as_people_do() -> None:
    assert mapview.degrees(48.1, "NS") == "48.1° N"
    assert mapview.degrees(-33.8700, "NS") == "33.87° S"
    assert mapview.degrees(0, "EW") == "0°"
    with pytest.raises(InputError, match="no area"):
        Area(1, 1, 0, 0)
