"""The one training loop. A method is a row of choices; task 0 starts from the empty checkpoint and is no special case.

Dimension letters: ``N`` clips, ``C`` classes seen, ``P`` past classes, ``L`` slots, ``S`` patches.
"""

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import cycle, repeat
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from avcil.base.files import digest, read_sealed, write_sealed
from avcil.base.progress import progress
from avcil.learn import old_model, parallel
from avcil.learn.checkpoint import EMPTY, Checkpoint, load_checkpoint, save_checkpoint
from avcil.learn.evaluate import TaskResult, evaluate, predict, restore, solved_features, solved_head, tokens_of
from avcil.learn.feed import Feed
from avcil.learn.heads import CarriedRidge
from avcil.learn.memory import quota, select
from avcil.learn.model import PROXIES, Features, IncrementalClassifier, ProxyClassifier
from avcil.learn.objective import distils, importance, objective
from avcil.learn.old_model import Old
from avcil.params.learning import ATTENDING, FROZEN, Method, Task, Training
from avcil.params.section import Precision
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import TokenSource

Watch = Callable[[int, int, dict[str, float]], None]
"""Told after each epoch: the task, the epoch, the mean of each loss in it, and `validation_accuracy` where the epoch to
keep is chosen by it."""


def _batches(
    labels: Tensor, past: int, method: Method, training: Training, generator: torch.Generator
) -> Iterator[Tensor]:
    """Rows of the clips at hand, batch by batch, for one epoch."""
    if method.sampler == "paired" and (labels < past).any():
        new, exemplars = (labels >= past).nonzero()[:, 0], (labels < past).nonzero()[:, 0]
        new = new[torch.randperm(len(new), generator=generator)]
        exemplars = exemplars[torch.randperm(len(exemplars), generator=generator)]
        width = min(training.exemplar_batch or training.batch, len(exemplars))
        beside = cycle(exemplars[: len(exemplars) // width * width].split(width))
    else:
        beside = repeat(labels.new_empty(0))
        if method.sampler == "balanced":
            weight = 1 / labels.bincount()[labels].double()
            new = torch.multinomial(weight, len(labels), replacement=True, generator=generator)
        else:
            new = torch.randperm(len(labels), generator=generator)
    batch = min(training.batch, len(new))
    new = new[: len(new) // batch * batch] if training.drop_last else new
    for rows, exemplars in zip(new.split(batch), beside, strict=False):
        yield torch.cat([rows, exemplars])


def optimise(
    model: IncrementalClassifier,
    old: Old,
    feed: Feed,
    labels: Tensor,
    method: Method,
    training: Training,
    blocks: list[int],
    *,
    epochs: int,
    learning_rate: float,
    generator: torch.Generator,
    score: Callable[[], float] | None = None,
    watch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Minimise the method's objective on the clips at hand; returns the mean of each loss by epoch.

    Model, old outputs and labels are on the device of the feed. Under torchrun, each process computes its share of
    every batch (avcil/learn/parallel.py).

    ``blocks``: classes of each task so far. ``score``, where given, is asked after each epoch, and the weights of the
    epoch that scored best are kept, the earliest of equals. ``watch`` is told what each epoch gave.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    kind = torch.optim.AdamW if training.optimiser == "adamw" else torch.optim.Adam
    optimiser = kind(parameters, learning_rate, weight_decay=training.weight_decay, fused=True)
    past, schedule = sum(blocks[:-1]), None
    history, best, kept = [], -1.0, None
    for epoch in range(epochs):
        model.train()
        sums: dict[str, Tensor] = {}
        batches = list(_batches(labels.cpu(), past, method, training, generator))
        if epoch == 0 and training.schedule == "cosine":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(batches))
        batches = [rows.to(labels.device) for rows in batches]
        shares = [parallel.share(rows) for rows in batches]
        for rows, share, clips in zip(batches, shares, feed.batches(shares), strict=True):
            maps, of = old.recall(share) if old.recall else (None, None)
            output = parallel.gather(model(clips, centre=feed.centre, old=maps, of=of), len(rows))
            scale = parallel.once(model.classifier.scale)
            losses = objective(output, rows, labels[rows], old, method, training, blocks, scale=scale)
            optimiser.zero_grad()
            reduce(torch.add, losses.values()).backward()
            parallel.sum_gradients(parameters)
            optimiser.step()
            if method.weight_aligning:
                # norms are aligned afterwards: they say how large logits are only where nothing cancels
                with torch.no_grad():
                    model.classifier.weight.clamp_(min=0)
            if schedule is not None:
                schedule.step()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.detach() / len(batches)
        history.append({name: float(value) for name, value in sums.items()})
        told = history[-1]
        if score is not None:
            now = score()
            told = told | {"validation_accuracy": now}
            if now > best:
                best, kept = now, copy.deepcopy(model.state_dict())
        if watch is not None:
            watch(epoch, told)
    if kept is not None:
        model.load_state_dict(kept)
    return history


def _imprint(
    classifier: ProxyClassifier, model: IncrementalClassifier, feed: Feed, labels: Tensor, classes: int
) -> None:
    """New classes' proxies start at the k-means centres of their clips' features, as long as past proxies are.

    Source: PODNet (Douillard et al., ECCV 2020), after Qi et al., CVPR 2018. A class of fewer clips than proxies keeps
    random ones for the rest.
    """
    features = F.normalize(predict(model, feed, torch.arange(len(labels))).features.fused, dim=1)
    length = classifier.kept.norm(dim=1).mean()
    first = classifier.classes - len(classifier.weight) // PROXIES
    with torch.no_grad():
        for c in range(first, classes):
            mine = features[labels == c].numpy()
            count = min(PROXIES, len(mine))
            centres = KMeans(count, n_init=1, random_state=0).fit(mine).cluster_centers_
            start = (c - first) * PROXIES
            classifier.weight[start : start + count] = torch.from_numpy(centres).to(length.device) * length


def _align(model: IncrementalClassifier, past: int) -> None:
    """Scale new classes' weights down so that their mean norm is that of past ones': w ← min(1, γ) w for new w,

        γ = mean ‖w_past‖ / mean ‖w_new‖

    Fused features are non-negative (a ReLU), and ``optimise`` keeps weights so too: a larger norm is a larger logit.
    Source: Zhao et al., Maintaining discrimination and fairness, CVPR 2020, arXiv 1911.07053 (weight aligning).
    Deviation: the paper corrects a preference for new classes, with γ < 1 throughout; where exemplars are drawn as
    often as new clips γ can be above 1, and scaling up would make such a preference, so weights then stay as they are.
    """
    with torch.no_grad():
        norms = model.classifier.weight.norm(dim=1)
        model.classifier.weight[past:] *= (norms[:past].mean() / norms[past:].mean()).clamp(max=1)


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
    past = sum(t.classes for t in tasks[:task])
    seen = past + tasks[task].classes
    if start.classes != data.order[:past]:
        raise ValueError(f"task {task} starts from {past} classes in the class order of this seed, not {start.classes}")
    torch.manual_seed(1000 * seed + task)
    generator = torch.Generator().manual_seed(1000 * seed + task)
    tokens = tokens_of(data, method)
    blocks = [t.classes for t in tasks[: task + 1]]

    before = restore(EMPTY if method.restart else start, method, training, tokens.channels)
    model = copy.deepcopy(before)
    model.classifier.grow(seen)
    new = data.rows("train", past, seen)
    position = {clip: row for row, clip in enumerate(data.clip_ids)}
    memory = [position[clip] for clip in start.memory]
    rows = torch.cat([new, torch.tensor(memory, dtype=torch.long)])
    # the kernels of learnt attention add a centre and take halves; means and linear layers do neither
    learns_attention = method.fusion in ATTENDING and method.fusion not in FROZEN
    at_hand = Feed(tokens, rows, device, precision=precision if learns_attention else "float32")
    labels = data.labels[rows]
    everything = torch.arange(len(rows))

    history: list[dict] = []
    # with restart and in task 0 there is no old model
    first = past == 0 or method.restart
    said, recall = None, None
    if not first and method.fusion not in FROZEN and (distils(method) or method.readout == "carried_ridge"):
        maps = bool(method.attention_distillation and method.fusion == "channelwise")
        clips = f"{data.encoder} {method.patches} {digest(' '.join(data.clip_ids[i] for i in rows).encode())}"
        said, recall = old_model.ask(before.to(device), at_hand, len(new), clips, maps=maps)
    model, on_device = model.to(device), labels.to(device)
    if method.fusion not in FROZEN:
        important = method.feature_distance == "importance" and past
        old = Old(
            said=said.to(device) if said is not None else None,
            recall=recall,
            importance=importance(model, at_hand, on_device) if important else None,
            stored=_stored(start, len(new), past).to(device) if method.dark_replay else None,
        )
        if isinstance(model.classifier, ProxyClassifier) and past:
            _imprint(model.classifier, model, at_hand, labels, seen)
        score = None
        if training.keep != "last":
            held_out = data.rows("val", 0 if training.keep == "best_all" else past, seen)
            if not len(held_out):
                raise ValueError(f"training.keep: {training.keep}, but task {task} has no validation clips; use last")
            score = partial(_accuracy, model, tokens, held_out, data.labels[held_out])
        history = optimise(
            model, old, at_hand, on_device, method, training, [seen] if method.restart else blocks,
            epochs=tasks[task].epochs,
            learning_rate=training.learning_rate if first else training.later_learning_rate,
            generator=generator,
            score=score,
            watch=partial(watch, task) if watch else None,
        )  # fmt: skip
        if method.weight_aligning and past:
            _align(model, past)

    learnt = predict(model, at_hand, everything)
    chosen = select(
        memory, new.tolist(), data.labels, learnt.features.fused[: len(new)],
        selection=method.memory,
        count=quota(method.exemplars, method.budget == "per_class", seen),
        generator=generator,
    )  # fmt: skip
    readout = {}
    head = solved_head(method, training, {} if method.restart else start.readout)
    if head is not None:
        features = solved_features(method, tokens, rows, learnt.features)
        # of past clips the head holds sums, unless it starts anew as the model does
        use = everything if method.restart else everything[: len(new)]
        if method.readout == "nearest_mean":
            use = everything
        elif method.readout == "nearest_exemplars":
            use = everything[torch.isin(rows, torch.tensor(chosen, dtype=torch.long))]
        elif isinstance(head, CarriedRidge) and said is not None:
            head.carry(solved_features(method, tokens, rows, said.features), features)
        head.update(Features(*(feature[use] for feature in features)), labels[use], seen)
        readout = head.state
    elif method.dark_replay:
        readout = {"stored": _store(chosen, rows, learnt.logits, start, memory)}
    checkpoint = Checkpoint(
        model={name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
        readout=readout,
        classes=data.order[:seen],
        memory=[data.clip_ids[i] for i in chosen],
        origin=origin(data, method, training, tasks, task, seed),
    )
    return checkpoint, evaluate(data, tokens, method, training, tasks, task, checkpoint, split, device), history


def _accuracy(model: IncrementalClassifier, tokens: TokenSource, rows: Tensor, labels: Tensor) -> float:
    return float((predict(model, tokens, rows).logits.argmax(1) == labels).float().mean())


def _stored(start: Checkpoint, new: int, past: int) -> Tensor:
    """[N,P]: for the clips at hand, new ones first, the logits stored with them, NaN where there are none."""
    stored = start.readout.get("stored", torch.empty(0, past))
    return F.pad(stored, (0, 0, new, 0), value=float("nan"))


def _store(chosen: list[int], rows: Tensor, logits: Tensor, start: Checkpoint, memory: list[int]) -> Tensor:
    """[M,C]: the logits of new exemplars as they are now; those of earlier ones stay, NaN for classes unknown then."""
    known = dict(zip(rows.tolist(), logits, strict=True))
    if memory:
        grown = F.pad(start.readout["stored"], (0, logits.shape[1] - start.readout["stored"].shape[1]), value=torch.nan)
        known |= dict(zip(memory, grown, strict=True))
    return torch.stack([known[i] for i in chosen]) if chosen else logits[:0]


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
    """Checkpoint and result of a finished task with the same origin, or None."""
    if not (folder / "checkpoint.json").exists():
        return None
    checkpoint = load_checkpoint(folder, order=data.order)
    if checkpoint.origin != json.loads(json.dumps(made_from)):
        return None
    return checkpoint, load_result(folder)
