"""Training and encoding speed beside the plain transformers loop and open_clip's, in one run, on the same pairs.

ViT-B/32 and the tiny preset with random weights. All loops train copies of one model in alternating rounds; figures are
medians over rounds, in wall and in CPU time. The share of the chip is the arithmetic of a step (counted by torch, for
the padding that the step really had) over its time, as a part of the rate of one large matrix product in the same type,
measured in the same run. Before that, loops in fp32 are shown to give the same losses, step by step.

    .venv/bin/python bench/bench_training.py --architectures tiny --repeat 1
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import training_loops as loops
from report import say, table
from torch.utils.flop_counter import FlopCounterMode

from clipsearch.clip import Clip, choose_device
from clipsearch.training.precision import choose_precision

Timed = dict[str, list[float]]


def matrix_rates(device: torch.device) -> dict[str, float]:
    """TFLOP/s of one large square matrix product by type: the best of several, after a warm-up."""
    size, rates = (8192 if device.type == "cuda" else 2048), {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(6):
            started = now(device)
            a @ b
            seconds.append(now(device) - started)
        rates[name] = 2 * size**3 / min(seconds[1:]) / 1e12
    return rates


def now(device: torch.device) -> float:
    """Seconds, after everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def trajectories(clip: Clip, pairs: loops.Pairs, batch: int, steps: int) -> dict[str, float]:
    """Largest difference of a step's loss from the plain loop's, relative, for ours in fp32 and in bf16."""
    losses = {}
    makers: dict[str, Callable[[Clip], loops.Loop]] = {
        "plain": lambda own: loops.Plain(own, pairs),
        "fp32": lambda own: loops.Ours(own, pairs, precision="fp32"),
        "bf16": lambda own: loops.Ours(own, pairs, precision="bf16"),
    }
    for name, make in makers.items():
        loop = make(loops.copied(clip))
        losses[name] = np.array([loop.step(loop.data(rows)) for rows in batches(len(pairs.captions), batch, steps)])
        del loop
        gc.collect()
    return {name: float(np.abs(losses[name] / losses["plain"] - 1).max()) for name in ("fp32", "bf16")}


def batches(count: int, batch: int, steps: int) -> list[list[int]]:
    """``steps`` seeded batches of distinct rows."""
    generator = np.random.default_rng(1)
    return [generator.choice(count, batch, replace=False).tolist() for _ in range(steps)]


def measure(
    made: Mapping[str, loops.Loop], device: torch.device, count: int, batch: int, steps: int, repeat: int
) -> Any:
    """Pairs/s and the share of time that goes into data, by loop; rounds alternate."""
    timed: dict[str, Timed] = {name: {"wall": [], "cpu": [], "data": []} for name in made}
    for number in range(repeat + 1):
        for name, loop in made.items():
            rows = batches(count, batch, steps if number else 1)
            started, cpu, waited = now(device), time.process_time(), 0.0
            for chosen in rows:
                before = now(device)
                inputs = loop.data(chosen)
                waited += now(device) - before
                loop.step(inputs)
            wall = now(device) - started
            if number:  # the first round warms up
                timed[name]["wall"].append(len(rows) * batch / wall)
                timed[name]["cpu"].append(len(rows) * batch / (time.process_time() - cpu))
                timed[name]["data"].append(waited / wall)
    return {
        name: {
            "pairs_per_s": statistics.median(one["wall"]),
            "pairs_per_cpu_s": statistics.median(one["cpu"]),
            "data_share": statistics.median(one["data"]),
            "rounds": one["wall"],
        }
        for name, one in timed.items()
    }


def step_flops(loop: loops.Loop, rows: Sequence[int]) -> float:
    """Floating point operations of one step's matrix products and convolutions, forward and backward."""
    inputs = loop.data(rows)
    with FlopCounterMode(display=False) as counter:
        loop.step(inputs)
    return float(counter.get_total_flops())


