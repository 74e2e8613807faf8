"""The training benchmark's own code on the tiny preset: the loops agree, the tables say what was measured; no times."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
MODULES = ("bench_training", "training_loops", "report", "engines", "rounds", "workload")


@pytest.fixture(scope="module")
def loops() -> Iterator[Any]:
    """The benchmark's loops, importable as its script sees them."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))
    import training_loops

    yield training_loops
    sys.path[:] = before
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_pairs_are_the_same_for_the_same_seed_and_as_long_as_real_captions(loops: Any) -> None:
    first, again, other = loops.make_pairs(200, 8), loops.make_pairs(200, 8), loops.make_pairs(200, 8, seed=1)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.captions == again.captions != other.captions
    words = [len(caption.split()) - 1 for caption in first.captions]
    assert 10 < np.mean(words) < 12.5
    assert max(words) <= 35


def test_our_loop_in_fp32_has_the_losses_of_the_plain_loop(loops: Any) -> None:
    import bench_training

    clip = loops.build("tiny", torch.device("cpu"))
    found = bench_training.trajectories(clip, loops.make_pairs(40, 64), batch=12, steps=3)
    assert found["fp32"] < 1e-4
    assert found["bf16"] < 1e-2


def test_the_tables_show_ratios_and_shares_and_why_a_peer_is_missing(loops: Any) -> None:
    import bench_training

    one = {"pairs_per_cpu_s": 5.0, "data_share": 0.03, "step_tflop": 0.5}
    found = {
        "machine": "a chip",
        "precision": "bf16",
        "matrix_tflops": {"fp32": 1.0, "bf16": 2.0},
        "open_clip": "open_clip was not measured: no network",
        "architectures": {
            "tiny": {
                "batch": 10,
                "loss_difference": {"fp32": 1e-7, "bf16": 1e-3},
                "images_per_s": {"fp32": 12.0},
                "loops": {"ours": {"pairs_per_s": 20.0, **one}, "plain transformers": {"pairs_per_s": 8.0, **one}},
            }
        },
    }
    shown = bench_training.tables(found)
    ours = next(line for line in shown.splitlines() if line.strip().startswith("ours")).split()
    assert ours == ["ours", "bf16", "20.0", "5.0", "2.50", "1.00", "50%", "3.0%"]
    assert "no network" in shown
