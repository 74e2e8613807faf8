"""The search page over a stand-in endpoint: what people see, what programs see, and what attackers do not get."""

from __future__ import annotations

import asyncio
import io
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_vespa import FakeVespa, jpeg, serve_fake, unit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from web_support import HOSTILE, Elements, Model, asked, small_index

from clipsearch.errors import InputError
from clipsearch.images import load_image
from clipsearch.search import QueryEncoder
from clipsearch.search.query import yql
from clipsearch.serving import host_guard
from clipsearch.web.app import UiConfig, by_model, create_app
from clipsearch.web.server import parse_roots, run_ui
from clipsearch.web.uploads import Uploads


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with small_index() as server:
        yield server


@pytest.fixture(autouse=True)
def _reset(fake: FakeVespa) -> None:
    fake.answer = lambda method, path, body: None
    fake.queries.clear()


@pytest.fixture(scope="module")
def page(fake: FakeVespa, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    root = tmp_path_factory.mktemp("corpus")
    (root / "images").mkdir()
    (root / "images" / "bridge_0.jpg").write_bytes(jpeg(1, (600, 400)))
    Image.new("RGB", (30, 20), (9, 90, 9)).save(root / "images" / "bridge_1.jpg", "TIFF")
    (root / "images" / "bridge_2.jpg").write_text("not an image")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("rsicd/b.jpg", jpeg(2))
    fake.add("zipped.jpg", ["zipped"], 79, image_uri="more.zip!/rsicd/b.jpg")
    return TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Model())), {"demo": root})))


@pytest.fixture(scope="module")
def words_only(fake: FakeVespa) -> TestClient:
    return TestClient(create_app(UiConfig(fake.url)))


@pytest.mark.parametrize("ranking", ["lexical", "vector", "hybrid", "hybrid_linear"])
def test_each_ranking_shows_hits_with_their_parts(page: TestClient, fake: FakeVespa, ranking: str) -> None:
    answer = page.get("/", params={"q": "storage tanks", "ranking": ranking, "alpha": 0.25})
    assert answer.status_code == 200
    assert asked(fake)["ranking.profile"] == ranking
    assert asked(fake).get("input.query(alpha)") == (0.25 if ranking == "hybrid_linear" else None)
    elements = Elements(answer.text)
    assert any(a["src"] == "/thumb/other/tanks.jpg?v=abababababab" for a in elements.all("img"))
    assert [a["value"] for a in elements.all("input") if "checked" in a and a["name"] == "ranking"] == [ranking]
    assert ("2.00" in answer.text) == (ranking != "vector")
    assert ("1.000" in answer.text) == (ranking != "lexical")


def test_without_a_query_the_page_shows_what_there_is(page: TestClient) -> None:
    answer = page.get("/")
    assert "<b>33</b> images in the index" in answer.text
    assert len(Elements(answer.text).all("li", "card")) == 24
    assert len(Elements(page.get("/?page=2").text).all("li", "card")) == 9


def test_pages_link_to_each_other_and_keep_the_query(page: TestClient) -> None:
    first = Elements(page.get("/?q=bridge&ranking=lexical").text)
    following = [a["href"] for a in first.all("a") if a.get("rel") == "next"]
    assert following == ["/?q=bridge&ranking=lexical&page=2"]
    second = Elements(page.get(str(following[0])).text)
    assert [a["href"] for a in second.all("a") if a.get("rel") == "prev"] == ["/?q=bridge&ranking=lexical"]
    assert not [a for a in second.all("a") if a.get("rel") == "next"]


def test_similar_searches_by_the_stored_embedding_and_leaves_the_image_out(page: TestClient) -> None:
    answer = page.get("/", params={"like": "id:other:image::tanks.jpg"})
    links = [a["href"] for a in Elements(answer.text).all("a", "similar")]
    assert len(links) == 23  # the image itself is on the first page
    assert "/?like=id%3Aother%3Aimage%3A%3Atanks.jpg" not in links
    assert "Images like <bdi>tanks.jpg</bdi>" in answer.text
    chosen = [a["value"] for a in Elements(answer.text).all("input") if "checked" in a and a["name"] == "ranking"]
    assert chosen == ["hybrid"]  # for the next words; the image itself is ranked by its vector
    assert "ranked by closeness" in answer.text