def encoding(clip: Clip, pairs: loops.Pairs, batch: int, repeat: int) -> dict[str, float]:
    """Images/s of the image tower: ``fp32`` and ``auto`` precision with pixels on the device, and from host memory."""
    device = clip.device
    pixels = torch.from_numpy(pairs.pixels[:batch]).permute(0, 3, 1, 2).to(device)
    clip.model.eval()
    ways: dict[str, Callable[[], object]] = {
        "fp32": lambda: clip.image_features(clip.normalise(pixels)),
        "auto": lambda: clip.image_features(clip.normalise(pixels)),
        "host": lambda: clip.embed_pixels(pairs.pixels[:batch], batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeat + 1):
        for name, way in ways.items():
            precision = choose_precision("auto", device).autocast() if name == "auto" else nullcontext()
            with torch.inference_mode(), precision:
                started = now(device)
                way()
                if number:
                    seconds[name].append(now(device) - started)
    return {name: len(pixels) / statistics.median(one) for name, one in seconds.items()}


def architecture(
    name: str, device: torch.device, library: Any, batch: int, steps: int, repeat: int, compiled: bool
) -> Any:
    """Everything about one architecture."""
    clip = loops.build(name, device)
    pairs = loops.make_pairs(max(4 * batch, 128), clip.image_size)
    say(f"{name}: the same losses ...")
    found: dict[str, Any] = {"batch": batch, "loss_difference": trajectories(clip, pairs, batch, 4)}
    made: dict[str, loops.Loop] = {
        "ours": loops.Ours(loops.copied(clip), pairs, compile=compiled),
        "ours in fp32": loops.Ours(loops.copied(clip), pairs, precision="fp32"),
        "plain transformers": loops.Plain(loops.copied(clip), pairs),
    }
    if library is not None and name == "vit-b-32":
        made["open_clip bf16"] = loops.OpenClip(clip, pairs, library)
    say(f"{name}: rounds of {', '.join(made)} ...")
    found["loops"] = measure(made, device, len(pairs.captions), batch, steps, repeat)
    for loop, one in found["loops"].items():
        one["step_tflop"] = step_flops(made[loop], batches(len(pairs.captions), batch, 1)[0]) / 1e12
    say(f"{name}: encoding ...")
    found["images_per_s"] = encoding(
        clip, pairs, min(len(pairs.captions), 1024 if device.type == "cuda" else 32), repeat
    )
    return found


def tables(found: Mapping[str, Any]) -> str:
    """Everything that was measured, as text."""
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in found["matrix_tflops"].items())
    parts = [f"{found['machine']}; one large matrix product, TFLOP/s: {rates}"]
    for name, one in found["architectures"].items():
        plain = one["loops"]["plain transformers"]
        rows = []
        for loop, cost in one["loops"].items():
            kind = found["precision"] if loop == "ours" else "bf16" if "bf16" in loop else "fp32"
            share = cost["step_tflop"] * cost["pairs_per_s"] / one["batch"] / found["matrix_tflops"].get(kind, np.nan)
            ratios = [f"{cost[key] / plain[key]:.2f}" for key in ("pairs_per_s", "pairs_per_cpu_s")]
            cells = [f"{cost['pairs_per_s']:.1f}", f"{cost['pairs_per_cpu_s']:.1f}", *ratios]
            rows.append([loop, kind, *cells, f"{share:.0%}", f"{cost['data_share']:.1%}"])
        head = ["loop", "type", "pairs/s", "per CPU s", "x plain", "x plain (CPU)", "of matrix rate", "in data"]
        differences = ", ".join(f"{kind} {value:.1e}" for kind, value in one["loss_difference"].items())
        images = ", ".join(f"{way} {rate:.1f}" for way, rate in one["images_per_s"].items())
        parts.append(table(f"{name}, batches of {one['batch']}", head, rows))
        parts.append(f"  losses of 4 steps against the plain loop's, largest relative difference: {differences}")
        parts.append(f"  encoding, images/s: {images}")
    if found["open_clip"]:
        parts.append(found["open_clip"])
    return "\n".join(parts)


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--architectures", default=",".join(loops.ARCHITECTURES), show_default=True, help="Comma separated.")
@click.option("--batch-size", default=0, help="Pairs in a batch. Default: 32, 1,024 on CUDA.")
@click.option("--steps", default=3, show_default=True, help="Steps of one loop in one round.")
@click.option("--repeat", default=3, show_default=True, help="Rounds.")
@click.option("--device", default="auto", show_default=True)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="Compile our towers.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Also measure open_clip's loop.")
@click.option("--work", type=click.Path(path_type=Path), help="Where open_clip is kept. Default: a temporary folder.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of tables.")
def main(
    architectures: str,
    batch_size: int,
    steps: int,
    repeat: int,
    device: str,
    compiled: bool,
    peers: bool,
    work: Path | None,
    as_json: bool,
) -> None:
    """Measure everything and print tables. Options of the other benchmarks are passed over, for ``make bench``."""
    chosen = [name for name in architectures.split(",") if name]
    if unknown := [name for name in chosen if name not in loops.ARCHITECTURES]:
        raise click.BadParameter(f"there is no {unknown[0]}: choose of {', '.join(loops.ARCHITECTURES)}")
    place = choose_device(device)
    batch = batch_size or (1024 if place.type == "cuda" else 32)
    chip = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{os.cpu_count()} CPUs, {platform.machine()}"
    found: dict[str, Any] = {"machine": chip, "precision": choose_precision("auto", place).name, "open_clip": ""}
    with tempfile.TemporaryDirectory() as temporary:
        library = None
        if peers and "vit-b-32" in chosen:
            try:
                library = loops.open_clip((work or Path(temporary)).absolute())
            except RuntimeError as error:
                found["open_clip"] = f"open_clip was not measured: {error}"
        say("matrix products ...")
        found["matrix_tflops"] = matrix_rates(place)
        found["architectures"] = {
            name: architecture(name, place, library, batch, steps, repeat, compiled) for name in chosen
        }
    click.echo(json.dumps(found, indent=2) if as_json else tables(found))


if __name__ == "__main__":
    main()
