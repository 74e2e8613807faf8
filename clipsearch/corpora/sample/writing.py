"""Writing the sample corpus to a folder: in parallel, resumable, and only what is not there yet.

Layout: ``images/scene_00000.jpg``, ``captions.jsonl`` (``file``, ``captions``, ``split``, ``label``),
``classes.json`` (prompt and class words), and last of all ``manifest.json``, which says that the corpus is
whole.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from clipsearch.corpora.corpus import AERIAL_PROMPT
from clipsearch.corpora.sample.scenes import CLASSES, draw_scene, split_of
from clipsearch.errors import CorpusError, InputError

VERSION = 1
"""Raised whenever the drawing changes, so that an older folder is drawn anew."""

_PART = 40
"""Images drawn between two notes of progress: what an interruption costs at most, per process."""

_PARTS = ".parts"

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What ``write_sample`` did: images drawn now and found from before, classes, and seconds."""

    folder: str
    images: int
    drawn: int
    reused: int
    classes: int
    seconds: float


def write_sample(
    out: Path, *, images: int = 3000, size: int = 128, seed: int = 0, processes: int = 0, progress: bool = True
) -> SampleSummary:
    """Draw ``images`` scenes of ``size`` px into ``out`` and describe them in the JSONL layout.

    Deterministic: the same arguments give the same pixels and captions. A second run with the same
    arguments does nothing, an interrupted one continues. ``processes`` 0 means one per core. Raises
    ``InputError`` on impossible arguments, ``CorpusError`` when ``out`` holds something else.
    """
    _check(images, size)
    started = time.monotonic()
    wanted: dict[str, Any] = {"version": VERSION, "images": images, "size": size, "seed": seed}
    if _read_json(out / "manifest.json") == wanted:
        return SampleSummary(str(out), images, 0, images, min(images, len(CLASSES)), time.monotonic() - started)
    _prepare(out, wanted)
    rows, drawn = _draw_all(out, images, size, seed, processes, progress)
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    _write(out / "captions.jsonl", lines)
    classes = {scene.label: scene.words for scene in CLASSES}
    _write_json(out / "classes.json", {"name": "sample", "prompt": AERIAL_PROMPT, "classes": classes})
    _write_json(out / "manifest.json", wanted)
    (out / "unfinished.json").unlink(missing_ok=True)
    shutil.rmtree(out / _PARTS)
    seconds = time.monotonic() - started
    return SampleSummary(str(out), images, drawn, images - drawn, min(images, len(CLASSES)), seconds)


def _check(images: int, size: int) -> None:
    if not 1 <= images <= 1_000_000:
        raise InputError(f"--images {images}: choose 1 to 1,000,000")
    if not 32 <= size <= 1024:
        raise InputError(f"--size {size}: choose 32 to 1024 px")


def _prepare(out: Path, wanted: dict[str, Any]) -> None:
    """Make ``out`` ready; images of a corpus with other arguments are removed, other people's files never."""
    marker = out / "unfinished.json"
    before = _read_json(marker) or _read_json(out / "manifest.json")
    if before is None and out.exists() and any(out.iterdir()):
        raise CorpusError(f"{out} is not empty and not a sample corpus: choose another folder for --out")
    for folder in ("images", _PARTS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if before is not None and before != wanted:
        # The marker goes first: if this run is killed, the next one still sees that the images are not its
        # own.
        _write_json(marker, {"version": -1})
        for path in (*out.glob("images/scene_*.jpg"), *out.glob(f"{_PARTS}/*.json")):
            path.unlink()
    _write_json(marker, wanted)
    (out / "manifest.json").unlink(missing_ok=True)


def _draw_all(out: Path, images: int, size: int, seed: int, processes: int, progress: bool) -> tuple[Rows, int]:
    """Return the rows of ``captions.jsonl`` and how many images had to be drawn."""
    work = partial(_draw_part, str(out), size, seed)
    parts = [range(start, min(start + _PART, images)) for start in range(0, images, _PART)]
    done = {part.start: rows for part in parts if (rows := _finished(out, part)) is not None}
    missing = [part for part in parts if part.start not in done]
    drawn = sum(map(len, missing))
    with tqdm(total=images, initial=images - drawn, desc="drawing", unit="image", disable=not progress) as bar:
        for part, rows in zip(missing, _map(work, missing, processes or os.cpu_count() or 1), strict=True):
            done[part.start] = rows
            bar.update(len(part))
    return [row for start in sorted(done) for row in done[start]], drawn


def _finished(out: Path, part: range) -> Rows | None:
    data = _read_json(_part_file(out, part))
    return data["rows"] if data is not None and data.get("count") == len(part) else None


def _part_file(out: Path, part: range) -> Path:
    return out / _PARTS / f"{part.start:07d}.json"


def _map(work: Callable[[range], Rows], parts: list[range], processes: int) -> Iterator[Rows]:
    processes = min(processes, len(parts))
    if processes <= 1:
        yield from map(work, parts)
        return
    # Spawned, not forked: the caller may have threads (a forked lock would never be released).
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield from pool.map(work, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_part(folder: str, size: int, seed: int, part: range) -> Rows:
    """Draw some images and note their rows in a part file, whose presence says that all of them are
    written."""
    out = Path(folder)
    rows: Rows = []
    for index in part:
        image, captions, label = draw_scene(index, size, seed)
        name = f"images/scene_{index:05d}.jpg"
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=90)
        _write(out / name, jpeg.getvalue())
        rows.append({"file": name, "captions": captions, "split": split_of(index), "label": label})
    _write_json(_part_file(out, part), {"count": len(rows), "rows": rows})
    return rows


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return data if isinstance(data, dict) else None


def _write_json(path: Path, data: dict[str, Any]) -> None:
    _write(path, orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")


def _write(path: Path, data: bytes) -> None:
    # Renamed into place: a file that has its name is whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
