"""The measured engines as processes: their environments, their workers, their builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = "clipsearch"
PACKAGES = {
    "sqlite-vec": ("sqlite-vec", "apsw", "numpy"),
    "lancedb": ("lancedb", "pyarrow", "numpy"),
    "zvec": ("zvec", "numpy"),
    "qdrant-edge": ("qdrant-edge-py", "numpy"),
}
"""What pip installs into each peer's own environment; ``numpy`` is what the worker itself needs."""


class EngineFailedError(RuntimeError):
    """An engine could not be installed, built or asked; its message is shown in its row of the table."""


@dataclass(frozen=True, slots=True)
class Place:
    """The work folder, and the name of one workload in it with its indexes."""

    work: Path
    name: str

    @property
    def workload(self) -> Path:
        """Where the workload lies."""
        return self.work / f"workload-{self.name}"

    def index(self, engine: str) -> Path:
        """Where ``engine`` keeps its index."""
        return self.work / f"indexes-{self.name}" / engine


class Worker:
    """One engine in a process of its own, asked by lines of JSON. Use as a context manager."""

    def __init__(self, engine: str, place: Place) -> None:
        self.engine = engine
        script = (
            ROOT / "bench" / "peers" / ("ours_peer.py" if engine == OURS else f"{engine.replace('-', '_')}_peer.py")
        )
        self.log = place.index(engine).with_suffix(".log")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(interpreter(engine, place.work)), str(script), str(place.workload), str(place.index(engine))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join((str(ROOT / "bench"), str(ROOT)))}
                | ({"OPENBLAS_NUM_THREADS": "1"} if engine == OURS else {}),  # as the engine's command has it
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request. Raises ``EngineFailedError`` with the last line that the worker printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self.log.read_text().strip().splitlines()
            raise EngineFailedError(said[-1] if said else f"{self.engine} ended without a word")
        answer: dict[str, Any] = json.loads(line)
        return answer


def interpreter(engine: str, work: Path) -> Path:
    """The Python of ``engine``: this one for ours, its environment's for a peer."""
    return Path(sys.executable) if engine == OURS else work / "venvs" / engine / "bin" / "python"


def install(engine: str, work: Path) -> None:
    """Make a peer's environment with pip unless it is there. Raises ``EngineFailedError``."""
    python = interpreter(engine, work)
    mark = python.parent.parent / "installed.txt"
    if engine == OURS or mark.is_file():
        return
    subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[engine]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineFailedError(f"pip: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    mark.write_text(" ".join(PACKAGES[engine]) + "\n")


def build(engine: str, place: Place, reuse: bool) -> dict[str, Any]:
    """Build ``engine``'s index in a process of its own; returns its cost, or with ``reuse`` an earlier build's."""
    folder = place.index(engine)
    result = folder.with_suffix(".json")
    if not (reuse and folder.is_dir() and result.is_file() and result.stat().st_size):
        for path in (folder, folder.with_name(f"{engine}-app")):
            shutil.rmtree(path, ignore_errors=True)
        result.unlink(missing_ok=True)
        with Worker(engine, place) as worker:
            answer = worker.ask(do="build")
        result.write_text(json.dumps(answer))
    cost: dict[str, Any] = json.loads(result.read_text())
    return cost


def versions(engines: Sequence[str], work: Path) -> dict[str, str]:
    """The installed version of each peer's package."""
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    found = {}
    for engine in engines:
        if engine in PACKAGES:
            command = [str(interpreter(engine, work)), "-c", code, PACKAGES[engine][0]]
            found[engine] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found