@pytest.mark.parametrize("like", ["id:demo:image::gone.jpg", "nonsense", "id:demo:image::../x"])
def test_a_link_to_an_image_that_is_gone_says_so_and_paints_no_broken_picture(page: TestClient, like: str) -> None:
    answer = page.get("/", params={"like": like})
    assert answer.status_code == 400
    assert "gone.jpg is in the index" in answer.text or "is not the id of an image" in answer.text
    assert "Id:demo" not in answer.text
    assert [a["src"] for a in Elements(answer.text).all("img") if "/static/" not in str(a["src"])] == []


def test_filters_show_as_chips_that_take_them_off(page: TestClient) -> None:
    answer = page.get("/", params={"q": "storage tanks", "corpus": "other", "ranking": "lexical"})
    assert answer.text.count('class="card"') == 1
    chips = [a["href"] for a in Elements(answer.text).all("a") if a.get("aria-label") == "Remove the filter on corpus"]
    assert chips == ["/?q=storage+tanks&ranking=lexical"]


def test_the_json_twin_says_what_the_page_says(page: TestClient) -> None:
    answer = page.get("/index.json?q=storage+tanks&ranking=hybrid").json()
    assert answer["ranking"] == "hybrid"
    assert answer["hits"][0]["id"] == "id:other:image::tanks.jpg"
    assert set(answer["hits"][0]) >= {"rank", "relevance", "lexical", "semantic", "fields"}
    assert answer["request"]["text"] == "storage tanks"
    assert answer["next"] == "?q=storage+tanks&ranking=hybrid&page=2"
    refused = page.get("/index.json?ranking=bm25")
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_without_a_model_words_are_searched_and_the_rest_says_why_not(words_only: TestClient, fake: FakeVespa) -> None:
    answer = words_only.get("/?q=storage+tanks")
    assert asked(fake)["ranking.profile"] == "lexical"
    assert "--model" in answer.text
    assert len([a for a in Elements(answer.text).all("input") if "disabled" in a]) == 3
    assert not Elements(answer.text).all("form", "upload")
    refused = words_only.get("/?q=river&ranking=vector")
    assert refused.status_code == 400
    assert "needs a model" in refused.text
    assert words_only.post("/upload", files={"image": ("a.jpg", jpeg())}).status_code == 409


def test_an_engine_that_is_away_is_a_sentence_and_comes_back(free_port: Callable[[], int]) -> None:
    port = free_port()
    ui = TestClient(create_app(UiConfig(f"http://127.0.0.1:{port}", by_model(QueryEncoder(Model())))))
    away = ui.get("/?q=river")
    assert away.status_code == 503
    assert away.headers["retry-after"] == "5"
    assert f"The search engine at http://127.0.0.1:{port} does not answer." in away.text
    assert 'value="river"' in away.text
    assert ui.get("/health").status_code == 503
    assert ui.get("/thumb/demo/a.jpg").status_code == 503
    with serve_fake(port) as back:
        back.add("a.jpg", ["a river"], 1)
        assert ui.get("/?q=river").status_code == 200
        assert ui.get("/health").json() == {
            "status": "ok", "endpoint": back.url, "model": "stand-in", "documents": 1,
        }  # fmt: skip


def test_an_empty_index_and_an_empty_result_are_told_apart() -> None:
    with serve_fake() as empty:
        ui = TestClient(create_app(UiConfig(empty.url, by_model(QueryEncoder(Model())))))
        assert "The index is empty" in ui.get("/").text
        answer = ui.get("/?q=unicorn&ranking=lexical").text
        assert "No image matches" in answer
        assert "Search by meaning too" in answer


def test_a_model_of_another_size_is_a_sentence(page: TestClient, fake: FakeVespa) -> None:
    class Wide(Model):
        def embed_texts(self, texts: list[str]) -> np.ndarray:
            return np.stack([unit(1, 16) for _ in texts])

    ui = TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(Wide())))))
    answer = ui.get("/?q=river")
    assert answer.status_code == 409
    assert "vectors of 16 numbers" in answer.text


