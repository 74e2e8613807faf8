"""What an interrupted feed has delivered, so that the next run of the same command sends only the rest.

A journal belongs to one index: its first line is a hash of the endpoint's URL and of the application that it said it
runs. Below it come frames, appended as answers arrive: a tag, a count, a CRC, and for each operation 16 bytes - a hash
of the document id and a hash of what was done to it. So a document whose content has changed since is sent again, and
one that has not is not, wherever in the feed it comes.

Frames are written every few milliseconds and synced once a second, by the feed's clock. A lost or torn tail is cut
off: its operations are sent again, which does no harm, as everything that is repeatable may be. An operation that is
not (an ``increment``) is marked before it is sent, at once; if the mark is all that is left of it after a kill, it is
reported and not sent again.

Several operations on one document keep their order over runs: each entry stands for one operation; and when one is
sent that is not in the journal, what the journal has of this document beyond it is forgotten, so that what comes after
is sent again, too. Going on with a journal takes 17 bytes of memory for each operation in it; a feed that starts anew
keeps nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import InputError
from feeders.operations import Request

_MAGIC = b"clipsearch feed journal 1 "
_FRAME = struct.Struct("<4sII")  # tag, number of entries, CRC-32 of them
_ENTRY = struct.Struct("<QQ")  # hash of the id, hash of the content; content 0: forget this document
_DONE, _SENT = b"DONE", b"SENT"
_HEADER = len(_MAGIC) + 64 + 1
_SYNC = 1.0  # seconds

Known = Literal["new", "done", "unsure"]
Hashes = NDArray[np.uint64]


def journal_path(folder: Path, url: str) -> Path:
    """Where a feed of what is in ``folder`` to the endpoint at ``url`` keeps its journal."""
    return folder / f".feed-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}.journal"


class Journal:
    """The journal at ``path`` of feeds to the index that ``owner`` describes; one of another index is started anew.

    ``resumed`` is how many acknowledged operations it holds. Raises ``InputError`` when another feed uses it.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise InputError(f"another feed is going on with {path}: wait for its end, or stop it") from error
        self._lock = threading.Lock()
        self._pending = bytearray()
        self._synced = time.monotonic()
        self._unsynced = False
        header = _MAGIC + hashlib.sha256(owner.encode()).hexdigest().encode() + b"\n"
        self.foreign = self._load(header)

    @staticmethod
    def peek(path: Path) -> int:
        """How many acknowledged operations the journal at ``path`` holds; it is left as it is."""
        data = path.read_bytes()
        return len(_live(_frames(data[_HEADER:], _HEADER)[0])[0])

    @property
    def resumed(self) -> int:
        """Acknowledged operations of earlier runs."""
        return len(self._ids)

    def _load(self, header: bytes) -> bool:
        """Read what is there; returns whether it was another index's, and is gone."""
        with open(self._file, "rb", closefd=False) as file:
            found = file.read(len(header))
            ours = found == header
            done, sent, end = _frames(file.read(), len(header)) if ours else (_none(), _none(), 0)
        self._ids, self._contents = _live(done)
        self._used = np.zeros(len(self._ids), dtype=bool)
        finished = set(map(tuple, done.tolist())) if len(sent) else set()
        self._unsure = {tuple(entry) for entry in sent.tolist()} - finished
        os.ftruncate(self._file, end)
        os.lseek(self._file, 0, os.SEEK_END)
        if not ours:
            self._write(header)
        return not ours and bool(found)

    # ---- the producer's side

    def look_up(self, request: Request) -> Known:
        """Whether ``request`` was acknowledged before; each entry answers for one operation.

        ``unsure``: it was sent, is not repeatable, and what became of it is not known.
        """
        if (request.id_hash, request.content_hash) in self._unsure:
            return "unsure"
        if not len(self._ids):
            return "new"
        wanted = np.uint64(request.id_hash)
        first, last = np.searchsorted(self._ids, wanted, "left"), np.searchsorted(self._ids, wanted, "right")
        unused = [at for at in range(first, last) if not self._used[at]]
        for at in unused:
            if self._contents[at] == request.content_hash:
                self._used[at] = True
                return "done"
        if unused:
            self._used[first:last] = True
            with self._lock:
                self._pending += _ENTRY.pack(request.id_hash, 0)
        return "new"

    def alone(self, request: Request) -> bool:
        """Whether the journal has just one operation on this document."""
        wanted = np.uint64(request.id_hash)
        return bool(np.searchsorted(self._ids, wanted, "right") - np.searchsorted(self._ids, wanted, "left") == 1)

    # ---- the workers' side

    def sending(self, request: Request) -> None:
        """Mark an operation that must not be sent twice, before it is sent."""
        entry = _ENTRY.pack(request.id_hash, request.content_hash)
        with self._lock:
            self._write(_FRAME.pack(_SENT, 1, zlib.crc32(entry)) + entry)

    def acknowledged(self, request: Request) -> None:
        """Note one operation; it is written with the next ``flush``."""
        with self._lock:
            self._pending += _ENTRY.pack(request.id_hash, request.content_hash)

    def flush(self) -> None:
        """Write what was noted, and sync when it is time."""
        with self._lock:
            if self._pending:
                count = len(self._pending) // _ENTRY.size
                self._write(_FRAME.pack(_DONE, count, zlib.crc32(self._pending)) + self._pending)
                self._pending.clear()
                self._unsynced = True
        if self._unsynced and time.monotonic() - self._synced > _SYNC:
            self._unsynced, self._synced = False, time.monotonic()
            os.fdatasync(self._file)

    def _write(self, data: bytes) -> None:
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(f"no space left for {self.path}")

    def close(self, complete: bool) -> None:
        """End it: a complete feed needs no journal, and another feed of the same documents shall send them again."""
        try:
            if complete:
                self.path.unlink(missing_ok=True)
            else:
                self.flush()
                os.fdatasync(self._file)
        finally:
            os.close(self._file)


def _frames(data: bytes, start: int) -> tuple[Hashes, Hashes, int]:
    """All whole frames: entries (N, 2) done, entries (M, 2) sent, and where the file is to be cut."""
    parts: dict[bytes, list[bytes]] = {_DONE: [], _SENT: []}
    at = 0
    while at + _FRAME.size <= len(data):
        tag, count, check = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + count * _ENTRY.size]
        if tag not in parts or len(body) != count * _ENTRY.size or zlib.crc32(body) != check:
            break
        parts[tag].append(body)
        at += _FRAME.size + len(body)
    done, sent = (np.frombuffer(b"".join(parts[tag]), "<u8").reshape(-1, 2) for tag in (_DONE, _SENT))
    return done, sent, start + at


def _live(entries: Hashes) -> tuple[Hashes, Hashes]:
    """Ids and contents, sorted by id, of the entries that were not forgotten later."""
    ids, contents = entries[:, 0], entries[:, 1]
    forgotten = np.flatnonzero(contents == 0)
    since = {int(ids[at]): int(at) for at in forgotten}  # the last one counts
    keep = contents != 0
    for at in np.flatnonzero(np.isin(ids, ids[forgotten]) & keep):
        keep[at] = at > since[int(ids[at])]
    ids, contents = ids[keep], contents[keep]
    order = np.argsort(ids, kind="stable")
    return ids[order], contents[order]


def _none() -> Hashes:
    return np.empty((0, 2), np.uint64)
