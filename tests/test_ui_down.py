"""The engine goes and comes back while the page is open: people are told within two seconds, and need do nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from urllib.parse import quote_plus

import pytest
from playwright.sync_api import Browser, expect
from ui_browsing import axe, visit
from ui_support import World

pytestmark = pytest.mark.soak
SENTENCE = re.compile(r"The search engine( at \S+)? (is away|does not answer)", re.I)
RECOVERY = 15.0  # s from the moment that the engine answers; the page asks every two


@pytest.fixture
def stopped(world: World) -> Iterator[World]:
    """The engine's process is killed, and started again at the end if the test has not."""
    world.stop_engine()
    yield world
    if world.engine.process.poll() is not None:
        world.start_engine()


def test_people_are_told_within_two_seconds_and_the_page_comes_back(browser: Browser, world: World) -> None:
    with visit(browser) as seen:
        seen.expected |= {503}
        page = seen.page
        page.goto(f"{world.url}/?q={quote_plus(world.caption(30))}")
        before = [image.get_attribute("src") for image in page.locator(".card .picture img").all()]
        assert before
        world.stop_engine()
        try:
            start = time.monotonic()
            page.get_by_role("searchbox").press("Enter")
            expect(page.get_by_role("alert")).to_contain_text(SENTENCE, timeout=2000)
            print(f"told after {time.monotonic() - start:.2f} s that the engine is away")
        finally:
            world.start_engine()
        start = time.monotonic()
        page.locator(".card").first.wait_for(timeout=1000 * RECOVERY)
        print(f"recovered {time.monotonic() - start:.2f} s after the engine answered again, without a restart")
        assert [image.get_attribute("src") for image in page.locator(".card .picture img").all()] == before
        seen.faults[:] = [fault for fault in seen.faults if "503" not in fault]


def test_every_page_says_so_in_two_seconds_and_axe_finds_nothing(browser: Browser, stopped: World) -> None:
    like = stopped.records[0].id
    paths = ("/", "/?q=water", f"/?like={like}", f"/?q=water&label={quote_plus(stopped.records[0].label)}&parts=1",
             "/compare?q=water", f"/inside?like={like}&q=water", "/map")  # fmt: skip
    with visit(browser, java_script_enabled=False) as seen:
        seen.expected |= {503}
        for path in paths:
            start = time.monotonic()
            seen.page.goto(stopped.url + path)
            took = time.monotonic() - start
            expect(seen.page.locator("main")).to_contain_text(SENTENCE)
            assert took < 2, f"{path}: {took:.2f} s"
            assert "Traceback" not in seen.page.content()
    for scheme, rules in (("light", ()), ("dark", ("color-contrast", "link-in-text-block"))):
        context = browser.new_context(bypass_csp=True, color_scheme=scheme)
        assert {path: found for path in paths if (found := axe(context, stopped.url + path, rules))} == {}
        context.close()


def test_without_javascript_a_reload_is_all_it_takes(browser: Browser, stopped: World) -> None:
    with visit(browser, java_script_enabled=False) as seen:
        seen.expected |= {503}
        seen.page.goto(f"{stopped.url}/?q=water")
        expect(seen.page.get_by_role("alert")).to_contain_text(SENTENCE)
        stopped.start_engine()
        seen.page.reload()
        expect(seen.page.locator(".card").first).to_be_visible()
