"""Run the authors' code (Pian et al., ICCV 2023) and our rows of it on the same features, and compare them.

    python benchmarks/parity.py --official PATH [--features PATH] [--methods avcil ...] [--seeds 0 1 2] [--epochs 6]

Same feature files, class order, tasks, batches and epochs on both sides; each run in a process of its own with as many
threads; the two sides take turns. Without ``--features`` the features are made from the embedded benchmark. A
difference of means counts as noise up to two standard errors, from the standard deviations over seeds.

Our side is the row of params.yaml with the training of protocols/ave.yaml and its changes, ``patches: null`` and
``as_published: true`` among them. It is written anew from paper and code, and what follows is known to differ and has
no switch of its own:

every method
- Random numbers: they seed Python, numpy and torch once a run, we torch once a task. Seeds are not paired.
- The bias of a new class starts uniform within ±1/√768 there (`nn.Linear`), at zero here.
- Adam is fused here. The old model's outputs are computed once a task here, with each batch there; there is no dropout,
  so they are the same but for rounding. Where distillation starts from equal models, Adam makes steps of that rounding.
- An epoch is only kept there if its validation accuracy is above zero; without one their script fails.
- A batch larger than the clips at hand shrinks here; there only in ssil and avcil, and the others make no step.
icarl_nme, icarl_fc, afc_nme, afc_lsc
- Herding may choose a clip twice there: the memory has fewer clips than it counts, and some are trained on twice.
- A class with fewer clips than its quota is filled up there with zero vectors, which count in its mean.
icarl_nme, afc_nme
- Which epoch is kept is decided there by the accuracy of the nearest mean, with exemplars herded anew after each epoch
  (so an epoch takes longer), and here by that of the trained classifier.
- Means of exemplars are compared as they are there, by Euclidean distance. Here they have unit length, as in the iCaRL
  paper, so that a class does not lose by its spread.
afc_nme, afc_lsc
- The learnt scale of the similarities starts each task at 1 there, also where importance is measured, and here where
  the task before left it.
- The new proxies' k-means sees whole batches only there (drop_last), with numpy's random numbers; all clips here, with
  a fixed seed. With fewer than ten clips of a class theirs fails.
- A clip with no gradient at all has NaN importance there, zero here.
ssil, avcil
- Exemplars are drawn when the next task begins there, at the end of a task here, with the same probabilities.

The same on both sides, though it may not look it: the old model in AFC has random proxies for the new classes while
importance is measured; exemplar batches start over within an epoch in the same order (`itertools.cycle`) and are
shuffled for the next; each task has a new Adam; validation has clips of past classes too.

Dimension letters: ``N`` clips, ``L`` = 8 frames, ``S`` patches of a frame, ``D`` channels, ``T`` tasks.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

import authors

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("finetune", "lwf", "icarl_nme", "icarl_fc", "ssil", "afc_nme", "afc_lsc", "avcil")
ROWS = {method: method for method in METHODS} | {"finetune": "avcil_finetune"}
MEASURES = {"last": "last accuracy", "average": "average accuracy", "forgetting": "average forgetting"}
LOADED = 0.1  # share of the machine that others may use before timings count as disturbed


class Setup(NamedTuple):
    """What all runs of a comparison share; see `authors.run`."""

    classes_per_task: int
    epochs: int
    memory: int
    batch: int
    exemplar_batch: int
    threads: int


class Run(NamedTuple):
    """One run of one side; accuracies and forgetting are fractions. Fields as in `authors.AuthorsRun`."""

    accuracy: list[float]
    average_forgetting: float
    train_seconds: list[float]
    epoch_seconds: list[float]
    wall_seconds: float
    peak_memory: int
    cpu_seconds: float | None = None
    """Of the whole process, imports included: other processes move it less than the seconds above. None: not taken."""


class Comparison(NamedTuple):
    """Mean and standard deviation over seeds of both sides; std, errors and within are None for a single seed.

    difference: ours less theirs. two_errors: 2 s √(1/n + 1/m), with s the pooled standard deviation. within: whether
    the difference is no larger.
    """

    theirs: tuple[float, float | None]
    ours: tuple[float, float | None]
    difference: float
    pooled: float | None
    two_errors: float | None
    within: bool | None


# features ------------------------------------------------------------------------------------------------------------


def lift(features: np.ndarray, channels: int, seed: int = 0) -> np.ndarray:
    """[..., d] to [..., channels] by a random matrix with orthonormal rows, which keeps all inner products."""
    d = features.shape[-1]
    if d > channels:
        raise ValueError(f"{d} channels do not fit into {channels}")
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(channels, d)))[0].T
    return (features @ basis).astype(np.float32)


def standardise(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over all entries of the clips that ``train`` [N] marks: their learning rate expects it."""
    return (features - features[train].mean()) / features[train].std()


