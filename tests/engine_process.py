"""What the clients' tests share: an engine in a process of its own, and the vespa command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

SCENES = ("a stadium next to a river", "storage tanks beside a road", "boats in a harbour", "a bridge over the river")
ROOT = Path(__file__).resolve().parent.parent
VESPA = Path(sys.executable).with_name("vespa")
MAIN = "import sys; from clipsearch.cli import main; sys.argv = ['clipsearch', *sys.argv[1:]]; main()"


@dataclass
class Running:
    """An engine process; ``log`` has what it printed."""

    process: subprocess.Popen[str]
    port: int
    deploy_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def deploy_url(self) -> str:
        return f"http://127.0.0.1:{self.deploy_port}"

    def stop(self, signal_: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_)
        return self.process.wait(20)


def start(data: Path, port: int, deploy_port: int, *options: str) -> Running:
    """Starts an engine and waits for its ready line."""
    log = data.with_name(f"{data.name}.log")
    arguments = ["engine", "--data", str(data), "--port", str(port), "--deploy-port", str(deploy_port), *options]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    if not line.startswith(f"serving on http://127.0.0.1:{port}, deploy on"):
        process.kill()
        process.wait(10)
        pytest.fail(f"the engine did not start: {line}{log.read_text()}")
    return Running(process, port, deploy_port, log)


@contextmanager
def running(folder: Path, free_port: Callable[[], int], *options: str) -> Iterator[Running]:
    """An engine over ``folder``/data, stopped at the end, when it must have ended well and printed no traceback."""
    engine = start(folder / "data", free_port(), free_port(), *options)
    try:
        yield engine
    finally:
        code = engine.stop()
    assert code == 0
    assert "Traceback" not in engine.log.read_text()


def get(url: str) -> Any:
    """The parsed JSON of a GET."""
    with urlopen(url, timeout=10) as answer:
        return json.load(answer)


def vespa(home: Path, *arguments: str, stdin: str | None = None, fails: bool = False) -> str:
    """What ``vespa ARGUMENTS`` prints on both streams; asserts whether it reports an error.

    By its words, because the wrapper that pip installs drops the exit code.
    """
    environment = os.environ | {"VESPA_CLI_HOME": str(home), "VESPA_CLI_CLOUD_CI": "true"}
    done = subprocess.run(
        [str(VESPA), *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ("Error:" in done.stderr) == fails, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def embedding(number: int) -> list[float]:
    """512 numbers of unit norm, others for each ``number``."""
    vector = np.random.default_rng(number).standard_normal(512)
    return [round(float(x), 4) for x in vector / np.linalg.norm(vector)]


def fields(number: int) -> dict[str, Any]:
    """The fields of document ``number`` of vespa_app's schema."""
    return {
        "captions": [SCENES[number % 4], f"scene number {number}"],
        "label": f"class{number % 4}",
        "corpus": "test",
        "width": 100 + number,
        "embedding": embedding(number),
    }


def write_jsonl(path: Path, namespace: str, count: int) -> Path:
    """``count`` puts for ``vespa feed``."""
    lines = [json.dumps({"put": f"id:{namespace}:image::k{n}", "fields": fields(n)}) for n in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path
