"""Many runs, each on one thread, as many at a time as there are processors, or as fit on a GPU: the same bits however
many that is.

What a run gave is kept in a file of its own, so that a sweep that was killed goes on where it stopped; a run whose
code, clips or parameters have changed since is run again.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from avcil.base import processes, ray
from avcil.base.alone import alone
from avcil.base.code import code_of, statements_of
from avcil.base.device import named
from avcil.base.files import digest, read_sealed, write_sealed
from avcil.base.progress import progress
from avcil.learn.capacity import at_once, taken
from avcil.learn.evaluate import TaskResult
from avcil.learn.hooks import check
from avcil.learn.methods import files
from avcil.learn.optimise import Diverged
from avcil.learn.train import origin, run_tasks
from avcil.params.learning import Method, Task, Training
from avcil.tokens.dataset import Dataset, load_datasets
from avcil.tokens.manifest import read_orders

# every room that training reaches (tests/test_rooms.py compares), so that no result outlives its code
CORE = ("base/*.py", "params/section.py", "params/learning.py", "kernels/*.py", "tokens/*.py", "learn/*.py")


class Source(NamedTuple):
    """Where a dataset is read from; see `load_datasets`."""

    manifest: Path
    orders: Path
    store: Path
    regions: Path | None = None


class Job(NamedTuple):
    """One run: a method on all tasks with one seed, scored on ``split``.

    file: where its results are kept, or None. folder: where checkpoints and results of single tasks are kept too, as
    ``task{t}/seed{seed}``, or None. device: where it learns, `compute.device`; no result's stamp names it, for they
    differ by rounding.
    """

    name: tuple[str, ...]
    source: Source
    method: Method
    training: Training
    tasks: list[Task]
    seed: int
    split: str = "test"
    file: Path | None = None
    folder: Path | None = None
    device: str = "cpu"


class Done(NamedTuple):
    """Results of a run by task, and seconds of learning and evaluation on one thread; None of one that went on where
    another was stopped."""

    results: list[TaskResult]
    seconds: float | None


@lru_cache(maxsize=1)
def datasets(source: Source) -> dict[int, Dataset]:
    """The dataset of a source by seed; the last one read is kept. Tokens that do not fit into this process's share of
    memory are mapped: then all workers share the pages of the store's files."""
    seeds = list(read_orders(source.orders))
    return load_datasets(source.manifest, source.orders, source.store, seeds, regions=source.regions)


def code(method: Method) -> str:
    """Digest of the code that decides a row's result: the core, and the methods' files that it names. What the clips'
    tokens were made by is in the dataset's own stamp."""
    return digest(code_of(CORE) + b"\0" + statements_of(files(method)))


def read_run(file: Path) -> tuple[Done, dict]:
    """What a job left in its file, and everything that determined it, by name. Raises ValueError naming the file if it
    is damaged, or of another version."""
    return _parsed(file, read_sealed(file))


def _parsed(file: Path, kept: dict) -> tuple[Done, dict]:
    try:
        return Done([TaskResult(**result) for result in kept["results"]], kept["seconds"]), kept["origin"]
    # the digest was right, so the file is whole: it has other fields than this version
    except (TypeError, KeyError):
        raise ValueError(f"{file}: of another version; delete it and run its sweep again") from None


def standing(file: Path | None, stamp: dict) -> dict | None:
    """The content of a job's file that stands there already, whole and made from the same code, clips and choices."""
    with suppress(ValueError):  # damaged: it is made again
        if file is not None and (kept := read_sealed(file)).get("origin") == stamp:
            return kept
    return None


def write_run(file: Path, done: Done, made_from: dict) -> None:
    """What `read_run` reads."""
    results = [result._asdict() for result in done.results]
    write_sealed(file, {"origin": made_from, "results": results, "seconds": done.seconds})


def stamp_of(job: Job, data: Dataset) -> dict:
    """Everything that determines what a job gives, by name."""
    # of the last task, whose origin names all tasks before it
    stamp = origin(data, job.method, job.training, job.tasks, len(job.tasks) - 1, job.seed)
    # tokens are told by `encoder` within the origin, and labels, splits and regions by these files
    clips = digest(b"".join(file.read_bytes() for file in (job.source.manifest, job.source.regions) if file))
    stamp |= {"split": job.split, "code": code(job.method), "order": data.order, "files": clips}
    # as a file gives it back, for it is compared with what was read from one
    return json.loads(json.dumps(stamp))


def _has_checkpoints(job: Job) -> bool:
    """Whether all that it keeps are there; whoever reads one compares its digest."""
    if job.folder is None:
        return True
    folders = [job.folder / f"task{task.id}" / f"seed{job.seed}" for task in job.tasks]
    files = ("checkpoint.json", "tensors.safetensors", "result.json")
    return all((folder / name).is_file() for folder in folders for name in files)