def embedded_features(folder: Path, side: int = 2) -> Path:
    """Sounding Objects in the authors' layout: patches averaged to side x side, mean audio, lifted and standardised."""
    from avcil.tokens.dataset import load_datasets
    from avcil.tokens.manifest import class_order, read_manifest

    manifest = ROOT / "data/sounding_objects/manifest.csv"
    table = read_manifest(manifest)
    order = class_order(table, 0)
    orders = Path(folder, "orders.json")
    orders.parent.mkdir(parents=True, exist_ok=True)
    orders.write_text(json.dumps({"0": order}))
    data = load_datasets(manifest, orders, ROOT / "artifacts/features/mini", [0])[0]
    tokens, train = data.tokens.coarse(side), (table.split == "train").to_numpy()
    visual, audio = (
        standardise(lift(stream.numpy(), authors.CHANNELS), train) for stream in (tokens.visual, tokens.audio.mean(1))
    )
    labels = data.labels.tolist()
    return authors.write_features(
        folder, visual, audio, vids=data.clip_ids, labels=labels, splits=list(table.split), names=order
    )


class Files:
    """A `TokenSource` of clips that are read when they are asked for, as those of a store that is mapped: what is in
    memory is what is learnt from."""

    centre = None

    def __init__(self, visual: list, audio: list):
        self.streams = visual, audio
        patches = len(visual[0].read().reshape(authors.FRAMES, -1, authors.CHANNELS)[0])
        self.shape = len(visual), authors.FRAMES, patches, authors.CHANNELS
        self.channels = authors.CHANNELS, authors.CHANNELS
        self.sizes = authors.FRAMES * patches * authors.CHANNELS, authors.CHANNELS, authors.FRAMES * patches

    def clips(self, index):
        import torch

        from avcil.tokens.tokens import Tokens

        rows = range(self.shape[0])[index] if isinstance(index, slice) else index.tolist()
        shapes = self.shape[1:], (1, authors.CHANNELS)
        streams = [torch.empty(len(rows), *shape) for shape in shapes]
        for whole, stored in zip(streams, self.streams, strict=True):
            for place, row in enumerate(rows):
                whole[place] = torch.from_numpy(stored[row].read()).view(whole.shape[1:])
        return Tokens(*streams, torch.zeros(len(rows), *self.shape[1:3]))

    def pooled(self):
        import torch

        from avcil.tokens.tokens import Tokens

        parts = [self.clips(rows).pooled() for rows in torch.arange(self.shape[0]).split(50)]
        return Tokens(*map(torch.cat, zip(*parts, strict=True)))


def read_features(folder: Path):
    """The clips of a folder in the authors' layout as our `Dataset`, in their order, in float32 as they are."""
    import torch

    from avcil.tokens.dataset import Dataset
    from avcil.workshop.npydict import index_npy

    names = ("category_encode_dict", "all_classId_vid_dict", authors.VISUAL, authors.AUDIO)
    ids, members, *stored = (index_npy(Path(folder, f"{name}.npy")) for name in names)
    listed = [(vid, c, split) for split in authors.SPLITS for c in range(len(ids)) for vid in members[split][c]]
    vids, labels, splits = zip(*listed, strict=True)
    return Dataset(
        clip_ids=list(vids),
        tokens=Files(*([arrays[vid] for vid in vids] for arrays in stored)),
        labels=torch.tensor(labels),
        splits={split: torch.tensor([i for i, s in enumerate(splits) if s == split]) for split in authors.SPLITS},
        order=sorted(ids, key=ids.get),
        encoder=f"parity:{Path(folder).resolve()}",
        share=None,
    )


def count_classes(folder: Path) -> int:
    """Classes of a folder in the authors' layout."""
    from avcil.workshop.npydict import index_npy

    return len(index_npy(Path(folder, "category_encode_dict.npy")))


# the two sides -------------------------------------------------------------------------------------------------------


def run_theirs(official: Path, features: Path, method: str, setup: Setup, seed: int) -> Run:
    before = _children_cpu()
    with tempfile.TemporaryDirectory(prefix="avcil_parity_") as scratch:
        classes = count_classes(features)
        found = authors.run(official, features, method, classes=classes, seed=seed, scratch=scratch, **setup._asdict())
    shared = {field: getattr(found, field) for field in Run._fields if field != "cpu_seconds"}
    return Run(**shared, cpu_seconds=_children_cpu() - before)


