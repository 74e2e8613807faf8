"""The search page in a real browser, over a real engine: it paints, its policy holds, and it needs no JavaScript."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from small_corpus import draw
from small_index import NAMES, running_engine, write_shards

from feeders.shards import feed_shards

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
RANKINGS = {"lexical": "Words", "vector": "Meaning", "hybrid": "Both", "hybrid_linear": "Blend"}
SERVE = """
import sys
from small_index import ColourModel
from clipsearch.search import QueryEncoder
from clipsearch.web.app import UiConfig, by_model
from clipsearch.web.server import run_ui
run_ui(UiConfig(sys.argv[1], by_model(QueryEncoder(ColourModel()))), "127.0.0.1", int(sys.argv[2]))
"""
# What a script that slipped through escaping would look like to the policy.
INLINE = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"


WIDTHS = """images => Promise.all(images.map(async image => {
  if (!image.complete) await new Promise(done => image.onload = image.onerror = done);
  return image.naturalWidth;
}))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    """The page's address; behind it an engine with a dozen images and a model that knows colours."""
    home = tmp_path_factory.mktemp("site")
    port = free_port()
    with running_engine(home / "data", free_port) as engine:
        assert feed_shards(write_shards(home / "shards"), engine.url, progress=False).complete
        program = [sys.executable, "-u", "-c", SERVE, engine.url, str(port)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True) as ui:
            assert ui.stdout is not None
            assert f"http://127.0.0.1:{port}/" in ui.stdout.readline()
            yield f"http://127.0.0.1:{port}"
            ui.terminate()
            assert ui.wait(20) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        program = CHROMIUM if CHROMIUM.exists() else Path(playwright.chromium.executable_path)
        if not program.exists():
            if os.environ.get("CI"):
                pytest.fail("there is no Chromium, and CI must have it")
            pytest.skip("there is no Chromium on this machine: the search page is not tested in a browser")
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def scripts(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def page(browser: Browser, scripts: bool) -> Iterator[Page]:
    """A page that fails the test for any console error, blocked resource or failed request."""
    context = browser.new_context(java_script_enabled=scripts)
    context.set_default_timeout(5000)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("requestfailed", lambda request: faults.append(f"{request.url}: {request.failure}"))
    opened.on(
        "response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status > 399 else None
    )
    yield opened
    context.close()
    assert faults == []


def painted(page: Page) -> list[str]:
    """The images of the hits in order, each of them loaded."""
    images = page.locator(".card .picture img")
    expect(images.first).to_be_visible()
    images.last.scroll_into_view_if_needed()  # those at the bottom load when they come into view
    assert set(images.evaluate_all(WIDTHS)) == {40}
    sources = images.evaluate_all("images => images.map(image => image.getAttribute('src'))")
    return [source.partition("?")[0].rpartition("/")[2] for source in sources]


def search(page: Page, words: str, ranking: str) -> list[str]:
    """Type ``words``, choose a ranking as a person does, press Enter."""
    page.get_by_role("searchbox").fill(words)
    choice = page.get_by_role("radio", name=RANKINGS[ranking])
    if not choice.is_checked():
        page.locator("label", has=choice).click()
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile(rf"ranking={ranking}(&|$)"))
    return painted(page)


def test_each_ranking_paints_fitting_images(page: Page, site: str) -> None:
    page.goto(site)
    assert sorted(painted(page)) == sorted(NAMES)
    for ranking, label in RANKINGS.items():
        found = search(page, "green block right", ranking)
        assert found[0] == "green_right.png", ranking
        assert page.get_by_role("radio", name=label).is_checked()
        expect(page.get_by_role("searchbox")).to_have_value("green block right")


def test_similar_leads_to_images_like_that_one(page: Page, site: str) -> None:
    page.goto(f"{site}/?q=blue&ranking=lexical")
    first = painted(page)[0]
    page.get_by_role("link", name="Images similar to number 1", exact=True).click()
    page.wait_for_url(re.compile("like="))
    similar = painted(page)
    assert len(similar) == len(NAMES) - 1
    assert first not in similar
    assert all(name.startswith("blue") for name in similar[:2])
    expect(page.locator(".chips")).to_contain_text(f"Images like {first}")


def test_an_uploaded_image_is_searched_by(page: Page, site: str, scripts: bool, tmp_path: Path) -> None:
    picture = tmp_path / "my photo.png"
    draw("yellow", "top", 99).save(picture)
    page.goto(site)
    page.locator("input[type=file]").set_input_files(picture)
    if not scripts:
        page.get_by_role("button", name="Go").click()
    page.wait_for_url(re.compile("img="))
    assert painted(page)[0] == "yellow_top.png"
    expect(page.locator(".chips")).to_contain_text("Images like my photo.png")


def test_the_policy_stops_a_script_that_slips_through(browser: Browser, site: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(site)
    page.evaluate(INLINE)
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in said)
    context.close()
