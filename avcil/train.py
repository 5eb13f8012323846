"""The one training loop. A method is a row of choices; task 0 starts from the empty checkpoint and is no special case.

Dimension letters: ``N`` clips, ``C`` classes seen, ``P`` past classes, ``L`` slots, ``S`` patches.
"""

import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.checkpoint import EMPTY, Checkpoint, load_checkpoint, save_checkpoint
from avcil.evaluate import Dataset, TaskResult, evaluate, predict, restore, solved_head
from avcil.files import write_json
from avcil.losses import attention_distillation, feature_distillation, logit_distillation
from avcil.memory import quota, select
from avcil.methods import Method, Task, Training
from avcil.model import Features, IncrementalClassifier, Output
from avcil.progress import progress
from avcil.tokens import Tokens


def _epoch_order(labels: Tensor, sampler: str, generator: torch.Generator) -> Tensor:
    if sampler == "uniform":
        return torch.randperm(len(labels), generator=generator)
    weight = 1 / labels.bincount()[labels].double()
    return torch.multinomial(weight, len(labels), replacement=True, generator=generator)


def optimise(
    model: IncrementalClassifier,
    old: Output,
    tokens: Tokens,
    labels: Tensor,
    method: Method,
    training: Training,
    *,
    epochs: int,
    learning_rate: float,
    generator: torch.Generator,
) -> list[dict]:
    """Minimise cross-entropy plus distillation on the clips at hand; returns the mean of each loss by epoch.

    The distillation weights grow with √(P / (C − P)), past over new classes, as in LUCIR (Hou et al., CVPR 2019): none
    in task 0. ``old`` holds what the frozen old model says of the same clips: computed once a task, because tokens are
    frozen and not augmented.
    """
    classes, past = len(model.classifier.weight), old.logits.shape[1]
    scale = (past / (classes - past)) ** 0.5
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=training.weight_decay, fused=True)
    steps = epochs * -(-len(labels) // training.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    history = []
    for _ in range(epochs):
        sums: dict[str, float] = {}
        order = _epoch_order(labels, method.sampler, generator)
        for rows in order.split(training.batch):
            output = model(tokens.clips(rows))
            losses = {"cross_entropy": F.cross_entropy(output.logits, labels[rows])}
            if method.logit_distillation:
                kept = logit_distillation(output.logits, old.logits[rows], training.temperature)
                losses["logit_distillation"] = scale * method.logit_distillation * kept
            if method.feature_distillation:
                kept = feature_distillation(output.features, Features(*(f[rows] for f in old.features)))
                losses["feature_distillation"] = scale * method.feature_distillation * kept
            if method.attention_distillation:
                kept = attention_distillation(output.spatial, old.spatial[rows])
                losses["attention_distillation"] = scale * method.attention_distillation * kept
            optimiser.zero_grad()
            sum(losses.values()).backward()
            optimiser.step()
            schedule.step()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.item() * len(rows) / len(labels)
        history.append(sums)
    return history


def _origin(data: Dataset, method: Method, training: Training, tasks: list[Task], task: int, seed: int) -> dict:
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
) -> tuple[Checkpoint, TaskResult, list[dict]]:
    """Learn one task from the checkpoint of the one before; returns the new checkpoint, its result on ``split`` and the
    losses by epoch.

    A pure function of its arguments: the same inputs give the same bits on the same machine.

    Raises ValueError if ``start`` does not hold exactly the classes of the tasks before.
    """
    past = sum(t.classes for t in tasks[:task])
    seen = past + tasks[task].classes
    if start.classes != data.order[:past]:
        raise ValueError(f"task {task} starts from {past} classes in the class order of this seed, not {start.classes}")
    torch.manual_seed(1000 * seed + task)
    generator = torch.Generator().manual_seed(1000 * seed + task)
    tokens = data.tokens if method.fusion == "guided" else data.tokens.pooled()

    old_model = restore(EMPTY if method.restart else start, method, training, tokens.visual.shape[-1])
    model = copy.deepcopy(old_model)
    model.classifier.grow(seen)
    new = data.rows("train", past, seen)
    position = {clip: row for row, clip in enumerate(data.clip_ids)}
    memory = [position[clip] for clip in start.memory]
    rows = torch.cat([new, torch.tensor(memory, dtype=torch.long)])
    at_hand, labels = tokens.clips(rows), data.labels[rows]
    everything = torch.arange(len(rows))

    history: list[dict] = []
    if method.fusion != "frozen":
        first = past == 0 or method.restart
        rate = training.learning_rate if first else training.later_learning_rate
        old = predict(old_model, at_hand, everything)
        history = optimise(
            model, old, at_hand, labels, method, training,
            epochs=tasks[task].epochs, learning_rate=rate, generator=generator,
        )  # fmt: skip

    features = predict(model, at_hand, everything).features.fused
    head = solved_head(method, training, {} if method.restart else start.readout)
    if head is not None:
        use = everything[: len(new)] if method.readout == "ridge" else everything
        head.update(features[use], labels[use], seen)
    chosen = select(
        memory, new.tolist(), data.labels, features[: len(new)],
        selection=method.memory,
        count=quota(method.exemplars, method.budget == "per_class", seen),
        generator=generator,
    )  # fmt: skip
    checkpoint = Checkpoint(
        model={name: value.detach().clone() for name, value in model.state_dict().items()},
        readout={} if head is None else head.state,
        classes=data.order[:seen],
        memory=[data.clip_ids[i] for i in chosen],
        origin=_origin(data, method, training, tasks, task, seed),
    )
    return checkpoint, evaluate(data, tokens, method, training, tasks, task, checkpoint, split), history


def run_tasks(
    data: Dataset,
    method: Method,
    training: Training,
    tasks: list[Task],
    seed: int,
    folder: Path | None,
    *,
    split: str = "test",
) -> list[TaskResult]:
    """Learn all tasks in turn.

    With a ``folder``, task t's checkpoint and result are kept in ``folder/task{t}/seed{seed}``,
    and tasks that stand there already, made from the same inputs, are not run again.
    """
    if method.fusion != "guided":
        data = data._replace(tokens=data.tokens.pooled())  # once, not once a task
    checkpoint, results = EMPTY, []
    for task in progress([t.id for t in tasks], desc="tasks", leave=False):
        here = folder / f"task{task}" / f"seed{seed}" if folder else None
        done = load_finished(here, data, _origin(data, method, training, tasks, task, seed)) if here else None
        if done is None:
            checkpoint, result, _ = run_task(data, method, training, tasks, task, seed, checkpoint, split=split)
            if here:
                save_task(here, checkpoint, result)
        else:
            checkpoint, result = done
        results.append(result)
    return results


def save_task(folder: Path, checkpoint: Checkpoint, result: TaskResult) -> None:
    """Result first, checkpoint last: a folder with a whole checkpoint has its result."""
    write_json(folder / "result.json", result._asdict())
    save_checkpoint(folder, checkpoint)


def load_result(folder: Path) -> TaskResult:
    """The result that ``save_task`` wrote."""
    return TaskResult(**json.loads((folder / "result.json").read_text()))


def load_finished(folder: Path, data: Dataset, origin: dict) -> tuple[Checkpoint, TaskResult] | None:
    """Checkpoint and result of a finished task with the same origin, or None."""
    if not (folder / "checkpoint.json").exists():
        return None
    checkpoint = load_checkpoint(folder, order=data.order)
    if checkpoint.origin != json.loads(json.dumps(origin)):
        return None
    return checkpoint, load_result(folder)
