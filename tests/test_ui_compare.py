"""Comparing and judging in a real browser: two rankings side by side, and marks that end up in the file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from ui_browsing import EITHER_WAY, LOADED, Visit, visit
from ui_support import ROOT, World

from clipsearch.relevance.judgments import read_judgments

pytestmark = pytest.mark.soak


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def seen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    with visit(browser, java_script_enabled=request.param) as opened:
        opened.scripts = request.param
        yield opened


def column(page: Page, letter: str) -> list[tuple[str, str]]:
    """Corpus and key of one side's hits in order, with what is said of their change."""
    entries = page.locator(f"li.entry[id^='{letter}-']")
    keys = [(src or "").partition("?")[0].removeprefix("/thumb/") for src in (
        entry.locator("img").get_attribute("src") for entry in entries.all())]  # fmt: skip
    return list(zip(keys, [text.strip() for text in entries.locator(".change").all_text_contents()], strict=True))


def ranked(world: World, words: str, more: str) -> list[str]:
    """Corpus and key of the search page's hits under one ranking, the first three pages."""
    found = []
    for page in (1, 2, 3):
        answer = world.get(f"/index.json?q={quote_plus(words)}&dups=1&page={page}&{more}")
        found += [hit["id"].removeprefix("id:").replace(":image::", "/") for hit in answer["hits"]]
    return found


@EITHER_WAY
def test_two_rankings_stand_side_by_side_with_their_changes(seen: Visit, world: World) -> None:
    words = world.caption(20)
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(words)}")
    page.get_by_role("link", name="Compare").first.click()
    page.wait_for_url(re.compile("/compare"))
    page.locator("select[name=a]").select_option("lexical")
    page.locator("select[name=b]").select_option("vector")
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("q=.*b=vector|b=vector.*q="))
    whole = {letter: ranked(world, words, f"ranking={name}") for letter, name in (("a", "lexical"), ("b", "vector"))}
    for letter, other in (("a", "b"), ("b", "a")):
        shown = column(page, letter)
        assert [key for key, _ in shown] == whole[letter][: len(shown)]
        for rank, (key, change) in enumerate(shown, 1):
            there = whole[other].index(key) + 1 if key in whole[other][:50] else None
            climbs = 0 if there is None else (rank - there if letter == "a" else there - rank)
            said = ("gone" if letter == "a" else "new") if there is None else (
                f"up {climbs}" if climbs > 0 else f"down {-climbs}" if climbs < 0 else "same")  # fmt: skip
            assert said in change, (letter, rank, key)
    assert min(page.locator("li.entry img").evaluate_all(LOADED)) > 0


@EITHER_WAY
def test_sides_are_swapped_and_opened_as_a_search(seen: Visit, world: World) -> None:
    words = world.caption(21)
    page = seen.page
    page.goto(f"{world.url}/compare?q={quote_plus(words)}&a=lexical&b=hybrid")
    left, right = ([key for key, _ in column(page, letter)] for letter in "ab")
    page.locator("a.swap").click()
    page.wait_for_url(re.compile("a=hybrid"))
    assert [key for key, _ in column(page, "a")] == right
    assert [key for key, _ in column(page, "b")] == left
    page.get_by_role("link", name="Open A as a search").click()
    page.wait_for_url(lambda url: urlsplit(url).path == "/")
    assert page.get_by_role("radio", name="Both").is_checked()
    expect(page.get_by_role("searchbox")).to_have_value(words)


@EITHER_WAY
def test_two_models_stand_side_by_side(seen: Visit, world: World) -> None:
    if len(world.models) < 2:
        pytest.skip("this index holds embeddings of one model")
    page = seen.page
    words = world.caption(22)
    page.goto(f"{world.url}/compare?q={quote_plus(words)}&a=vector&b=vector")
    page.locator("select[name=bm]").select_option(index=1)
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("bm="))
    model = page.locator("select[name=bm]").input_value()
    assert [key for key, _ in column(page, "a")] == ranked(world, words, "ranking=vector")[:20]
    assert [key for key, _ in column(page, "b")] == ranked(world, words, f"ranking=vector&model={quote_plus(model)}")[
        :20
    ]


def test_marks_end_up_in_the_file_and_can_be_measured(seen: Visit, world: World) -> None:
    words = world.caption(23) + (" judged" if seen.scripts else " judged plainly")
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(words)}&ranking=lexical&dups=1")
    page.get_by_role("link", name=re.compile("^Judge")).click()
    page.wait_for_url(re.compile("judge=1"))
    hits = world.get(f"/index.json?q={quote_plus(words)}&ranking=lexical&dups=1")["hits"]
    for place in ("#judge-1 [data-mark=relevant]", "#judge-2 [data-mark=irrelevant]", "#judge-3 [data-mark=relevant]"):
        button = page.locator(place)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    page.locator("#judge-3 [data-mark=relevant]").click()  # taken back
    expect(page.locator("#judge-3 [data-mark=relevant]")).to_have_attribute("aria-pressed", "false")
    page.reload()
    expect(page.locator("#judge-2 [data-mark=irrelevant]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".judging b").first).to_have_text("2")
    lines: list[dict[str, Any]] = [json.loads(line) for line in world.judgments.read_text().splitlines()]
    mine = [line for line in lines if line["query"]["q"] == words]
    expected = [(hits[0]["id"], True), (hits[1]["id"], False), (hits[2]["id"], True), (hits[2]["id"], None)]
    assert [(line["id"], line["relevant"]) for line in mine] == expected
    assert read_judgments(world.judgments)
    command = ["relevance", str(world.judgments), "--url", world.engine.url, "--profile", "lexical", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", *command], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert "lexical" in done.stdout


def test_hits_are_judged_in_a_comparison_too(seen: Visit, world: World) -> None:
    words = world.caption(24) + (" compared" if seen.scripts else " compared plainly")
    page = seen.page
    page.goto(f"{world.url}/compare?q={quote_plus(words)}&a=vector&b=hybrid&judge=1")
    button = page.locator("#judge-b-1 [data-mark=relevant]")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert "a=vector" in page.url
    assert any(json.loads(line)["query"]["q"] == words for line in world.judgments.read_text().splitlines())
