"""One link of the chain of tasks for several seeds, each of which learns in a process of its own."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from avcil.base import processes
from avcil.base.device import named
from avcil.base.progress import progress
from avcil.learn import live
from avcil.learn.capacity import at_once, taken
from avcil.learn.checkpoint import load_checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import check_clips, run_task, save_task
from avcil.params.learning import Method, Task, Training
from avcil.tokens.dataset import load_datasets


class Link(NamedTuple):
    """A task of a row: where its clips are (as `load_datasets` wants them), what is learnt, the checkpoints ``before``
    it, and the folders that the ones after it and its losses by epoch go ``to``, a ``seed{seed}`` in each; and the
    device that it is learnt on."""

    # paths in place of data: it is sent to each process, which reads what it needs by itself
    manifest: Path
    orders: Path
    store: Path
    regions: Path | None
    method: Method
    training: Training
    tasks: list[Task]
    task: int
    before: Path
    to: Path
    log: Path
    device: str = "cpu"


class Learnt(NamedTuple):
    """result: of the test clips; losses: the mean of each by epoch; exemplars: how many are kept."""

    result: TaskResult
    losses: list[dict[str, float]]
    exemplars: int


def learn(link: Link, seeds: list[int]) -> dict[int, Learnt]:
    """What each seed learns, in the order of ``seeds``; as many at a time as there are processors, and on a GPU
    as fit there."""
    device = named(link.device)
    # of one seed, since all take the same, and lazily, since on a CPU nobody asks
    takes = (taken(link.manifest, link.store, link.method, link.training, link.tasks) for _ in seeds[:1])
    workers = at_once(takes, processes.processors(), device)
    each = processes.each(partial(_learn, link), seeds, workers, device=device)
    # numbers come in the order in which seeds are done
    learnt = dict(progress(each, total=len(seeds), desc="seeds"))
    return {seed: learnt[number] for number, seed in enumerate(seeds)}


def _learn(link: Link, seed: int) -> Learnt:
    data = load_datasets(link.manifest, link.orders, link.store, [seed], regions=link.regions)[seed]
    check_clips(data, link.tasks)
    # `run_task` would refuse another class order too, but could not name the folder
    start = load_checkpoint(link.before / f"seed{seed}", order=data.order)
    with live.logged(link.log / f"seed{seed}") as watch:
        checkpoint, result, losses = run_task(
            data, link.method, link.training, link.tasks, link.task, seed, start, device=link.device, watch=watch
        )
    save_task(link.to / f"seed{seed}", checkpoint, result)
    # the checkpoint stays in its folder: no weights travel back between processes
    return Learnt(result, losses, len(checkpoint.memory))
