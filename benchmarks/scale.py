"""What learning takes as stores grow: time a clip, peak memory, bytes read, bytes of checkpoints.

    python benchmarks/scale.py [--clips 2000 8000] [--classes 20] [--tasks 20] [--rows lll_prior ridge_guided]
                               [--processes 1]

A store of [8,16,256] visual and [25,256] audio tokens, noise about a mean of each class; one epoch a task. Each row
learns in a process of its own, twice: from memory, and from a store that is mapped, as one that is too large for memory
is. With several --processes as many learn the same at a time, as a sweep's do. Nothing is said of accuracy here.
Writes benchmarks/results/scale.csv, a line a case, and scale.md of it; cases that stand there from elsewhere are kept.

cpu_ms_a_clip: processor time over training clips, of the whole run, which evaluates after each task too; of several
processes the mean. peak_gb: resident at most, less what was resident before the store was opened; of a mapped store,
pages of its files that the kernel would give back count too; of several processes together, looked at ten times a
second, a page that they share counting once (its proportional set size). read_gb: from the disk, not from the kernel's
cache, by all.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import torch

import report
from authors import peak_memory
from avcil.comparison.tables import markdown
from avcil.learn.train import run_tasks
from avcil.params import load
from avcil.params.learning import chain
from avcil.results.names import short_name_of
from avcil.tokens.dataset import load_datasets
from avcil.tokens.store import Header, finish, open_store, write_shard
from avcil.tokens.tokens import Layout

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks/results/scale.csv"
LAYOUT = Layout(slots=8, patches=16, audio_tokens=25, visual_channels=256, audio_channels=256)
SHARD = 100  # clips
SPLITS = ["train"] * 8 + ["val", "test"]
CASE = ["machine", "row", "store", "clips", "classes", "tasks", "processes"]
VGGSOUND, DISK = 200_000, 3e9  # clips; bytes a second of an assumed disk


def write_store(folder: Path, clips: int, classes: int) -> None:
    """manifest.csv, orders.json and store/: clip i is of class i % classes."""
    names = [f"clip{i:06d}" for i in range(clips)]
    labels = [f"class{i % classes:03d}" for i in range(clips)]
    splits = [SPLITS[i // classes % len(SPLITS)] for i in range(clips)]
    manifest = {"clip_id": names, "path": [f"{name}.mp4" for name in names], "label": labels, "split": splits}
    pd.DataFrame(manifest).to_csv(folder / "manifest.csv", index=False)
    (folder / "orders.json").write_text(json.dumps({"0": sorted(set(labels))}))
    header = Header("noise", "", "0", {}, LAYOUT, names, SHARD)
    open_store(folder / "store", header)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(SHARD, 8, 16, 256, generator=generator), torch.randn(SHARD, 25, 256, generator=generator)
    means = torch.randn(classes, 256, generator=generator)
    for number, ids in enumerate(header.shards):
        mean = means[torch.arange(number * SHARD, number * SHARD + len(ids)) % classes]
        visual, audio = (part[: len(ids)].roll(number, 0) for part in noise)
        visual, audio = visual + mean[:, None, None], audio + mean[:, None]
        part = {"visual": visual.half(), "audio": audio.half(), "similarity": visual[..., 0].half()}
        write_shard(folder / "store", number, part, {}, str(number))
    finish(folder / "store", header)


def learn(folder: Path, row: str, store: str, classes: int, tasks: int) -> dict[str, float]:
    """In this process: one run, and what it took."""
    torch.set_num_threads(1)
    params = load(ROOT / "params.yaml")
    files, room = (
        [folder / name for name in ("manifest.csv", "orders.json", "store")],
        0 if store == "mapped" else 1 << 60,
    )
    # all that is imported is there: from here on memory counts
    print("ready", flush=True)
    sys.stdin.readline()
    before, read = peak_memory(), psutil.Process().io_counters().read_bytes
    began, cpu = time.perf_counter(), time.process_time()
    data = load_datasets(*files, [0], room=room)[0]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run_tasks(data, params.method(row), params.training, chain([classes // tasks] * tasks, 1), 0, Path(out))
        kept = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    peak = peak_memory() - before
    return {
        "cpu_ms_a_clip": 1000 * cpu / len(data.splits["train"]),
        "wall_seconds": wall,
        "store_gb": len(data.clip_ids) * LAYOUT.clip_bytes / 1e9,
        "peak_gb": peak / 1e9,
        "read_gb": (psutil.Process().io_counters().read_bytes - read) / 1e9,
        "checkpoints_mb": kept / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--rows", nargs="+", default=["lll_prior", "ridge_guided"])
    parser.add_argument("--stores", nargs="+", default=["memory", "mapped"], choices=["memory", "mapped"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(learn(Path(given.child), given.rows[0], given.stores[0], given.classes, given.tasks)))
        return
    machine = report.machine(torch.device("cpu"))["cpu"]
    for clips in given.clips:
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder), clips, given.classes)
            for row in given.rows:
                for store in given.stores:
                    case = [machine, row, store, clips, given.classes, given.tasks, given.processes]
                    words = ["--classes", given.classes, "--tasks", given.tasks, "--rows", row, "--stores", store]
                    command = [sys.executable, __file__, "--child", folder, *map(str, words)]
                    add(given.out, dict(zip(CASE, case, strict=True)) | measured(command, given.processes))
    given.out.with_suffix(".md").write_text(f"{document(pd.read_csv(given.out))}\n")


def measured(command: list[str], count: int) -> dict[str, float]:
    """What so many processes of the same command take at a time."""
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    try:
        for child in children:
            assert child.stdout and child.stdout.readline() == "ready\n"
        before = peak = shared_out(children)
        for child in children:
            assert child.stdin
            child.stdin.write("\n")
            child.stdin.flush()
        while any(child.poll() is None for child in children):
            peak = max(peak, shared_out(children))
            time.sleep(0.1)
        if failed := [child.returncode for child in children if child.returncode]:
            sys.exit(f"a process ended with status {failed[0]}")
        said = pd.DataFrame([json.loads(child.stdout.read().splitlines()[-1]) for child in children if child.stdout])
    finally:
        for child in children:
            child.kill()
    line = said.mean().to_dict() | {"read_gb": said.read_gb.sum()}
    # of one process the kernel itself keeps the peak, which looking now and then may miss
    return line if count == 1 else line | {"peak_gb": (peak - before) / 1e9}


def shared_out(children: list[subprocess.Popen]) -> int:
    """Bytes of all together, a page that several have counting once."""
    total = 0
    for child in children:
        # one that has just ended has none
        with contextlib.suppress(psutil.Error, OSError):
            total += psutil.Process(child.pid).memory_full_info().pss
    return total


def add(file: Path, line: dict) -> None:
    """The case in the file is this one from now on."""
    known = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=list(line))
    other = known[(known[CASE] != [line[name] for name in CASE]).any(axis=1)]
    table = pd.concat([other, pd.DataFrame([line])]) if len(other) else pd.DataFrame([line])
    file.parent.mkdir(parents=True, exist_ok=True)
    table.sort_values(CASE).round(3).to_csv(file, index=False)
    print(json.dumps(line), flush=True)


def document(table: pd.DataFrame) -> str:
    """What learning takes as stores grow, and what follows for all of VGGSound."""
    table = table.sort_values(["row", "clips", "classes", "tasks", "store", "processes"])
    rows = [
        [
            short_name_of(line.row), f"{line.clips:,}", str(line.classes), str(line.tasks), line.store,
            str(line.processes), f"{line.cpu_ms_a_clip:.2f}", f"{line.peak_gb:.2f}", f"{line.store_gb:.2f}",
            f"{line.read_gb:.2f}", f"{line.checkpoints_mb:.0f}",
        ]
        for line in table.itertuples()
    ]  # fmt: skip
    measures = "ms a clip | peak GB | GB stored | GB read | checkpoints, MB"
    head = f"| row | clips | classes | tasks | store | processes | {measures} |"
    note = (
        f"`benchmarks/scale.py` on {' and '.join(table.machine.unique())}: one epoch per task, with the evaluation "
        "after it. Processor milliseconds per training clip, on one thread; peak memory beyond what torch itself "
        "takes, of all processes that learn the same at a time, a page that they share counting once."
    )
    return f"{markdown(head, 'lrrrlrrrrrr', rows)}\n\n{note}\n\n{_shared(table)}\n\n{_vggsound()}"


def _shared(table: pd.DataFrame) -> str:
    """What a second process takes more, of the cases that were measured with one and with two."""
    peaks = table.pivot_table("peak_gb", ["store", "row", "clips", "classes", "tasks"], "processes").dropna()
    more = (peaks[2] / peaks[1]).groupby("store").agg(["min", "max"])
    said = {store: f"{low:.1f} to {high:.1f} times" for store, low, high in more.itertuples()}
    return (
        f"Two processes that learn from one mapped store take {said['mapped']} the memory of one; where each loads it, "
        f"{said['memory']}. Milliseconds compare cases of one process; two of them were timed on a busy machine."
    )


def _vggsound() -> str:
    """An estimate from measured parts, and which they are."""
    steps = json.loads((report.RESULTS / "training_step_nvidia_h200.json").read_text())["groups"]
    name, group = next((name, group) for name, group in steps.items() if name.startswith("LLL"))
    # the group's name has the clips of a batch: `... B256 ...`
    batch = int(name.split(" B")[1].split()[0])
    step = next(one["ms"] for one in group["variants"] if (one["variant"], one["precision"]) == ("ours, auto", "fp32"))
    decoded = json.loads((report.RESULTS / "extraction.json").read_text())["decoding"]["decode, 2 workers"]
    # float16, of 16 slots, 64 patches and 1,024 channels
    learning, reading = VGGSOUND / batch * step / 1000, VGGSOUND * 2 * 16 * 64 * 1024 / DISK
    hours = VGGSOUND / decoded["clips_per_second"] / 3600
    # decoding was measured with two workers; a cluster of 64 has 32 times as many
    return (
        f"*An estimate for all of VGGSound, which was not run.* On one NVIDIA H200, an epoch of {VGGSOUND:,} clips of "
        f"16 x 64 x 1024 numbers takes {learning:.0f} s of training steps (measured: {step:.1f} ms for {batch} clips "
        f"of 8 x 196 x 768, which is more), plus {reading:.0f} s of reading if the store does not fit in memory and "
        f"the disk delivers {DISK / 1e9:.0f} GB a second (assumed). At the rate of our small videos, decoding the "
        f"clips takes {hours:.1f} hours on two cores and {60 * hours / 32:.0f} minutes on a Ray cluster of 64; larger "
        "videos take proportionally longer, and the encoder's time comes on top."
    )


if __name__ == "__main__":
    main()
