"""Worlds of many classes in tasks of few: what is left after the last, and what a task costs as they grow in number.

A run is learnt task by task, each timed without its evaluation, and evaluated at a few moments. Its joint twin is the
same row with all classes in one task, so that there is nothing to forget. Of rows that attend, it is followed whether
they still look at what sounds in clips of the first tasks.
"""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from avcil.beyond import study
from avcil.beyond.settings import ManyTasks
from avcil.comparison import sweep, worlds
from avcil.comparison.sweep import Done, Job, Source
from avcil.learn import metrics
from avcil.learn.checkpoint import EMPTY, Checkpoint
from avcil.learn.evaluate import TaskResult, build, evaluate, predict, tokens_of
from avcil.learn.methods.conditional_ridge import StreamRidge
from avcil.learn.train import run_task
from avcil.params import Params
from avcil.params.learning import Method, chain
from avcil.tokens.dataset import Dataset

MEASURING = "beyond/many_tasks.py"


class Costs(NamedTuple):
    """seconds of a processor, and bytes of what the next task starts from (model, sums, exemplars' tokens), by task;
    after each moment the result."""

    seconds: list[float]
    bytes: list[int]
    results: list[TaskResult]


def jobs(settings: ManyTasks, params: Params, folder: Path) -> list[Job]:
    """Every row in every world, with its twin, named (incremental or joint, row); rows that are solved first. Worlds
    are drawn below ``folder`` where they are not there yet."""
    # `random` twins of the priors are no row's tokens here
    grown = params.turned({"classes": settings.classes, "timbres": settings.timbres}, settings.clips_per_class)
    sources = {}
    for world in settings.worlds:
        place = worlds.drawn(world, folder / "worlds", grown, tokens=("mini",))
        sources[world] = study.source_of(place, world, folder)
    step, classes = settings.classes_per_task, settings.classes
    cuts = {"incremental": [step] * (classes // step), "joint": [classes]}
    return [
        Job((cut, row), sources[world], _with_memory(params.methods[row], settings), params.training,
            chain(sizes, settings.epochs), world, file=folder / "runs" / f"{row}-{world}-{cut}.json",
            device=params.compute.device)
        for rows, chosen in ((settings.rows, settings.worlds), (settings.trained, settings.trained_worlds))
        for world in chosen
        for row in rows
        for cut, sizes in cuts.items()
    ]  # fmt: skip


def _with_memory(row: Method, settings: ManyTasks) -> Method:
    """With one number of exemplars for all classes, however many there are."""
    # by class, memory would grow with the tasks, and with it what a task costs
    memory = {"exemplars": settings.exemplars, "budget": "total"} if row.memory in ("random", "herding") else {}
    # made anew, so that changes are checked
    return Method(**row.model_dump() | memory)


def learn(job: Job, moments: int) -> Done:
    """Do one job, unless its file stands there already, made from the same code, clips and choices."""
    data = sweep.datasets(job.source)[job.seed]

    def measure() -> dict:
        costs = run_costs(job, data, moments)
        # predictions are most of a result, and nothing here reads them
        return costs._asdict() | {"results": [result._replace(predictions={})._asdict() for result in costs.results]}

    return study.once(job, data, measure, MEASURING, moments=moments)


def read(job: Job) -> Costs:
    """What `learn` left. Raises ValueError naming the file if it is damaged."""
    kept = study.measured(job)
    return Costs(kept["seconds"], kept["bytes"], [TaskResult(**result) for result in kept["results"]])


def run_costs(job: Job, data: Dataset, moments: int) -> Costs:
    """Learn a job's tasks; ``moments``: how often to evaluate, of a single task once."""
    # here, and not within a task: what a row looks at is made once, outside of what is timed
    data = data._replace(tokens=tokens_of(data, job.method))
    # learning ends with an evaluation: of one clip, for that of all is not to be timed
    one = data.rows("test", 0, job.tasks[0].classes)[:1]
    # without regions nothing is timed that only scores attention
    timed, every = data._replace(splits=data.splits | {"test": one}, share=None), max(1, len(job.tasks) // moments)
    checkpoint, costs = EMPTY, Costs([], [], [])
    for task in (task.id for task in job.tasks):
        started = time.process_time()  # not the clock: others may work beside it
        checkpoint, result, _ = run_task(
            timed, job.method, job.training, job.tasks, task, job.seed, checkpoint, device=job.device
        )
        costs.seconds.append(time.process_time() - started)
        # exemplars and sums are counted in the result, the model beside them
        costs.bytes.append(result.memory_bytes + _bytes(checkpoint))
        if (task + 1) % every == 0:
            costs.results.append(
                evaluate(data, job.method, job.training, job.tasks, task, checkpoint, device=job.device)
            )
    return costs


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(value.numel() * value.element_size() for value in checkpoint.model.values())


def run(sizes: list[ManyTasks], params: Params, folder: Path) -> dict[str, pd.DataFrame]:
    """Learn what is not learnt yet; of all sizes of worlds `tables`, and `distinct` as `beyond_distinct`."""
    parts = []
    for settings in sizes:
        asked = jobs(settings, params, folder)
        study.run(partial(learn, moments=settings.moments), asked, params)
        sources = {job.seed: job.source for job in asked}
        parts.append(tables(asked) | {"beyond_distinct": distinct(sources, settings, params)})
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


def distinct(sources: dict[int, Source], settings: ManyTasks, params: Params) -> pd.DataFrame:
    """Whether sounds and looks of so many classes are told apart at all: of the first quarter, half and all classes of
    a world's order, the share of test clips whose timbre is named by the sound alone, and of those with a twin the
    share told from it by the guided picture alone; with a closed form that learns all at once."""
    # the picture under the store's similarity, without a choice among sources
    lines, guided = [], params.methods["lll_closed_without_products"]
    for world, source in sources.items():
        data = sweep.datasets(source)[world]
        model = build(guided, params.training, data.tokens.channels)
        features = predict(model, data.tokens, torch.arange(len(data.labels)), fields=()).features
        # a label ends in its class, and class c sounds with timbre c % timbres
        timbre_of = torch.tensor([int(label.rpartition("_")[2]) % settings.timbres for label in data.order])
        for classes in (settings.classes // 4, settings.classes // 2, settings.classes):
            learnt, tested = (data.rows(split, 0, classes) for split in ("train", "test"))
            timbres, labels = timbre_of[data.labels], data.labels[tested]
            sound, picture = StreamRidge("audio"), StreamRidge("visual")
            sound.update(features.at(learnt), timbres[learnt], settings.timbres)
            picture.update(features.at(learnt), data.labels[learnt], classes)
            heard = sound.logits(features.at(tested)).argmax(1) == timbres[tested]
            # the classes that share the clip's timbre
            alike = timbre_of[:classes] == timbres[tested][:, None]
            # only these compete: the sound is taken as told
            seen = picture.logits(features.at(tested)).masked_fill(~alike, -torch.inf).argmax(1) == labels
            line = {"world": world, "classes": classes, "timbres": len(timbres[learnt].unique())}
            # a clip whose twin is not among these classes has nothing to be told from
            right = {"sound": heard.float().mean(), "picture": seen[alike.sum(1) > 1].float().mean()}
            lines.append(line | {name: float(share) for name, share in right.items()})
    return pd.DataFrame(lines)


def exponent(sizes: np.ndarray, costs: np.ndarray) -> float:
    """b of costs ∝ sizes^b, by least squares of their logarithms: 0 is flat, 1 grows as they do."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def blocks(results: list[TaskResult]) -> tuple[np.ndarray, np.ndarray]:
    """The accuracy matrix R of results at K moments, tasks between two moments taken together, with its clips: [K,K]
    and [K]. Accuracies of single tasks, of few clips each, have maxima that are mostly luck."""
    ends = [result.task + 1 for result in results]
    # task numbers at which blocks begin
    starts, clips = [0, *ends[:-1]], np.add.reduceat(results[-1].clips, [0, *ends[:-1]])
    matrix = np.full((len(results), len(results)), np.nan)
    for moment, result in enumerate(results):
        # shares back to clips, for blocks of tasks of unequal size
        right = np.multiply(result.accuracy, result.clips)
        # the last block ends where the result does
        matrix[moment, : moment + 1] = np.add.reduceat(right, starts[: moment + 1]) / clips[: moment + 1]
    return matrix, clips


def hit_of_first(results: list[TaskResult]) -> np.ndarray:
    """[K] by moment: the share of the clips of the tasks before the first moment on which attention peaks on what
    sounds; NaN of a row that does not attend."""
    first = results[0].task + 1
    # tasks before the first moment alone: of these there are clips at every moment
    hits = [[np.nan] * first if result.hit is None else result.hit[:first] for result in results]
    return np.average(hits, axis=1, weights=results[0].clips)


def tables(asked: list[Job]) -> dict[str, pd.DataFrame]:
    """`beyond_tasks`, a line a run and moment: accuracy on all classes seen, seconds a task since the moment before,
    bytes, and `hit_of_first`. `beyond_many_tasks`, a line a run: classes of its world, last accuracy, its joint twin's,
    forgetting, of seconds and bytes the last and the exponent by the number of tasks, and the last of `hit_of_first`
    with its change.
    """
    twins = {(job.name[1], job.seed): read(job).results[-1] for job in asked if job.name[0] == "joint"}
    lines, runs = [], []
    for job in asked:
        cut, row = job.name
        # a twin has no line of its own, but a column in that of its row
        if cut == "joint":
            continue
        one, joint = read(job), twins[row, job.seed]
        matrix, clips = blocks(one.results)
        tasks = np.array([result.task + 1 for result in one.results])
        seconds = np.array([np.mean(part) for part in np.split(np.array(one.seconds), tasks[:-1])])
        size, after = np.array(one.bytes)[tasks - 1], metrics.accuracy_after(matrix, clips)
        key, hit = {"row": row, "world": job.seed}, hit_of_first(one.results)
        measured = {"tasks": tasks, "accuracy": after, "seconds": seconds, "bytes": size, "hit_of_first": hit}
        lines.append(pd.DataFrame(key | measured))
        runs.append(
            key
            | {
                "classes": sum(task.classes for task in job.tasks),
                "last_accuracy": after[-1],
                "forgetting_last": metrics.forgetting_last(matrix),
                "joint_accuracy": np.average(joint.accuracy, weights=joint.clips),
                "seconds": seconds[-1],
                # of a mean over the tasks since the moment before, at their mean number
                "seconds_exponent": exponent((tasks + np.array([0, *tasks[:-1]]) + 1) / 2, seconds),
                "bytes": size[-1],
                "bytes_exponent": exponent(tasks, size),
                "hit_of_first": hit[-1],
                "hit_change": hit[-1] - hit[0],
            }
        )
    return {"beyond_tasks": pd.concat(lines, ignore_index=True), "beyond_many_tasks": pd.DataFrame(runs)}
