"""Seconds an epoch of learning, from features on disk to the last task: AV-CIL's authors' trainer and ours.

    python benchmarks/training_epoch.py --official PATH [--epochs 10] [--threads 2]

Two sets of features in the authors' layout: Sounding Objects with all its 8 x 8 patches, lifted to 768 channels; and
random ones of the shape of AVE's (8 frames of 14 x 14 patches). The row is `avcil`, as parity.py runs it: each side in
a process of its own, the two taking turns; ours with float32 tokens and with bfloat16 ones. The first run compiles its
kernels, those after it find them, as on any machine. An epoch includes validation. Nothing is said of accuracy here:
for that, parity.py.

Writes benchmarks/results/training_epoch.json and .md.
"""

import argparse
import json
import os
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import authors
import parity
from parity import ROOT, Run, Setup

OUT = ROOT / "benchmarks/results/training_epoch.json"
SIDES = ("the authors' trainer", "ours, float32", "ours, bfloat16")


def random_features(folder: Path, *, classes: int = 15, train: int = 20, other: int = 3) -> Path:
    """Normal numbers of AVE's shape; so many clips a class for training, and for validation and test each."""
    splits = ["train"] * train + ["val"] * other + ["test"] * other
    count = classes * len(splits)
    generator = np.random.default_rng(0)
    visual = generator.standard_normal((count, authors.FRAMES, 196, authors.CHANNELS), dtype=np.float32)
    audio = generator.standard_normal((count, authors.CHANNELS), dtype=np.float32)
    labels = np.arange(classes).repeat(len(splits)).tolist()
    vids = [f"clip{i:04d}" for i in range(count)]
    return authors.write_features(folder, visual, audio, vids=vids, labels=labels, splits=splits * classes)


def measure(official: Path, features: Path, setup: Setup, rounds: int) -> dict[str, list[Run]]:
    """Runs of each side, which take turns."""
    found: dict[str, list[Run]] = {side: [] for side in SIDES}
    for seed in range(rounds):
        found[SIDES[0]].append(parity.run_theirs(official, features, "avcil", setup, seed))
        for side in SIDES[1:]:
            found[side].append(parity.run_ours(features, "avcil", setup, seed, precision=side.split()[-1]))
    return found


def summary(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """Medians over tasks and seeds. The first task knows no old model, and the first run compiles its kernels: what
    comes after each is counted apart."""
    found = {}
    for side, of_side in runs.items():
        found[side] = {
            "epoch_seconds_first_task": statistics.median(run.epoch_seconds[0] for run in of_side),
            "epoch_seconds": statistics.median(s for run in of_side for s in run.epoch_seconds[1:]),
            "train_seconds": statistics.median(s for run in of_side for s in run.train_seconds[1:]),
            "first_run_seconds": of_side[0].wall_seconds,
            "run_seconds": statistics.median(run.wall_seconds for run in of_side[1:]),
            "peak_mb": statistics.median(run.peak_memory for run in of_side) / 1e6,
        }
    return found


def table(found: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "| | seconds per epoch, first task | later tasks | of which training | first run | later runs "
        "| peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    theirs = found[SIDES[0]]
    for side, values in found.items():
        cells = [f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in values.values()]
        if side != SIDES[0]:
            cells = [f"{cell} ({theirs[name] / values[name]:.2g}x)" for cell, name in zip(cells, values, strict=True)]
        lines.append(f"| {side} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def document(content: dict) -> str:
    """The Markdown of the JSON."""
    share = content["others_cpu_share"]
    threads = next(iter(content["features"].values()))["setup"]["threads"]
    lines = [
        "# Learning, end to end",
        "",
        f"Made by `benchmarks/training_epoch.py` on {content['machine']}, {threads} threads. Medians over tasks, "
        f"{content['runs']} runs per side; in brackets: how many times faster, or smaller, than theirs. Other "
        f"processes took {'an unknown share' if share is None else f'{share:.0%}'} of the machine.",
        "",
    ]
    for name, found in content["features"].items():
        setup = found["setup"]
        lines += [f"## {name}", ""]
        batches = f"Batches of {setup['batch']} new clips and {setup['exemplar_batch']} exemplars"
        lines += [f"{batches}, {setup['epochs']} epochs per task.", ""]
        lines += table(found["sides"])
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="checkout of weiguoPian/AV-CIL_ICCV2023")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2, help="two or more")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds: the first run compiles, and is counted apart; give two or more")
    os.environ["AVCIL_PORTABLE"] = "0"  # before avcil is imported: both sides take what instructions there are
    makers = {
        "Sounding Objects, 8 x 8 patches, lifted to 768 channels": (64, partial(parity.embedded_features, side=8)),
        "random, of AVE's shape (14 x 14 patches)": (32, random_features),
    }
    found = {}
    begin = parity.cpu_seconds()
    for name, (batch, make) in makers.items():
        setup = Setup(5, given.epochs, 60, batch, batch // 2, given.threads)
        with tempfile.TemporaryDirectory(prefix="avcil_epoch_") as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"
            runs = measure(given.official, make(Path(folder)), setup, given.rounds)
        found[name] = {"setup": setup._asdict(), "sides": summary(runs)}
    others = parity.share_of_others(begin)
    content = {"machine": parity.machine(), "runs": given.rounds, "others_cpu_share": others, "features": found}
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(document(content))
    print(document(content))


if __name__ == "__main__":
    main()
