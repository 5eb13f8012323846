"""From a model and the clips at hand to a model that has learnt them: batches, steps, epochs.

Dimension letters: ``N`` clips at hand.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import cycle, repeat

import torch
from torch import Tensor

from avcil.base.refusal import Refusal
from avcil.learn import parallel
from avcil.learn.hooks import Batch, Learning
from avcil.learn.losses import objective
from avcil.params.learning import Method, Training


class Diverged(Refusal):
    """Learning whose losses are no numbers any more."""


def batches(
    labels: Tensor, past: int, method: Method, training: Training, generator: torch.Generator
) -> Iterator[Tensor]:
    """Rows of the clips at hand [N], of which those below ``past`` are exemplars, batch by batch, for one epoch."""

    def shuffled(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)]

    # beside each batch nothing, without end, unless exemplars are paired with it
    exemplars, beside = (labels < past).nonzero()[:, 0], repeat(labels.new_empty(0))
    if method.sampler == "paired" and len(exemplars):
        # beside each batch of new clips a batch of exemplars, which are gone through again and again
        rows = shuffled((labels >= past).nonzero()[:, 0])
        width = min(training.exemplar_batch or training.batch, len(exemplars))
        # whole batches alone, in one order throughout an epoch, as AV-CIL's authors have it (benchmarks/parity.py)
        beside = cycle(shuffled(exemplars)[: len(exemplars) // width * width].split(width))
    elif method.sampler == "balanced":
        # every class is drawn as often, few exemplars or many new clips
        weight = 1 / labels.bincount()[labels].double()
        rows = torch.multinomial(weight, len(labels), replacement=True, generator=generator)
    else:
        # also for paired batches, as long as there is no exemplar
        rows = shuffled(torch.arange(len(labels)))
    # a task with fewer clips than a batch makes one step, not none
    batch = min(training.batch, len(rows))
    rows = rows[: len(rows) // batch * batch] if training.drop_last else rows
    # only the first one ends
    for one, other in zip(rows.split(batch), beside, strict=False):
        yield torch.cat([one, other])


def optimise(
    learning: Learning,
    *,
    epochs: int,
    score: Callable[[], float] | None = None,
    watch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Minimise the method's objective on the clips at hand; returns the mean of each loss by epoch.

    Under torchrun, each process computes its share of every batch (avcil/learn/parallel.py). ``score``, where given, is
    asked after each epoch, and the weights of the epoch that scored best stay, the earliest of equals. ``watch`` is
    given each epoch's losses, and its score as `validation_accuracy`. Raises Diverged where a loss is not finite.
    """
    model, training = learning.model, learning.training
    optimiser = _optimiser(learning)
    # -1: below every accuracy, so that some epoch is kept even at 0
    history, best, best_weights, schedule = [], -1.0, None, None
    for epoch in range(epochs):
        # anew in each epoch, for the score predicts, and that leaves the model in eval mode
        model.train()
        # drawn on the CPU: the same batches wherever the model is
        rows = list(batches(learning.labels.cpu(), learning.past, learning.method, training, learning.generator))
        if epoch == 0 and training.schedule == "cosine":
            # its period is counted in steps
            # each epoch has as many as this one
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(rows))
        losses = _epoch(learning, [batch.to(learning.labels.device) for batch in rows], optimiser, schedule)
        if bad := [name for name, loss in losses.items() if not math.isfinite(loss)]:
            way_out = "lower `learning_rate`, or the weight of what is learnt"
            raise Diverged(f"loss `{bad[0]}` is {losses[bad[0]]} in epoch {epoch}; {way_out}")
        history.append(losses)
        accuracy = {} if score is None else {"validation_accuracy": score()}
        if accuracy and accuracy["validation_accuracy"] > best:
            # a copy: the dictionary holds the very tensors that go on learning
            best, best_weights = accuracy["validation_accuracy"], copy.deepcopy(model.state_dict())
        if watch is not None:
            watch(epoch, losses | accuracy)
    if best_weights is not None:
        model.load_state_dict(best_weights)
    return history


def _optimiser(learning: Learning) -> torch.optim.Optimizer:
    training = learning.training
    kind = torch.optim.AdamW if training.optimiser == "adamw" else torch.optim.Adam
    # a τ of 0, and what the classifier's kind leaves unused, take no step and no decay
    parameters = [p for p in learning.model.parameters() if p.requires_grad]
    # a later task starts from what is known, and large steps would lose it
    # with `restart` nothing is past, and every task is like a first one
    learning_rate = training.later_learning_rate if learning.past else training.learning_rate
    return kind(parameters, learning_rate, weight_decay=training.weight_decay, fused=True)


def _epoch(learning: Learning, batched: list[Tensor], optimiser, schedule) -> dict[str, float]:
    """One pass over batches of rows of the clips at hand; the mean of each loss."""
    model, feed, hooks = learning.model, learning.feed, learning.hooks.values()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    # of each batch only what this process computes is read
    shares = [parallel.share(rows) for rows in batched]
    sums: dict[str, Tensor] = {}
    for rows, share, clips in zip(batched, shares, feed.batches(shares), strict=True):
        mine = model(clips, centre=feed.centre, **learning.attention_options(share))
        output = parallel.gather(mine, len(rows))
        scale = parallel.once(model.classifier.scale)
        losses = objective(learning, Batch(rows, learning.labels[rows], output, scale))
        optimiser.zero_grad()
        reduce(torch.add, losses.values()).backward()
        parallel.sum_gradients(parameters)
        optimiser.step()
        for hook in hooks:
            hook.after_step(model)
        if schedule is not None:
            schedule.step()
        for name, loss in losses.items():
            # tensors until the epoch is over: no step waits for a GPU to tell a number
            sums[name] = sums.get(name, 0.0) + loss.detach() / len(batched)
    # waited for here, once an epoch
    return {name: float(value) for name, value in sums.items()}
