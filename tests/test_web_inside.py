"""The page that looks inside an image: which window a word is found in, where the picture comes from, its limits."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_vespa import FakeVespa, serve_fake
from PIL import Image
from starlette.testclient import TestClient

from clipsearch.search import QueryEncoder
from clipsearch.web import inside
from clipsearch.web.app import UiConfig, by_model, create_app

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "grey": (1, 1, 1)}


class Colours:
    """Texts that name a colour and images of that colour have the same vector."""

    model_id, dim, logit_scale = "colours", 3, 6.0

    def __init__(self) -> None:
        self.seen: list[int] = []

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return self._unit([COLOURS.get(text, (1, 1, 1)) for text in texts])

    def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
        self.seen.append(len(images))
        return self._unit([image.reshape(-1, 3).mean(0) + 1 for image in images])

    def _unit(self, rows: Any) -> np.ndarray:
        array = np.asarray(rows, np.float32)
        return array / np.linalg.norm(array, axis=1, keepdims=True)


def picture(width: int = 240, height: int = 120, kind: str = "PNG") -> bytes:
    """Blue, with red in the right half at the bottom."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[height // 2 :, width // 2 :] = (220, 0, 0)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeVespa]:
    with serve_fake(dim=3) as server:
        yield server


@pytest.fixture
def model() -> Colours:
    return Colours()


@pytest.fixture
def page(fake: FakeVespa, model: Colours, tmp_path: Path) -> TestClient:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture())
    (tmp_path / "images" / "broken.png").write_bytes(b"not an image")
    fake.add("a.png", ["a <b>red</b> field"], 1, content_hash="ab" * 32)
    fake.add("broken.png", ["broken"], 2)
    fake.add("elsewhere.jpg", ["elsewhere"], 3, corpus="other")
    fake.add("bare.jpg", ["bare"], 3, corpus="other", thumbnail="")
    return TestClient(create_app(UiConfig(fake.url, by_model(QueryEncoder(model)), {"demo": tmp_path})))


def test_the_likeliest_window_is_where_the_word_is(page: TestClient) -> None:
    answer = page.get("/inside.json", params={"like": "id:demo:image::a.png", "q": "red", "grid": "3x3"}).json()
    assert (answer["source"], answer["width"], answer["height"], answer["model"]) == ("file", 240, 120, "colours")
    windows = answer["words"][0]["windows"]
    assert windows[0]["box"] == [0.5, 0.5, 1.0, 1.0]
    assert windows[0]["place"] == "bottom right"
    assert sum(window["probability"] for window in windows) == pytest.approx(1, abs=1e-4)
    assert [w["probability"] for w in windows] == sorted((w["probability"] for w in windows), reverse=True)
    ratio = np.log(windows[0]["probability"] / windows[-1]["probability"])
    assert ratio == pytest.approx(6 * (windows[0]["cosine"] - windows[-1]["cosine"]), rel=1e-3), "its own logit scale"


def test_of_several_words_each_window_says_which_it_shows(page: TestClient) -> None:
    params = {"like": "id:demo:image::a.png", "q": "red, blue ,, red", "grid": "3x3"}
    red, blue = page.get("/inside.json", params=params).json()["words"]
    assert (red["word"], blue["word"]) == ("red", "blue")
    shares = {tuple(window["box"]): window["among_words"] for window in red["windows"]}
    for window in blue["windows"]:
        assert window["among_words"] + shares[tuple(window["box"])] == pytest.approx(1, abs=1e-4)
    assert shares[0.5, 0.5, 1.0, 1.0] > 0.9
    assert shares[0.0, 0.0, 0.5, 0.5] < 0.1


@pytest.mark.parametrize(("grid", "count"), [("3x3", 9), ("5x5", 25), ("7x7", 49)])
def test_the_page_draws_the_windows_over_the_picture_without_inline_style(
    page: TestClient, grid: str, count: int
) -> None:
    answer = page.get("/inside", params={"like": "id:demo:image::a.png", "q": "red", "grid": grid})
    assert answer.status_code == 200
    assert f"{count} overlapping windows" in answer.text
    assert 'src="/image/demo/a.png?v=abababababab"' in answer.text
    assert 'viewBox="0 0 240 120"' in answer.text
    opacities = [float(found) for found in re.findall(r'class="heat"[^>]*fill-opacity="([\d.]+)"', answer.text)]
    assert opacities
    assert max(opacities) <= 0.75
    assert 'style="' not in answer.text
    assert "<b>red</b>" not in answer.text
    assert answer.text.count('<th scope="row">') == inside.SHOWN


def test_a_second_word_needs_no_second_look(page: TestClient, model: Colours) -> None:
    params = {"like": "id:demo:image::a.png", "grid": "5x5"}
    page.get("/inside", params=params | {"q": "red"})
    assert sum(model.seen) == 25
    assert max(model.seen) <= 8, "small batches, so that other queries get their turn"
    page.get("/inside", params=params | {"q": "blue"})
    assert sum(model.seen) == 25
    page.get("/inside", params=params | {"q": "blue", "grid": "3x3"})
    assert sum(model.seen) == 34