def run_ours(features: Path, method: str, setup: Setup, seed: int, precision: str = "float32") -> Run:
    """Our row in a process of its own; raises RuntimeError with the end of what it said if it fails."""
    row, training = our_row(method, setup)
    given = {
        "features": str(Path(features).resolve()),
        "row": row,
        "training": training,
        "setup": setup._asdict(),
        "seed": seed,
        "precision": precision,
    }
    count = str(setup.threads)
    environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(given)]
    start, before = time.perf_counter(), _children_cpu()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise RuntimeError(f"{method}: our side ended with exit code {done.returncode}\n{tail}")
    return Run(**json.loads(done.stdout.splitlines()[-1]), wall_seconds=wall, cpu_seconds=_children_cpu() - before)


def _children_cpu() -> float:
    """Seconds of all child processes that have ended."""
    return sum(os.times()[2:4])


@lru_cache(maxsize=1)
def _params():
    from avcil.params import load

    return load(ROOT / "params.yaml")


def our_row(method: str, setup: Setup) -> tuple[dict, dict]:
    """Row and training by key: those of params.yaml, with the authors' deviations from their paper."""
    params = _params()
    changed = {"patches": None, "budget": "total", "exemplars": setup.memory}
    changed |= params.protocols["ave"].changes.get(ROWS[method], {})
    recipe = params.training.model_dump() | params.protocols["ave"].training
    recipe |= {"batch": setup.batch, "exemplar_batch": setup.exemplar_batch}
    return params.method(ROWS[method]).model_dump() | changed, recipe


def child(features: str, row: dict, training: dict, setup: dict, seed: int, precision: str) -> dict:
    """What `run_ours` starts: learn all tasks; the fields of Run that it can know."""
    import torch

    from avcil.learn import metrics, train
    from avcil.params.learning import Method, Training, chain

    setup = Setup(**setup)
    torch.set_num_threads(setup.threads)
    data = read_features(Path(features))
    count = len(data.order) // setup.classes_per_task
    tasks = chain([setup.classes_per_task] * count, setup.epochs)
    spans: list[list[tuple[float, float]]] = []
    train.optimise = timed(train.optimise, spans)
    results = train.run_tasks(data, Method(**row), Training(**training), tasks, seed, None, precision=precision)
    matrix = np.full((count, count), np.nan)
    for result in results:
        matrix[result.task, : result.task + 1] = result.accuracy
    # as in authors.parse, without the first epoch of a task
    kept = [task[min(1, len(task) - 1) :] for task in spans]
    medians = [[statistics.median(values) for values in zip(*task, strict=True)] for task in kept]
    return {
        "accuracy": metrics.accuracy_after(matrix, np.array(results[-1].clips)).tolist(),
        "average_forgetting": metrics.forgetting_mean(matrix),
        "train_seconds": [seconds for seconds, _ in medians],
        "epoch_seconds": [seconds for _, seconds in medians],
        "peak_memory": authors.peak_memory(),
    }


def timed(optimise: Callable, spans: list[list[tuple[float, float]]]) -> Callable:
    """`avcil.learn.train.optimise`, with the seconds of each epoch's training pass and of all of it added to ``spans``.

    As in the authors' logs, copying the weights of an epoch that was the best counts to the epoch that follows.
    """

    def run(*args, score: Callable[[], float], **kwargs):
        task: list[tuple[float, float]] = []
        spans.append(task)
        begin = time.perf_counter()

        def stamped() -> float:
            nonlocal begin
            trained = time.perf_counter()
            value = score()
            end = time.perf_counter()
            task.append((trained - begin, end - begin))
            begin = end
            return value

        return optimise(*args, score=stamped, **kwargs)

    return run


# comparison ----------------------------------------------------------------------------------------------------------


def compare(theirs: Sequence[float], ours: Sequence[float]) -> Comparison:
    """Of the values that seeds gave on each side."""
    means = [statistics.fmean(side) for side in (theirs, ours)]
    difference = means[1] - means[0]
    if min(len(theirs), len(ours)) < 2:
        return Comparison((means[0], None), (means[1], None), difference, None, None, None)
    n, m = len(theirs), len(ours)
    a, b = statistics.stdev(theirs), statistics.stdev(ours)
    pooled = math.sqrt(((n - 1) * a**2 + (m - 1) * b**2) / (n + m - 2))
    two_errors = 2 * pooled * math.sqrt(1 / n + 1 / m)
    return Comparison((means[0], a), (means[1], b), difference, pooled, two_errors, abs(difference) <= two_errors)


