"""Hostile input over HTTP: never a fault of the server, YQL that stays the same byte for byte, closed paths, bounded
uploads; and nothing asked of the endpoint that Vespa's query API does not document.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from small_index import DIM, NAMES, ColourModel, running_engine, write_shards
from ui_attack import Asked, Recorder, hostile, recording_proxy
from ui_support import running_ui

from clipsearch.search.query import browse, of_model, yql
from clipsearch.web.uploads import MAX_UPLOAD
from feeders.shards import feed_shards

pytestmark = pytest.mark.soak
SERVE = """
import sys
from pathlib import Path
from small_index import ColourModel
from clipsearch.search import QueryEncoder
from clipsearch.web.app import UiConfig, by_model
from clipsearch.web.server import run_ui
config = UiConfig(sys.argv[1], by_model(QueryEncoder(ColourModel())), {}, Path(sys.argv[3]), timeout=10)
run_ui(config, "127.0.0.1", int(sys.argv[2]))
"""
A_DOCUMENT = quote(f"id:blocks:image::{NAMES[0]}")
ANOTHER = quote(f"id:blocks:image::{NAMES[5]}")
STATES = (
    "ranking=lexical", "ranking=vector", "ranking=hybrid", "ranking=hybrid_linear&alpha=0.3", "", "parts=1",
    "label=red", "split=test&size=small&corpus=blocks", "sort=width", "page=3", "dups=1&view=list",
    f"like={A_DOCUMENT}", "with=-0.5:text:snow",
)  # fmt: skip
PARAMETERS = (
    "ranking", "alpha", "corpus", "label", "split", "size", "sort", "like", "img", "with", "add", "weight", "model",
    "parts", "dups", "view", "page", "a", "b", "am", "bm",
)  # fmt: skip
PAGES = ("/", "/index.json", "/compare", "/compare.json", "/inside", "/inside.json", "/map", "/map.json",
         "/request.yql", "/request.json", "/request.curl")  # fmt: skip
TRAVERSALS = (
    "..%2f..%2f..%2fetc%2fpasswd", "../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%5c..%5cwindows",
    "%252e%252e%252fetc%252fpasswd", "....//....//etc/passwd", "/etc/passwd", "%2fetc%2fpasswd", "blocks/..",
    "blocks/%00", "blocks/..%00.jpg", "blocks/%c0%ae%c0%ae%2fx", "~root/.bashrc", "app.py", "../app.py", "..;/app.py",
)  # fmt: skip
EVERY = yql()
COUNTS = {
    str(browse(hits=0)["yql"]),
    str(of_model("")["yql"]),
    "select * from image where (patches_model contains @model_id)",
}
# https://docs.vespa.ai/en/reference/query-api-reference.html; a parameter may also be one that the YQL names as @name.
DOCUMENTED = re.compile(
    r"yql|hits|offset|timeout|queryProfile|sources|restrict|"
    r"ranking(\.profile|\.sorting|\.listFeatures|\.softtimeout\..+|\.matchPhase\..+|\.globalPhase\.\w+|\.rerankCount)?|"
    r"(ranking\.features|input)\.?(\.query\(\w+\)|query\(\w+\))|ranking\.properties\..+|"
    r"presentation\.(summary|format|format\.tensors|timing|bolding)|"
    r"model\.(language|locale|defaultIndex|type|sources|restrict)|trace\.\w+|collapse(field|size)|grouping\.\w+"
)
DOCUMENT_PARAMETERS = {
    "fieldSet", "format.tensors", "wantedDocumentCount", "continuation", "selection", "cluster", "slices", "sliceId",
    "bucketSpace", "timeout", "concurrency", "stream", "create", "condition", "route",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[tuple[str, Recorder]]:
    """The page's address and the recorder between it and a real engine."""
    home, port = tmp_path_factory.mktemp("attack"), free_port()
    with running_engine(home / "data", free_port) as engine, recording_proxy(engine.url) as recorder:
        assert feed_shards(write_shards(home / "shards"), engine.url, progress=False).complete
        program = ("-c", SERVE, recorder.url, str(port), str(home / "judgments.jsonl"))
        give_parts(engine.url)
        with running_ui(engine.url, port, program=program) as url:
            yield url, recorder


def give_parts(url: str) -> None:
    """Give every image a part, which is the whole of it."""
    for name in NAMES:
        vector = np.eye(DIM)[len(name)].tolist()
        fields = {"patches": {"assign": {"blocks": {"0-0-1000-1000": vector}}},
                  "patches_model": {"assign": ColourModel.model_id}}  # fmt: skip
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("PUT", f"/document/v1/blocks/image/docid/{name}", json.dumps({"fields": fields}))
        assert connection.getresponse().status == 200
        connection.close()


