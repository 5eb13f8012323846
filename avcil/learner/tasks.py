"""What a learner learns as the pipeline does: new classes as a task of `avcil.learn.train.run_task`.

Dimension letters: ``N`` clips.
"""

from typing import NamedTuple

import torch

from avcil.base.progress import progress
from avcil.learn import evaluate
from avcil.learn.checkpoint import Checkpoint
from avcil.learn.feed import Feed
from avcil.learn.hooks import Learning, hooks_of
from avcil.learn.train import run_task
from avcil.learner.clips import LearnerError
from avcil.learner.export import looked_at
from avcil.params.learning import FROZEN, Method, Task, Training, chain
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import Tokens

SUMMED = ("scaled_ridge", "product_ridge", "chosen_ridge", "conditional_ridge")
"""Read-outs whose sums, over features that stay, take more clips of a class that is known."""


class Kept(NamedTuple):
    """The N exemplars of a checkpoint, in its order: their tokens, and their labels [N]."""

    tokens: Tokens
    labels: list[str]

    @classmethod
    def of(cls, tokens: Tokens, labels: list[str]) -> "Kept":
        """As float16, in which encoders' tokens are stored, where that loses nothing."""
        halves = Tokens(*(stream.half() for stream in tokens))
        lossless = all(torch.equal(half.float(), stream) for half, stream in zip(halves, tokens, strict=True))
        return cls(halves if lossless else tokens, labels)


def kept_of(checkpoint: Checkpoint, method: Method, data: Dataset) -> Kept:
    """The exemplars of a run, from the data set that it learnt from. Raises LearnerError if it is another one."""
    way_out = "give the data set that the run learnt from"
    if not isinstance(data, Dataset):
        raise LearnerError(f"data of type {type(data).__name__}; {way_out}, as `load_datasets` reads it")
    # names of clips are the same whichever encoder made their tokens
    if data.encoder != checkpoint.origin["encoder"]:
        raise LearnerError(f"tokens of {data.encoder}, but the run's are of {checkpoint.origin['encoder']}; {way_out}")
    row_of = {clip: row for row, clip in enumerate(data.clip_ids)}
    if lost := [clip for clip in checkpoint.memory if clip not in row_of]:
        raise LearnerError(f"exemplar `{lost[0]}` is not among the clips; {way_out}")
    rows = torch.tensor([row_of[clip] for clip in checkpoint.memory], dtype=torch.long)
    labels = [data.order[position] for position in data.labels[rows].tolist()]
    if strange := [label for label in labels if label not in checkpoint.classes]:
        raise LearnerError(f"an exemplar is labelled `{strange[0]}`, which the run has not learnt; {way_out}")
    return Kept.of(evaluate.tokens_of(data, method).clips(rows), labels)


def takes_more(method: Method) -> bool:
    """Whether clips of known classes can be added (`add`)."""
    # with `restart` sums are made anew from the clips that are kept, and these would not be among them
    return method.fusion in (*FROZEN, "frozen_sources") and method.readout in SUMMED and not method.restart


def tasks_of(checkpoint: Checkpoint) -> list[Task]:
    """The tasks that were learnt so far."""
    return [Task.model_validate(task) for task in checkpoint.origin.get("tasks", [])]


def learn(
    start: Checkpoint,
    kept: Kept | None,
    clips: Tokens,
    labels: list[str],
    method: Method,
    training: Training,
    validation: tuple[Tokens, list[str]] | None = None,
    *,
    epochs: int,
    device: str = "cpu",
) -> tuple[Checkpoint, Kept | None]:
    """Learn the classes of ``labels`` [N], none of which ``start`` knows, as its next task: from these clips and the
    exemplars that were ``kept``, by the row's losses, its memory and its own head. Returns what the task after it
    starts from. ``validation``: clips, and their labels, that choose the epoch where `training.keep` says so.

    The same clips in the same order give what the pipeline learns from them with the seed of ``start``, at first 0.
    Raises LearnerError where `run_task` refuses, its losses are not finite, or tokens have other shapes than exemplars.
    """
    held_out = validation if validation and training.keep != "last" else (clips.clips(slice(0, 0)), [])
    if training.keep != "last" and not held_out[1]:
        raise LearnerError(f"training.keep: {training.keep} chooses an epoch by validation clips; give some")
    new, val = (looked_at(some, method).clips(slice(None)) for some in (clips, held_out[0]))
    old = kept or Kept(new.clips(slice(0, 0)), [])
    for stream, mine, theirs in zip(Tokens._fields, new, old.tokens, strict=True):
        if mine.shape[1:] != theirs.shape[1:]:
            shapes = f"{[*mine.shape[1:]]} a clip, but those of the exemplars are {[*theirs.shape[1:]]}"
            raise LearnerError(f"{stream} tokens are {shapes}; use one encoder")
    # exemplars first; a clip's name is its position
    tokens = Tokens(*(torch.cat([a.float(), b, c]) for a, b, c in zip(old.tokens, new, val, strict=True)))
    names, of = [str(position) for position in range(len(tokens.audio))], [*old.labels, *labels, *held_out[1]]
    order, learnt_from = [*start.classes, *dict.fromkeys(labels)], len(old.labels) + len(labels)
    data = Dataset(
        clip_ids=names,
        tokens=tokens,
        labels=torch.tensor([order.index(label) for label in of]),
        # what is learnt is measured by whoever has clips to measure it on (`Learner.calibrate`)
        splits={
            "train": torch.arange(learnt_from),
            "val": torch.arange(learnt_from, len(names)),
            "test": torch.arange(0),
        },
        order=order,
        encoder=str(start.origin.get("encoder", "")),
        share=None,
    )
    before = tasks_of(start)
    sizes = [*(task.classes for task in before), len(order) - len(start.classes)]
    tasks = [*before, chain(sizes, epochs)[-1]]
    start = start._replace(memory=names[: len(old.labels)])
    bar = progress(total=epochs, desc="epochs", leave=False)
    try:
        with bar:
            checkpoint, _, _ = run_task(
                data, method, training, tasks, len(before), start.origin.get("seed", 0), start,
                device=device, watch=lambda *_: bar.update() and None,
            )  # fmt: skip
    except ValueError as error:
        raise LearnerError(str(error)) from None
    rows = torch.tensor([int(name) for name in checkpoint.memory], dtype=torch.long)
    kept = Kept.of(tokens.clips(rows), [of[row] for row in rows]) if len(rows) else None
    return checkpoint._replace(memory=[str(position) for position in range(len(rows))]), kept


def add(start: Checkpoint, clips: Tokens, labels: list[str], method: Method, training: Training) -> Checkpoint:
    """More clips of classes that ``start`` knows, where `takes_more`: their sums are added, as if they had come with
    the others. Only what `synchrony` estimates stays that of the first task's clips."""
    tokens, rows = looked_at(clips, method), torch.arange(len(labels))
    model = evaluate.restore(start, method, training, tokens.channels)
    head = evaluate.solved_head(method, training, start.readout)
    assert head is not None  # `SUMMED` has heads alone
    output = evaluate.predict(model, tokens, rows)
    targets = torch.tensor([start.classes.index(label) for label in labels])
    head.update(output.features, targets, len(start.classes))
    # which source of guidance is believed may change with the sums
    learning = Learning(
        method, training, [len(start.classes)], model, Feed(tokens, rows), targets, len(rows),
        head=head, hooks=hooks_of(method),
    )  # fmt: skip
    for hook in learning.hooks.values():
        hook.state(learning, output, torch.arange(0))
    return start._replace(model=model.state_dict(), readout=head.state)
