"""What augmentation is worth: the tiny preset from scratch on RSICD, without it, with images, with images and texts.

    python bench/ablation.py RSICD_FOLDER --work DIR [--seeds 3] [--draw docs/ablation.png]

Each run is ``clipsearch finetune`` in a process of its own, with the recipe that validation chose (RECIPE); a run that
is there already is kept, one that was interrupted goes on. Text augmentation is CLIP-rsicd's back-translations of the
training captions (layout ``textaug``). The test split is measured once, by each run, at its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RECIPE = ["--preset", "tiny", "--epochs", "13", "--batch-size", "256", "--learning-rate", "2e-3"]
VARIANTS = {
    "none": ("", ["--augment", "none"]),
    "image": ("", []),
    "image + text": ("?layout=textaug", []),
}
COLOURS = {"none": "#888888", "image": "#1f77b4", "image + text": "#d62728"}


def folder_of(work: Path, variant: str, seed: int) -> Path:
    """Where a run is kept."""
    return work / f"{variant.replace(' + ', '-')}-{seed}"


def train(corpus: str, work: Path, variant: str, seed: int) -> Path:
    """The checkpoint folder of one run, trained now unless it is there."""
    out = folder_of(work, variant, seed)
    suffix, extra = VARIANTS[variant]
    if not out.exists():
        command = [sys.executable, "-m", "clipsearch", "finetune", corpus + suffix, *RECIPE, *extra]
        subprocess.run([*command, "--seed", str(seed), "--out", str(out)], check=True)
    return out


def scores(run: Path) -> dict[str, float]:
    """Test scores, the validation score and the seconds of one run, flat."""
    summary = json.loads((run / "metrics.json").read_text())
    flat = {name: value for name, value in summary["after"].items() if isinstance(value, float)}
    return {**flat, "validation hits@1": summary["validation"]["hits@1"], "seconds": summary["seconds"]}


def table(runs: dict[str, list[Path]]) -> str:
    """Mean and, over several seeds, spread of each score, a column per variant."""
    found = {variant: [scores(run) for run in folders] for variant, folders in runs.items() if folders}
    names = list(next(iter(found.values()))[0])
    lines = ["".ljust(28) + "".join(f"{variant} ({len(each)})".rjust(22) for variant, each in found.items())]
    for name in names:
        cells = []
        for each in found.values():
            values = [row[name] for row in each]
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.4f}{spread}".rjust(22))
        lines.append(name.ljust(28) + "".join(cells))
    return "\n".join(lines)


def curve(run: Path) -> list[dict[str, Any]]:
    """The epochs of one run, as it logged them."""
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "epoch"]


def draw(runs: dict[str, list[Path]], path: Path) -> None:
    """Training loss, validation hits@1 and MRR@10 by epoch; a line per run, a colour per variant."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {
        "training loss": lambda epoch: epoch["loss"],
        "validation hits@1, 30 classes": lambda epoch: epoch["validation"]["hits@1"],
        "validation MRR@10, mean of both ways": lambda epoch: (
            (epoch["validation"]["text_to_image_mrr@10"] + epoch["validation"]["image_to_text_mrr@10"]) / 2
        ),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3.6), constrained_layout=True)
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
        for variant, folders in runs.items():
            for number, run in enumerate(folders):
                epochs = curve(run)
                label = variant if number == 0 else None
                steps = [epoch["epoch"] + 1 for epoch in epochs]
                axis.plot(steps, [value(epoch) for epoch in epochs], color=COLOURS[variant], lw=1.3, label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    axes[0].legend(title="augmentation", fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train what is missing, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    runs = {
        variant: [train(options.corpus, options.work, variant, seed) for seed in range(options.seeds)]
        for variant in VARIANTS
    }
    print(table(runs))
    if options.draw:
        draw(runs, options.draw)


if __name__ == "__main__":
    main()
