"""Documents whose every text is an attack: shown in a real browser, they make no element, no handler and no script."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from small_index import DIM, ColourModel, running_engine
from test_ui_attack import SERVE
from ui_browsing import visit
from ui_support import running_ui

pytestmark = pytest.mark.soak
ATTACKS = (
    "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "\"><svg onload=window.pwned=1>",
    "'><iframe srcdoc='<script>parent.pwned=1</script>'>", "\" onmouseover=\"window.pwned=1\" x=\"",
    "</title><script>pwned=1</script>",
    "</script><script>window.pwned=1</script>", "<a href=javascript:pwned=1>x</a>", "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0;url=//evil.example>", "<form action=//evil.example><button>x</button></form>",
    "<style>*{display:none}</style>", "<link rel=stylesheet href=//evil.example/x>", "{{7*7}}{% raw %}", "${7*7}",
    "<!--", "-->",
    "<plaintext>", "<mark>forged</mark>", "&lt;script&gt;", "&#60;script&#62;", "\u202e<b>", "]]>",
    "<math><mtext><script>",
    "x" * 3000, "a\u0000<b>", "\ufeff<b>", "<details open ontoggle=window.pwned=1>", "`-alert(1)-`", "%3Cscript%3E",
)  # fmt: skip
# What a page has of elements, by name, and of handlers and addresses that run something.
CENSUS = """() => {
  const count = {};
  const bad = [];
  for (const element of document.querySelectorAll("*")) {
    count[element.localName] = (count[element.localName] || 0) + 1;
    for (const {name, value} of element.attributes) {
      const leads = ["href", "src", "action", "srcdoc", "formaction"].includes(name);
      if (name.startsWith("on") || leads && new URL(value, location).origin !== location.origin)
        bad.push(element.outerHTML.slice(0, 200));
    }
  }
  return {count, bad, pwned: "pwned" in window, title: document.title};
}"""
VIEWS = (
    "/?corpus={corpus}&dups=1", "/?corpus={corpus}&dups=1&view=list", "/?like={id}&corpus={corpus}&dups=1",
    "/compare?like={id}&a=vector&b=vector&corpus={corpus}", "/inside?like={id}", "/map?corpus={corpus}",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[tuple[str, list[str]]]:
    """The page's address, over two corpora that are alike but for what their texts say; and the hostile ids."""
    home, port = tmp_path_factory.mktemp("hostile"), free_port()
    with running_engine(home / "data", free_port) as engine:
        ids = [feed(engine.url, number, attack) for number, attack in enumerate(ATTACKS)]
        program = ("-c", SERVE, engine.url, str(port), str(home / "judgments.jsonl"))
        with running_ui(engine.url, port, program=program) as url:
            yield url, ids


def feed(url: str, number: int, attack: str) -> str:
    """Two documents: one of the attack, and a harmless one of the same shape. The id of the first."""
    hostile = ""
    for corpus, text in (("hostile", attack), ("benign", f"word {number}")):
        key = attack.replace("\u0000", "")[:100] if corpus == "hostile" else f"key {number}"
        vector = np.random.default_rng(number).standard_normal(DIM)
        fields: dict[str, Any] = {
            "captions": [text, f"second {text}"], "label": text.replace("\u0000", " "), "corpus": corpus,
            "split": "test", "image_uri": f"../../{text}", "content_hash": text[:60], "width": 64, "height": 48,
            "model_id": ColourModel.model_id,
            "embedding": [float(x) for x in vector / np.linalg.norm(vector)],
            "latitude": 50 + number / 100, "longitude": 4 + number / 100,
        }  # fmt: skip
        path = f"/document/v1/{corpus}/image/docid/{quote(key, safe='')}"
        if post(url + path, fields) == 400:
            key = f"key-{number}"
            path = f"/document/v1/{corpus}/image/docid/{key}"
            assert post(url + path, {name: clean(value) for name, value in fields.items()}) == 200
        if corpus == "hostile":
            hostile = f"id:{corpus}:image::{key}"
    return hostile


def clean(value: Any) -> Any:
    """Without what a string of Vespa's cannot hold."""
    if isinstance(value, str):
        return "".join(letter for letter in value if letter >= " " and letter != "\ufeff")
    return [clean(each) for each in value] if isinstance(value, list) else value


def post(url: str, fields: dict[str, Any]) -> int:
    """Put one document; the status."""
    request = urllib.request.Request(
        url, json.dumps({"fields": fields}).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def census(page: Page, url: str) -> dict[str, Any]:
    page.goto(url)
    found: dict[str, Any] = page.evaluate(CENSUS)
    assert not found["pwned"], url
    assert found["bad"] == [], url
    return found


def test_hostile_documents_make_no_element(browser: Browser, site: tuple[str, list[str]]) -> None:
    url, ids = site
    with visit(browser) as seen:
        seen.expected |= {400, 404, 409}
        seen.page.on("dialog", lambda dialog: seen.faults.append(f"a dialog: {dialog.message}"))
        for view in VIEWS:
            counts = []
            for corpus, document_id in (("hostile", ids[0]), ("benign", "id:benign:image::key 0")):
                found = census(seen.page, url + view.format(corpus=corpus, id=quote(document_id, safe="")))
                counts.append(found["count"])
                assert seen.policy_violations() == []
            assert counts[0] == counts[1], view


def test_hostile_words_are_shown_as_text(
    browser: Browser, site: tuple[str, list[str]], rounds: Callable[[int, int], int]
) -> None:
    url, ids = site
    with visit(browser) as seen:
        seen.expected |= {400, 404, 409}
        seen.page.on("dialog", lambda dialog: seen.faults.append(f"a dialog: {dialog.message}"))
        plain = census(seen.page, f"{url}/?q=zebra&ranking=vector")["count"]
        for number, (attack, document_id) in enumerate([*zip(ATTACKS, ids, strict=True)][:: rounds(3, 1)]):
            words, like = quote_plus(attack), quote(document_id, safe="")
            found = census(seen.page, f"{url}/?q={words}&ranking=vector")["count"]
            assert {name: n for name, n in found.items() if name not in plain and name != "mark"} == {}, attack
            paths = (
                f"/?like={like}", f"/?q=a&with=1:text:{words}&with=-1:like:{like}", f"/compare?q={words}",
                f"/?label={words}", f"/?ranking={words}", f"/?img={words}", f"/{words}",
            )  # fmt: skip
            for path in (paths * 2)[number % 7 :][: rounds(1, 7)]:
                found = census(seen.page, url + path)["count"]
                assert not found.keys() & {"script", "iframe", "style", "object", "embed", "base", "math"} - {
                    "script"
                }, path
                assert found.get("script", 0) <= 1, path
            assert seen.policy_violations() == []


def test_a_file_name_is_text_too(browser: Browser, site: tuple[str, list[str]], tmp_path: Any) -> None:
    from small_corpus import draw

    with visit(browser) as seen:
        seen.expected |= {404}  # these documents have no thumbnails
        for attack in ("<img src=x onerror=window.pwned=1>.jpg", '"><svg onload=pwned=1>.jpg'):
            mine = tmp_path / attack.replace("/", "_")
            draw("red", "left", 1).save(mine, "JPEG")
            seen.page.goto(site[0])
            seen.page.locator("#upload input[type=file]").set_input_files(mine)
            seen.page.wait_for_url("**img=*")
            found = census(seen.page, seen.page.url)
            shown = attack.replace(chr(34), "%22")  # so browsers send it
            assert shown in (seen.page.locator("main").text_content() or "")
            assert not found["pwned"]