def test_the_same_image_asked_for_at_once_is_looked_at_once(page: TestClient, model: Colours) -> None:
    params = {"like": "id:demo:image::a.png", "q": "red", "grid": "3x3"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: page.get("/inside.json", params=params).json(), range(6)))
    assert sum(model.seen) == 9
    assert all(answer == answers[0] for answer in answers)


def test_without_a_corpus_folder_the_thumbnail_is_looked_at_and_the_page_says_so(page: TestClient) -> None:
    answer = page.get("/inside", params={"like": "id:other:image::elsewhere.jpg", "q": "red"})
    assert answer.status_code == 200
    assert "thumbnail in the index" in answer.text
    assert "/thumb/other/" in answer.text
    broken = page.get("/inside.json", params={"like": "id:demo:image::broken.png", "q": "red"}).json()
    assert broken["source"] == "thumbnail", "a file that is no image does no harm"


def test_an_upload_is_looked_at_and_its_words_are_kept(page: TestClient) -> None:
    files = {"image": ("mine.png", picture(), "image/png")}
    answer = page.post("/inside/upload?q=red&grid=3x3", files=files, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/inside?img=")
    shown = page.get(answer.headers["location"])
    assert "mine.png" in shown.text
    assert "uploaded image" in shown.text
    assert "bottom right" in shown.text
    foreign = page.post("/inside/upload", files=files, headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403
    assert page.post("/inside/upload", files={"image": ("x.png", b"no", "image/png")}).status_code == 415


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({"like": "id:demo:image::nothing", "q": "red"}, 404, "no image id:demo:image::nothing"),
        ({"like": "nonsense", "q": "red"}, 400, "nonsense"),
        ({"img": "gone", "q": "red"}, 404, "forgotten"),
        ({"like": "id:other:image::bare.jpg", "q": "red"}, 404, "no such image"),
        ({"like": "id:demo:image::a.png", "q": "red", "grid": "99x99"}, 400, "3x3, 5x5, 7x7"),
        ({"like": "id:demo:image::a.png", "q": "a,b,c,d,e,f,g"}, 400, "at most 6"),
        ({"like": "id:demo:image::a.png", "q": "x" * 201}, 400, "shorten"),
        ({"like": "id:demo:image::a.png", "q": "red", "model": "other"}, 400, "not loaded"),
        ({"q": "red"}, 400, "Give an image"),
    ],
)
def test_what_cannot_be_looked_at_is_said_in_a_sentence(
    page: TestClient, params: dict[str, str], status: int, words: str
) -> None:
    answer = page.get("/inside.json", params=params)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_page_without_an_image_or_a_word_says_what_to_do(page: TestClient, model: Colours) -> None:
    assert "Find something in an image" in page.get("/inside").text
    assert "Say above what to look for" in page.get("/inside", params={"like": "id:demo:image::a.png"}).text
    assert model.seen == []


def test_without_a_model_the_page_says_how_to_start_one(fake: FakeVespa) -> None:
    answer = TestClient(create_app(UiConfig(fake.url))).get("/inside?q=red")
    assert answer.status_code == 409
    assert "--model" in answer.text


def test_the_memory_of_windows_is_bounded() -> None:
    lens, encoder = inside.Lens(keep=2), QueryEncoder(Colours())
    subjects = [
        inside.Subject(str(n), "x", "", "", "", {}, lambda: (picture(60, 30), "upload")) for n in range(4)
    ]  # fmt: skip
    for subject in subjects:
        lens.windows(encoder, subject, "3x3")
    assert [key[1] for key in lens._known] == ["2", "3"]


def test_who_waits_too_long_for_a_turn_is_told_to_come_back() -> None:
    started, finish = threading.Event(), threading.Event()

    def slow() -> tuple[bytes, str]:
        started.set()
        finish.wait(10)
        return picture(60, 30), "upload"

    lens, encoder = inside.Lens(patience=0.05), QueryEncoder(Colours())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lens.windows, encoder, inside.Subject("1", "x", "", "", "", {}, slow), "3x3")
        started.wait(10)
        other = inside.Subject("2", "x", "", "", "", {}, lambda: (picture(60, 30), "upload"))
        with pytest.raises(inside.HTTPException, match="try again"):
            lens.windows(encoder, other, "3x3")
        finish.set()
        assert len(first.result().boxes) == 9
    assert len(lens.windows(encoder, other, "3x3").boxes) == 9


def test_a_large_image_is_made_smaller_before_it_is_cut() -> None:
    lens = inside.Lens()
    subject = inside.Subject("1", "x", "", "", "", {}, lambda: (picture(4096, 64), "upload"))
    windows = lens.windows(QueryEncoder(Colours()), subject, "3x3")
    assert (windows.width, windows.height) == (2048, 32)


def test_no_more_than_a_few_requests_wait_for_their_turn() -> None:
    finish = threading.Event()

    def slow() -> tuple[bytes, str]:
        finish.wait(10)
        return picture(60, 30), "upload"

    lens, encoder = inside.Lens(patience=10), QueryEncoder(Colours())
    subjects = [inside.Subject(str(n), "x", "", "", "", {}, slow) for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        looks = [pool.submit(lens.windows, encoder, subject, "3x3") for subject in subjects]
        while sum(look.done() for look in looks) < 4:
            time.sleep(0.005)
        finish.set()
        errors = [look.exception() for look in looks]
    assert sum(error is not None for error in errors) == 4
