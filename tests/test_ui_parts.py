"""Parts of images in a real browser: the best part of every image of a corpus, a word's place in one image, the map."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from ui_browsing import EITHER_WAY, Visit, sources, visit
from ui_support import World

from clipsearch.shards import open_shards

pytestmark = pytest.mark.soak
# Where the outline of the winning part lies on its picture, as shares of the picture's width and height.
OUTLINE = """card => {
  const picture = card.querySelector(".picture img").getBoundingClientRect();
  const part = card.querySelector("svg.box rect").getBoundingClientRect();
  return [(part.left - picture.left) / picture.width, (part.top - picture.top) / picture.height,
          (part.right - picture.left) / picture.width, (part.bottom - picture.top) / picture.height];
}"""


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def seen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    with visit(browser, java_script_enabled=request.param) as opened:
        opened.scripts = request.param
        yield opened


@lru_cache(maxsize=1)
def model(folder: Path) -> Any:
    from clipsearch.clip import load_clip

    return load_clip(folder, "cpu")


def parts(world: World, words: str) -> dict[str, tuple[float, dict[tuple[int, ...], float]]]:
    """Document id -> the cosine of its best part, and of each part by its box in thousandths: computed here."""
    query = model(world.models[0]).embed_texts([words])[0]
    found = {}
    for folder in world.shards:
        for row in open_shards(folder):
            cosines = np.asarray(row.patches, np.float32) @ query
            boxes = np.asarray(row.boxes) / [row.width, row.height, row.width, row.height]
            each = {tuple(round(1000 * x) for x in box): float(c) for box, c in zip(boxes, cosines, strict=True)}
            found[row.record.id] = (float(cosines.max()), each)
    return found


def twin(page: Page) -> Any:
    """The page's JSON twin."""
    url = urlsplit(page.url)
    path = "/index" if url.path == "/" else url.path
    return page.request.get(f"{url.scheme}://{url.netloc}{path}.json?{url.query}").json()


def noun(world: World, seed: int = 0) -> str:
    """A word of some captions."""
    return re.sub(r"[^a-z]", " ", sorted(filter(None, world.count("label")))[seed].lower()).strip() or "water"


@EITHER_WAY
def test_images_are_ranked_by_their_best_part_which_is_outlined(seen: Visit, world: World) -> None:
    words = noun(world)
    page = seen.page
    page.goto(world.url)
    page.get_by_role("searchbox").fill(words)
    page.locator("label", has=page.get_by_role("radio", name="Parts")).click()
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("parts=1"))
    page.goto(page.url + "&dups=1")
    sources(page)
    truth = parts(world, words)
    hits = twin(page)["hits"]
    best = sorted((cosine for cosine, _ in truth.values()), reverse=True)
    for number, hit in enumerate(hits):
        cosine, each = truth[hit["id"]]
        assert cosine >= best[min(number + len(hits) // 4, len(best) - 1)] - 0.01, "a better image is missing"
        found = page.locator(f"#hit-{number + 1}").evaluate(OUTLINE)
        nearest = min(each, key=lambda box: sum(abs(x / 1000 - y) for x, y in zip(box, found, strict=True)))
        assert sum(abs(x / 1000 - y) for x, y in zip(nearest, found, strict=True)) < 0.1, "no part lies there"
        assert each[nearest] >= cosine - 0.01, "another part fits better"


@EITHER_WAY
def test_parts_of_another_images_like_are_found(seen: Visit, world: World) -> None:
    page = seen.page
    record = next(record for record in world.records[3:] if record.label)
    page.goto(f"{world.url}/?like={quote(record.id)}&parts=1&label={quote_plus(record.label)}")
    assert page.locator(".card svg.box").count() == page.locator(".card").count() > 0
    assert {world.by_id[hit["id"]].label for hit in twin(page)["hits"]} == {record.label}


@EITHER_WAY
def test_a_word_has_its_place_in_an_image(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(1))}")
    page.locator("#hit-1 a.within").click()
    page.wait_for_url(re.compile("/inside"))
    words = noun(world, 1)
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("q="))
    answer = twin(page)
    windows = answer["words"][0]["windows"]
    assert sum(window["probability"] for window in windows) == pytest.approx(1, abs=1e-3)
    scaled = [answer["logit_scale"] * window["cosine"] for window in windows]
    top = max(scaled)
    for window, value in zip(windows, scaled, strict=True):
        share = math.exp(value - top) / sum(math.exp(other - top) for other in scaled)
        assert window["probability"] == pytest.approx(share, rel=0.02, abs=2e-3)
    best = max(windows, key=lambda window: window["probability"])
    frame = page.locator(".inside svg rect.frame")
    expect(frame).to_be_visible()
    placed = [float(frame.get_attribute(name) or 0) for name in ("x", "y")]
    assert placed == pytest.approx([best["box"][0] * answer["width"], best["box"][1] * answer["height"]], abs=1)
    assert page.locator(".inside svg rect.heat").count() > 0
    row = page.locator(".inside tbody tr").first.text_content() or ""
    assert f"{best['probability'] * 100:.1f} %" in row


@EITHER_WAY
def test_several_words_compete_for_each_place(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(
        f"{world.url}/inside?like={quote(world.records[0].id)}&q={quote_plus(noun(world) + ', ' + noun(world, 1))}"
    )
    assert page.locator("figure.inside").count() == 2
    first, second = (each["windows"] for each in twin(page)["words"])
    boxes = [{tuple(window["box"]): window["among_words"] for window in each} for each in (first, second)]
    assert boxes[0].keys() == boxes[1].keys()
    for box, share in boxes[0].items():
        assert share + boxes[1][box] == pytest.approx(1, abs=2e-3)


@EITHER_WAY
def test_finer_windows_are_chosen(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/inside?like={quote(world.records[0].id)}&q={quote_plus(noun(world))}")
    before = len(twin(page)["words"][0]["windows"])
    page.locator("label", has=page.locator("input[name=grid][value='7x7']")).click()
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("grid=7x7"))
    assert len(twin(page)["words"][0]["windows"]) > before


@EITHER_WAY
def test_one_can_look_inside_ones_own_image(seen: Visit, world: World, tmp_path: Path) -> None:
    page = seen.page
    page.goto(f"{world.url}/inside?q={quote_plus(noun(world))}")
    page.locator("input[type=file]").set_input_files(world.picture(world.records[5], tmp_path / "mine.jpg"))
    page.get_by_role("button", name="Go").click()
    page.wait_for_url(re.compile("img="))
    expect(page.locator(".inside svg rect.frame").first).to_be_visible()


@EITHER_WAY
def test_the_map_shows_what_has_coordinates(seen: Visit, world: World) -> None:
    assert world.located
    page = seen.page
    page.goto(f"{world.url}/map")
    answer = twin(page)
    shown = {point["id"]: (point["latitude"], point["longitude"]) for point in points(answer)}
    assert shown.keys() <= world.located.keys()
    assert len(shown) == len(world.located)
    for document_id, place in shown.items():
        assert place == pytest.approx(world.located[document_id], abs=1e-6)
    assert page.locator("main svg").count() >= 1
    links = page.locator("main a[href*='like=']")
    assert links.count() > 0
    links.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("like="))


def points(answer: Any) -> list[dict[str, Any]]:
    """All points of the map's twin, also those that are shown together."""
    found = []
    for point in answer.get("points") or answer.get("hits") or []:
        found += point.get("members") or [point]
    return found
