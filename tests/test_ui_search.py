"""Searching in a real browser: every ranking, filter and control does what it says, with JavaScript and without."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from ui_browsing import EITHER_WAY, Visit, sources, visit
from ui_support import World

from clipsearch.records import Record
from clipsearch.search.highlight import segments

pytestmark = pytest.mark.soak
RANKINGS = {"lexical": "Words", "vector": "Meaning", "hybrid": "Both", "hybrid_linear": "Blend"}
PER_PAGE = 24
FIELDS = ("label", "corpus", "split", "size")
# Gives a file to the page as a paste or a drop does: no program may put one on the real clipboard.
GIVE = """([kind, name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true})
    : new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
  document.body.dispatchEvent(event);
}"""
# Keeps what the page writes to the clipboard, which needs a permission that browsers without a window do not ask for.
CLIPBOARD = "() => { navigator.clipboard.writeText = async text => { window.__copied = text; }; }"


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def seen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    with visit(browser, java_script_enabled=request.param) as opened:
        opened.scripts = request.param
        yield opened


@pytest.fixture
def live(browser: Browser) -> Iterator[Visit]:
    """With JavaScript."""
    with visit(browser) as opened:
        yield opened


def search(seen: Visit, words: str, ranking: str = "") -> None:
    """Type ``words``, choose a ranking as a person does, press Enter."""
    page = seen.page
    page.get_by_role("searchbox").fill(words)
    if ranking:
        choice = page.get_by_role("radio", name=RANKINGS[ranking])
        if not choice.is_checked():
            page.locator("label", has=choice).click()
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(lambda url: parse_qs(urlsplit(url).query).get("q") == [words])


def ids(page: Page) -> list[str]:
    """The document ids of the hits on the page, out of its JSON twin."""
    url = urlsplit(page.url)
    answer = page.request.get(f"{url.scheme}://{url.netloc}/index.json?{url.query}").json()
    return [hit["id"] for hit in answer["hits"]]


def keys(found: list[str]) -> list[str]:
    return [document_id.rpartition("::")[2] for document_id in found]


def facet_counts(page: Page, name: str) -> dict[str, int]:
    """Value -> count of one facet, its "more" included."""
    found = {}
    for value in page.locator(f"#facet-{name} li a").all():
        text = value.locator(".count").text_content() or ""
        found[(value.locator("bdi").text_content() or "").split(" (")[0]] = int(text.replace(",", ""))
    return found


def with_count(page: Page, name: str, value: str) -> Locator:
    return page.locator(
        f"#facet-{name} li a", has=page.locator("bdi", has_text=re.compile(rf"^{re.escape(value)}( \(|$)"))
    )


def follow(page: Page, link: Locator) -> None:
    """Click a link that may lie in a closed group, as the rarer values of a facet do."""
    for group in link.locator("xpath=ancestor::details[not(@open)]").all():
        if (summary := group.locator("xpath=./summary")).is_visible():
            summary.click()
    link.click()


@EITHER_WAY
def test_each_ranking_paints_its_hits(seen: Visit, world: World) -> None:
    seen.page.goto(world.url)
    sources(seen.page)
    caption = world.caption(1)
    orders = set()
    for ranking, label in RANKINGS.items():
        search(seen, caption, ranking)
        found = ids(seen.page)
        painted = sources(seen.page)
        assert painted == keys(found)
        assert seen.page.get_by_role("radio", name=label).is_checked()
        expect(seen.page.get_by_role("searchbox")).to_have_value(caption)
        if ranking != "vector":
            assert any(caption in world.by_id[hit].captions for hit in found), ranking
        orders.add(tuple(found))
    assert len(orders) >= 3


def test_the_slider_moves_from_words_to_meaning(live: Visit, world: World) -> None:
    page = live.page
    words = quote_plus(world.caption(2))
    page.goto(f"{world.url}/?q={words}&ranking=hybrid_linear")
    slider = page.get_by_role("slider", name="Weight of meaning against words")
    found = {}
    for alpha in ("0", "1"):
        slider.fill(alpha)
        page.wait_for_url(re.compile(f"alpha={alpha}(&|$)"))
        found[alpha] = ids(page)
        expect(slider).to_have_value(alpha)
    page.goto(f"{world.url}/?q={words}&ranking=vector")
    top = ids(page)[:5]
    assert set(found["1"][:5]) & set(top)
    assert found["0"] != found["1"]


@EITHER_WAY
def test_facets_count_what_is_there_and_filter(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(world.url)
    for name in ("label", "corpus", "split"):
        truth = world.count(name)
        assert facet_counts(page, name) == (truth if len(truth) > 1 else {}), name
    assert facet_counts(page, "size") == (world.sizes if len(world.sizes) > 1 else {})
    label, count = max(world.count("label").items(), key=lambda item: item[1])
    follow(page, with_count(page, "label", label))
    page.wait_for_url(re.compile("label="))
    expect(page.locator(".status")).to_contain_text(f"{count:,} images")
    assert {world.by_id[hit].label for hit in ids(page)} == {label}
    assert facet_counts(page, "label") == world.count("label"), "a chosen label leaves the others to switch to"
    assert facet_counts(page, "split") == world.count("split", label=label)
    split, count = max(world.count("split", label=label).items(), key=lambda item: item[1])
    follow(page, with_count(page, "split", split))
    page.wait_for_url(re.compile("split="))
    expect(page.locator(".status")).to_contain_text(f"{count:,} images")
    assert page.locator(".chip.filter").all_text_contents() != []
    for name in ("label", "split"):
        page.get_by_role("link", name=f"Remove the filter on {name}").click()
        page.wait_for_url(lambda url, name=name: f"{name}=" not in url)
    expect(page.locator(".status")).to_contain_text(f"{len(world.records):,} images")
    assert page.locator(".chip").count() == 0


@EITHER_WAY
def test_filters_hold_for_words_too(seen: Visit, world: World) -> None:
    page = seen.page
    label = max(world.count("label").items(), key=lambda item: item[1])[0]
    page.goto(f"{world.url}/?label={quote_plus(label)}&size=small")
    search(seen, world.caption(3), "hybrid")
    assert parse_qs(urlsplit(page.url).query)["label"] == [label]
    found = ids(page)
    assert {world.by_id[hit].label for hit in found} == {label}
    assert 0 < len(found) <= world.count("label")[label]
    assert parse_qs(urlsplit(page.url).query)["size"] == ["small"]


@EITHER_WAY
def test_pages_follow_each_other_without_gap_or_repetition(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?dups=1")
    found: list[str] = []
    for number in range(1, 4):
        expect(page.locator(".pages")).to_contain_text(f"Page {number}")
        found += ids(page)
        if number < 3:
            page.locator("a[rel=next]").click()
            page.wait_for_url(re.compile(f"page={number + 1}"))
    assert len(found) == len(set(found)) == 3 * PER_PAGE
    page.locator("a[rel=prev]").click()
    page.wait_for_url(re.compile("page=2"))
    assert ids(page) == found[PER_PAGE : 2 * PER_PAGE]


def test_sorting_orders_all_that_match(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?dups=1")
    page.locator("select[name=sort]").select_option("label")
    if not seen.scripts:
        page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("sort=label"))
    shown = [world.by_id[hit].label for hit in ids(page)]
    truth = sorted(record.label for record in world.records)
    assert shown == truth[:PER_PAGE]
    expect(page.locator("select[name=sort]")).to_have_value("label")


@EITHER_WAY
def test_similar_leads_to_images_like_that_one(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(4))}&ranking=lexical&dups=1")
    first = ids(page)[0]
    page.get_by_role("link", name="Images similar to number 1", exact=True).click()
    page.wait_for_url(re.compile("like="))
    assert first not in ids(page)
    assert len(sources(page)) == PER_PAGE - 1, "the image itself is on the first page"
    expect(page.locator(".chips")).to_contain_text(f"Images like {first.rpartition('::')[2]}")
    page.get_by_role("link", name="Stop searching by this image").click()
    page.wait_for_url(lambda url: "like=" not in url)


@EITHER_WAY
def test_near_duplicates_fold_into_one_and_unfold(seen: Visit, world: World) -> None:
    if not world.copies:
        pytest.skip("this corpus has no copies of known place")
    page = seen.page
    copy, original = next(iter(world.copies.items()))
    corpora = {copy, original}
    words = quote_plus(world.by_id[original].captions[0])
    page.goto(f"{world.url}/?q={words}&ranking=hybrid")
    folded = page.locator(".card", has=page.locator("details.dups"))
    assert folded.count() >= 1
    expect(folded.first.locator("summary", has_text="near-duplicate")).to_be_visible()
    first_shown = ids(page)
    assert len(corpora & set(first_shown)) == 1, "an image and its copy are one card"
    page.locator(".status a", has_text="folded").click()
    page.wait_for_url(re.compile("dups=1"))
    assert corpora <= set(ids(page))
    page.locator(".status a", has_text="fold").click()
    page.wait_for_url(lambda url: "dups=1" not in url)
    assert ids(page) == first_shown


def single(world: World) -> Record:
    """A record whose image is not there again as a copy."""
    known = {*world.copies, *world.copies.values()}
    return next(record for record in world.records[40:] if record.id not in known)


def upload(seen: Visit, path: Path) -> None:
    """Search by the file at ``path``: at once with JavaScript, by the button without."""
    seen.page.locator("input[type=file]").set_input_files(path)
    if not seen.scripts:
        seen.page.get_by_role("button", name="Go").click()
    seen.page.wait_for_url(re.compile("img="))


def test_an_uploaded_image_finds_itself(seen: Visit, world: World, tmp_path: Path) -> None:
    document_id = single(world).id
    mine = world.picture(single(world), tmp_path / "my <photo>.jpg")
    page = seen.page
    page.goto(world.url)
    upload(seen, mine)
    assert ids(page)[0] == document_id
    sources(page)
    expect(page.locator(".chips")).to_contain_text("Images like my <photo>.jpg")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_pasted_or_dropped_image_finds_itself(live: Visit, world: World, kind: str, tmp_path: Path) -> None:
    path, document_id = world.picture(single(world), tmp_path / "dropped.jpg"), single(world).id
    live.page.goto(world.url)
    live.page.evaluate(GIVE, [kind, "dropped.jpg", list(path.read_bytes())])
    live.page.wait_for_url(re.compile("img="))
    assert ids(live.page)[0] == document_id


def test_an_image_and_words_are_searched_together(seen: Visit, world: World, tmp_path: Path) -> None:
    path = world.picture(single(world), tmp_path / "mine.jpg")
    page = seen.page
    page.goto(world.url)
    upload(seen, path)
    alone = ids(page)
    page.get_by_role("searchbox").fill(world.caption(5))
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("q="))
    assert "img=" in page.url
    assert ids(page) != alone
    expect(page.locator(".chips")).to_contain_text("Images like")


@EITHER_WAY
def test_terms_are_added_and_subtracted(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(6))}&ranking=vector&dups=1")
    plain = ids(page)
    page.get_by_role("link", name="Less like number 1", exact=True).click()
    page.wait_for_url(re.compile("with="))
    assert parse_qs(urlsplit(page.url).query)["with"] == [f"-0.5:like:{plain[0]}"]
    less = ids(page)
    assert less.index(plain[0]) > 0 if plain[0] in less else True
    page.locator(".mix summary").click()
    page.locator("#mix select[name=weight]").select_option("1")
    page.locator("#mix input[name=add]").fill("snow")
    page.locator("#mix button").click()
    page.wait_for_url(re.compile("snow"))
    assert parse_qs(urlsplit(page.url).query)["with"] == [f"-0.5:like:{plain[0]}", "1:text:snow"]
    chips = page.locator(".chip.term")
    expect(chips).to_have_count(2)
    expect(chips.last).to_contain_text("snow")
    for number in (1, 0):
        page.locator(".chip.term").last.get_by_role("link").click()
        expect(page.locator(".chip.term")).to_have_count(number)
    assert ids(page) == plain


@EITHER_WAY
def test_the_matching_words_are_highlighted(seen: Visit, world: World) -> None:
    page = seen.page
    caption = world.caption(7)
    page.goto(f"{world.url}/?q={quote_plus(caption)}&ranking=lexical")
    first = page.locator(".card").first
    shown = first.locator(".caption").text_content() or ""
    marked = " ".join(first.locator(".caption mark").all_text_contents()).lower().split()
    matching = {text.lower() for text, is_match in segments(shown, caption) if is_match}
    assert marked
    assert set(marked) <= matching, "a word that the query does not have is marked"
    page.goto(f"{world.url}/?q={quote_plus(caption)}&ranking=vector")
    assert page.locator(".card mark").count() > 0, "also a hit by meaning shows the words that it has"


@EITHER_WAY
def test_each_hit_says_why_it_is_there(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(8))}&ranking=hybrid&dups=1")
    answer = page.request.get(page.url.replace("/?", "/index.json?")).json()
    for number, hit in enumerate(answer["hits"][:5], 1):
        text = page.locator(f"#hit-{number}").text_content() or ""
        for name in ("words", "cosine", "fused"):
            assert name in text
        assert f"{hit['cosine']:.3f}" in text
        assert re.search(r"\d+ %", text), "a calibrated relevance"
    assert page.locator("#hit-1 .why .at").count() >= 1, "the rank in its lists"


@EITHER_WAY
def test_a_line_parts_weak_matches(seen: Visit, world: World) -> None:
    page = seen.page
    words = quote_plus(world.caption(2))
    for label in sorted(filter(None, world.count("label"))):  # most of them are of something else
        page.goto(f"{world.url}/?q={words}&ranking=vector&label={quote_plus(label)}")
        assert page.locator(".card").count() > 0
        if page.locator(".weak-line").count():
            break
    expect(page.locator(".weak-line")).to_be_visible()
    page.goto(f"{world.url}/?like={quote(world.records[2].id)}")
    weak = [card.get_attribute("id") for card in page.locator(".grid.faint .card").all()]
    strong = [card.get_attribute("id") for card in page.locator(".grid:not(.faint) .card").all()]
    numbers = [int((name or "").removeprefix("hit-")) for name in strong + weak]
    assert numbers == sorted(numbers), "the line parts the ranking in two"


def test_copied_as_yql_and_curl_is_the_very_request(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(9))}&ranking=hybrid&split=train&dups=1")
    shown = ids(page)
    query = urlsplit(page.url).query
    curl = page.request.get(f"{world.url}/request.curl?{query}").text()
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True, timeout=20)
    children: list[dict[str, Any]] = json.loads(done.stdout)["root"]["children"]
    assert [child["fields"]["documentid"] for child in children if "fields" in child] == shown
    body = page.request.get(f"{world.url}/request.json?{query}").json()
    text = page.request.get(f"{world.url}/request.yql?{query}").text()
    assert text.splitlines()[0] == body["yql"]
    if seen.scripts:
        page.evaluate(CLIPBOARD)
        for name, expected in (("YQL", text), ("curl", curl)):
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.locator("#said")).to_have_text(f"{name} copied")
            assert page.evaluate("window.__copied").strip() == expected.strip()


@EITHER_WAY
def test_rows_show_the_same_hits_as_tiles(seen: Visit, world: World) -> None:
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(1))}")
    tiles = sources(page)
    page.get_by_role("link", name="Rows", exact=True).click()
    page.wait_for_url(re.compile("view=list"))
    assert sources(page) == tiles


def test_another_model_ranks_otherwise(seen: Visit, world: World) -> None:
    if len(world.models) < 2:
        pytest.skip("this index holds embeddings of one model")
    page = seen.page
    page.goto(f"{world.url}/?q={quote_plus(world.caption(1))}&ranking=vector")
    first = ids(page)
    choice = page.locator("select[name=model]")
    choice.select_option(index=1)
    if not seen.scripts:
        page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(re.compile("model="))
    assert ids(page) != first
    assert choice.input_value() != ""
