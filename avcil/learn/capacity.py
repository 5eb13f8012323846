"""How many runs learn at a time: on the CPU as many as are asked for, on a GPU those of them that fit there.

What a run takes there is counted beforehand, from the store's header, the manifest and the model. It is a bound from
reading the code, which no GPU has measured: a run that wants more than its share ends with torch's own error, and
disturbs no other.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from avcil.base.device import free
from avcil.learn.evaluate import AT_ONCE, build
from avcil.params.learning import Method, Task, Training, attends
from avcil.tokens.manifest import read_manifest
from avcil.tokens.store import load_header

CONTEXT = 1 << 30  # bytes that a process takes on a GPU before its first tensor
COPIES = 8  # of a batch, for what is computed from it; of weights, for gradients, moments, the best and the old ones


def at_once(takes: Iterable[int], workers: int, device: torch.device) -> int:
    """Runs at a time, each of which ``takes`` so many bytes there, ``workers`` at most and one at least."""
    # on a CPU ``takes`` is not gone through, for which the header and manifest of each run would be read.
    # One at least: what does not fit is streamed (avcil/learn/feed.py)
    return workers if device.type == "cpu" else max(1, min(workers, free(device) // max(takes)))


def taken(manifest: Path, store: Path, method: Method, training: Training, tasks: list[Task]) -> int:
    """Bytes that learning these tasks takes on a GPU at most: the clips at hand, a batch, and the model."""
    layout, table = load_header(store).layout, read_manifest(manifest)
    channels = layout.visual_channels, layout.audio_channels
    if not attends(method.fusion):
        layout = layout.pooled()
    elif method.patches is not None:
        # a grid finer than the store's leaves it as it is (`tokens_of`)
        layout = layout.coarse(min(method.patches, round(layout.patches**0.5)))
    clip = 2 * layout.clip_bytes  # as float32

    train, seen = table.label[table.split == "train"].value_counts(), sum(task.classes for task in tasks)
    clips = int(train.sum())
    # else, in the last task, all training clips may be at hand
    if not method.restart and method.memory != "all":
        exemplars = method.exemplars * (seen if method.budget == "per_class" else 1)
        # the largest classes in the largest task, since each seed has another order
        clips = min(clips, int(train.nlargest(max(task.classes for task in tasks)).sum()) + exemplars)
    if training.keep != "last":
        # `_score` holds them beside the clips at hand for the whole task
        clips += int((table.split == "val").sum())

    # shapes alone, which take no memory
    with torch.device("meta"):
        model = build(method, training, channels)
        model.classifier.grow(seen)
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    # learning and predicting take turns: of their clips the larger number counts
    return CONTEXT + clip * (clips + max(COPIES * training.batch, 2 * AT_ONCE)) + COPIES * weights
