"""Everything that writes is killed at any moment: the process, one of its workers, all of its group, or by Ctrl-C.

Then it is run again: it has to go on by itself and end with the files of a run that nobody broke.
"""

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import readers
import table
import torch
from media import tone, write

from avcil.base.parent import end_with
from avcil.comparison import sweep
from avcil.encoders.base import Reading
from avcil.encoders.mini import Mini
from avcil.extraction import features
from avcil.learn.train import run_tasks
from avcil.learner.learner import Learner
from avcil.params import load
from avcil.params.extraction import FeatureConfig
from avcil.params.learning import Method, Training, chain
from avcil.tokens.manifest import Media
from avcil.tokens.tokens import Tokens
from avcil.workshop import import_tokens as importer
from avcil.workshop import imports, smoke
from avcil.workshop.explore.rows import LiveRun
from conftest import ROOT, toy_dataset

WORKERS = 2  # of a sweep
GONE = 5.0  # seconds within which all processes of a killed one have to be gone
TASKS = chain([2, 2, 2], 2)
TRAINING = Training(
    batch=16, learning_rate=1e-2, later_learning_rate=1e-2, weight_decay=1e-2, temperature=2.0, width=16, heads=2,
    learnt_guidance=0.1, ridge_penalty=1.0, covered=0.5,
)  # fmt: skip
METHOD = Method(
    tokens="mini", fusion="guided", prior_guidance=1.0, memory="herding", exemplars=3, budget="per_class",
    sampler="balanced", feature_distillation=1.0, logit_distillation=1.0, classifier="cosine", readout="classifier",
    restart=False, hooks={},
)  # fmt: skip
HOW = ("parent", "worker", "group", "Ctrl-C")


class Work(NamedTuple):
    """name; given: what is there before, in a folder; do: the work in another folder, from the first one; results: the
    files there that have to be those of an unbroken run, all if left out."""

    name: str
    share: int
    given: Callable[[Path], None]
    do: Callable[[Path, Path], None]
    results: tuple[str, ...] = ("",)


def _films(given: Path) -> None:
    for number in range(10):
        write(given / f"{number}.mp4", [k / 4 for k in range(8)], sound=tone(200 + 50 * number, 2, 16000))


def _extract(given: Path, to: Path) -> None:
    torch.manual_seed(0)
    encoder = Mini(load(ROOT / "params.yaml").encoder).watching(Reading(8, 4.0, 48, 16000)).eval()
    config = FeatureConfig(clips_per_shard=2, batch=2, quarantine_share=0.0, silence=1e-4)
    media = {path.stem: Media(path) for path in sorted(given.glob("*.mp4"))}
    features.extract(encoder.requires_grad_(False), "mini", media, config, to / "store", workers=2)


def _nothing(given: Path) -> None:
    pass


def _tasks(given: Path, to: Path) -> None:
    run_tasks(toy_dataset(), METHOD, TRAINING, TASKS, 0, to)


def _import(given: Path, to: Path) -> None:
    imports.SHARD_BYTES = 5_000
    importer.import_tokens(given / "tokens.npz", to / "out")


def _tokens(given: Path) -> None:
    readers._npz(given)


def _imported(given: Path) -> None:
    readers._npz(given)
    importer.import_tokens(given / "tokens.npz", given / "out")
    readers.write_orders(given / "orders.json", {0: ["class 0", "class 1"], 1: ["class 1", "class 0"]})


def _sweep(given: Path, to: Path) -> None:
    source = sweep.Source(given / "out/manifest.csv", given / "orders.json", given / "out/features/imported")
    jobs = [
        sweep.Job((name,), source, method, TRAINING, chain([1, 1], 2), seed, folder=to / name)
        for name, method in {"a": METHOD, "b": METHOD.model_copy(update={"memory": "random"})}.items()
        for seed in (0, 1)
    ]
    sweep.run(jobs, workers=WORKERS)


def _learn(given: Path, to: Path) -> None:
    """One class after another, each saved."""
    data, folder = toy_dataset(), to / "learner"
    for number in range(4):
        there = any((folder / place / "config.json").exists() for place in ("", ".next"))
        learner = Learner.load(folder) if there else Learner(params=load(ROOT / "params.yaml"), root=ROOT)
        learner.encoder = None
        label = f"class{number}"
        if label not in learner.classes:
            tokens = data.tokens.clips(data.rows("train", number, number + 1))
            learner.learn(Tokens(*tokens), label)
            learner.save(folder)


def _play(given: Path, to: Path) -> None:
    run = LiveRun(toy_dataset(), METHOD, TRAINING, TASKS, 0)
    run.run()
    results = [result._asdict() for result in run.results]
    (to / "results").write_text(json.dumps(results))


def _project(given: Path) -> None:
    """A repository with the real pipeline up to its sweep: one seed, two tasks of three classes, two rows."""
    smoke.TRAIN_CLIPS, smoke.TEST_CLIPS, smoke.EPOCHS, smoke.ROWS = 4, 2, 2, ("lll_prior", "replay")
    smoke.LEFT_OUT += ("ablations",)
    few = smoke.parameters

    def fewer(raw: dict) -> dict:
        small = few(raw)
        small["protocols"][small["benchmark"]]["settings"] = {"standard": {}}
        return small

    smoke.parameters = fewer
    smoke._write(ROOT, given / "project")


