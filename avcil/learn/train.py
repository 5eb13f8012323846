"""The one training loop. A method is a row of choices; task 0 starts from the empty checkpoint and is no special case.

Dimension letters: ``N`` clips at hand, ``C`` classes seen, ``P`` past classes.
"""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from avcil.base.files import read_sealed, write_sealed
from avcil.base.progress import progress
from avcil.learn import parallel
from avcil.learn.checkpoint import EMPTY, Checkpoint, load_checkpoint, save_checkpoint
from avcil.learn.evaluate import TaskResult, evaluate, predict, restore, solved_features, solved_head, tokens_of
from avcil.learn.feed import Feed
from avcil.learn.heads import CarriedRidge
from avcil.learn.hooks import Learning, hooks_of
from avcil.learn.losses import reads_old
from avcil.learn.memory import quota, select
from avcil.learn.model import Features, Output
from avcil.learn.optimise import optimise
from avcil.params.learning import FROZEN, Method, Task, Training, attends
from avcil.params.section import Precision
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import TokenSource

Watch = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with the task, the epoch, and the mean of each loss in it, beside `validation_accuracy` where
it chooses the epoch."""


def origin(data: Dataset, method: Method, training: Training, tasks: list[Task], task: int, seed: int) -> dict:
    """All that determines what a task learns, by name."""
    return {
        "encoder": data.encoder,
        "method": method.model_dump(),
        "training": training.model_dump(),
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

    A pure function of its arguments: the same inputs give the same bits on the same machine. ``precision``: what visual
    tokens are held in while attention learns (avcil/learn/feed.py); other fusions take float32.

    Raises ValueError if ``start`` does not hold exactly the classes of the tasks before, or if there is no validation
    clip to choose an epoch on.
    """
    past, seen = (sum(t.classes for t in tasks[:last]) for last in (task, task + 1))
    if start.classes != data.order[:past]:
        raise ValueError(f"task {task} starts from {past} classes in the class order of this seed, not {start.classes}")
    torch.manual_seed(1000 * seed + task)
    generator = torch.Generator().manual_seed(1000 * seed + task)
    tokens, blocks = tokens_of(data, method), [t.classes for t in tasks[: task + 1]]
    memory = start.memory
    if method.restart:
        start, blocks = EMPTY, [seen]

    new = data.rows("train", past, seen).tolist()
    row_of = {clip: row for row, clip in enumerate(data.clip_ids)}
    clips = new + [row_of[clip] for clip in memory]
    learning = _begin(data, tokens, method, training, start, blocks, clips, len(new), device, precision)
    history = []
    if method.fusion not in FROZEN:
        for hook in learning.hooks.values():
            hook.before_task(learning)
        history = optimise(
            learning,
            epochs=tasks[task].epochs,
            learning_rate=training.later_learning_rate if start.classes else training.learning_rate,
            generator=generator,
            score=_score(data, tokens, learning, past, seen, task),
            watch=partial(watch, task) if watch else None,
        )
        for hook in learning.hooks.values():
            hook.after_task(learning)

    learnt = predict(learning.model, learning.feed, torch.arange(len(clips)))
    exemplars = select(
        clips[len(new) :], new, data.labels, learnt.features.fused[: len(new)],
        selection=method.memory,
        count=quota(method.exemplars, method.budget == "per_class", seen),
        generator=generator,
    )  # fmt: skip
    checkpoint = Checkpoint(
        model={name: value.detach().cpu().clone() for name, value in learning.model.state_dict().items()},
        readout=_readout(learning, tokens, clips, learnt, start, exemplars),
        classes=data.order[:seen],
        memory=[data.clip_ids[clip] for clip in exemplars],
        origin=origin(data, method, training, tasks, task, seed),
    )
    return checkpoint, evaluate(data, tokens, method, training, tasks, task, checkpoint, split, device), history


