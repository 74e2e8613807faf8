"""Faults below the engine: the preloaded shim, the server that forks lives under it, and what power loss leaves.

``Disk`` replays a shim's log as a disk that keeps only what was synced: a file's bytes by a sync of the file, the
creation, renaming and removal of a name by a sync of its folder. Everything else may be lost, or reach the disk
partly, in pages of 4096 bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import soak_app
from soak_scenario import PACKAGES, Expected

FAULTS = Path(__file__).resolve().parent / "faults"
TYPES = ("note", "create", "write", "truncate", "sync", "sync-folder", "rename", "unlink", "mkdir", "unseen")
KINDS = ("nothing", "ENOSPC", "EIO", "torn write, then ENOSPC", "torn write, then stop", "stop", "short write")
NO_SPACE, IO_ERROR, TORN_ERROR, TORN_STOP, STOP, SHORT = range(1, 7)
STOPPED = 77
PAGE = 4096
_HEADER = struct.Struct("=IIIIQq")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a shim's log; ``path`` is relative to the folder, or a note's text."""

    type: str
    path: str
    inode: int
    offset: int
    data: bytes
    failed: bool


def read_log(path: Path, root: Path) -> list[Step]:
    """All steps. Fails for a change that the shim could not see."""
    raw, at, steps = path.read_bytes(), 0, []
    while at + _HEADER.size <= len(raw):
        kind, path_length, data_length, failed, inode, offset = _HEADER.unpack_from(raw, at)
        at += _HEADER.size
        if at + path_length + data_length > len(raw):
            break  # the process ended while it logged this
        name = raw[at : at + path_length].decode()
        at += path_length
        data = raw[at : at + data_length]
        at += data_length
        step = Step(TYPES[kind], name if kind == 0 else os.path.relpath(name, root), inode, offset, data, bool(failed))
        assert step.type != "unseen", f"{step.data.decode()} changes {step.path} past the shim: teach it that call"
        steps.append(step)
    return steps


def compile_shim(folder: Path) -> Path:
    """The shim as a library; skips where there is no C compiler, which CI must have."""
    compiler = shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("no C compiler (cc), and CI must have one: faults below SQLite need it")
        pytest.skip("no C compiler (cc) on this machine: faults below SQLite are not injected")
    library = folder / "faults.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(FAULTS / "shim.c")]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True, timeout=60)
    return library