@pytest.mark.parametrize(("status", "shown"), [(400, 400), (504, 502), (500, 502)])
def test_an_error_of_the_endpoint_is_shown_in_its_words(
    page: TestClient, fake: FakeVespa, status: int, shown: int
) -> None:
    error = {"code": 4, "message": "Field 'x' does not exist."}
    fake.answer = lambda method, path, body: (status, {"root": {"errors": [error]}})
    answer = page.get("/?q=river&ranking=lexical")
    assert answer.status_code == shown
    assert "refuses this query: Field &#39;x&#39; does not exist." in answer.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_query_gives_a_page_and_constant_yql(page: TestClient, fake: FakeVespa, text: str) -> None:
    fake.queries.clear()
    answer = page.get("/", params={"q": text, "label": text[:20]})
    assert answer.status_code == 200
    assert all(query["yql"] in yql() for query in fake.queries)
    assert len(Elements(answer.text).all("script")) == 1


def test_hostile_captions_labels_and_queries_create_no_element(page: TestClient) -> None:
    text = page.get("/", params={"q": HOSTILE}).text + page.get("/", params={"label": HOSTILE}).text
    assert HOSTILE not in text
    elements = Elements(text)
    assert {a.get("src") is not None for a in elements.all("script")} == {True}
    assert not [a for _, a in elements.found if any(name.startswith("on") or name == "style" for name in a)]
    assert not elements.all("style")


def test_every_answer_carries_the_strict_policy(page: TestClient) -> None:
    for path in ("/", "/index.json", "/static/page.js", "/thumb/demo/bridge_0.jpg", "/nothing", "/health"):
        policy = page.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy or path.startswith("/thumb/")
    assert "script-src" not in page.get("/thumb/demo/bridge_0.jpg").headers["content-security-policy"]


def test_thumbnails_can_be_kept_and_are_not_sent_twice(page: TestClient) -> None:
    answer = page.get("/thumb/demo/bridge_0.jpg?v=1")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    again = page.get("/thumb/demo/bridge_0.jpg?v=1", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_only_the_known_version_of_a_static_file_is_kept_for_ever(page: TestClient) -> None:
    styles = [str(a["href"]) for a in Elements(page.get("/").text).all("link") if a.get("rel") == "stylesheet"]
    assert "immutable" in page.get(styles[0]).headers["cache-control"]
    for other in ("/static/style.css", "/static/style.css?v=1", styles[0] + "0", styles[0].replace("style", "map")):
        assert "immutable" not in page.get(other).headers.get("cache-control", "")


def test_full_size_files_come_from_the_corpus_root(page: TestClient) -> None:
    assert page.get("/image/demo/bridge_0.jpg").content == jpeg(1, (600, 400))
    assert page.get("/image/demo/zipped.jpg").content == jpeg(2)
    converted = page.get("/image/demo/bridge_1.jpg")
    assert converted.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(converted.content)).format == "JPEG"


