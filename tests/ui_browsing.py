"""A real Chromium for tests: pages that fail the test for any fault, axe, and what people do with a page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from ui_support import soak

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 15_000  # ms that a page may take to show what is expected
NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
# Violations of the policy that the page itself hears about, whatever the console says of them.
LISTEN = """
window.__violations = [];
addEventListener(
  "securitypolicyviolation", event => __violations.push(event.violatedDirective + " " + event.blockedURI));
"""
SHIFTS = """
window.__shift = 0;
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.__shift += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
# Widths of images in px, 0 for one that is broken; those that would wait until they are scrolled to load now.
LOADED = """images => Promise.all(images.map(async image => {
  image.loading = "eager";
  if (!image.complete) await new Promise(done => image.onload = image.onerror = done);
  return image.naturalWidth;
}))"""


# For a test of the fixture ``seen`` in which scripts make no difference: both ways in the long form only.
EITHER_WAY = pytest.mark.parametrize(
    "seen",
    [pytest.param(on, id=f"with{'' if on else 'out'} JavaScript") for on in ((True, False) if soak() else (False,))],
    indirect=True,
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's own; without one the test is skipped with a sentence, but never in CI."""
    with sync_playwright() as playwright:
        program = CHROMIUM if CHROMIUM.exists() else Path(playwright.chromium.executable_path)
        if not program.exists():
            if os.environ.get("CI"):
                pytest.fail("there is no Chromium, and CI must have it")
            pytest.skip("there is no Chromium on this machine: the search page is not tested in a browser")
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page whose faults are collected: console errors, blocked or failed requests, answers of 400 and above.

    ``expected``: HTTP statuses that the test asks for on purpose.
    """

    page: Page
    faults: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)
    scripts: bool = True

    def watch(self) -> None:
        """Collect from now on."""
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda request: self._failed(request.url, request.failure))
        self.page.on("response", lambda answer: self._answered(answer.status, answer.url))

    def policy_violations(self) -> list[str]:
        """What the policy stopped on the page that is open."""
        found: list[str] = self.page.evaluate("window.__violations ?? []")
        return found

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" and not any(f"status of {status}" in text for status in self.expected):
            self.faults.append(text)

    def _failed(self, url: str, failure: str | None) -> None:
        if failure != "net::ERR_ABORTED":  # a page that was left before its pictures had come
            self.faults.append(f"{url}: {failure}")

    def _answered(self, status: int, url: str) -> None:
        if status > 399 and status not in self.expected:
            self.faults.append(f"{status} {url}")


@contextmanager
def visit(browser: Browser, **options: Any) -> Iterator[Visit]:
    """A page in a context of its own; at the end there must have been no fault."""
    context = browser.new_context(**{"viewport": WIDE, **options})
    context.set_default_timeout(PATIENCE)
    context.add_init_script(LISTEN)
    seen = Visit(context.new_page())
    seen.watch()
    yield seen
    context.close()
    assert seen.faults == [], seen.faults


@lru_cache(maxsize=1)
def axe_source() -> str:
    """The text of axe-core."""
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def axe(context: BrowserContext, url: str, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds on the page at ``url``, of any impact, best practices included, or by some ``rules`` only.

    Needs a context without policy, which would stop axe too.
    """
    page = context.pages[0] if context.pages else context.new_page()
    page.goto(url)
    page.evaluate(axe_source())
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = page.evaluate("options => axe.run(options)", {"resultTypes": ["violations"], **only})["violations"]
    return [f"{v['id']} ({v['impact']}): {[node['html'][:160] for node in v['nodes'][:3]]}" for v in found]


def sources(page: Page) -> list[str]:
    """The keys of the pictures of the hits, in order, once each of them is painted."""
    images = page.locator(".card .picture img")
    images.first.wait_for()
    assert min(images.evaluate_all(LOADED)) > 0, "a picture is not there"
    found = images.evaluate_all("images => images.map(image => image.getAttribute('src'))")
    return [source.partition("?")[0].rpartition("/")[2] for source in found]
