"""Requests that are answered without an event loop, and how they come to one where they need it."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from clipsearch.engine.documents.gathering import ENOUGH, PAUSE, TRY_AT, WAIT, WORTH, Gathering
from clipsearch.serving.inline import InlineLoop, _on, is_inline, on_loop, portable, until


class Promise(Future[Any]):
    """As the server's own: what it brings can be awaited inline, and asked for."""

    def __await__(self) -> Any:
        if not self.done():
            yield self
        return self.result()


def test_a_coroutine_goes_on_in_the_thread_that_brings_what_it_waits_for() -> None:
    promise, seen = Promise(), list[str]()

    async def request() -> None:
        seen.append(threading.current_thread().name)
        await until(promise)
        seen.append(threading.current_thread().name)

    with asyncio.Runner() as runner:
        InlineLoop(runner.get_loop()).create_task(request())
        writer = threading.Thread(target=promise.set_result, args=(None,), name="writer")
        writer.start()
        writer.join()
    assert seen == [threading.current_thread().name, "writer"]


def test_what_is_there_already_is_not_waited_for() -> None:
    promise, seen = Promise(), list[object]()
    promise.set_result(3)

    async def request() -> None:
        await until(promise)
        seen.append(await promise)

    with asyncio.Runner() as runner:
        InlineLoop(runner.get_loop()).create_task(request())
    assert seen == [3]


def test_what_needs_a_loop_goes_on_there_with_the_servers_promises_awaited_there_too() -> None:
    first, second = Promise(), Promise()
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((is_inline(), await receive()))
        await on_loop()
        await on_loop()
        async with asyncio.timeout(5):
            seen.append((is_inline(), await send("x")))
        ended.set()

    async def main() -> None:
        InlineLoop(asyncio.get_running_loop()).call_soon_threadsafe(start)
        await ended.wait()

    def start() -> None:
        threading.Thread(target=inline).start()

    def inline() -> None:  # as the server: in a thread without a loop
        loop = InlineLoop(runner.get_loop())
        request: Any = portable(app)({}, lambda: first, lambda event: second)
        loop.create_task(request)
        first.set_result("body")
        second.set_result("sent")

    with asyncio.Runner() as runner:
        ended = asyncio.Event()
        runner.run(main())
    assert seen == [(True, "body"), (False, "sent")]


def test_a_request_that_fails_or_waits_for_nonsense_is_logged_and_harms_no_other(caplog: Any) -> None:
    async def fails() -> None:
        raise RuntimeError("a bug")

    async def waits() -> None:
        await until(None)  # type: ignore[arg-type]

    with asyncio.Runner() as runner:
        loop = InlineLoop(runner.get_loop())
        for request in (fails(), waits()):
            assert loop.create_task(request).cancel() is False
        loop.call_soon(lambda: 1 / 0)
    assert [record.getMessage() for record in caplog.records] == ["a request failed"] * 3


PROGRAM = """
import asyncio, sys
from clipsearch.serving import Listener, run
from clipsearch.serving.inline import is_inline, on_loop

async def app(scope, receive, send):
    ways, size, more = [is_inline()], 0, True
    if scope["path"] == "/loop":
        await on_loop()
        await asyncio.sleep(0.01)
    if scope["path"] == "/bug":
        raise RuntimeError("a bug")
    while more:
        event = await receive()
        size, more = size + len(event["body"]), event["more_body"]
    ways.append(is_inline())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(3):
        await send({"type": "http.response.body", "body": f"{ways} {size};".encode(), "more_body": number < 2})

listeners = [Listener(app, "127.0.0.1", int(sys.argv[1]), inline=True)]
run(listeners, lambda: print("ready", flush=True), lambda: print("closed", flush=True))
"""


def test_a_server_answers_inline_and_on_its_loop_and_stops_at_a_signal(free_port: Callable[[], int]) -> None:
    port = str(free_port())
    inline = sys.platform == "linux"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for path, ways in (("here", [inline, inline]), ("loop", [inline, False])):
            for body in (b"x", b"x" * 3_000_000):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", body, timeout=10) as answer:
                    assert answer.read().decode() == f"{ways} {len(body)};" * 3
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/bug", timeout=5)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=20)
        assert (child.returncode, out) == (0, "closed\n")


def test_the_writer_waits_for_more_only_while_that_brings_many() -> None:
    now, slept = [0.0], list[float]()
    gathering = Gathering(slept.append, lambda: now[0])

    def waits(count: int, waiting: int = 0) -> bool:
        """Whether it waits before a batch, which then has ``count`` operations."""
        before = len(slept)
        gathering.wait(waiting)
        gathering.wrote(count)
        return len(slept) > before

    assert not any(waits(1) for _ in range(100))  # one client that waits for each answer
    assert not any(waits(int(TRY_AT) - 1) for _ in range(100))
    tried = [waits(8) for _ in range(100)]  # eight such clients
    assert 1 <= sum(tried) <= 8
    assert not any(tried[20:])
    assert set(slept) == {WAIT}
    now[0] += PAUSE
    assert any(waits(8) for _ in range(10))
    now[0] += PAUSE
    assert all([waits(2 * int(WORTH)) for _ in range(100)][20:])
    assert waits(1)  # one small batch is forgiven
    assert not waits(1000, waiting=ENOUGH)  # enough is there already
    assert waits(1000)


def test_what_the_server_brought_is_free_again_once_it_was_awaited_on_the_loop() -> None:
    """The server keeps the callback that it was given, and no garbage collector sees through its promises."""

    class Kept:
        def __init__(self) -> None:
            self.callback: Any = None

        def add_done_callback(self, fn: Any) -> None:
            self.callback = fn

        def result(self) -> str:
            return "body"

    async def main() -> weakref.ref[Kept]:
        promise = Kept()
        brought = asyncio.ensure_future(_on(asyncio.get_running_loop(), promise))
        await asyncio.sleep(0)
        promise.callback(promise)
        assert await brought == "body"
        return weakref.ref(promise)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


def test_a_request_that_cannot_go_on_is_ended_so_that_what_it_holds_is_free(caplog: Any) -> None:
    ended: list[str] = []

    async def request() -> None:
        try:
            await until(None)  # type: ignore[arg-type]
        except AttributeError:
            ended.append("told")
            raise
        finally:
            ended.append("released")

    with asyncio.Runner() as runner:
        InlineLoop(runner.get_loop()).create_task(request())
    assert ended == ["told", "released"]
    assert [record.getMessage() for record in caplog.records] == ["a request failed"]
