"""The page for everyone: axe finds nothing, the keyboard reaches all of it, it fits a phone, nothing jumps, and its URL
says all that its controls show.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from ui_browsing import NARROW, SHIFTS, Visit, axe, visit
from ui_support import World

pytestmark = pytest.mark.soak
SHIFT = 0.01  # a tenth of what Google's Web Vitals call good
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# What has the focus, and whether that shows: its outline, or what it, its label or its form draw only meanwhile.
FOCUS = """() => {
  const element = document.activeElement;
  const near = [element, element.nextElementSibling, element.closest("label"), element.closest("form")];
  const around = near.filter(Boolean);
  const drawn = () => around.map(node => {
    const style = getComputedStyle(node);
    const outline = style.outlineStyle === "none" ? "" : style.outlineWidth + style.outlineColor;
    return [outline, style.boxShadow, style.borderColor].join();
  }).join("; ");
  const focused = drawn();
  element.blur();
  const blurred = drawn();
  element.focus({preventScroll: true});
  const box = element.getBoundingClientRect();
  return {
    tag: element.tagName,
    text: (element.getAttribute("aria-label") || element.textContent || element.name || "").trim(),
    href: element.getAttribute("href") || "",
    visible: focused !== blurred,
    inside: box.width > 0 && box.bottom > 0 && box.top < innerHeight,
  };
}"""
# Every control of the page, as a person would read it off.
CONTROLS = """() => {
  const read = {};
  for (const control of document.querySelectorAll("header input, header select")) {
    if (["file", "hidden"].includes(control.type) || !control.form) continue;
    if (control.type === "radio") { if (control.checked) read[control.name] = control.value; }
    else read[control.name] = control.value;
  }
  read.chips = [...document.querySelectorAll(".chip")].map(chip => chip.textContent.trim().replace(/\\s+/g, " "));
  read.chosen = [...document.querySelectorAll(".facets [aria-current] bdi")].map(value => value.textContent);
  read.page = document.querySelector(".pages span")?.textContent ?? "";
  read.hits = [...document.querySelectorAll(".card .picture img")].map(image => image.getAttribute("src"));
  return read;
}"""


def places(world: World) -> dict[str, str]:
    """Every kind of page, by what it shows; most with the few hits of one label, for what is looked at."""
    only = "&label=" + quote_plus(world.records[0].label)
    words, other = quote_plus(world.caption(11)) + only, world.records[1].id
    like = quote(other)
    noun = quote_plus(world.records[1].label.replace("-", " ") or "water")
    return {
        "home": "/",
        **{name: f"/?q={words}&ranking={name}" for name in ("lexical", "vector", "hybrid", "hybrid_linear")},
        "filtered": f"/?q={words}&split=train&size=small",
        "page two, rows": "/?dups=1&page=2&view=list",
        "similar": f"/?like={like}{only}",
        "terms": f"/?q={words}&with=-0.5:like:{like}&with=1:text:snow",
        "parts": f"/?q={noun}&parts=1{only}",
        "judging": f"/?q={words}&judge=1",
        "no match": "/?q=zyzzyva&ranking=lexical",
        "weak": f"/?q=zyzzyva+qwxk&ranking=vector{only}",
        "error": "/?ranking=nonsense",
        "not found": "/nowhere",
        "forgotten upload": "/?img=" + "0" * 24,
        "compare": "/compare",
        "compared": f"/compare?q={words}&a=lexical&b=vector",
        "compared and judged": f"/compare?q={words}&a=lexical&b=hybrid&judge=1",
        "inside": "/inside",
        "heat map": f"/inside?like={like}&q={noun}",
        "two heat maps": f"/inside?like={like}&q={noun},+road",
        "map": "/map",
    }


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bare(scheme: str, browser: Browser) -> Iterator[BrowserContext]:
    """A context without the policy, which would stop axe too."""
    context = browser.new_context(bypass_csp=True, color_scheme=scheme)
    yield context
    context.close()


def test_axe_finds_nothing(bare: BrowserContext, world: World, scheme: str, rounds: Callable[[int, int], int]) -> None:
    """All its rules; in the dark, where ``make test`` has little time, those that see colours."""
    rules = ("color-contrast", "link-in-text-block") if scheme == "dark" and rounds(1, 0) else ()
    found = {name: axe(bare, world.url + path, rules) for name, path in places(world).items()}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_axe_would_find_a_fault(bare: BrowserContext) -> None:
    fault = "data:text/html,<html lang=en><title>a</title><main><h1>a</h1><img src=x><p style='color:%23ccc'>pale</p>"
    assert [problem.split()[0] for problem in axe(bare, fault)] == ["color-contrast", "image-alt"]


@pytest.mark.parametrize("viewport", [NARROW, {"width": 2560, "height": 1200}], ids=["360 px", "2560 px"])
def test_no_page_scrolls_sideways(browser: Browser, world: World, viewport: dict[str, int]) -> None:
    with visit(browser, viewport=viewport) as seen:
        seen.expected |= {400, 404}
        wide = {}
        for name, path in places(world).items():
            seen.page.goto(world.url + path)
            wide[name] = seen.page.evaluate(OVERFLOW)
            assert seen.policy_violations() == []
        assert {name: by for name, by in wide.items() if by > 0} == {}


def test_nothing_jumps_while_a_page_loads(browser: Browser, world: World) -> None:
    with visit(browser) as seen:
        seen.page.add_init_script(SHIFTS)
        seen.expected |= {400, 404}
        shifts = {}
        for name, path in places(world).items():
            seen.page.goto(world.url + path, wait_until="load")
            seen.page.wait_for_timeout(50)
            shifts[name] = seen.page.evaluate("window.__shift")
        assert {name: shift for name, shift in shifts.items() if shift >= SHIFT} == {}


class Keyboard:
    """A person without a mouse."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def focus(self) -> dict[str, Any]:
        """What has the focus; it must be seen."""
        here: dict[str, Any] = self.page.evaluate(FOCUS)
        assert here["visible"], f"the focus on {here} cannot be seen"
        assert here["inside"], f"the focus on {here} is not on the screen"
        return here

    def tab_to(self, wanted: Callable[[dict[str, Any]], bool], key: str = "Tab", most: int = 250) -> dict[str, Any]:
        """Press Tab until ``wanted`` has the focus; each stop on the way must show it."""
        for _ in range(most):
            self.page.keyboard.press(key)
            if self.page.evaluate("document.activeElement === document.body"):
                continue  # the browser's own controls come between the last and the first
            if wanted(here := self.focus()):
                return here
        raise AssertionError("the keyboard does not reach it")


