"""A corpus of 200,000 image files end to end, with the commands that a user types: encode, feed, verify.

    python bench/bench_corpus.py
    python bench/bench_corpus.py --images 20000 --json

Pictures are generated: crops of noise and shapes at random places, 192 px, about RSICD's bytes each. The tiny preset
(random weights: speed does not depend on them) encodes all of them; ViT-B/32's architecture encodes a sample, and its
time for the whole corpus is extrapolated from that and says so. Every step is a process of its own, as for a user;
"peak MB" is that process' own largest resident set.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import servers
from bench_encode import picture
from engines import ROOT
from PIL import Image
from report import say
from workload import CLUSTERS, Words

Json = dict[str, Any]
SIDE, LARGE, QUALITY = 192, 600, 46
SCENES = 200  # large pictures that the crops are taken of
PER_FOLDER = 1000
CHECKPOINTS = {"tiny": "tiny", "vit": "ViT-B/32"}
# Not ru_maxrss, which starts at the size of the process that this one was forked from.
COMMAND = """
import sys
from pathlib import Path
from clipsearch.cli import main
try:
    main()
finally:
    print("VmHWM", Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def file_name(number: int) -> str:
    """``007/007123.jpg``."""
    return f"{number // PER_FOLDER:03d}/{number:06d}.jpg"


def write_folder(folder: Path, first: int, last: int) -> None:
    """The files ``first`` to ``last`` - 1, all of one folder, which appears when it is whole."""
    target = folder / "images" / f"{first // PER_FOLDER:03d}"
    if target.is_dir():
        return
    unfinished = target.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(first)
    scenes = [np.asarray(picture(LARGE, int(seed))) for seed in random.integers(0, SCENES, 8)]
    for number in range(first, last):
        left, top = random.integers(0, LARGE - SIDE, 2)
        crop = scenes[number % len(scenes)][top : top + SIDE, left : left + SIDE, random.permutation(3)]
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(crop)).save(out, "JPEG", quality=QUALITY)
        (unfinished / f"{number:06d}.jpg").write_bytes(out.getvalue())
    unfinished.rename(target)


def write_corpus(folder: Path, count: int) -> Path:
    """``count`` image files with a generated caption each, as ``captions.jsonl``; kept for the next run."""
    if (folder / "captions.jsonl").is_file():
        return folder
    starts = range(0, count, PER_FOLDER)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        ends = [min(start + PER_FOLDER, count) for start in starts]
        for done, _ in enumerate(pool.map(write_folder, [folder] * len(starts), starts, ends), 1):
            if done % 20 == 0:
                say(f"{done * PER_FOLDER} pictures")
    random = np.random.default_rng(count)
    captions = Words(random).captions(random.integers(0, CLUSTERS, count).astype(np.int32), random)
    lines = (json.dumps({"file": f"images/{file_name(n)}", "caption": captions[n]}) + "\n" for n in range(count))
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(lines)
    return folder