def _pipeline(given: Path, to: Path) -> None:
    """What `make repro` calls, in the place of this process."""
    project = to / "project"
    if not project.exists():
        shutil.copytree(given / "project", to / "begun", symlinks=True)
        (to / "begun").rename(project)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the campaign, as the others do
    os.chdir(project)
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": place, "PYTHONPATH": str(project), "DVC_NO_ANALYTICS": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "avcil.workshop.repro", "--quiet"], environment)


# artifacts/sweep tells seconds
RESULTS = tuple(
    f"project/{name}"
    for name in (
        "data",
        "dvc.lock",
        *(f"artifacts/{name}" for name in ("splits", "features", "runs", "live", "notebooks")),
    )
)
WORKS = [
    Work("extraction", 9, _films, _extract),
    Work("tasks", 15, _nothing, _tasks),
    Work("sweep", 4, _imported, _sweep),
    Work("import", 12, _tokens, _import),
    Work("learner", 12, _nothing, _learn),
    Work("playground's training", 4, _nothing, _play),
    Work("pipeline", 2, _project, _pipeline, RESULTS),
]


def _begun(work: Work, given: Path, to: Path, log: Path) -> int:
    """The id of a process that does it, leader of a group of its own."""
    log.write_text("")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
    campaign, child = os.getpid(), os.fork()
    if child:
        os.setpgid(child, child)  # here and there: whoever comes first
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        end_with(campaign)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        to.mkdir(exist_ok=True)
        work.do(given, to)
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _contents(folder: Path, names: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    """Files of those names in it, and those below folders of those names; not .gitignore, whose lines have no order."""
    places = [place for name in names for place in (folder / name, *(folder / name).rglob("*"))]
    files = [place for place in places if place.is_file() and place.name != ".gitignore"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _kill(child: int, how: str, dice: random.Random) -> tuple[str, list[psutil.Process]]:
    """Returns how, for there may be no worker, and the processes that have to be gone soon."""
    process = psutil.Process(child)
    below = process.children(recursive=True)
    if how == "worker" and below:
        dice.choice(below).kill()
        return how, []
    if how in ("group", "Ctrl-C"):
        os.killpg(child, signal.SIGKILL if how == "group" else signal.SIGINT)
    else:
        how = "parent"
        process.kill()
    return how, below


def orphans(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that live after `GONE`. One that has ended does not, though nobody waits for it in a container without an
    init."""
    left = psutil.wait_procs(processes, GONE)[1]
    return [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def killed(work: Work, given: Path, sound: dict[str, bytes], seconds: float, seed: str) -> dict:
    """One kill: how, what was left, and whether the next run ended with the same files."""
    dice = random.Random(seed)
    how = dice.choice(HOW)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        to, log = Path(scratch, "to"), Path(scratch, "log")
        child = _begun(work, given, to, log)
        began, moment = time.monotonic(), dice.uniform(0, seconds)
        while (passed := time.monotonic() - began) < moment:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended and status:
                return {
                    "how": "not at all",
                    "orphans": [],
                    "status": status,
                    "differ": [],
                    "words": log.read_text()[-300:],
                }
            if ended:
                return {"how": "too late", "seconds": passed}
            time.sleep(min(0.05, moment - passed))
        how, below = _kill(child, how, dice)
        _ended(child)
        left = [one.pid for one in orphans(below)]
        first = log.read_text().strip().split("\n")[-1]
        half = len(_contents(to)) if to.exists() else 0
        status = _ended(_begun(work, given, to, log))
        again = _contents(to, work.results)
        differ = sorted(name for name in again.keys() | sound.keys() if again.get(name) != sound.get(name))
        words = log.read_text().strip().split("\n")[-1] if status else ""
        return {"how": how, "orphans": left, "files": half, "status": status, "differ": differ[:5], "words": words,
                "first": first[:200]}  # fmt: skip


def campaign(total: int, seed: int, only: list[str] | None) -> None:
    """So many kills, shared among the works; those of before are not done again."""
    done, shares = table.kept("kills"), sum(work.share for work in WORKS)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        for work in [work for work in WORKS if only is None or work.name in only]:
            mine = [one for one in done if (one["work"], one["seed"]) == (work.name, seed)]
            missing = -(-total * work.share // shares) - sum(one["how"] != "too late" for one in mine)
            if missing <= 0:
                continue
            given, to = Path(scratch, work.name, "given"), Path(scratch, work.name, "sound")
            given.mkdir(parents=True)
            work.given(given)
            began = time.monotonic()
            if _ended(_begun(work, given, to, Path(scratch, "log"))):
                sys.exit(f"{work.name}, unbroken: {Path(scratch, 'log').read_text()}")
            seconds, sound = time.monotonic() - began, _contents(to, work.results)
            number = len(mine)
            while missing:
                one = {"work": work.name, "seed": seed, "number": number}
                one |= killed(work, given, sound, seconds, f"{seed} {work.name} {number}")
                number, missing = number + 1, missing - (one["how"] != "too late")
                seconds = min(seconds, one.get("seconds", seconds))  # the machine may have been busy
                with (table.KEPT / "kills.jsonl").open("a") as file:
                    file.write(json.dumps(one) + "\n")
                if one["how"] != "too late" and (one["orphans"] or one["status"] or one["differ"]):
                    print(f"  {one}", flush=True)
            print(f"{work.name}: {number} kills, {seconds:.1f} s unbroken", flush=True)
