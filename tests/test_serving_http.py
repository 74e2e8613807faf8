"""The ASGI application: bodies, gzip, bounds, streams, and answers when a handler fails."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from serving_asgi import call

from clipsearch.engine.http.app import App
from clipsearch.engine.http.messages import Request, Response, json_response


class Echo:
    """Answers with what it was asked; /fed is fed, /boom raises, /stream streams."""

    def handle(self, request: Request) -> Response:
        if request.path == "/boom":
            raise ZeroDivisionError("secret detail")
        if request.path == "/stream":
            return Response(200, (str(n).encode() for n in range(3)), "text/plain")
        if request.path == "/broken-stream":
            return Response(200, _broken(), "text/plain")
        seen = {"method": request.method, "path": request.path, "query": request.query, "body": request.body.decode()}
        return json_response(200, seen)

    def feed(self, request: Request) -> Future[Response] | None:
        if request.path != "/fed":
            return None
        answer: Future[Response] = Future()
        answer.set_result(json_response(200, {"fed": len(request.body)}))
        return answer


def _broken() -> Iterator[bytes]:
    yield b"first"
    raise OSError("the disk went away")


def ask(method: str, path: str, max_body: int = 1000, **options: Any) -> tuple[int, dict[str, str], bytes]:
    with ThreadPoolExecutor(2) as pool:
        return asyncio.run(call(App(Echo(), pool, max_body), method, path, **options))


def test_a_request_reaches_the_handler_with_its_path_still_encoded_and_its_query_decoded() -> None:
    status, headers, body = ask("GET", "/a%20b/c%231", query="yql=select+%2A&empty=&yql=2")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    seen = orjson.loads(body)
    assert seen["path"] == "/a%20b/c%231"
    assert seen["query"] == [["yql", "select *"], ["empty", ""], ["yql", "2"]]


def test_a_chunked_gzip_body_is_put_together_and_unpacked() -> None:
    packed = gzip.compress(b"hello")
    _, _, body = ask("POST", "/x", body=[packed[:5], packed[5:], b""], headers={"Content-Encoding": "gzip"})
    assert orjson.loads(body)["body"] == "hello"


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"x" * 1001, "", 413),
        (gzip.compress(b"x" * 100_000), "gzip", 413),
        (b"not gzip", "gzip", 400),
        (gzip.compress(b"x" * 100)[:-9], "gzip", 400),
        (b"x", "br", 415),
    ],
)
def test_a_body_that_is_too_large_or_damaged_is_refused_with_a_sentence(
    body: bytes, encoding: str, status: int
) -> None:
    got, _, answer = ask("POST", "/x", body=body, headers={"content-encoding": encoding} if encoding else {})
    assert got == status
    assert orjson.loads(answer)["message"]


def test_a_body_announced_as_too_large_is_refused_before_it_is_read() -> None:
    status, _, _ = ask("POST", "/x", body=[], headers={"content-length": "1001"})
    assert status == 413


def test_a_handler_that_fails_answers_500_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, _, body = ask("GET", "/boom")
    assert status == 500
    assert b"secret" not in body
    assert b"Traceback" not in body
    assert "secret detail" in caplog.text


def test_head_gives_the_headers_of_get_and_no_body() -> None:
    status, headers, body = ask("HEAD", "/x")
    assert status == 200
    assert int(headers["content-length"]) > 0
    assert body == b""


def test_a_streamed_answer_arrives_whole() -> None:
    assert ask("GET", "/stream")[2] == b"012"


def test_a_stream_that_breaks_breaks_the_connection_so_that_its_part_is_not_taken_for_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(OSError, match="the disk went away"):
        ask("GET", "/broken-stream")
    assert "the disk went away" in caplog.text


def test_a_query_may_be_sent_as_plain_utf_8() -> None:
    assert orjson.loads(ask("GET", "/x", query="q=caf\u00e9&r=%C3%A9")[2])["query"] == [
        ["q", "caf\u00e9"],
        ["r", "\u00e9"],
    ]


def test_feeding_does_not_need_a_thread() -> None:
    status, _, body = ask("POST", "/fed", body=b"abc")
    assert (status, orjson.loads(body)) == (200, {"fed": 3})