def false_alarms(degrees: int) -> float:
    """How often two equal codes differ by more than two standard errors: P(|t| > 2)."""
    return float(2 * stdtr(degrees, -2))


def measures(run: Run) -> dict[str, float]:
    """Accuracy after each task, their last and mean, and average forgetting."""
    after = {f"after_task_{t}": value for t, value in enumerate(run.accuracy)}
    last, average = run.accuracy[-1], statistics.fmean(run.accuracy)
    return after | {"last": last, "average": average, "forgetting": run.average_forgetting}


def comparisons(theirs: Sequence[Run], ours: Sequence[Run]) -> dict[str, Comparison]:
    """By measure."""
    left, right = ([measures(run) for run in side] for side in (theirs, ours))
    return {name: compare([run[name] for run in left], [run[name] for run in right]) for name in left[0]}


# report --------------------------------------------------------------------------------------------------------------


def spread(value: tuple[float, float | None]) -> str:
    """In percent, with one decimal."""
    mean, std = value
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def points(value: float | None, sign: str = "") -> str:
    """Percentage points; a dash for None."""
    return "–" if value is None else f"{100 * value:{sign}.1f}"


def rows_of(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    table = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def accuracy_table(found: dict[str, dict[str, Comparison]]) -> str:
    header = ["method", "%", "theirs", "ours", "difference", "pooled std", "2 std. errors", "within noise"]
    lines = []
    for method, by_measure in found.items():
        for name, title in MEASURES.items():
            c = by_measure[name]
            verdict = {True: "yes", False: "**no**", None: "–"}[c.within]
            values = [spread(c.theirs), spread(c.ours), points(c.difference, "+"), points(c.pooled)]
            lines.append([method, title, *values, points(c.two_errors), verdict])
    return rows_of(header, lines)


def task_table(found: dict[str, dict[str, Comparison]]) -> str:
    """A star where the difference is beyond noise."""
    tasks = [name for name in next(iter(found.values())) if name.startswith("after_task_")]
    header = ["method", "%", *(f"after task {t}" for t in range(len(tasks)))]
    lines = []
    for method, by_measure in found.items():
        lines.append([method, "theirs", *(spread(by_measure[name].theirs) for name in tasks)])
        stars = ["" if by_measure[name].within in (True, None) else " *" for name in tasks]
        lines.append(["", "ours", *(spread(by_measure[n].ours) + s for n, s in zip(tasks, stars, strict=True))])
    return rows_of(header, lines)


def cost_table(runs: dict[str, dict[str, list[Run]]]) -> str:
    """Means over tasks, medians over seeds, as one run may be held up for minutes; times is theirs / ours."""
    header = ["method", "", "theirs", "ours", "times"]
    lines = []
    for method, sides in runs.items():
        for title, field, unit, digits in (
            ("seconds an epoch", "epoch_seconds", 1, 3),
            ("of which training", "train_seconds", 1, 3),
            ("seconds a run", "wall_seconds", 1, 1),
            ("CPU seconds a run", "cpu_seconds", 1, 1),
            ("peak memory, MB", "peak_memory", 1e6, 0),
        ):
            values = [[getattr(run, field) for run in sides[side]] for side in ("theirs", "ours")]
            if None in values[0] + values[1]:
                continue
            theirs, ours = (statistics.median(map(np.mean, side)) / unit for side in values)
            lines.append([method, title, f"{theirs:.{digits}f}", f"{ours:.{digits}f}", f"{theirs / ours:.2f}"])
    return rows_of(header, lines)


def document(runs: dict[str, dict[str, list[Run]]], about: dict) -> str:
    """All tables, and what they were made from."""
    found = {method: comparisons(sides["theirs"], sides["ours"]) for method, sides in runs.items()}
    seeds, setup, share = about["seeds"], about["setup"], about["others_cpu_share"]
    chance = f"{100 * false_alarms(2 * len(seeds) - 2):.0f} %" if len(seeds) > 1 else "not known"
    judged = [c[name].within for c in found.values() for name in MEASURES]
    known = [within for within in judged if within is not None]
    disturbed = "" if share is None or share <= LOADED else " **The machine was busy: times are rough.**"
    busy = "" if share is None else f" Other processes took {100 * share:.0f} % of the machine.{disturbed}"
    return f"""# Parity with the authors' code

Made by `benchmarks/parity.py`, whose head lists the known differences. Features: {about["features"]}. One class order;
{", ".join(f"{name} {value}" for name, value in setup.items())}; seeds {", ".join(map(str, seeds))} (not paired: random
numbers differ). Mean ± standard deviation over seeds.

A difference within two standard errors is called noise. Two equal codes exceed that with probability {chance}, and the
three measures of a method are correlated. Here {sum(known)} of {len(known)} comparisons are within noise.

{accuracy_table(found)}

Accuracy on all classes seen (* beyond noise):

{task_table(found)}

Cost, the two sides taking turns on {about["machine"]}.{busy} An epoch includes validation and, on their side in
icarl_nme and afc_nme, herding; their figures are not drawn. Means over tasks, medians over seeds. Of the memory, torch
alone takes {about["torch_memory"] / 1e6:.0f} MB.

{cost_table(runs)}
"""


def write(out: Path, runs: dict[str, dict[str, list[Run]]], about: dict) -> str:
    """JSON at ``out`` and Markdown beside it; returns the latter."""
    found = {m: {k: c._asdict() for k, c in comparisons(**sides).items()} for m, sides in runs.items()}
    every = {m: {side: [run._asdict() for run in ran] for side, ran in sides.items()} for m, sides in runs.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "comparisons": found, "runs": every}, indent=1) + "\n")
    text = document(runs, about)
    out.with_suffix(".md").write_text(text)
    return text


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unknown CPU")
    return f"{name}, {os.cpu_count()} cores"