class Server:
    """The process that forks lives and checks; ``folder`` is for its data folders and logs."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self.folder = folder
        self.app = soak_app.write_app(folder / "app", PACKAGES[0])
        self._errors = (folder / "errors.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(FAULTS / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self._number = 0

    def live(self, at: int = 0, kind: int = 0, repeats: int = 0) -> tuple[Path, list[Step], dict[str, Any]]:
        """One life in a new folder, with fault ``kind`` at operation ``at`` (0: none) and ``repeats`` after it."""
        self._number += 1
        root = self.folder / str(self._number)
        root.mkdir()
        log = self.folder / f"{self._number}.log"
        job = {"do": "live", "data": str(root / "data"), "app": str(self.app), "log": str(log)}
        answer = self.ask(job | {"at": at, "kind": kind, "repeats": repeats})
        steps = read_log(log, root)
        log.unlink()
        return root, steps, answer

    def check(self, root: Path, allowed: dict[str, Any]) -> list[str]:
        """What is wrong in ``root``, which is then removed."""
        answer = self.ask({"do": "check", "data": str(root / "data"), "allowed": allowed})
        shutil.rmtree(root)
        hung = [] if answer["code"] == 0 else [f"the check ended with {answer['code']}"]
        return hung + list(answer["problems"])

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to one job."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, (self.folder / "errors.txt").read_text()[-2000:]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def new_folder(self) -> Path:
        """An empty folder for a rebuilt disk."""
        self._number += 1
        folder = self.folder / str(self._number)
        folder.mkdir()
        return folder

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
        self._errors.close()


def expected_after(steps: list[Step]) -> dict[str, Any]:
    """What the notes among ``steps`` allow."""
    expected = Expected()
    for step in steps:
        if step.type == "note":
            expected.hear(json.loads(step.path))
    return expected.allowed()


# ---- what a loss of power leaves


@dataclass(eq=False)
class _Node:
    """A file (``is_folder`` False) or folder: its changes in order, the first ``synced`` of which are durable."""

    is_folder: bool
    changes: list[Any] = field(default_factory=list)
    synced: int = 0
    entries: dict[str, _Node] = field(default_factory=dict)

    def sync(self) -> None:
        self.synced = len(self.changes)


Keep = Callable[[], bool]


class Disk:
    """A disk that is told each step that was taken in ``root``; ``write_to`` makes a folder of what it holds."""

    def __init__(self, root: Path) -> None:
        self._path = root
        self._root = _Node(True)
        self._files: dict[int, _Node] = {}

    def do(self, step: Step) -> None:
        """The next step."""
        if step.type == "note" or step.path.endswith("-shm"):
            return  # SQLite's shared memory is made anew by whoever opens the file first
        if step.type == "sync-folder":
            if not step.failed:
                self._find(step.path).sync()
        elif step.type == "sync":
            if step.inode in self._files and not step.failed:
                self._files[step.inode].sync()
        elif step.type == "write":
            self._files[step.inode].changes.append((step.offset, step.data))
        elif step.type == "truncate":
            self._files[step.inode].changes.append((step.offset, None))
        else:
            self._change_folder(step)

    def _change_folder(self, step: Step) -> None:
        parent, name = self._parent(step.path)
        if step.type in ("create", "mkdir"):
            node = _Node(step.type == "mkdir")
            if step.type == "create":
                self._files[step.inode] = node
            parent.entries[name] = node
            parent.changes.append([(name, node)])
        elif step.type == "unlink":
            del parent.entries[name]
            parent.changes.append([(name, None)])
        else:
            target = os.path.relpath(step.data.decode(), self._path)
            new_parent, new_name = self._parent(target)
            assert new_parent is parent, "a rename into another folder is not modelled"
            node = parent.entries.pop(name)
            parent.entries[new_name] = node
            parent.changes.append([(name, None), (new_name, node)])

    def _parent(self, path: str) -> tuple[_Node, str]:
        folder, name = os.path.split(path)
        return self._find(folder), name

    def _find(self, path: str) -> _Node:
        node = self._root
        for part in Path(path).parts:
            node = node.entries[part]
        return node

    def write_to(self, folder: Path, keep: Keep) -> None:
        """Makes ``folder`` what is durable, and of the rest what ``keep`` says, asked for each page and each name."""
        _write(self._root, folder, keep)


def _write(node: _Node, path: Path, keep: Keep) -> None:
    entries: dict[str, _Node] = {}
    for place, change in enumerate(node.changes):
        if place >= node.synced and not keep():
            continue
        for name, child in change:
            if child is None:
                entries.pop(name, None)
            else:
                entries[name] = child
    for name, child in entries.items():
        if child.is_folder:
            (path / name).mkdir()
            _write(child, path / name, keep)
        else:
            (path / name).write_bytes(_content(child, keep))


def _content(node: _Node, keep: Keep) -> bytes:
    content = bytearray()
    for place, (offset, data) in enumerate(node.changes):
        durable = place < node.synced
        if data is None:
            if durable or keep():
                del content[offset:]
                content.extend(bytes(offset - len(content)))
            continue
        for start, part in _pages(offset, data):
            if durable or keep():
                content.extend(bytes(max(0, start + len(part) - len(content))))
                content[start : start + len(part)] = part
    return bytes(content)


def _pages(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size = PAGE - (offset + at) % PAGE
        yield offset + at, data[at : at + size]
        at += size


def nothing() -> bool:
    """Keeps nothing that was not synced."""
    return False


def everything() -> bool:
    """Keeps all, as a stopped process leaves it."""
    return True


def some(seed: int) -> Keep:
    """Keeps each page and name by chance."""
    random = Random(seed)
    share = random.choice((0.1, 0.5, 0.9))
    return lambda: random.random() < share
