"""The log as a TensorBoard event file, written without TensorBoard.

The format is a sequence of records (length, its checksum, data, its checksum) whose data are ``Event`` protocol buffers
(tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto); of these only scalars are needed.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = "events.out.tfevents.clipsearch"


class EventFile:
    """Appends scalars to one event file; each is in the file when ``add`` returns."""

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        if fresh or not self.path.exists():
            version = _field(3, b"brain.Event:2")
            self.path.write_bytes(_record(_double(1, time.time()) + version))

    def add(self, step: int, scalars: Mapping[str, float], wall_time: float | None = None) -> None:
        """Append ``scalars`` (tag -> value) at ``step``; ``wall_time`` in seconds since 1970, now by default."""
        values = b"".join(
            _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in scalars.items()
        )
        when = time.time() if wall_time is None else wall_time
        event = _double(1, when) + b"\x10" + _varint(step) + _field(5, values)
        with self.path.open("ab") as file:
            file.write(_record(event))


def scalars_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """What one entry of the log shows in TensorBoard: a step's or an epoch's numbers, by tag."""
    kind = entry["event"]
    if kind not in ("step", "epoch"):
        return {}
    group = "train" if kind == "step" else "epoch"
    plain = {name: entry[name] for name in ("loss", "learning_rate", "gradient_norm", "logit_scale") if name in entry}
    found = {f"{group}/{name}": value for name, value in plain.items()}
    measured = {f"validation/{name}": value for name, value in entry.get("validation", {}).items()}
    return {tag: float(value) for tag, value in (found | measured).items()}


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    return bytes(_groups_of_seven(value))


def _groups_of_seven(value: int) -> Iterator[int]:
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of the record format."""
    table = _table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _table() -> list[int]:
    """CRC-32C (Castagnoli, RFC 3720) of each byte."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table
