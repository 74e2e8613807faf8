"""Judging: what a button sends is on the disk before the answer, shows on the page, and nothing else gets in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fake_vespa import FakeVespa, serve_fake
from starlette.testclient import TestClient
from web_support import Model

from clipsearch.errors import InputError
from clipsearch.relevance.judgments import JudgedQuery, read_judgments
from clipsearch.search import QueryEncoder
from clipsearch.web.app import UiConfig, by_model, create_app
from clipsearch.web.judging import MAX_FORM

FORM = {"content-type": "application/x-www-form-urlencoded"}
RIVER = "/judge?q=river&ranking=lexical&judge=1"
MARK = {"mark": "relevant 3 id:demo:image::bridge_3.jpg"}


class Buttons(HTMLParser):
    """The judging buttons and forms of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self.forms: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "button" and values.get("name") == "mark":
            self.found.append(values)
        if tag == "form" and values.get("id", "").startswith("judging"):
            self.forms[values["id"]] = values["action"]

    def press(self, ui: TestClient, value: str, number: int = 0) -> Any:
        """Press the button of this value as a browser without JavaScript does."""
        button = [each for each in self.found if each["value"].startswith(value)][number]
        return ui.post(self.forms[button["form"]], data={"mark": button["value"]})


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        for number in range(8):
            server.add(f"bridge_{number}.jpg", ["a river with a bridge"], number, label="bridge")
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "judgments.jsonl"


@pytest.fixture
def ui(fake: FakeVespa, path: Path) -> TestClient:
    return TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())), judgments=path)))


@pytest.mark.parametrize("page", ["/", "/compare"])
def test_buttons_are_there_only_in_judging_mode_and_with_a_file(fake: FakeVespa, ui: TestClient, page: str) -> None:
    assert Buttons(ui.get(f"{page}?q=river&judge=1").text).found
    without = ui.get(f"{page}?q=river").text
    assert not Buttons(without).found
    assert "judge=1" in without
    no_file = TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())))))
    text = no_file.get(f"{page}?q=river&judge=1").text
    assert not Buttons(text).found
    assert ">Judge<" not in text
    assert no_file.post(RIVER, data=MARK).status_code == 409


def test_a_press_is_a_line_and_shows_as_pressed_and_a_second_takes_it_back(ui: TestClient, path: Path) -> None:
    url = "/?q=river&ranking=lexical&corpus=demo&judge=1"
    after = Buttons(ui.get(url).text).press(ui, "relevant", 2)
    assert after.history[0].status_code == 303
    assert urlsplit(str(after.url)).fragment == "judge-3"
    assert url in after.history[0].headers["location"]
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "query": {"q": "river", "corpus": "demo"}, "id": "id:demo:image::bridge_2.jpg", "relevant": True,
        "ranking": "lexical", "model": "", "rank": 3,
    }  # fmt: skip
    pressed = [each for each in Buttons(after.text).found if each["aria-pressed"] == "true"]
    assert [each["value"] for each in pressed] == ["undecided 3 id:demo:image::bridge_2.jpg"]
    assert "<b>1</b> judged for this query" in after.text
    again = Buttons(after.text).press(ui, "undecided")
    assert not [each for each in Buttons(again.text).found if each["aria-pressed"] == "true"]
    assert len(path.read_text().splitlines()) == 2
    assert len(read_judgments(path)) == 0


def test_yes_after_no_replaces_it(ui: TestClient, path: Path) -> None:
    page = ui.get("/?q=river&ranking=hybrid&judge=1").text
    page = Buttons(page).press(ui, "irrelevant").text
    Buttons(page).press(ui, "relevant")
    judged = read_judgments(path).by_query[JudgedQuery(q="river")]
    assert [(each.relevant, each.ranking, each.model, each.rank) for each in judged.values()] == [
        (True, "hybrid", "stand-in", 1)
    ]


def test_judgments_belong_to_the_query_and_not_to_its_ranking(ui: TestClient) -> None:
    Buttons(ui.get("/?q=river&ranking=lexical&judge=1").text).press(ui, "relevant")

    def pressed(url: str) -> int:
        return sum(each["aria-pressed"] == "true" for each in Buttons(ui.get(url).text).found)

    assert pressed("/?q=river&ranking=hybrid&judge=1") == 1
    assert pressed("/compare?q=river&a=lexical&b=vector&judge=1") == 2
    assert pressed("/?q=bridge&ranking=lexical&judge=1") == 0
    assert pressed("/?q=river&ranking=lexical&label=bridge&judge=1") == 0


