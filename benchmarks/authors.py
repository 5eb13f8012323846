"""Run the training scripts of AV-CIL's authors (Pian et al., ICCV 2023) on given features and return what they print.

Their code has no licence and is not part of this repository: the user names a checkout of it. It is copied to a
scratch folder, run there unmodified in a process of its own, and the copy is thrown away. What breaks today is worked
round from outside, in the functions under "workarounds"; model, losses, sampling, training loop and metrics are theirs.

    python benchmarks/authors.py --official PATH --demo

Dimension letters: ``N`` clips, ``L`` = 8 frames and ``D`` = 768 channels (both fixed in their code), ``S`` patches of a
frame, ``T`` tasks, ``E`` epochs.
"""

import argparse
import ast
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

FRAMES, CHANNELS = 8, 768
SPLITS = ("train", "val", "test")
VISUAL, AUDIO = (f"{kind}_pretrained_feature/{kind}_pretrained_feature_dict" for kind in ("visual", "audio"))

# what run_incremental_*.sh passes to every script for AVE, audio-visual
COMMON = "--dataset AVE --modality audio-visual --num_workers 0 --lr 1e-3 --lr_decay False --milestones 100"
COMMON += " --weight_decay 1e-4"
AVCIL = "--instance_contrastive --class_contrastive --attn_score_distil --instance_contrastive_temperature 0.05"
AVCIL += " --class_contrastive_temperature 0.05 --lam 0.5 --lam_I 0.5 --lam_C 1.0"
MEMORY, EXEMPLARS, HERDING = (
    "--memory_size {memory} ",
    "--exemplar_batch_size {exemplar_batch} ",
    "--gen_exem_batch_size 256 ",
)
METHODS = {
    "finetune": ("fine_tuning/train_incremental_fine_tuning.py", ""),
    "joint": ("fine_tuning/train_incremental_fine_tuning.py", "--upper_bound True"),
    "lwf": ("LwF/train_incremental_lwf.py", ""),
    "icarl_nme": ("iCaRL/train_incremental_icarl.py", MEMORY + HERDING + "--classifier NME"),
    "icarl_fc": ("iCaRL/train_incremental_icarl.py", MEMORY + HERDING + "--classifier FC"),
    "ssil": ("SSIL/train_incremental_ssil.py", MEMORY + EXEMPLARS),
    "afc_nme": ("AFC/train_incremental_afc.py", MEMORY + HERDING + "--classify NME --lam_disc 0.5"),
    "afc_lsc": ("AFC/train_incremental_afc.py", MEMORY + HERDING + "--classify LSC --lam_disc 0.5"),
    "avcil": ("ours/train_incremental_ours.py", MEMORY + EXEMPLARS + AVCIL),
}
SHRINKS_BATCH = ("ssil", "avcil")  # the other scripts make no step at all where a task has fewer clips than a batch


class AuthorsRun(NamedTuple):
    """What one run printed and cost; accuracies and forgetting are fractions, printed by them to 6 decimals."""

    method: str
    accuracy: tuple[float, ...]
    """[T] "Testing res": all test clips of the classes seen, no task id."""
    forgetting: tuple[float, ...]
    """[T-1] F_t of t >= 1; empty for joint."""
    average_forgetting: float
    """"Average Forgetting": mean of F_t; NaN for joint and for a single task."""
    train_loss: tuple[tuple[float, ...], ...]
    """[T][E] mean over steps."""
    val_accuracy: tuple[tuple[float, ...], ...]
    """[T][E] on all classes seen; its first maximum decides which epoch's model is kept."""
    train_seconds: tuple[float, ...]
    """[T] median over epochs: the training pass, and writing the last epoch's model where it was the best."""
    epoch_seconds: tuple[float, ...]
    """[T] median over epochs: all of an epoch, with validation and (NME) herding; figures are stubbed out."""
    wall_seconds: float
    """The whole process, imports and reading of features included."""
    peak_memory: int
    """Bytes: largest resident set of the process, libraries included."""
    log: Path


# features ------------------------------------------------------------------------------------------------------------