def test_a_whole_journey_by_keyboard(browser: Browser, world: World) -> None:
    with visit(browser, reduced_motion="reduce") as seen:
        page, keys = seen.page, Keyboard(seen.page)
        page.goto(world.url)
        assert page.evaluate("document.activeElement.name") == "q", "one can type at once"
        page.keyboard.type(world.caption(12))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("q="))
        keys.tab_to(lambda here: "Skip" in here["text"])
        page.keyboard.press("Enter")
        journey = [page.url]
        keys.tab_to(lambda here: here["tag"] == "SUMMARY" or "label=" in here["href"])
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            page.keyboard.press("Enter")
            keys.tab_to(lambda here: "label=" in here["href"])
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("label="))
        journey.append(page.url)
        keys.tab_to(lambda here: here["href"].startswith(("/image/", "/thumb/")))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("/(image|thumb)/"))
        page.go_back()  # a key of the browser, not of the page
        page.wait_for_url(journey[-1])
        keys.tab_to(lambda here: here["text"].startswith("Images similar to number 1"))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("like="))
        keys.tab_to(lambda here: here["href"].startswith("/compare"))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("/compare"))
        for url in (re.compile("like="), re.compile("label="), re.compile("q=")):
            page.go_back()  # a key of the browser, not of the page
            page.wait_for_url(url)
        expect(page.get_by_role("searchbox")).to_have_value(world.caption(12))


def test_rankings_are_chosen_by_arrow_keys(browser: Browser, world: World) -> None:
    with visit(browser) as seen:
        page, keys = seen.page, Keyboard(seen.page)
        page.goto(f"{world.url}/?q={quote_plus(world.caption(12))}&ranking=lexical")
        page.get_by_role("searchbox").focus()
        keys.tab_to(lambda here: page.evaluate("document.activeElement.name") == "ranking")
        page.keyboard.press("ArrowRight")
        page.wait_for_url(re.compile("ranking=vector"))


