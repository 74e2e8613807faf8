"""Runs lives and checks of data folders, each in a fork of this process, which has the shim preloaded.

Forking saves the imports, so that thousands of faults take minutes. One JSON job a line on stdin, one JSON answer a
line on stdout: ``{"do": "live", "data", "app", "log", "at", "kind", "repeats"}`` or
``{"do": "check", "data", "allowed"}``; the answer has ``code``, the child's exit status, and ``problems``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parents[2])]

import soak_scenario  # noqa: E402

SECONDS = 30
shim = ctypes.CDLL(None)


def live(job: dict[str, Any]) -> list[str]:
    """A life under the job's fault."""
    numbers = ctypes.c_long(job["at"]), ctypes.c_int(job["kind"]), ctypes.c_int(job["repeats"])
    root = str(Path(job["data"]).parent).encode()
    shim.faults_arm(root, job["log"].encode(), *numbers)
    note = lambda event: shim.faults_note(json.dumps(event).encode())  # noqa: E731
    soak_scenario.Life(Path(job["data"]), Path(job["app"]), note, shim.faults_heal).live()
    return []


def child(job: dict[str, Any], answer: int) -> None:
    """Does ``job`` and writes the problems found to the file descriptor ``answer``."""
    faulthandler.dump_traceback_later(SECONDS - 5, file=sys.stderr)
    signal.alarm(SECONDS)
    try:
        found = live(job) if job["do"] == "live" else soak_scenario.check_folder(Path(job["data"]), job["allowed"])
    except BaseException as error:
        found = [f"{type(error).__name__}: {error}\n{traceback.format_exc()}"]
    os.write(answer, json.dumps(found).encode())
    os._exit(0)


def main() -> None:
    """Answers jobs until stdin ends."""
    for line in sys.stdin:
        read, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child(json.loads(line), write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            found = json.loads(pipe.read() or b"[]")
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "problems": found}), flush=True)


if __name__ == "__main__":
    main()