def write_features(
    folder: Path,
    visual: np.ndarray,
    audio: np.ndarray,
    *,
    vids: Sequence[str],
    labels: Sequence[int],
    splits: Sequence[str],
    names: Sequence[str] | None = None,
) -> Path:
    """Write what their loaders read as ``data/AVE``: two dicts of features by clip, three dicts of labels.

    visual [N,8,S,768] and audio [N,768], stored as float32; vids unique; labels are class ids 0 ... C-1 in
    incremental order; splits in train, val, test; names of the C classes (default class00, ...). Clips of a class keep
    their order: herding and ``random.sample`` depend on it. Raises ValueError for other shapes, labels or splits.
    """
    sizes = visual.shape[:2] + visual.shape[3:]
    if sizes != (len(vids), FRAMES, CHANNELS) or audio.shape != (len(vids), CHANNELS):
        raise ValueError(f"visual {visual.shape}, audio {audio.shape}: need [N,8,S,768] and [N,768], N = {len(vids)}")
    if len(set(vids)) != len(vids) or set(splits) - set(SPLITS) or not len(labels) == len(splits) == len(vids):
        raise ValueError(f"need {len(vids)} unique vids, as many labels, and as many splits out of {SPLITS}")
    classes = max(labels) + 1
    names = names or [f"class{c:02d}" for c in range(classes)]
    if len(names) != classes or set(map(int, labels)) != set(range(classes)):
        raise ValueError(f"labels must be all of 0 ... {classes - 1}, and names one a class ({len(names)} given)")
    vid_class = {split: {} for split in SPLITS}
    class_vids = {split: {c: [] for c in range(classes)} for split in SPLITS}
    for vid, label, split in zip(vids, labels, splits, strict=True):
        vid_class[split][vid] = names[int(label)]
        class_vids[split][int(label)].append(vid)
    patches = visual.reshape(len(vids), -1, CHANNELS)
    content = {
        VISUAL: patches,
        AUDIO: audio,
        "all_id_category_dict": vid_class,
        "all_classId_vid_dict": class_vids,
        "category_encode_dict": {name: c for c, name in enumerate(names)},
    }
    for name, value in content.items():
        path = Path(folder, name + ".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, np.ndarray):
            value = {vid: np.ascontiguousarray(row, np.float32) for vid, row in zip(vids, value, strict=True)}
        np.save(path, value, allow_pickle=True)
    return Path(folder)


# running -------------------------------------------------------------------------------------------------------------


def run(
    official: Path,
    features: Path,
    method: str,
    *,
    classes: int,
    classes_per_task: int,
    epochs: int,
    memory: int,
    seed: int,
    threads: int = 2,
    batch: int = 256,
    exemplar_batch: int = 128,
    infer_batch: int = 128,
    extra: Sequence[str] = (),
    scratch: Path | None = None,
) -> AuthorsRun:
    """Train and test one of METHODS on CPU with the settings of their shell scripts for AVE.

    official: checkout of their code; features: folder of ``write_features``; memory: exemplars in all (unused by
    finetune, joint, lwf); extra: further arguments of their script, e.g. ``["--lam_I", "0.1"]``, which win over ours;
    scratch: folder for the log (default: a new temporary one), where a failed run leaves everything.

    Raises ValueError for an unknown method or a batch that would leave an epoch without a step, RuntimeError with the
    end of the log if their script fails. Beware of classes_per_task = 4: as the dataset is called AVE, their ssil and
    avcil take an ordinary cross-entropy in task 1, and ssil's labels are then wrong (new classes counted from 0).
    """
    if method not in METHODS:
        raise ValueError(f"unknown method `{method}`: one of {', '.join(METHODS)}")
    script, own = METHODS[method]
    if not Path(official, script).is_file():
        raise FileNotFoundError(f"{official} is no checkout of weiguoPian/AV-CIL_ICCV2023: it has no {script}")
    _check_batch(features, method, classes, classes_per_task, batch)
    numbers = f"--num_classes {classes} --class_num_per_step {classes_per_task} --max_epoches {epochs} --seed {seed}"
    numbers += f" --train_batch_size {batch} --infer_batch_size {infer_batch}"
    arguments = f"{COMMON} {numbers} {own.format(memory=memory, exemplar_batch=exemplar_batch)}".split()

    scratch = Path(scratch or tempfile.mkdtemp(prefix=f"avcil_authors_{method}_")).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    tree, log = scratch / "official", scratch / f"{method}.log"
    _copy_code(Path(official), tree, script)
    (tree / "data").mkdir()
    (tree / "data" / "AVE").symlink_to(Path(features).resolve(), target_is_directory=True)
    count = str(threads)
    environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-u", str(Path(__file__).resolve()), "--child", Path(script).name, *arguments, *extra]
    code, wall = _logged(command, (tree / script).parent, environment, log)
    if code:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise RuntimeError(f"{method} of {official} ended with exit code {code}; all of it in {log}\n{tail}")
    shutil.rmtree(tree)
    return parse(log, method=method, wall_seconds=wall)


def _check_batch(features: Path, method: str, classes: int, classes_per_task: int, batch: int) -> None:
    """drop_last with a batch larger than a task: no step, then a ZeroDivisionError. Name it before the start."""
    train = np.load(Path(features, "all_classId_vid_dict.npy"), allow_pickle=True).item()["train"]
    clips = [len(train[c]) for c in range(classes)]
    smallest = min(sum(clips[c : c + classes_per_task]) for c in range(0, classes, classes_per_task))
    if batch > smallest and method not in SHRINKS_BATCH:
        raise ValueError(f"batch {batch} > {smallest} clips of the smallest task: {method} would make no step")


def _copy_code(official: Path, tree: Path, script: str) -> None:
    """Copy the model and one method's folder. Not links: their paths start from getcwd(), which would resolve them."""
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("model", Path(script).parent):
        shutil.copytree(official / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "*.pkl"))


