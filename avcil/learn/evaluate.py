"""From a checkpoint to what is reported: restore the model, predict, read out, measure accuracy and attention.

Dimension letters: ``N`` clips, ``C`` classes seen, ``L`` slots, ``S`` patches of a slot.
"""

from collections.abc import Collection
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from avcil.base.device import named
from avcil.learn import metrics
from avcil.learn.attention import Features, frozen_features
from avcil.learn.checkpoint import Checkpoint
from avcil.learn.heads import CarriedRidge, Head, NearestMean, RecursiveRidge
from avcil.learn.methods import find, options
from avcil.learn.model import IncrementalClassifier, Output
from avcil.params.learning import Method, Task, Training, attends
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import ClipSource, TokenSource

AT_ONCE, BYTES = 200, 1 << 28  # clips that are answered about together; of large ones fewer, of so many bytes


class TaskResult(NamedTuple):
    """After one task. accuracy, clips, hit and auc have an entry for each task so far: R[t, :t+1], the number of clips,
    and what attention finds (None without attention); avcil/learn/metrics.py defines them. predictions: positions in
    the class order, by clip_id."""

    task: int
    accuracy: list[float]
    clips: list[int]
    hit: list[float] | None
    auc: list[float] | None
    predictions: dict[str, int]
    memory_bytes: int
    trained_parameters: int


class Readout(NamedTuple):
    """What a checkpoint says of clips. output: the model's; head: the solved one, None where the trained classifier is
    the read-out; features: what the read-out reads; logits [N,C]: what it says."""

    model: IncrementalClassifier
    output: Output
    head: Head | None
    features: Features
    logits: Tensor


def build(method: Method, training: Training, channels: tuple[int, int]) -> IncrementalClassifier:
    """A model of no classes, for visual and audio tokens of so many channels."""
    return IncrementalClassifier(
        channels,
        fusion=method.fusion,
        classifier=method.classifier,
        width=training.width,
        heads=training.heads,
        prior_guidance=method.prior_guidance,
        learnt_guidance=training.learnt_guidance,
    )


def restore(
    checkpoint: Checkpoint, method: Method, training: Training, channels: tuple[int, int]
) -> IncrementalClassifier:
    """The model of a checkpoint, ready to predict."""
    model = build(method, training, channels)
    # first the shapes, which hang on the number of classes: `load_state_dict` compares them
    model.classifier.grow_as(checkpoint.model, len(checkpoint.classes))
    # the empty checkpoint has no weights: the first task starts from those just drawn
    if checkpoint.model:
        model.load_state_dict(checkpoint.model)
    return model.eval()


@torch.no_grad()
def predict(
    model: IncrementalClassifier,
    tokens: ClipSource,
    rows: Tensor,
    *,
    maps: bool = False,
    fields: Collection[str] = Output._fields,
) -> Output:
    """Outputs for the clips at ``rows``, without gradients and on the CPU.

    Batches go to the model's device. ``maps``: those of an attention with a map a channel are built too, and their mean
    over channels is given. ``fields``: others but the features are left empty; of many clips no more is kept than is
    read.
    """
    model.eval()
    # every classifier has a weight, and where nothing is learnt no other part of the model has one
    device = model.classifier.weight.device
    parts, unread = [], set(Output._fields) - {"features", *fields}
    for chunk in _together(rows, tokens):
        output = model(tokens.clips(chunk).to(device), centre=tokens.centre, maps=maps)
        # averaged where it is, so that not every channel is copied to the CPU
        if output.spatial.dim() == 4:  # a map a channel
            output = output._replace(spatial=output.spatial.mean(-1), temporal=output.temporal.mean(-1))
        # nothing, on the device and of the type, stands for what is not read, so that all fields can be joined
        parts.append(output._replace(**dict.fromkeys(unread, output.logits[:0])).to("cpu"))
    features = Features(*map(torch.cat, zip(*(part.features for part in parts), strict=True)))
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in Output._fields if name != "features"}
    return Output(features=features, **whole)