def states(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Random states of the search page, as pairs of a URL."""
    generator = random.Random(6)
    for _ in range(count):
        record = generator.choice(world.records)
        state: dict[str, Any] = {}
        if generator.random() < 0.8:
            state["q"] = generator.choice([*record.captions, 'a "quoted" & <b>bold</b> + 100 % ü 河'])
        if generator.random() < 0.8:
            state["ranking"] = generator.choice(["lexical", "vector", "hybrid", "hybrid_linear"])
        if state.get("ranking") == "hybrid_linear":
            state["alpha"] = generator.choice(["0.05", "0.7", "1.0"])
        for name, value in (("label", record.label), ("split", record.split), ("corpus", record.corpus)):
            if value and generator.random() < 0.3:
                state[name] = value
        if generator.random() < 0.25:
            state["like"] = generator.choice(world.records).id
        if generator.random() < 0.3:
            state["sort"] = generator.choice(["label", "width"])
        if generator.random() < 0.25:
            state["with"] = [f"-0.5:like:{generator.choice(world.records).id}", "2:text:snow & ice"]
        if generator.random() < 0.2:
            state["parts"] = "1"
        if generator.random() < 0.3:
            state["view"] = "list"
        if not state.keys() - {"ranking", "alpha", "view"} and generator.random() < 0.7:
            state["page"] = str(generator.randint(1, 3))
        yield state


def test_a_link_restores_every_control_and_back_and_forward_are_exact(
    browser: Browser, world: World, rounds: Callable[[int, int], int]
) -> None:
    with visit(browser) as seen:
        page = seen.page
        shown = []
        for state in states(world, rounds(8, 45)):  # Chromium remembers fifty pages
            page.goto(f"{world.url}/?{urlencode(state, doseq=True)}")
            read = page.evaluate(CONTROLS)
            assert read["q"] == state.get("q", "")
            for name in ("ranking", "sort", "parts"):
                if name in state and name in read:
                    assert read[name] == state[name], name
            if "alpha" in state:
                assert float(read["alpha"]) == float(state["alpha"])
            chips = " | ".join(read["chips"])
            for name in ("label", "split", "corpus"):
                expected = f"{name}: {state[name]}" if name in state else ""
                assert expected in chips if expected else f"{name}: " not in chips
            assert ("Images like" in chips) == ("like" in state)
            assert ("snow & ice" in chips) == ("with" in state)
            if not shown or page.url != shown[-1][0]:  # the same page again is no further step of the history
                shown.append((page.url, read))
        for url, read in reversed(shown[:-1]):
            page.go_back()
            assert page.url == url
            assert page.evaluate(CONTROLS) == read
        for url, read in shown[1:]:
            page.go_forward()
            assert page.url == url
            assert page.evaluate(CONTROLS) == read


def test_the_form_writes_the_state_that_it_was_read_from(browser: Browser, world: World) -> None:
    """Pressing Enter on any page asks for that page again: nothing that was chosen is lost on the way."""
    with visit(browser, java_script_enabled=False) as seen:
        page = seen.page
        for state in states(world, 8):
            if state.get("page") or not state.get("q"):
                continue
            page.goto(f"{world.url}/?{urlencode(state, doseq=True)}")
            before = page.evaluate(CONTROLS)
            page.get_by_role("searchbox").press("Enter")
            page.wait_for_load_state()
            assert page.evaluate(CONTROLS) == before
            kept = [
                pair for pair in parse_qsl(urlsplit(page.url).query) if pair[0] in ("with", "like", "label", "split")
            ]
            assert sorted(kept) == sorted(
                (name, value)
                for name, given in state.items()
                if name in ("with", "like", "label", "split")
                for value in (given if isinstance(given, list) else [given])
            )


def test_without_javascript_every_page_shows_the_same(browser: Browser, world: World) -> None:
    shown: list[dict[str, str]] = []
    for scripts in (True, False):
        with visit(browser, java_script_enabled=scripts) as seen:
            seen.expected |= {400, 404}
            texts = {}
            for name, path in places(world).items():
                seen.page.goto(world.url + path)
                text = seen.page.locator("main").inner_text()
                texts[name] = re.sub(r"\d+ ms", "", text)
            shown.append(texts)
    assert shown[0] == shown[1]


def test_reduced_motion_is_respected(browser: Browser, world: World) -> None:
    with visit(browser, reduced_motion="reduce") as seen:
        seen.page.goto(world.url)
        moving = seen.page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration) > 0.01"
            " || parseFloat(getComputedStyle(e).animationDuration) > 0.01).length"
        )
        assert moving == 0


def test_the_visit_notices_what_the_policy_stops(browser: Browser, world: World) -> None:
    """What a script that slipped through escaping would look like to the policy."""
    inline = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    with visit(browser) as seen:
        seen.page.goto(world.url)
        seen.page.evaluate(inline)
        assert seen.page.evaluate("window.ran") is None
        assert seen.policy_violations() == ["script-src-elem inline"]
        assert any("Content Security Policy" in fault for fault in seen.faults)
        seen.faults.clear()


def test_a_visit_collects_faults(browser: Browser, world: World) -> None:
    seen: Visit
    with pytest.raises(AssertionError, match="404"), visit(browser) as seen:
        seen.page.goto(f"{world.url}/nowhere")