def code() -> str:
    """Digest of the package that our side runs."""
    folder = Path(importlib.util.find_spec("avcil").origin).parent
    parts = (path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def torch_memory() -> int:
    """Bytes: peak of a process that only imports torch."""
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import authors, torch; "
    command = [sys.executable, "-c", code + "print(authors.peak_memory())"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def cpu_seconds() -> tuple[float, float, float] | None:
    """All processes' and our own (with children that have ended), and the clock; None where there is no /proc."""
    if not Path("/proc/stat").exists():
        return None
    ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return busy, sum(os.times()[:4]), time.perf_counter()


def share_of_others(begin: tuple[float, float, float] | None) -> float | None:
    """Of all cores since ``begin``."""
    if begin is None:
        return None
    busy, own, clock = (now - then for now, then in zip(cpu_seconds(), begin, strict=True))
    return max(busy - own, 0.0) / (clock * os.cpu_count())


def measure(
    official: Path, features: Path, methods: Sequence[str], seeds: Sequence[int], setup: Setup
) -> Iterator[dict[str, dict[str, list[Run]]]]:
    """All runs so far by method and side, after each method. Every other seed, our side goes first."""
    runs = {}
    for method in methods:
        sides: dict[str, list[Run]] = {"theirs": [], "ours": []}
        for turn, seed in enumerate(seeds):
            for side in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                if side == "theirs":
                    ran = run_theirs(official, features, method, setup, seed)
                else:
                    ran = run_ours(features, method, setup, seed)
                sides[side].append(ran)
                last = f"last accuracy {ran.accuracy[-1]:.3f}"
                print(f"{method:10} {side:7} seed {seed}: {last}, {ran.wall_seconds:6.1f} s", flush=True)
        runs[method] = sides
        yield runs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="checkout of weiguoPian/AV-CIL_ICCV2023")
    parser.add_argument("--features", type=Path, help="a folder in their layout, as data/AVE; else made here")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--classes-per-task", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--memory", type=int, default=100, help="exemplars in all")
    parser.add_argument("--batch", type=int, default=64, help="must fit into the smallest task")
    parser.add_argument("--exemplar-batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/parity.json")
    given = parser.parse_args()
    if given.classes_per_task == 4 and {"ssil", "avcil"} & set(given.methods):
        parser.error("with 4 classes a task their ssil and avcil take another loss in task 1; use another number")
    return given


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(**json.loads(sys.argv[2]))))
        return
    given = arguments()
    setup = Setup(*(getattr(given, field) for field in Setup._fields))
    about = {
        "features": str(given.features or "Sounding Objects, 2 x 2 patches, lifted from 128 to 768 channels"),
        "setup": setup._asdict(),
        "seeds": given.seeds,
        "code": code(),
        "machine": machine(),
        "torch_memory": torch_memory(),
    }
    with tempfile.TemporaryDirectory(prefix="avcil_parity_") as folder:
        features = given.features or embedded_features(Path(folder))
        begin = cpu_seconds()
        # written after each method: a comparison that was killed leaves what it has
        for runs in measure(given.official, features, given.methods, given.seeds, setup):
            text = write(given.out, runs, about | {"others_cpu_share": share_of_others(begin)})
    print(text)


if __name__ == "__main__":
    main()