def test_a_column_of_the_comparison_says_which_ranking_was_judged(ui: TestClient, path: Path) -> None:
    page = Buttons(ui.get("/compare?q=river&a=lexical&b=vector&label=bridge&judge=1").text)
    value = next(each for each in page.found if each["form"] == "judging-b")["value"]
    after = ui.post(page.forms["judging-b"], data={"mark": value})
    assert urlsplit(str(after.url)).path == "/compare"
    assert urlsplit(str(after.url)).fragment == "judge-b-1"
    assert Buttons(after.text).forms == page.forms
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["ranking"], line["model"], line["rank"]) == ("vector", "stand-in", 1)
    assert line["query"] == {"q": "river", "label": "bridge"}


def test_a_script_is_answered_204(ui: TestClient, path: Path) -> None:
    answer = ui.post(RIVER, data=MARK, headers={"accept": "application/json"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert len(read_judgments(path)) == 1


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("mark=relevant+3+id:demo:image::a.jpg", {"content-type": "text/plain"}, 415),
        ("mark=relevant+3+id:demo:image::a.jpg", {"content-type": "application/json"}, 415),
        ("mark=relevant+3+id:demo:image::a.jpg&" + "x" * MAX_FORM, FORM, 413),
        ("", FORM, 400),
        ("mark=", FORM, 400),
        ("mark=loved+3+id:demo:image::a.jpg", FORM, 400),
        ("mark=relevant+x+id:demo:image::a.jpg", FORM, 400),
        ("mark=relevant+-1+id:demo:image::a.jpg", FORM, 400),
        ("mark=relevant+999999+id:demo:image::a.jpg", FORM, 400),
        ("mark=relevant+3+id:demo:image::../../etc", FORM, 400),
        ("mark=relevant+3+http://example.org/a.jpg", FORM, 400),
        ("mark=relevant+3+id:demo:image::a.jpg%0A%7B%7D", FORM, 400),
        ("mark=relevant+3+id:demo:image::a.jpg&mark=relevant+3+id:demo:image::b.jpg", FORM, 400),
        ("mark=%FF%FE", FORM, 400),
        (b"mark=\xff\xfe", FORM, 400),
        ("&".join(["a=1"] * 20), FORM, 400),
    ],
)
def test_what_is_no_judgment_is_refused_and_writes_nothing(
    ui: TestClient, path: Path, body: str | bytes, headers: dict[str, str], status: int
) -> None:
    assert ui.post(RIVER, content=body, headers=headers).status_code == status
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "same-site"}]
)
def test_another_site_cannot_judge(ui: TestClient, path: Path, headers: dict[str, str]) -> None:
    assert ui.post(RIVER, data=MARK, headers=headers).status_code == 403
    assert path.read_bytes() == b""


def test_without_a_query_or_by_get_there_is_nothing_to_judge(ui: TestClient) -> None:
    assert ui.post("/judge?judge=1", data=MARK).status_code == 400
    assert ui.post("/judge?q=x&ranking=bm25", data=MARK).status_code == 400
    assert ui.get(RIVER).status_code == 405


def test_the_way_back_leads_nowhere_else(ui: TestClient) -> None:
    hostile = "&side=a&a=lexical&b=//evil.example&am=%0d%0aSet-Cookie:x&next=http://evil.example&back=//evil"
    answer = ui.post(RIVER + hostile, data=MARK, follow_redirects=False)
    assert answer.status_code == 303
    location = urlsplit(answer.headers["location"])
    assert (location.scheme, location.netloc, location.path) == ("", "", "/compare")
    assert "set-cookie" not in answer.headers


def test_hostile_queries_stay_one_line_each(ui: TestClient, path: Path) -> None:
    queries = ['"}\n{"id": "x"}', "line\u2028separator\u0085x", "\x00nul", "🙂 \u202e rtl", "<script>alert(1)</script>"]
    for query in queries:
        answer = ui.post("/judge", params={"q": query}, data=MARK, headers={"accept": "application/json"})
        assert answer.status_code == 204
    assert path.read_bytes().count(b"\n") == len(queries)
    assert [query.q for query in read_judgments(path).by_query] == queries


def test_a_full_disk_is_a_sentence_and_nothing_is_acknowledged(
    ui: TestClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = ui.post(RIVER, data=MARK)
    assert answer.status_code == 507
    assert "No space left on device" in answer.text
    assert path.read_bytes() == b""


def test_a_file_that_cannot_be_written_or_is_another_stops_the_start(fake: FakeVespa, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        create_app(UiConfig(fake.url, judgments=tmp_path))
    other = tmp_path / "captions.jsonl"
    other.write_text('{"file": "a.jpg"}\n')
    with pytest.raises(InputError, match="line 1 is no judgment"):
        create_app(UiConfig(fake.url, judgments=other))
    assert other.read_text() == '{"file": "a.jpg"}\n'
