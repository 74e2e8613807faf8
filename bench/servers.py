"""Servers to measure over HTTP: our engine and the stub, each a process of its own."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from engines import ROOT
from peers.common import memory_mb

_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A process that listens on ``port``. Use as a context manager; ``started`` is when it was started."""

    def __init__(self, port: int, *command: str) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.started = time.perf_counter()
        # Python keeps compiled modules between runs unless this tells it not to: measured as a user starts it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        command_line = [sys.executable, *command]
        self._process = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self, path: str = "/ApplicationStatus", body: bytes | None = None, limit: float = 300) -> float:
        """Seconds from its start until a request is answered 200. Raises ``RuntimeError`` after ``limit`` seconds."""
        while time.perf_counter() - self.started < limit:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server on port {self.port} ended with code {self._process.returncode}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
            try:
                connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"})
                if connection.getresponse().status == 200:
                    return time.perf_counter() - self.started
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.005)
        raise RuntimeError(f"the server on port {self.port} did not answer within {limit:.0f} s")

    def cpu_seconds(self) -> float:
        """CPU seconds that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> dict[str, float]:
        """Resident memory in MB: ``rss_mb``, and ``anon_mb`` without mapped files."""
        return memory_mb(self._process.pid)


def engine(data: Path, port: int, deploy_port: int, app: Path | None = None) -> Server:
    """The local engine over ``data``; ``app`` is deployed into it when given."""
    command = ["-m", "clipsearch", "engine", "--data", str(data), "--port", str(port)]
    command += ["--deploy-port", str(deploy_port)]
    return Server(port, *command, *(["--app", str(app)] if app else []))


def stub(port: int) -> Server:
    """The server that accepts everything."""
    return Server(port, str(ROOT / "bench" / "stub.py"), str(port))