def measured(*arguments: object, cache: Path | None = None) -> Json:
    """Run a clipsearch command: ``said`` (its JSON or last line), wall and CPU seconds, its peak resident set in MB.

    Raises ``RuntimeError`` with what it said when it fails.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
        environment = os.environ | ({"XDG_CACHE_HOME": str(cache)} if cache else {})  # where exported models are kept
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=errors, text=True, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        errors.seek(0)
        said, wrong = out.read(), errors.read()
        if os.waitstatus_to_exitcode(status):
            raise RuntimeError(f"clipsearch {' '.join(command[3:])}: {wrong[-2000:]}{said[-500:]}")
    peak = int(wrong.rpartition("VmHWM ")[2]) / 1024
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_s": cpu, "peak_mb": peak, "said": said.strip().splitlines()[-1:]}


def checkpoint(work: Path, name: str) -> Path:
    """A checkpoint with random weights."""
    from encoding_routes import write_checkpoint

    folder = work / f"checkpoint-{name}"
    return folder if folder.is_dir() else write_checkpoint(folder, CHECKPOINTS[name])


def first_images(corpus: Path, folder: Path, count: int) -> Path:
    """The first ``count`` images of ``corpus`` as a corpus of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    lines = (corpus / "captions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    for line in lines:
        name = json.loads(line)["file"]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(corpus / name, folder / name)
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def encode(corpus: Path, model: Path, out: Path, count: int, *options: str) -> Json:
    """``clipsearch encode`` from nothing. Raises ``RuntimeError`` unless every image was encoded."""
    shutil.rmtree(out, ignore_errors=True)
    command = ("encode", corpus, "--model", model, "--out", out, "--name", "bench", "--json", *options)
    found = measured(*command, cache=out.parent / "cache")
    summary = json.loads("".join(found.pop("said")))
    if summary["encoded"] != count:
        raise RuntimeError(f"{summary['encoded']} of {count} images were encoded")
    return {**found, "images": count, "images_per_s": count / found["seconds"]}


def feed(work: Path, shards: Path, count: int, port: int) -> dict[str, Json]:
    """``clipsearch feed shards`` and ``feed verify`` into a new local engine."""
    data = work / "engine"
    shutil.rmtree(data, ignore_errors=True)
    ports = ("--port", str(port), "--deploy-port", str(port + 1))
    with servers.Server(
        port, "-m", "clipsearch", "engine", "--data", str(data), "--app", str(ROOT / "vespa_app"), *ports
    ) as it:
        it.wait()
        fed = measured("feed", "shards", shards, "--url", it.url, "--json")
        fed |= {"images": count, "images_per_s": count / fed["seconds"]}
        verified = measured("feed", "verify", shards, "--url", it.url)
    shutil.rmtree(data, ignore_errors=True)
    return {"feed": fed, "verify": {**verified, "images": count, "images_per_s": count / verified["seconds"]}}


def sampled(place: Path, corpus: Path, images: int, count: int) -> tuple[dict[str, Json], dict[str, float]]:
    """ViT-B/32 on ``count`` images, and the hours that all ``images`` would take.

    A run on 8 images first pays for the export, a second one tells what a start costs; both stay out of the rate.
    """
    few, eight = first_images(corpus, place / "few", count), first_images(corpus, place / "eight", 8)
    model, steps, hours = checkpoint(place, "vit"), {}, {}
    for name, options in {"ViT-B/32": (), "ViT-B/32, onnx-int8": ("--backend", "onnx-int8")}.items():
        first = encode(eight, model, place / "eight-shards", 8, *options)
        start = encode(eight, model, place / "eight-shards", 8, *options)
        once = steps[f"encode, {name}, a sample"] = encode(few, model, place / "few-shards", count, *options)
        each = max(once["seconds"] - start["seconds"], 1e-9) / (count - 8)
        hours[name] = (first["seconds"] + each * (images - 8)) / 3600
    return steps, hours


def tables(found: Json) -> str:
    """The figures for people."""
    lines = [
        f"{found['images']} image files end to end ({os.cpu_count()} CPUs)",
        f"  {'step':34} {'images':>8} {'seconds':>9} {'CPU s':>8} {'images/s':>9} {'peak MB':>8}",
    ]
    for name, step in found["steps"].items():
        lines.append(
            f"  {name:34} {step['images']:>8} {step['seconds']:>9.1f} {step['cpu_s']:>8.1f} "
            f"{step['images_per_s']:>9.1f} {step['peak_mb']:>8.0f}"
        )
    hours = found["extrapolated_hours"]
    lines += [f"  verify said: {' '.join(found['steps']['verify']['said'])}"]
    lines += [
        f"  {name} over all {found['images']} images: {value:.2f} h, extrapolated" for name, value in hours.items()
    ]
    return "\n".join(lines)


@click.command()
@click.option("--images", type=click.IntRange(100), default=200_000, show_default=True)
@click.option("--sample", type=click.IntRange(16), default=512, show_default=True, help="Images for ViT-B/32.")
@click.option("--work", type=click.Path(path_type=Path), help="Kept for the next run. Default: a temporary folder.")
@click.option("--port", default=29690, show_default=True, help="This port and the next are used.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of a table.")
def main(images: int, sample: int, work: Path | None, port: int, as_json: bool) -> None:
    """Measure everything and print a table."""
    with tempfile.TemporaryDirectory(prefix="bench_corpus") as temporary:
        place = work or Path(temporary)
        say(f"making {images} image files ...")
        corpus = write_corpus(place / f"corpus-{images}", images)
        steps: dict[str, Json] = {}
        steps["encode, tiny"] = encode(corpus, checkpoint(place, "tiny"), place / "shards", images)
        say(f"encoded: {steps['encode, tiny']['images_per_s']:.0f} images/s")
        steps |= feed(place, place / "shards", images, port)
        more, hours = sampled(place, corpus, images, min(sample, images))
        steps |= more
        found = {"images": images, "steps": steps, "extrapolated_hours": hours}
    click.echo(json.dumps(found) if as_json else tables(found))


if __name__ == "__main__":
    main()
