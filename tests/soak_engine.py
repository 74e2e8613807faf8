"""An engine as a process of its own, and a client for it that keeps its connection."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import soak_app
from engine_process import MAIN, ROOT
from soak_scenario import PREPARE

from clipsearch.engine.package import write_zip


@dataclass
class Running:
    """An engine process; ``log`` has what it wrote to stderr."""

    process: subprocess.Popen[str]
    port: int
    deploy_port: int
    log: Path
    prepare: str = PREPARE

    def zipped(self, app: Path) -> bytes:
        """The package in folder ``app`` as a zip archive."""
        return write_zip({str(path.relative_to(app)): path.read_bytes() for path in app.rglob("*") if path.is_file()})

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096


def start(data: Path, port: int, deploy_port: int, app: Path | None = None) -> Running:
    """Starts an engine; does not wait for it."""
    log = data.with_name(f"{data.name}.log")
    arguments = ["engine", "--data", str(data), "--port", str(port), "--deploy-port", str(deploy_port)]
    arguments += [] if app is None else ["--app", str(app)]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, text=True
        )
    return Running(process, port, deploy_port, log)


def wait_until_it_answers(engine: Running, seconds: float = 60) -> float:
    """Seconds until a query is answered with 200. Fails when it takes longer than ``seconds``."""
    started = time.monotonic()
    query = {"yql": "select * from note where true", "hits": 0}
    while time.monotonic() - started < seconds:
        if engine.process.poll() is not None:
            break
        client = Client(engine.port)
        try:
            if client.ask("POST", "/search/", query)[0] == 200:
                return time.monotonic() - started
        except (OSError, http.client.HTTPException):
            pass
        finally:
            client.close()
        time.sleep(0.01)
    raise AssertionError(f"the engine does not answer within {seconds} s: {engine.log.read_text()[-2000:]}")


@contextmanager
def running(data: Path, port: int, deploy_port: int, app: Path | None = None) -> Iterator[Running]:
    """An engine that answers, stopped at the end; its exit code must be 0."""
    engine = start(data, port, deploy_port, app)
    try:
        wait_until_it_answers(engine)
        yield engine
    finally:
        engine.process.send_signal(signal.SIGTERM)
        try:
            code = engine.process.wait(30)
        except subprocess.TimeoutExpired:
            engine.process.kill()
            engine.process.wait()
            raise
    assert code == 0


class Client:
    """One HTTP connection."""

    def __init__(self, port: int, timeout: float = 10) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed JSON of one request; ``body`` is sent as JSON."""
        data = None if body is None else orjson.dumps(body)
        self._connection.request(method, path, data, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        raw = answer.read()
        return answer.status, orjson.loads(raw) if raw else None

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


__all__ = ["Client", "Running", "running", "soak_app", "start", "wait_until_it_answers"]
