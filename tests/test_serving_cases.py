"""Vespa's own asserted document/v1 requests and answers, replayed in order against a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest
from serving import State, content, opened

from clipsearch.engine.http.messages import Request, Response

NO_ANSWER = "Vespa's test asserts no answer here"
SESSION = "the session was mocked to fail"
CONTINUATION = "the mocked visitor stopped with a continuation that means nothing here"
UNPARSED = "the mock took a selection that Vespa's parser refuses, and gave a trace or a continuation"
# Line of the recorded case -> why its answer needs the mocked backend.
MOCKED = {
    224: NO_ANSWER, 253: NO_ANSWER, 254: NO_ANSWER, 282: NO_ANSWER, 318: NO_ANSWER,
    239: SESSION, 255: SESSION, 284: SESSION, 320: SESSION, 524: SESSION, 659: SESSION, 701: SESSION,
    721: CONTINUATION, 1350: CONTINUATION, 1387: CONTINUATION,
    404: UNPARSED, 475: UNPARSED, 929: UNPARSED,
    591: "ignore-undefined-fields was set in the mocked configuration",
    1022: "the mocked session let a remove with condition 'false' succeed",
    1054: "the mocked session timed out", 1131: "the mocked session never answered",
    1067: "the mocked disk was full", 1080: "the mocked condition failed",
    1093: "the mocked session refused the type",
}  # fmt: skip
TOM_WAITS = {"artist": "Tom Waits", "embedding": [1.0, 2.0, 3.0]}


def read_cases(shared: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = orjson.loads((shared / "vespa/cases/document_v1.json").read_bytes())["cases"]
    return cases


def replay(state: State, case: dict[str, Any]) -> Response:
    url = urlsplit(case["url"])
    body = case["request_body"] if isinstance(case["request_body"], str) else ""
    query = tuple(parse_qsl(url.query, keep_blank_values=True))
    return state.handler.handle(Request(case["method"], url.path, query, {}, body.encode()))


def arrange(state: State, line: int) -> None:
    """The state that a recorded answer needs and that a real backend can be in."""
    if 767 <= line <= 812:
        state.ask("POST", "/space/music/docid/one", {"fields": TOM_WAITS})
    elif line == 834:
        state.ask("DELETE", "/space/music/docid/one")
    elif line == 563:
        for name in ("one", "two"):
            state.ask("POST", f"/space/music/docid/{name}", {"fields": TOM_WAITS})
    elif line == 619:
        state.ask("DELETE", "/", cluster="content", selection="true")


def as_recorded(case: dict[str, Any], answer: Response) -> bool:
    if answer.status != case["expected_status"]:
        return False
    wanted = case.get("expected_json") or _lenient(case.get("expected_text"))
    headers = dict(answer.headers) | {"Content-Type": answer.content_type}
    return (wanted is None or content(answer) == wanted) and case.get("expected_headers", {}).items() <= headers.items()


def _lenient(text: str | None) -> Any:
    """The recorded text as JSON: it has raw newlines inside strings, and one case a brace too many."""
    if text is None:
        return None
    flat = text.replace("\n/", "\\n/").replace("3.0]}\n   }", "3.0]}")
    return orjson.loads(flat)


def test_every_recorded_case_is_answered_as_recorded_or_needs_the_mock(shared: Path, tmp_path: Path) -> None:
    counts = {"as recorded": 0, "mocked": 0}
    with opened(tmp_path) as state:
        for case in read_cases(shared):
            line = case["line"]
            if line in MOCKED or line in (225, 1450):  # the last two have tests of their own below
                counts["mocked" if line in MOCKED else "as recorded"] += 1
                continue
            arrange(state, line)
            answer = replay(state, case)
            assert as_recorded(case, answer), (case, answer)
            counts["as recorded"] += 1
    print(f"document_v1: {counts['as recorded']} answered as recorded, {counts['mocked']} need the mock")
    assert counts == {"as recorded": 30, "mocked": 25}


@pytest.mark.parametrize("line", [404, 475, 929])
def test_a_selection_that_only_the_mock_understands_is_refused_with_its_place(
    shared: Path, tmp_path: Path, line: int
) -> None:
    case = next(case for case in read_cases(shared) if case["line"] == line)
    case["url"] = case["url"].replace("&includeRemoves=TrUe", "").replace("fromTimestamp=1000000&toTimestamp", "x")
    with opened(tmp_path) as state:
        answer = replay(state, case)
    assert answer.status == 400
    assert "Could not parse document selection" in content(answer)["message"]


def test_overload_is_answered_with_429_and_the_number_of_waiting_requests(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr("clipsearch.engine.documents.store.MAX_WAITING", 20)
    case = next(case for case in read_cases(shared) if case["line"] == 225)
    with opened(tmp_path) as state:
        started, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            started.set()
            go_on.wait(10)

        holder = threading.Thread(target=state.store.exclusive, args=(hold,))
        holder.start()
        assert started.wait(10)
        put = Request("POST", "/document/v1/space/music/docid/x", body=b'{"fields":{}}')
        waiting = [state.handler.feed(put) for _ in range(20)]
        assert as_recorded(case, replay(state, case))
        go_on.set()
        holder.join()
        assert all(answer is not None and answer.result(10).status == 200 for answer in waiting)


def test_a_put_larger_than_the_bound_is_answered_with_413(tmp_path: Path) -> None:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from serving_asgi import call

    from clipsearch.engine.http.app import App

    with opened(tmp_path) as state, ThreadPoolExecutor(1) as pool:
        app = App(state.handler, pool, max_body=64)
        status, _, body = asyncio.run(call(app, "POST", "/document/v1/space/music/number/1/two", body=b" " * 65))
    assert status == 413
    assert orjson.loads(body)["pathId"] == "/document/v1/space/music/number/1/two"
