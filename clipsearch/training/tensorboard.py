"""The log as a TensorBoard event file: TensorBoard's own messages and records, without its writer thread.

``torch.utils.tensorboard`` queues events for a thread that writes them later; here each is in the file at once,
so that a killed run has lost none.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FILE = "events.out.tfevents.clipsearch"
_VERSION = "brain.Event:2"  # what the first event of a file says (tensorflow/core/util/event.proto)


class EventFile:
    """Appends scalars to one event file; each is in the file when ``add`` returns."""

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        if fresh or not self.path.exists():
            self.path.write_bytes(_record(Event(wall_time=time.time(), file_version=_VERSION)))

    def add(self, step: int, scalars: Mapping[str, float], wall_time: float | None = None) -> None:
        """Append ``scalars`` (tag -> value) at ``step``; ``wall_time`` in seconds since 1970, now by default."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        when = time.time() if wall_time is None else wall_time
        with self.path.open("ab") as file:
            file.write(_record(Event(wall_time=when, step=step, summary=Summary(value=values))))


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


def _record(event: Any) -> bytes:
    """The event with its length and checksums, as one piece, so that one write appends it."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