class Asking:
    """One kept connection to the page, and what its answers led to at the endpoint."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self.recorder = recorder

    def get(self, target: str) -> tuple[int, set[str]]:
        """The status, and the YQL that was sent meanwhile, but for counts that the page takes once in a while."""
        self.recorder.take()
        self.connection.request("GET", target)
        answer = self.connection.getresponse()
        answer.read()
        sent = self.recorder.queries()
        assert {str(body["yql"]) for body in sent} <= EVERY
        return answer.status, {str(body["yql"]) for body in sent} - COUNTS


@pytest.fixture
def asking(site: tuple[str, Recorder]) -> Iterator[Asking]:
    opened = Asking(*site)
    yield opened
    opened.connection.close()


def test_hostile_queries_change_no_yql_and_break_nothing(asking: Asking, rounds: Callable[[int, int], int]) -> None:
    usual: dict[str, set[str]] = {}
    for state in STATES:  # what the words decide is whether anything matches, and whether there are words at all
        usual[state] = set()
        for words in ("river", "bridge", "zyzzyva", "red", ""):
            status, sent = asking.get(f"/?{state}&q={words}")
            assert status == 200, state
            usual[state] |= sent
        assert usual[state]
    count = rounds(300, 10_000)
    asked = 0
    for number, text in enumerate(hostile(count)):
        state = STATES[number % len(STATES)]
        status, sent = asking.get(f"/?{state}&q={text}")
        assert status in (200, 400), (status, state, text[:200])
        if not sent <= usual[state]:  # it may be what still ran beside an earlier query that was refused: ask again
            time.sleep(0.5)
            status, sent = asking.get(f"/?{state}&q={text}")
        assert sent <= usual[state], (state, text[:200], sent - usual[state])
        asked += bool(sent)
    print(f"{count} hostile queries: none of them changed the YQL, no answer of 500 or above")
    assert asked > 0.9 * count


def test_hostile_values_of_every_parameter_ask_nothing_new(asking: Asking, rounds: Callable[[int, int], int]) -> None:
    pages = [page for page in PAGES if asking.get(f"{page}?q=red&like={A_DOCUMENT}")[0] != 404]
    values = list(hostile(rounds(240, 4000), seed=2))
    for number, value in enumerate(values):
        name, page = PARAMETERS[number % len(PARAMETERS)], pages[number // len(PARAMETERS) % len(pages)]
        status, sent = asking.get(f"{page}?q=red&{name}={value}")
        assert status < 500, (page, name, value[:200])
        assert sent <= EVERY, (page, name, value[:200])


@pytest.mark.parametrize(
    "target",
    [b"/?q=\x00", b"/?q=\xff\xfe", b"/?q=<script>", "/?q=\u6cb3".encode(), b"/?q=" + b"x" * 100_000,
     b"/?" + b"&" * 50_000, b"//",
     b"/?with=" + b"&with=1:text:a" * 3000, b"http://other.example/", b"*"],
    ids=["NUL", "no UTF-8", "brackets", "UTF-8", "100 KB", "empty pairs", "no host", "many terms", "absolute", "star"],
)  # fmt: skip
def test_bytes_that_no_browser_sends_break_nothing(site: tuple[str, Recorder], target: bytes) -> None:
    place = urlsplit(site[0])
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as raw:
        raw.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        head = raw.recv(65536)
    assert not head or int(head.split()[1]) < 500, head[:200]
    asking = Asking(*site)
    assert asking.get("/?q=red")[0] == 200
    asking.connection.close()


@pytest.mark.parametrize("place", ["thumb", "image", "uploaded", "static", "thumb/blocks", "image/blocks"])
def test_paths_lead_out_of_nowhere(asking: Asking, place: str) -> None:
    for traversal in TRAVERSALS:
        for target in (f"/{place}/{traversal}", f"/{place}//{traversal}", f"/{place}/{traversal}?v=1"):
            assert asking.get(target)[0] == 404, target


def test_an_upload_beyond_the_limit_is_refused_before_it_is_read_whole(site: tuple[str, Recorder]) -> None:
    for declared in (True, False):
        status, taken = upload_endlessly(site[0], 20 * MAX_UPLOAD, declared)
        assert status == 413, declared
        assert taken < 2 * MAX_UPLOAD, f"{taken} bytes were taken of an upload that {declared=}"


def upload_endlessly(url: str, size: int, declared: bool) -> tuple[int, int]:
    """The status of an upload of ``size`` bytes, sent until the server answers, and how many it took."""
    place = urlsplit(url)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    kind = f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"
    chunk = b"\0" * 65536
    piece = chunk if declared else b"%x\r\n" % len(chunk) + chunk + b"\r\n"
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as raw:
        raw.sendall(
            f"POST /upload HTTP/1.1\r\nHost: {place.netloc}\r\n{kind}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        raw.sendall(head if declared else b"%x\r\n" % len(head) + head + b"\r\n")
        raw.setblocking(False)
        taken, end, answer, rest = 0, time.monotonic() + 15, b"", b""
        while not answer and taken < size and time.monotonic() < end:
            try:
                rest = rest or piece
                sent = raw.send(rest)
                taken, rest = taken + sent, rest[sent:]
            except BlockingIOError:
                time.sleep(0.002)
            except (BrokenPipeError, ConnectionResetError):
                end = 0.0  # what it said before it hung up may still be read
            with suppress(BlockingIOError, ConnectionResetError):
                answer = raw.recv(4096)
        return (int(answer.split()[1]) if answer else 0), taken


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("image/jpeg", b"\xff\xd8", 415),
        ("application/json", b"{}", 415),
        ("text/html", b"<script>", 415),
        ("application/x-www-form-urlencoded", b"image=x", 415),
        ("multipart/form-data; boundary=x", "svg", 415),
        ("multipart/form-data; boundary=x", "text", 415),
        ("multipart/form-data; boundary=x", "bomb", 415),
    ],
)
def test_what_is_no_image_is_refused(asking: Asking, kind: str, body: bytes | str, status: int) -> None:
    files = {"svg": b"<svg onload='alert(1)'/>", "text": b"hello", "bomb": pixel_bomb()}
    if isinstance(body, str):
        head = '--x\r\nContent-Disposition: form-data; name="image"; filename="a<b>.jpg"\r\n\r\n'
        body = head.encode() + files[body] + b"\r\n--x--\r\n"
    asking.connection.request("POST", "/upload", body, {"Content-Type": kind})
    answer = asking.connection.getresponse()
    assert answer.status == status
    assert b"a<b>" not in answer.read()


def pixel_bomb() -> bytes:
    """A PNG of a few bytes that says it has 3,600 million pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000)))]
    chunks = [len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.mark.parametrize("path", ["/upload", "/judge"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
    ],
)
def test_what_another_site_sends_is_refused(asking: Asking, path: str, headers: dict[str, str]) -> None:
    asking.connection.request("POST", path, b"x=1", {"Content-Type": "application/x-www-form-urlencoded", **headers})
    answer = asking.connection.getresponse()
    answer.read()
    assert answer.status in ((403, 404) if path == "/judge" else (403,))


def test_the_page_asks_only_what_vespa_documents(asking: Asking, site: tuple[str, Recorder]) -> None:
    asking.recorder.take()
    for state in STATES:
        for page in PAGES:
            for subject in ("q=red+block", f"like={ANOTHER}", f"q=red&like={A_DOCUMENT}", ""):
                asking.connection.request("GET", f"{page}?{subject}&{state}&a=lexical&b=hybrid")
                asking.connection.getresponse().read()
    sent = asking.recorder.take()
    assert len(sent) > 100
    assert {problem for asked in sent for problem in undocumented(asked)} == set()
    assert {asked.status for asked in sent} <= {200}


def undocumented(asked: Asked) -> list[str]:
    """What Vespa's reference does not have: paths, and parameters that neither it nor the request's YQL names."""
    path = urlsplit(asked.path)
    names = {pair.partition("=")[0] for pair in path.query.split("&") if pair}
    if path.path == "/search/":
        own = set(re.findall(r"@(\w+)", str(asked.body.get("yql", ""))))
        bad = [name for name in [*asked.body, *names] if name not in own and not DOCUMENTED.fullmatch(name)]
    elif re.fullmatch(r"/document/v1/([\w-]+/image/docid/([^/]+)?)?", path.path):
        bad = [name for name in names if name not in DOCUMENT_PARAMETERS]
    else:
        bad = [] if path.path in ("/ApplicationStatus", "/state/v1/health", "/status.html") else [path.path]
    return [f"{asked.method} {path.path}: {name}" for name in bad]


def test_the_check_of_parameters_notices_one_of_our_own() -> None:
    body = {"yql": "select * from image where label contains @label", "label": "a", "ranking.profile": "b"}
    assert undocumented(Asked("POST", "/search/", body, 200)) == []
    assert undocumented(Asked("POST", "/search/", body | {"engine.trick": 1, "split": "x"}, 200)) == [
        "POST /search/: engine.trick", "POST /search/: split",
    ]  # fmt: skip
    assert undocumented(Asked("GET", "/internal/state", {}, 200)) == ["GET /internal/state: /internal/state"]


def test_the_page_and_the_search_client_load_nothing_of_the_engine() -> None:
    code = (
        "import sys, pkgutil, importlib, clipsearch.web, clipsearch.search\n"
        "for room in (clipsearch.web, clipsearch.search):\n"
        "    for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print([name for name in sys.modules if name.startswith(('clipsearch.engine', 'faiss', 'lark', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
