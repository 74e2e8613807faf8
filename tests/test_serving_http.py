"""The ASGI application: bodies, gzip, bounds, streams, and answers when a handler fails."""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from serving_asgi import call

from clipsearch.engine.http.app import MAX_VISITS, App, Commits
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


def test_a_gzip_body_of_several_members_is_unpacked_whole() -> None:
    members = gzip.compress(b"hello ") + gzip.compress(b"") + gzip.compress(b"world") + b"\0" * 8
    assert (
        orjson.loads(ask("POST", "/x", body=members, headers={"content-encoding": "gzip"})[2])["body"] == "hello world"
    )
    bomb = gzip.compress(b"x" * 600) * 2
    assert ask("POST", "/x", body=bomb, headers={"content-encoding": "gzip"})[0] == 413
    assert ask("POST", "/x", body=members + b"junk", headers={"content-encoding": "gzip"})[0] == 400
    assert ask("POST", "/x", body=gzip.compress(b"") * 50_000, headers={"content-encoding": "gzip"})[0] == 413


def test_a_body_shorter_than_announced_is_refused_and_one_that_is_complete_is_not_waited_for() -> None:
    assert ask("POST", "/x", body=b"abc", headers={"content-length": "4"})[0] == 400
    status, _, body = ask("POST", "/x", body=[b"ab", b"c", b"never asked for"], headers={"content-length": "3"})
    assert (status, orjson.loads(body)["body"]) == (200, "abc")
    assert ask("POST", "/x", body=b"abc", headers={"content-length": "9" * 30})[0] == 200  # no number of bytes


def test_bodies_are_bounded_all_together_and_given_back_when_answered_or_cut_off() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(2) as pool:
            app = App(Echo(), pool, 1000)
            app._bodies.max_held = 1500
            sent: list[Any] = []
            more = asyncio.Event()
            cut = asyncio.Event()

            def client(*events: Any) -> Any:
                waiting = list(events)

                async def receive() -> Any:
                    event = waiting.pop(0)
                    if isinstance(event, asyncio.Event):
                        await event.wait()
                        event = waiting.pop(0)
                    return event

                return receive

            async def send(event: Any) -> None:
                sent.append(event)

            def chunk(size: int, more_body: bool) -> dict[str, Any]:
                return {"type": "http.request", "body": b"x" * size, "more_body": more_body}

            def start(receive: Any) -> asyncio.Task[None]:
                scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": []}
                return asyncio.create_task(app(scope, receive, send))

            slow = start(client(chunk(900, True), more, chunk(1, False)))
            gone = start(client(chunk(500, True), cut, {"type": "http.disconnect"}))
            await asyncio.sleep(0.01)
            assert app._bodies.held == 1400
            await start(client(chunk(200, False)))
            assert [event["status"] for event in sent if "status" in event] == [429]
            cut.set()
            await gone
            assert app._bodies.held == 900
            await start(client(chunk(200, False)))
            more.set()
            await slow
            assert [event["status"] for event in sent if "status" in event] == [429, 400, 200, 200]
            assert app._bodies.held == 0

    asyncio.run(scenario())


def test_visits_that_never_end_keep_no_query_waiting() -> None:
    class Stuck(Echo):
        def __init__(self) -> None:
            self.go_on = threading.Event()

        def handle(self, request: Request) -> Response:
            if request.path.startswith("/document/v1/"):
                self.go_on.wait(10)
            return super().handle(request)

    async def scenario() -> None:
        stuck = Stuck()
        with ThreadPoolExecutor(1) as pool:
            app = App(stuck, pool)
            visits = [asyncio.create_task(call(app, "GET", "/document/v1/a/b/docid/")) for _ in range(MAX_VISITS)]
            await asyncio.sleep(0.05)
            assert (await asyncio.wait_for(call(app, "GET", "/search/"), 5))[0] == 200
            assert (await call(app, "GET", "/document/v1/"))[0] == 429
            stuck.go_on.set()
            assert {answer[0] for answer in await asyncio.gather(*visits)} == {200}

    asyncio.run(scenario())


def test_all_operations_of_one_commit_wake_the_loop_once() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        commits = Commits(loop)
        woken: list[Any] = []
        real = loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> Any:
            woken.append(arguments)
            return real(*arguments, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        answers: list[Future[Response]] = [Future() for _ in range(100)]
        waits = [asyncio.create_task(commits.wait(answer)) for answer in answers]
        await asyncio.sleep(0)
        waits[7].cancel()  # its client went away
        await asyncio.sleep(0)
        for answer in answers:
            answer.set_result(Response(200))
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert sum(result is None for result in results) == 99
        assert len(woken) == 1

    asyncio.run(scenario())


def test_a_request_that_names_another_host_is_refused_only_where_hosts_are_guarded() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            for app, status in ((App(Echo(), pool), 200), (App(Echo(), pool, 1000, lambda host: host == "here"), 403)):
                assert (await call(app, "GET", "/x", headers={"Host": "there"}))[0] == status
                assert (await call(app, "GET", "/x", headers={"Host": "here"}))[0] == 200
                assert (await call(app, "GET", "/x"))[0] == 200

    asyncio.run(scenario())


def test_a_body_whose_rest_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.engine.http.bodies.PATIENCE", 0.01)

    async def scenario() -> None:
        events = [{"type": "http.request", "body": b"abc", "more_body": True}]
        sent: list[Any] = []

        async def receive() -> Any:
            return events.pop() if events else await asyncio.Event().wait()

        async def send(event: Any) -> None:
            sent.append(event)

        with ThreadPoolExecutor(1) as pool:
            app = App(Echo(), pool)
            await app(
                {"type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": []}, receive, send
            )
        assert sent[0]["status"] == 408
        assert app._bodies.held == 0

    asyncio.run(scenario())