@pytest.mark.parametrize(
    "path",
    [
        "/image/demo/bad.jpg",  # its image_uri leads out of the root
        "/image/demo/bridge_2.jpg",  # no image inside
        "/image/demo/bridge_9.jpg",  # the file is gone
        "/image/other/tanks.jpg",  # no root is configured
        "/image/demo/..%2f..%2fetc%2fpasswd",
        "/thumb/demo/%2e%2e%2fsecret",
        "/thumb/demo/gone.jpg",
        "/thumb/DEMO/a.jpg",
        "/static/..%2fapp.py",
        "/uploaded/unknown",
    ],
)
def test_what_is_not_a_picture_of_the_index_is_404(page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


def test_an_upload_is_searched_by_and_shown(page: TestClient, fake: FakeVespa) -> None:
    answer = page.post("/upload", files={"image": ("my <b>photo.jpg", jpeg(5))}, follow_redirects=False)
    assert answer.status_code == 303
    target = answer.headers["location"]
    assert re.fullmatch(r"/\?img=[0-9a-f]{24}", target)
    shown = page.get(target)
    assert asked(fake)["ranking.profile"] == "vector"
    assert "Images like <bdi>my &lt;b&gt;photo.jpg</bdi>" in shown.text
    assert page.get("/uploaded/" + target[6:]).headers["content-type"] == "image/jpeg"


def test_a_forgotten_upload_says_so(page: TestClient) -> None:
    answer = page.get("/?img=" + "0" * 24)
    assert answer.status_code == 400
    assert "upload the image again" in answer.text


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(page: TestClient) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = page.post("/upload", content=b"x", headers={**kind, "Content-Length": str(2**31)})
    assert answer.status_code == 413
    assert "10 MB at most" in answer.text


def test_a_body_without_a_length_is_cut_off_at_the_limit(page: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    chunks = iter([head] + [b"\0" * 2**20] * 1000)
    taken, sent = [0], []

    async def receive() -> dict[str, Any]:
        taken[0] += 1
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/upload", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")], "http_version": "1.1",
    }  # fmt: skip
    asyncio.run(page.app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert taken[0] <= 13


@pytest.mark.parametrize(
    ("request_parts", "status"),
    [
        ({"files": {"image": ("a.jpg", b"not an image")}}, 415),
        ({"content": jpeg(), "headers": {"Content-Type": "image/jpeg"}}, 415),
        ({"files": {"other": ("a.jpg", b"x")}}, 400),
        ({"files": {"image": ("a.jpg", b"")}}, 400),
        ({"content": b"--x--", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"files": {"image": ("a.jpg", jpeg())}, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ({"files": {"image": ("a.jpg", jpeg())}, "headers": {"Origin": "https://example.org"}}, 403),
    ],
)
def test_other_uploads_are_refused_with_a_sentence(
    page: TestClient, request_parts: dict[str, Any], status: int
) -> None:
    answer = page.post("/upload", **request_parts)
    assert answer.status_code == status
    assert "That did not work" in answer.text


def test_uploads_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may hold a picture of 256 MiB; forty threads that decode one each would need 10 GB."""
    running, most = [0], [0]

    def slow(data: bytes) -> np.ndarray:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1
        return load_image(data)

    monkeypatch.setattr("clipsearch.web.uploads.load_image", slow)
    kept, encoder = Uploads(), by_model(QueryEncoder(Model()))
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda seed: kept.add(jpeg(seed), "a.jpg", encoder), range(8)))
    assert most == [1]
    assert all(kept.get(upload.token) is upload for upload in added)


def test_a_page_weighs_little(page: TestClient) -> None:
    paths = ("/?q=bridge", "/static/style.css", "/static/page.js")
    weight = sum(int(page.get(path).headers["content-length"]) for path in paths)
    assert weight < 20_000  # compressed, as it travels
    assert sum(len(page.get(path).content) for path in paths) < 75_000


def test_corpus_roots_are_checked(tmp_path: Path) -> None:
    assert parse_roots([f"rsicd={tmp_path}"]) == {"rsicd": tmp_path}
    for bad in ("rsicd", "=x", f"rsicd={tmp_path}/none"):
        with pytest.raises(InputError, match="NAME=FOLDER"):
            parse_roots([bad])


def test_a_port_in_use_is_one_sentence(fake: FakeVespa) -> None:
    port = int(fake.url.rpartition(":")[2])
    with pytest.raises(InputError, match=r"another port with --port"):
        run_ui(UiConfig(fake.url), "127.0.0.1", port)


@pytest.mark.parametrize("path", ["/", "/index.json", "/health", "/static/style.css"])
def test_a_page_on_loopback_answers_only_to_names_of_this_machine(fake: FakeVespa, path: str) -> None:
    client = TestClient(create_app(UiConfig(fake.url), host_guard("127.0.0.1")))
    for name in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        assert client.get(path, headers={"host": name}).status_code != 403
    refused = client.get(path, headers={"host": "rebound.example:8000"})
    assert refused.status_code == 403
    assert "rebound.example" in refused.text
    assert refused.headers["content-security-policy"]
