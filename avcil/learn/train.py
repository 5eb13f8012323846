"""The one training loop, `run_task`: a method is a row of choices, and task 0 starts from the empty checkpoint."""

import copy
import json
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from avcil.base.device import named
from avcil.base.files import read_sealed, write_sealed
from avcil.base.progress import progress
from avcil.learn import parallel
from avcil.learn.attention import Features
from avcil.learn.checkpoint import EMPTY, Checkpoint, check_order, load_checkpoint, save_checkpoint
from avcil.learn.evaluate import TaskResult, evaluate, predict, restore, solved_features, solved_head, tokens_of
from avcil.learn.feed import Feed
from avcil.learn.heads import CarriedRidge, Head
from avcil.learn.hooks import Hooks, Learning, hooks_of
from avcil.learn.memory import quota, select
from avcil.learn.methods import knows_absence
from avcil.learn.model import Output
from avcil.learn.optimise import Diverged, optimise
from avcil.params.learning import Method, Task, Training, attends
from avcil.params.section import Precision
from avcil.tokens.dataset import Dataset

Watch = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with the task, the epoch, and the mean of each loss in it, beside `validation_accuracy` where
it chooses the epoch."""


def origin(data: Dataset, method: Method, training: Training, tasks: list[Task], task: int, seed: int) -> dict:
    """All that determines what a task learns, by name."""
    return {
        "encoder": data.encoder,
        "method": method.model_dump(),
        "training": training.model_dump(),
        # not of later tasks: a sequence that grows keeps what it has learnt
        "tasks": [t.model_dump(by_alias=True) for t in tasks[: task + 1]],
        "seed": seed,
    }


def run_task(
    data: Dataset,
    method: Method,
    training: Training,
    tasks: list[Task],
    task: int,
    seed: int,
    start: Checkpoint,
    *,
    split: str = "test",
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    watch: Watch | None = None,
) -> tuple[Checkpoint, TaskResult, list[dict[str, float]]]:
    """Learn one task from the checkpoint of the one before; returns the new checkpoint, its result on ``split`` and the
    losses by epoch.

    The same inputs give the same bits on the same machine; torch's global generator is seeded on the way.
    ``precision``: what visual tokens are held in while attention learns (avcil/learn/feed.py); other fusions take
    float32. ``device``: where models learn and predict (avcil/base/device.py); heads are solved, and exemplars chosen,
    in float64 on the CPU.

    Raises ValueError if the device is not there, if ``start`` does not hold exactly the classes of the tasks before, if
    the head cannot keep what it needs of all tasks, or if there is no validation clip to choose an epoch on; Diverged,
    with task and seed, for losses that are not finite.
    """
    data, device = _seen_by(method, data), named(device)

    # 1. At hand are the clips of the new classes, and the exemplars. The new model begins as the old one.
    learning = _begin(data, method, training, tasks, task, seed, start, device, precision)

    # 2. It learns the clips at hand, held to the old model's logits and features (`objective`).
    for hook in learning.hooks.values():
        hook.before_task(learning)
    losses = []
    if not learning.model.attention.frozen:
        score = _score(data, learning, tasks, task)
        watch_epoch = partial(watch, task) if watch else None
        try:
            losses = optimise(learning, epochs=tasks[task].epochs, score=score, watch=watch_epoch)
        except Diverged as error:
            raise Diverged(f"task {task}, seed {seed}: {error}") from None
    for hook in learning.hooks.values():
        hook.after_task(learning)

    # 3. Its features choose the exemplars, and a solved read-out is solved from them.
    learnt = predict(learning.model, learning.feed, torch.arange(len(learning.feed)))
    exemplars = select(
        learning.labels.cpu(), learnt.features.fused, learning.new,
        selection=method.memory,
        # of a total budget each class keeps less with every task
        count=quota(method.exemplars, method.budget == "per_class", learning.seen),
        generator=learning.generator,
    )  # fmt: skip

    readout = _readout(learning, learnt, exemplars)

    # 4. All that the next task starts from, and how well it answers about the classes seen.
    checkpoint = Checkpoint(
        # a copy, which on the CPU neither detach() nor cpu() makes
        model={name: value.detach().cpu().clone() for name, value in learning.model.state_dict().items()},
        readout=readout,
        classes=data.order[: learning.seen],
        # by name, for rows are those of this data set alone
        memory=[data.clip_ids[row] for row in learning.feed.rows[exemplars]],
        origin=origin(data, method, training, tasks, task, seed),
    )
    # of the checkpoint, not of the model at hand: so it is measured as whoever loads it finds it
    result = evaluate(data, method, training, tasks, task, checkpoint, split=split, device=device)
    return checkpoint, result, losses


def _seen_by(method: Method, data: Dataset) -> Dataset:
    # to other rows the zeros of an absent stream are tokens, which would be learnt as those of its class
    if knows_absence(method):
        data = data._replace(incomplete=None)
    # what a method does not look at takes no memory
    return data._replace(tokens=tokens_of(data, method))


def _begin(
    data: Dataset,
    method: Method,
    training: Training,
    tasks: list[Task],
    task: int,
    seed: int,
    start: Checkpoint,
    device: torch.device,
    precision: Precision,
) -> Learning:
    """The old model, the one that will learn, and the clips at hand, new ones first. The old model is asked about them
    once, if anything reads its answers."""
    blocks = [t.classes for t in tasks[: task + 1]]
    past, seen = sum(blocks[:-1]), sum(blocks)
    if start.classes != data.order[:past]:
        raise ValueError(f"task {task} starts from {past} classes in the class order of this seed, not {start.classes}")
    row_of = {clip: row for row, clip in enumerate(data.clip_ids)}
    # the exemplars stay at hand, whatever `restart` forgets below
    if lost := [clip for clip in start.memory if clip not in row_of]:
        way_out = "take the data that its checkpoint was learnt from, or run from the first task"
        raise ValueError(f"task {task}: exemplar `{lost[0]}` is not among the clips; {way_out}")
    new, exemplars = data.whole(data.rows("train", past, seen)), [row_of[clip] for clip in start.memory]
    if method.restart:
        # what was learnt is forgotten, and all classes are new
        start, blocks = EMPTY, [seen]

    # task by task: a run that goes on after a stop draws what it would have drawn
    torch.manual_seed(1000 * seed + task)
    # in the first task this draws the weights
    old_model = restore(start, method, training, data.tokens.channels)
    model = copy.deepcopy(old_model)
    model.classifier.grow(seen)
    # new ones first, as `Learning.new` counts them
    rows = torch.cat([new, torch.tensor(exemplars, dtype=torch.long)])
    # the kernels of learnt attention add a centre and take halves; means and linear layers do neither
    halves = attends(method.fusion) and not model.attention.frozen
    learning = Learning(
        method, training, blocks, model.to(device),
        feed=Feed(data.tokens, rows, device, precision=precision if halves else "float32"),
        labels=data.labels[rows].to(device),
        new=len(new),
        # one of its own: however many weights a row draws, batches are the same
        generator=torch.Generator().manual_seed(1000 * seed + task),
        head=solved_head(method, training, start.readout),
        hooks=hooks_of(method),
    )  # fmt: skip
    if learning.head is not None:
        # of all classes to come, so that a head which would not fit at the end is not begun
        learning.head.check(model.classifier.weight.shape[1], sum(t.classes for t in tasks))
        # one that goes on has its draw in its state
        if not start.classes:
            learning.head.begin(seed)
    for name, value in start.readout.items():
        # a head's own tensors have no dot, and land under names that no hook asks for
        hook, _, key = name.partition(".")
        learning.state.setdefault(hook, {})[key] = value
    adds = [name for name, hook in learning.hooks.items() if type(hook).losses is not Hooks.losses]
    if adds and model.attention.frozen:
        raise ValueError(f"hooks: `{adds[0]}` adds a loss, but fusion `{method.fusion}` learns nothing; leave it out")
    # what is frozen does not change: nothing has to be held
    if start.classes and not model.attention.frozen:
        learning.old_model = old_model.to(device)
        if read := learning.reads_old:
            # predict has put it on the CPU, and each step reads some of its rows
            old = predict(learning.old_model, learning.feed, torch.arange(len(rows)), fields=read).to(device)
            # the fields that are read alone: to ask for another is an error, and not an empty tensor
            learning.old_output = SimpleNamespace(**{field: getattr(old, field) for field in read})
    return learning


def _score(data: Dataset, learning: Learning, tasks: list[Task], task: int) -> Callable[[], float] | None:
    """Accuracy on validation clips, where the epoch whose weights stay is chosen by it."""
    keep = learning.training.keep
    if keep == "last":
        return None
    first = 0 if keep == "best_all" else learning.seen - tasks[task].classes
    rows = data.whole(data.rows("val", first, learning.seen))
    if not len(rows):
        raise ValueError(f"training.keep: {keep}, but task {task} has no validation clips; use last")
    labels, every = data.labels[rows], torch.arange(len(rows))
    feed = Feed(data.tokens, rows, learning.feed.device)  # read once, not once an epoch

    def accuracy() -> float:
        # by the trained classifier, also where a head reads out: that is solved after the last epoch alone
        return float((predict(learning.model, feed, every).logits.argmax(1) == labels).float().mean())

    return accuracy


def _readout(learning: Learning, learnt: Output, exemplars: Tensor) -> dict[str, Tensor]:
    """What the checkpoint keeps beside the model: the state of a solved read-out, and of hooks."""
    state = {} if learning.head is None else _solve(learning, learning.head, learnt, exemplars)
    for name, hook in learning.hooks.items():
        # the dot tells a hook's tensors from a head's
        state |= {f"{name}.{key}": value for key, value in hook.state(learning, learnt, exemplars).items()}
    return state


def _solve(learning: Learning, head: Head, learnt: Output, exemplars: Tensor) -> dict[str, Tensor]:
    """The state of the head once it knows the clips at hand."""
    feed, readout = learning.feed, learning.method.readout
    # from the source, which has float32, while the feed may hold halves less a centre
    features = solved_features(learning.method, feed.source, feed.rows, learnt.features)
    # its sums are of features as they were before this task
    if isinstance(head, CarriedRidge) and learning.old_output is not None:
        old = Features(*(feature.cpu() for feature in learning.old_output.features))
        head.carry(solved_features(learning.method, feed.source, feed.rows, old), features)
    # all at hand, for the nearest mean and where everything is learnt anew
    rows = torch.arange(len(feed))
    if readout == "nearest_exemplars":
        rows = exemplars.sort().values
    elif readout != "nearest_mean" and not learning.method.restart:
        rows = rows[: learning.new]  # of past clips it has the sums
    head.update(features.at(rows), learning.labels.cpu()[rows], learning.seen)
    return head.state


def check_clips(data: Dataset, tasks: list[Task], split: str = "test") -> None:
    """Raises ValueError, naming the task, where there are fewer classes than in all tasks, a class without any usable
    training clip, or a task without a clip of ``split`` to test it on: told before anything is learnt."""
    bounds = list(accumulate((task.classes for task in tasks), initial=0))
    if bounds[-1] > len(data.order):
        raise ValueError(f"tasks of {bounds[-1]} classes, but there are {len(data.order)}; change the tasks")
    for task, (first, last) in zip(tasks, pairwise(bounds), strict=True):
        # a head that gives it a zero for a mean would seem to know it
        if untaught := [c for c in range(first, last) if not len(data.whole(data.rows("train", c, c + 1)))]:
            raise ValueError(
                f"task {task.id}: no usable train clip of `{data.order[untaught[0]]}`; add one, or drop it"
            )
        # its accuracy would be NaN
        if not len(data.rows(split, first, last)):
            labels = ", ".join(data.order[first:last])
            raise ValueError(f"task {task.id}: no usable {split} clip of its classes ({labels}); add one of each")


def run_tasks(
    data: Dataset,
    method: Method,
    training: Training,
    tasks: list[Task],
    seed: int,
    folder: Path | None,
    *,
    split: str = "test",
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    watch: Watch | None = None,
) -> list[TaskResult]:
    """Learn all tasks in turn.

    With a ``folder``, task t's checkpoint and result are kept in ``folder/task{t}/seed{seed}``,
    and tasks that stand there already, made from the same inputs, are not run again.

    Raises, beside what `run_task` does, ValueError as `check_clips` does.
    """
    data = _seen_by(method, data)  # once, not once a task
    check_clips(data, tasks, split)
    checkpoint, results = EMPTY, []
    for task in progress([t.id for t in tasks], desc="tasks", leave=False):
        here = folder / f"task{task}" / f"seed{seed}" if folder else None
        done = load_finished(here, data, origin(data, method, training, tasks, task, seed)) if here else None
        if done is None:
            checkpoint, result, _ = run_task(
                data, method, training, tasks, task, seed, checkpoint,
                split=split, device=device, precision=precision, watch=watch,
            )  # fmt: skip
            # every process of torchrun has the same to write
            if here and parallel.first():
                save_task(here, checkpoint, result)
        else:
            checkpoint, result = done
        results.append(result)
    return results


def save_task(folder: Path, checkpoint: Checkpoint, result: TaskResult) -> None:
    """Result first, checkpoint last: a folder with a whole checkpoint has its result."""
    write_sealed(folder / "result.json", result._asdict())
    save_checkpoint(folder, checkpoint)


def load_result(folder: Path) -> TaskResult:
    """The result that ``save_task`` wrote. Raises ValueError if it is damaged."""
    try:
        return TaskResult(**read_sealed(folder / "result.json"))
    except TypeError:
        raise ValueError(f"{folder / 'result.json'}: of another version; delete its folder and learn again") from None


def load_finished(folder: Path, data: Dataset, made_from: dict) -> tuple[Checkpoint, TaskResult] | None:
    """Checkpoint and result of a finished task with the same origin; None if there are none, or damaged ones. Raises
    CheckpointError where their classes are in another order."""
    try:
        checkpoint, result = load_checkpoint(folder), load_result(folder)
    except ValueError:
        # not there or damaged: it is learnt again, to the same bytes
        return None
    # as JSON gives it back, where tuples are lists
    if checkpoint.origin != json.loads(json.dumps(made_from)):
        return None
    # made from the same, but for another order of classes: that is nothing to learn over, so it is refused
    check_order(folder, checkpoint, data.order)
    return checkpoint, result