def _together(rows: Tensor, tokens: ClipSource) -> tuple[Tensor, ...]:
    # 4 bytes a number. No rows are one part of none, so that callers have something to join
    return rows.split(max(1, min(AT_ONCE, BYTES // (4 * sum(tokens.sizes)))))


def tokens_of(data: Dataset, method: Method) -> TokenSource:
    """The tokens that a method looks at: all of them, coarser patches, or, without attention, one a stream."""
    # what is pooled or coarse already comes back unchanged: `run_tasks` asks before `run_task` does
    if not attends(method.fusion):
        return data.tokens.pooled()
    if method.patches is None or method.patches**2 >= data.tokens.shape[2]:
        return data.tokens
    return data.tokens.coarse(method.patches)


def solved_head(method: Method, training: Training, state: dict[str, Tensor]) -> Head | None:
    """The solved read-out of a method, or None where the trained classifier is the read-out; ``state``: what a
    checkpoint keeps, hooks' tensors among it."""
    if method.readout == "classifier":
        return None
    # a head takes every tensor for its own sums
    # those of hooks begin with the hook's name and a dot (`_readout` in avcil/learn/train.py)
    state = {name: value for name, value in state.items() if name.partition(".")[0] not in method.hooks}
    if method.readout == "ridge":
        return RecursiveRidge(training.ridge_penalty, state)
    if method.readout == "carried_ridge":
        return CarriedRidge(training.ridge_penalty, training.drift_damping, state)
    if method.readout in ("nearest_mean", "nearest_exemplars"):
        return NearestMean(state)
    return find(method.readout).build(options(method.readout, method.readout_options), state)


def solved_features(method: Method, tokens: TokenSource, rows: Tensor, features: Features) -> Features:
    """What a solved head reads: the model's ``features`` of the clips at ``rows`` and, for `carried_ridge`, in front of
    them those of nothing learnt, so that the head has all that a closed form on frozen tokens has."""
    if method.readout != "carried_ridge":
        return features
    # in parts, for tokens are far larger than what is kept of them
    clips = (tokens.clips(chunk) for chunk in _together(rows, tokens))
    parts = [frozen_features(chunk, method.prior_guidance).fused for chunk in clips]
    return features._replace(fused=torch.cat([torch.cat(parts), features.fused], 1))


@torch.no_grad()
def read_out(
    checkpoint: Checkpoint,
    method: Method,
    training: Training,
    tokens: TokenSource,
    rows: Tensor | None = None,
    *,
    maps: bool = True,
    device: torch.device | str = "cpu",
    head: Head | None = None,
) -> Readout:
    """Of the clips at ``rows``, all if left out. ``tokens``: those that the method looks at (`tokens_of`); ``device``:
    where the model is; a solved head is on the CPU. ``head``: that of an earlier answer of the same checkpoint, which
    then is not solved again.

    Raises ValueError for a device that is not there, and RuntimeError for tokens of other channels than the checkpoint
    has learnt from.
    """
    rows = torch.arange(tokens.shape[0]) if rows is None else rows
    model = restore(checkpoint, method, training, tokens.channels).to(named(device))
    output = predict(model, tokens, rows, maps=maps)
    head = head or solved_head(method, training, checkpoint.readout)
    if head is None:
        return Readout(model, output, None, output.features, output.logits)
    features = solved_features(method, tokens, rows, output.features)
    return Readout(model, output, head, features, head.logits(features))


def evaluate(
    data: Dataset,
    method: Method,
    training: Training,
    tasks: list[Task],
    task: int,
    checkpoint: Checkpoint,
    *,
    split: str = "test",
    device: torch.device | str = "cpu",
) -> TaskResult:
    """Accuracy and attention on the clips of each task so far, all seen classes being candidates; ``data``: of the
    tokens that the method looks at."""
    # task j has the positions bounds[j] to bounds[j + 1] of the class order
    bounds = np.cumsum([0, *(t.classes for t in tasks[: task + 1])])
    rows = data.rows(split, 0, int(bounds[-1]))
    labels = data.labels[rows]
    parts = [(labels >= first) & (labels < last) for first, last in pairwise(bounds)]

    # of coarser patches than the store's it is not known what they show
    known = data.share is not None and data.share.shape[2] == data.tokens.shape[2]
    share = data.share if known and attends(method.fusion) else None
    # maps only where they are measured: those a channel would be built for nothing (LOG.md)
    read = read_out(checkpoint, method, training, data.tokens, rows, maps=share is not None, device=device)
    model, output, predicted = read.model, read.output, read.logits.argmax(1)

    hit = auc = None
    if share is not None:
        spatial, temporal, shown = output.spatial.numpy(), output.temporal.numpy(), share[rows].numpy()
        hits = metrics.attention_hit(spatial, temporal, shown, training.covered)
        aucs = metrics.attention_auc(spatial, shown, training.covered)
        # NaN of a clip in which the object never shows
        of_parts = [aucs[part.numpy()] for part in parts]
        # where no clip of a task shows it, on a coarse grid say, nothing is told: tables would compare other tasks
        if not any(np.isnan(values).all() for values in of_parts):
            hit = [float(hits[part.numpy()].mean()) for part in parts]
            auc = [float(np.nanmean(values)) for values in of_parts]
    # a frozen row has a classifier as well, of which no step is ever taken
    learnt = [] if model.attention.frozen else [p.numel() for p in model.parameters() if p.requires_grad]
    return TaskResult(
        task=task,
        accuracy=[float((predicted == labels)[part].float().mean()) for part in parts],
        clips=[int(part.sum()) for part in parts],
        hit=hit,
        auc=auc,
        # by name: tables compare rows clip by clip
        predictions={data.clip_ids[i]: int(p) for i, p in zip(rows.tolist(), predicted, strict=True)},
        memory_bytes=_memory_bytes(data.tokens, method, model.attention.reads_similarity, checkpoint),
        trained_parameters=sum(learnt),
    )


def _memory_bytes(tokens: TokenSource, method: Method, reads_similarity: bool, checkpoint: Checkpoint) -> int:
    """Bytes kept between tasks besides the model: exemplars' tokens in float16, and a solved head's statistics."""
    visual, audio, similarity = tokens.sizes
    # of an exemplar nothing is kept that its fusion would not read again
    both = visual + audio + similarity * reads_similarity
    clip = 2 * {"visual": visual, "audio": audio}.get(method.fusion, both)
    # hooks' tensors are among them, as DER++'s stored logits
    statistics = sum(value.numel() * value.element_size() for value in checkpoint.readout.values())
    return clip * len(checkpoint.memory) + statistics