def run_job(job: Job) -> Done:
    """Learn one, unless its file stands there already, made from the same code, clips and choices."""
    data = datasets(job.source)[job.seed]
    stamp = stamp_of(job, data)
    # without its checkpoints it is run again, and goes on from those that are whole
    if job.file and _has_checkpoints(job) and (kept := standing(job.file, stamp)):
        with suppress(ValueError):  # of another version: it is run again
            return _parsed(job.file, kept)[0]
    if job.folder:
        begin_folder(job.folder, job.seed, stamp)
    # asked before learning adds such files: seconds of a part are not those of a run
    resumed = job.folder is not None and any(job.folder.glob(f"task*/seed{job.seed}/result.json"))
    started = time.perf_counter()
    try:
        results = run_tasks(
            data, job.method, job.training, job.tasks, job.seed, job.folder, split=job.split, device=job.device
        )
    except Diverged as error:
        # the error knows task and seed, and of many runs at once it has to say which
        raise Diverged(f"{' / '.join(job.name)}: {error}") from None
    done = Done(results, None if resumed else time.perf_counter() - started)
    if job.file:
        write_run(job.file, done, stamp)
    return done


def begin_folder(folder: Path, seed: int, stamp: dict) -> None:
    """Drop a seed's checkpoints that were made from something else: they would be taken for finished tasks."""
    # by seed, for checkpoints of other seeds stand in the same folder
    origin_file = folder / f"origin-seed{seed}.json"
    if origin_file.exists():
        with suppress(ValueError):  # damaged, it says nothing of the checkpoints
            if read_sealed(origin_file) == stamp:
                return
    # `run_tasks` compares neither code nor split, and would go on from them
    for stale in folder.glob(f"task*/seed{seed}"):
        shutil.rmtree(stale)
    # last, so that a kill in between leaves no new stamp beside old checkpoints
    write_sealed(origin_file, stamp)


def run(
    jobs: Iterable[Job], *, workers: int | None = None, engine: str = "local", work: Callable[[Job], Done] = run_job
) -> dict[tuple[tuple[str, ...], int], Done]:
    """What each job gave, by its name and seed, in the order of the jobs.

    Args:
        workers: processes at once; all processors that this one may use if left out. On a GPU as many of these as fit
            (avcil/learn/capacity.py).
        engine: `local`, or `ray` (avcil/base/ray.py), where the cluster says how many: each run has a processor, and
            where the device is `cuda`, a GPU.
        work: what does a job, a function of a module; another one keeps results in another way (avcil/workshop/own).

    Raises, before anything runs, ValueError for a row whose hooks or read-out do not take its options, and
    BlockingIOError where another sweep writes.
    """
    jobs = list(jobs)
    # read anew: since the last sweep of this process other labels or clips may stand under the same names
    datasets.cache_clear()
    # a row that cannot be run is told before hours of those that can
    for name, method in {job.name[-1]: job.method for job in jobs}.items():
        check(name, method)
    # two sweeps in one folder could delete each other's unfinished files (LOG.md)
    with alone({place for job in jobs for place in (job.folder, job.file and job.file.parent) if place}):
        some = min(workers or processes.processors(), len(jobs))
        # all jobs of a sweep have the device of params.yaml, so the first one tells
        gpus = float(bool(jobs) and jobs[0].device.startswith("cuda"))
        results = ray.each(work, [*map(_anywhere, jobs)], gpus) if engine == "ray" else _each(work, jobs, some)
        done = dict(progress(results, total=len(jobs), desc="runs"))
    # results come in as they are done, and tables want them in an order that no machine changes
    return {(job.name, job.seed): done[number] for number, job in enumerate(jobs)}


def _anywhere(job: Job) -> Job:
    """The job for a process that may have another working directory."""

    def absolute(parts: NamedTuple) -> dict:
        return {name: part.absolute() for name, part in parts._asdict().items() if isinstance(part, Path)}

    return job._replace(source=job.source._replace(**absolute(job.source)), **absolute(job))


def _each(work: Callable[[Job], Done], jobs: list[Job], workers: int) -> Iterator[tuple[int, Done]]:
    """(number, result) as they are done, in processes of this machine that share its memory and its device."""
    if not jobs:
        return iter(())
    device = named(jobs[0].device)
    # a generator: on the CPU nothing is counted, and no store is opened for it (`at_once`)
    takes = (taken(job.source.manifest, job.source.store, job.method, job.training, job.tasks) for job in jobs)
    return processes.each(work, jobs, at_once(takes, workers, device), device=device)