def _logged(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> tuple[int, float]:
    """Run a command, each line of its output with the seconds since the start in front; (exit code, seconds)."""
    start = time.perf_counter()
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout:
            file.write(f"{time.perf_counter() - start:.4f} {line}")
    return process.returncode, time.perf_counter() - start


def parse(log: Path, *, method: str, wall_seconds: float = float("nan")) -> AuthorsRun:
    """Read an AuthorsRun off a log of ``run``."""
    found = {"accuracy": [], "forgetting": [], "average": [], "peak": []}
    patterns = {
        "accuracy": r"Incremental step \d+ Testing res: (\S+)",
        "forgetting": r"forgetting: (\S+)",
        "average": r"Average Forgetting: (\S+)",
        "peak": r"Peak memory: (\d+)",
        "start": r"Incremental step: (\d+)",
        "loss": r"Epoch:\d+ train_loss:(\S+)",
        "val": r"Epoch:\d+ val_res:(\S+)",
    }
    tasks: list[dict[str, list]] = []
    for line in log.read_text().splitlines():
        seconds, _, text = line.partition(" ")
        for name, pattern in patterns.items():
            match = re.match(pattern, text)
            if match and name == "start":
                tasks.append({"start": [(float(seconds), None)], "loss": [], "val": []})
            elif match and name in ("loss", "val"):
                tasks[-1][name].append((float(seconds), float(match[1])))
            elif match:
                found[name].append(float(match[1]))
    train_seconds, epoch_seconds = [], []
    for task in tasks:
        begins = [at for at, _ in task["start"] + task["val"][:-1]]
        # the first epoch also loads the old model: left out where there is a second
        first = min(1, len(begins) - 1)
        for name, medians in (("loss", train_seconds), ("val", epoch_seconds)):
            spans = [at - begin for (at, _), begin in zip(task[name], begins, strict=True)]
            medians.append(round(statistics.median(spans[first:]), 4))
    return AuthorsRun(
        method=method,
        accuracy=tuple(found["accuracy"]),
        forgetting=tuple(found["forgetting"]),
        average_forgetting=found["average"][0] if found["average"] else float("nan"),
        train_loss=tuple(tuple(value for _, value in task["loss"]) for task in tasks),
        val_accuracy=tuple(tuple(value for _, value in task["val"]) for task in tasks),
        train_seconds=tuple(train_seconds),
        epoch_seconds=tuple(epoch_seconds),
        wall_seconds=wall_seconds,
        peak_memory=int(found["peak"][0]),
        log=log,
    )


# workarounds, in the process of their script -------------------------------------------------------------------------


class Nothing:
    """Stands for a module: every attribute and every call gives it back."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **kwargs):
        return self


def stub_missing_modules() -> None:
    """The loaders import packages that the path of AVE never uses (h5py, librosa, PIL, torchvision)."""
    for name in ("h5py", "librosa", "PIL", "torchvision"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = Nothing()


def skip_figures() -> None:
    """Two figures are drawn after each epoch, which takes longer than a small epoch itself."""
    sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = Nothing()


def load_whole_modules() -> None:
    """Their checkpoints are pickled modules; torch >= 2.6 reads only weights unless told otherwise."""
    import torch

    torch.load = partial(torch.load, weights_only=False)


def hush_pinned_memory() -> None:
    """The loaders pin memory, and torch warns at each pass that there is no GPU to pin it for."""
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def free_shadowed_functions(tree: ast.Module) -> ast.Module:
    """LwF assigns ``CE_loss = CE_loss(...)`` in train(), so the name is local there: UnboundLocalError at task 0.

    In each function that assigns the name of a function of the module, the variable gets a name of its own and calls
    keep the function. All other code stays as it is, and line numbers too.
    """
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        shadowed = {node.id for node in names if isinstance(node.ctx, ast.Store)} & functions
        called = {id(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
        for node in names:
            if node.id in shadowed and id(node) not in called:
                node.id += "_value"
    return tree


def peak_memory() -> int:
    """Bytes. VmHWM begins at exec; ru_maxrss, where there is no /proc, would also count the process that started us."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def child(script: str, arguments: list[str]) -> None:
    """Run one of their scripts, in its own folder, as ``python script arguments`` would have some years ago."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    stub_missing_modules()
    skip_figures()
    load_whole_modules()
    hush_pinned_memory()
    sys.argv, sys.path[0] = [script, *arguments], os.getcwd()
    code = compile(free_shadowed_functions(ast.parse(Path(script).read_text())), script, "exec")
    exec(code, {"__name__": "__main__", "__file__": script})
    print(f"Peak memory: {peak_memory()}")


# demo ----------------------------------------------------------------------------------------------------------------


def demo_features(folder: Path, *, classes: int = 8, patches: int = 4, seed: int = 0) -> Path:
    """Random separable features: 12 train, 4 val and 6 test clips a class, each about its class's direction."""
    rng = np.random.default_rng(seed)
    splits = [split for split, clips in zip(SPLITS, (12, 4, 6), strict=True) for _ in range(clips)] * classes
    labels = np.repeat(np.arange(classes), len(splits) // classes)
    centre = 0.12 * rng.normal(size=(2, classes, CHANNELS)).astype(np.float32)
    visual = rng.normal(size=(len(labels), FRAMES, patches, CHANNELS)) + centre[0, labels, None, None]
    audio = rng.normal(size=(len(labels), CHANNELS)) + centre[1, labels]
    vids = [f"clip{n:03d}" for n in range(len(labels))]
    return write_features(folder, visual, audio, vids=vids, labels=labels, splits=splits)


def demo(official: Path, threads: int) -> None:
    """All methods on random features, two epochs a task: does their code still run, and how long does it take?"""
    with tempfile.TemporaryDirectory() as folder:
        features = demo_features(Path(folder, "features"))
        print(f"{'':10} {'accuracy after each task':36} {'avg. forg.':>10} {'s/epoch':>8} {'s':>6} {'MB':>6}")
        for method in METHODS:
            # 24 new clips and 24 exemplars a task: whole batches, so AFC's k-means sees all 12 clips of a class
            sizes = {"classes": 8, "classes_per_task": 2, "epochs": 2, "memory": 24, "batch": 12, "exemplar_batch": 12}
            result = run(official, features, method, **sizes, seed=0, threads=threads, scratch=Path(folder, method))
            accuracy = " ".join(f"{value:8.4f}" for value in result.accuracy)
            seconds, megabytes = statistics.mean(result.epoch_seconds), result.peak_memory / 1e6
            costs = f"{seconds:8.3f} {result.wall_seconds:6.1f} {megabytes:6.0f}"
            print(f"{method:10} {accuracy:36} {result.average_forgetting:10.4f} {costs}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="checkout of weiguoPian/AV-CIL_ICCV2023")
    parser.add_argument("--demo", action="store_true", required=True, help="run all methods on random features")
    parser.add_argument("--threads", type=int, default=1, help="2 beside another job on 2 cores is many times slower")
    given = parser.parse_args()
    demo(given.official, given.threads)


if __name__ == "__main__":
    main()
