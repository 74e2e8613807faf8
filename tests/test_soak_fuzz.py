"""Thousands of seeded bad requests over HTTP: a sentence for each, never a 5xx, never a wait, never a traceback."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlencode

import orjson
import pytest
import soak_app
from soak_engine import running
from soak_fuzz import Fuzzed, Fuzzer

pytestmark = pytest.mark.soak
SECONDS = 10
TRACES = (b"Traceback", b'File "', b"internal error", b"Error: ", b"0x7f")


def send(fuzzed: Fuzzed, port: int) -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    path = quote(fuzzed.path, safe="/%:@!$&'()*+,;=~") + ("?" + urlencode(fuzzed.query) if fuzzed.query else "")
    headers = {name: value.encode("latin-1", "replace").decode("latin-1") for name, value in fuzzed.headers.items()}
    try:
        connection.request(fuzzed.method, path, fuzzed.body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def timed_out(fuzzed: Fuzzed, status: int, body: bytes) -> bool:
    """The one 5xx by design: Vespa's 504 to a query that set its own timeout, to 0 for instance."""
    return status == 504 and b'"code":12' in body and b"timeout" in repr(fuzzed).encode()


def test_no_request_breaks_the_engine(
    tmp_path: Path, free_port: Callable[[], int], rounds: Callable[[int, int], int]
) -> None:
    app = soak_app.write_app(tmp_path / "app", soak_app.app_files())
    fuzzer, count = Fuzzer(20261121), rounds(300, 10_000)
    requests = [fuzzer.request() for _ in range(count)]
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    with running(tmp_path / "data", free_port(), free_port(), app) as engine:

        def one(fuzzed: Fuzzed) -> None:
            started = time.monotonic()
            try:
                status, body = send(fuzzed, engine.deploy_port if fuzzed.deploy else engine.port)
            except (OSError, http.client.HTTPException) as error:
                wrong.append(
                    f"{type(error).__name__}: {error} after {time.monotonic() - started:.1f} s: {fuzzed}"[:1500]
                )
                return
            statuses[status] += 1
            if (status >= 500 and not timed_out(fuzzed, status, body)) or any(trace in body for trace in TRACES):
                wrong.append(f"{status} {body[:300]!r}: {fuzzed}"[:1500])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, requests))
        redeploy = Fuzzed("POST", engine.prepare, [], {"content-type": "application/zip"}, engine.zipped(app), True)
        answered = send(redeploy, engine.deploy_port)
        assert answered[0] in (200, 400), answered  # 400: fuzzed deploys may have changed a field's type for good
        number = 7_777_777
        put = Fuzzed(
            "POST", f"/document/v1/n/note/docid/{number}", [], {}, orjson.dumps({"fields": {"number": number}})
        )
        assert send(put, engine.port)[0] == 200
        query = orjson.dumps({"yql": f"select * from note where number = {number}"})
        status, body = send(Fuzzed("POST", "/search/", [], {"content-type": "application/json"}, query), engine.port)
        assert orjson.loads(body)["root"]["fields"]["totalCount"] == 1, (status, body)
        log = engine.log.read_text()
    shown = ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))
    print(f"{count} fuzzed requests ({shown}): {len(wrong)} broke something")
    assert not wrong, "\n".join(wrong[:10])
    assert "Traceback" not in log, log[-3000:]