def _begin(
    data: Dataset,
    tokens: TokenSource,
    method: Method,
    training: Training,
    start: Checkpoint,
    blocks: list[int],
    clips: list[int],
    new: int,
    device: torch.device | str,
    precision: Precision,
) -> Learning:
    """The old model, the one that will learn, and the clips at hand, ``new`` of them new; the old model is asked about
    them once, if anything reads its output."""
    old_model = restore(start, method, training, tokens.channels)
    model = copy.deepcopy(old_model)
    model.classifier.grow(sum(blocks))
    # the kernels of learnt attention add a centre and take halves; means and linear layers do neither
    halves = attends(method.fusion) and method.fusion not in FROZEN
    rows = torch.tensor(clips, dtype=torch.long)
    feed = Feed(tokens, rows, device, precision=precision if halves else "float32")
    labels = data.labels[rows].to(device)
    learning = Learning(method, training, blocks, model.to(device), feed, labels, new, hooks=hooks_of(method))
    for name, value in start.readout.items():
        hook, _, key = name.partition(".")
        learning.state.setdefault(hook, {})[key] = value
    if start.classes and method.fusion not in FROZEN:
        learning.old_model = old_model.to(device)
        if reads_old(method, learning.hooks) or method.readout == "carried_ridge":
            learning.old_output = predict(learning.old_model, feed, torch.arange(len(clips))).to(device)
    return learning


def _score(
    data: Dataset, tokens: TokenSource, learning: Learning, past: int, seen: int, task: int
) -> Callable[[], float] | None:
    """Accuracy on validation clips, where the epoch whose weights stay is chosen by it."""
    keep = learning.training.keep
    if keep == "last":
        return None
    rows = data.rows("val", 0 if keep == "best_all" else past, seen)
    if not len(rows):
        raise ValueError(f"training.keep: {keep}, but task {task} has no validation clips; use last")
    feed, everything = Feed(tokens, rows, learning.feed.device), torch.arange(len(rows))  # read once, not once an epoch
    return lambda: float(
        (predict(learning.model, feed, everything).logits.argmax(1) == data.labels[rows]).float().mean()
    )


def _readout(
    learning: Learning, tokens: TokenSource, clips: list[int], learnt: Output, start: Checkpoint, exemplars: list[int]
) -> dict[str, Tensor]:
    """What the checkpoint keeps beside the model: the state of a solved head, and of hooks."""
    method, labels, rows = learning.method, learning.labels.cpu(), torch.tensor(clips, dtype=torch.long)
    place = {clip: at for at, clip in enumerate(clips)}
    places = torch.tensor([place[clip] for clip in exemplars], dtype=torch.long)
    head, state = solved_head(method, learning.training, start.readout), {}
    if head is not None:
        features = solved_features(method, tokens, rows, learnt.features)
        if isinstance(head, CarriedRidge) and learning.old_output is not None:
            before = learning.old_output.to("cpu").features
            head.carry(solved_features(method, tokens, rows, before), features)
        # of past clips a head holds sums, unless it starts anew as the model does
        use = torch.arange(len(clips) if method.restart or method.readout == "nearest_mean" else learning.new)
        if method.readout == "nearest_exemplars":
            use = places.sort().values
        head.update(Features(*(feature[use] for feature in features)), labels[use], sum(learning.blocks))
        state = head.state
    for name, hook in learning.hooks.items():
        state = state | {f"{name}.{key}": value for key, value in hook.state(learning, learnt, places).items()}
    return state


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
    """
    data = data._replace(tokens=tokens_of(data, method))  # once, not once a task
    checkpoint, results = EMPTY, []
    for task in progress([t.id for t in tasks], desc="tasks", leave=False):
        here = folder / f"task{task}" / f"seed{seed}" if folder else None
        done = load_finished(here, data, origin(data, method, training, tasks, task, seed)) if here else None
        if done is None:
            checkpoint, result, _ = run_task(
                data, method, training, tasks, task, seed, checkpoint,
                split=split, device=device, precision=precision, watch=watch,
            )  # fmt: skip
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
    """Checkpoint and result of a finished task with the same origin; None if there are none, or damaged ones."""
    try:
        checkpoint, result = load_checkpoint(folder), load_result(folder)
    except ValueError:
        return None
    if checkpoint.origin != json.loads(json.dumps(made_from)):
        return None
    return load_checkpoint(folder, order=data.order), result
